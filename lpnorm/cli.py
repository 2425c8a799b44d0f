"""Measure the claims of "Norm matters" (Hoffer et al. 2018) on your own machine."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from lpnorm import __version__
from lpnorm.arrays import check_device


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (0 done, 2 a bad call or no GPU, 130 interrupted)."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given)
    try:
        check_device(options.device)
    except RuntimeError as error:
        print(f"lpnorm: {error}", file=sys.stderr)
        return 2
    return int(options.run(options, shlex.join(["lpnorm", *given])))


def reproduce(options: argparse.Namespace, command: str) -> int:
    """`lpnorm reproduce`: measure claims, write their files, close with a table."""
    from lpnorm import experiments
    from lpnorm.experiments.report import have_matplotlib

    if options.list:
        for name, claim in experiments.CLAIMS.items():
            print(f"{name:20} {claim.says}{'' if claim.by_default else ' (by name only)'}")
        return 0
    names = options.claims or [n for n, c in experiments.CLAIMS.items() if c.by_default]
    unknown = [name for name in names if name not in experiments.CLAIMS]
    if unknown:
        known = ", ".join(experiments.CLAIMS)
        print(f"lpnorm: there is no claim {unknown[0]!r}; there are: {known}", file=sys.stderr)
        return 2
    settings = experiments.Options(
        out=options.out,
        seeds=options.seeds or (2 if options.quick else 5),
        epochs=options.epochs or (3 if options.quick else 12),
        jobs=1 if options.device == "gpu" else options.jobs,
        device=options.device,
        progress=not options.no_progress,
        quick=options.quick,
    )
    if not have_matplotlib():
        print(
            "lpnorm: matplotlib is not installed, so there will be data but no pictures "
            '(pip install "lpnorm[plots]")',
            file=sys.stderr,
        )
    start, results = time.perf_counter(), {}
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=options.out):  # can one write there?
            pass
        for name in dict.fromkeys(names):
            print(f"{name}: {experiments.CLAIMS[name].says}", file=sys.stderr)
            results[name] = experiments.reproduce(experiments.CLAIMS[name], settings, command)
    except OSError as error:
        print(f"lpnorm: cannot write to --out {options.out}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"\nlpnorm: interrupted; what is finished is kept in {options.out}, "
            "and the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # for an ASCII terminal
    width = shutil.get_terminal_size((100, 24)).columns
    print(experiments.table(results, width))
    counts = {"claim": len(results), "seed": settings.seeds, "epoch": settings.epochs}
    print(textwrap.fill(experiments.LEGEND, width))
    print(
        ", ".join(f"{n} {name}{'s' * (n != 1)}" for name, n in counts.items())
        + f", {time.perf_counter() - start:.0f} s; figures and pictures in {options.out}{os.sep}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lpnorm", description=__doc__)
    parser.add_argument("--version", action="version", version=f"lpnorm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sub = commands.add_parser(
        "reproduce",
        help="measure the paper's claims on real data",
        description="Measure the paper's claims on handwritten digits. Each claim writes "
        "<claim>.json and <claim>.png; runs that are finished are never trained again.",
    )
    sub.set_defaults(run=reproduce)
    sub.add_argument(
        "claims",
        nargs="*",
        metavar="CLAIM",
        help="which (default: all but those --list says are by name only)",
    )
    sub.add_argument("--list", action="store_true", help="list the claims and stop")
    sub.add_argument("--quick", action="store_true", help="2 seeds and 3 epochs: a first look")
    sub.add_argument("--seeds", type=_positive, metavar="N", help="seeds 0 to N-1 (default: 5)")
    sub.add_argument("--epochs", type=_positive, metavar="N", help="epochs a run (default: 12)")
    sub.add_argument(
        "--out",
        type=Path,
        default=Path("reproduced"),
        metavar="DIR",
        help="where the results go (default: ./reproduced)",
    )
    sub.add_argument(
        "--jobs",
        type=_positive,
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="trainings at a time (default: one a core, at most 8)",
    )
    sub.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where to compute")
    sub.add_argument("--no-progress", action="store_true", help="no progress bar")
    return parser


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
