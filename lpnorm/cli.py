"""Measure the claims of "Norm matters" (Hoffer et al. 2018), or check an implementation."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lpnorm import __version__
from lpnorm.arrays import check_device
from lpnorm.files import atomic


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status.

    0 done (`check`: correct), 1 wrong (`check`), 2 a bad call, no GPU, a worker that was killed, a
    candidate that could not be run, or submissions that cannot be run safely, 130 interrupted
    (`reproduce`: by SIGTERM too), 141 the reader of the output has left (as in `| head`).
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        try:
            return _run(given)
        finally:
            sys.stdout.flush()  # here, not when the interpreter ends
    except BrokenPipeError:  # who reads the output, `head` for instance, has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(given: list[str]) -> int:
    options = _parser().parse_args(given)
    try:
        check_device(getattr(options, "device", "cpu"))
    except RuntimeError as error:
        print(f"lpnorm: {error}", file=sys.stderr)
        return 2
    return int(options.run(options, shlex.join(["lpnorm", *given])))


def reproduce(options: argparse.Namespace, command: str) -> int:
    """`lpnorm reproduce`: measure claims, write their files, close with a table."""
    from lpnorm import experiments
    from lpnorm.experiments.report import have_matplotlib
    from lpnorm.experiments.workers import WorkerEnded, sigterm_like_ctrl_c

    if options.list:
        for name, claim in experiments.CLAIMS.items():
            print(f"{name:20} {claim.says}{'' if claim.by_default else ' (by name only)'}")
        return 0
    names = options.claims or [n for n, c in experiments.CLAIMS.items() if c.by_default]
    unknown = [name for name in names if name not in experiments.CLAIMS]
    if unknown:
        close = difflib.get_close_matches(unknown[0].lower(), experiments.CLAIMS, 1, 0.5)
        meant = f" (did you mean {close[0]}?)" if close else ""
        known = ", ".join(experiments.CLAIMS)
        print(f"lpnorm: there is no claim {unknown[0]!r}{meant}; known: {known}", file=sys.stderr)
        return 2
    settings = experiments.Options(
        out=options.out,
        seeds=options.seeds or (3 if options.quick else 5),
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
        with sigterm_like_ctrl_c():
            options.out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=options.out):  # can one write there?
                pass
            for name in dict.fromkeys(names):
                print(f"{name}: {experiments.CLAIMS[name].says}", file=sys.stderr)
                results[name] = experiments.reproduce(experiments.CLAIMS[name], settings, command)
    except OSError as error:
        print(f"lpnorm: cannot write to --out {options.out}: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, WorkerEnded) as end:
        why = f": {end}" if isinstance(end, WorkerEnded) else ""
        print(
            f"\nlpnorm: interrupted{why}; what is finished is kept in {options.out}, "
            "and the same command goes on from there",
            file=sys.stderr,
        )
        return 2 if why else 130
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # for an ASCII terminal
    width = shutil.get_terminal_size((100, 24)).columns
    print(experiments.table(results, width))
    counts = {"claim": len(results), "seed": settings.seeds, "epoch": settings.epochs}
    print(textwrap.fill(experiments.RULE, width))
    print(
        ", ".join(f"{n} {name}{'s' * (n != 1)}" for name, n in counts.items())
        + f", {time.perf_counter() - start:.0f} s; figures and pictures in {options.out}{os.sep}"
    )
    return 0


def check(options: argparse.Namespace, command: str) -> int:
    """`lpnorm check`: judge an implementation in a process of its own, which can be killed."""
    if Path(options.target).is_dir() and not Path(options.target, "__init__.py").exists():
        return _check_vectors(options)
    given = {"layer": options.layer or "batch_norm"}
    for name in ("eps", "constant", "dtype", "axis", "ndim", "backend", "momentum", "running"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    for name in ("lr", "dampening", "weight_decay"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    for name in ("nesterov", "decoupled", "maximize", "strict"):
        if getattr(options, name):
            given[name] = True
    if given.get("constant") == "none":
        given["constant"] = None
    if isinstance(given.get("axis"), list):
        axes = given["axis"]
        given["axis"] = axes[0] if len(axes) == 1 else tuple(axes)
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        content = {"target": options.target, "p": options.p or "1", "arguments": given}
        request.write_text(json.dumps(content), encoding="utf-8")
        line = [sys.executable, "-m", "lpnorm.verify", str(request), str(answer)]
        try:
            done = subprocess.run(line, timeout=options.timeout, stdout=sys.stderr)
        except subprocess.TimeoutExpired:
            return _could_not_run(options.target, f"no answer within {options.timeout:g} s")
        except KeyboardInterrupt:
            return 130
        if not answer.exists():
            how = f"signal {-done.returncode}" if done.returncode < 0 else f"{done.returncode}"
            return _could_not_run(options.target, f"its process ended with {how} on the way")
        result = json.loads(answer.read_text(encoding="utf-8"))
    if not result["ran"]:
        return _could_not_run(options.target, result["error"])
    return _say(options, result)


def _say(options: argparse.Namespace, result: dict[str, Any]) -> int:
    """Print a report, write it as JSON if asked; the exit status."""
    if options.json is not None:
        try:
            with atomic(options.json) as path:
                path.write_text(json.dumps(result["json"], indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            return _could_not_run(options.target, f"cannot write --json {options.json}: {error}")
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # for an ASCII terminal
    print(result["colour" if sys.stdout.isatty() else "text"])
    return 0 if result["ok"] else 1


def grade(options: argparse.Namespace, command: str) -> int:
    """`lpnorm grade`: marks for a folder of submissions, each run in a process of its own."""
    from lpnorm.grading.command import run

    return run(options)


def bench(options: argparse.Namespace, command: str) -> int:
    """`lpnorm bench`: time forward and backward against NumPy's and PyTorch's."""
    from lpnorm.bench.command import run

    return run(options, command)


def _check_vectors(options: argparse.Namespace) -> int:
    """`lpnorm check DIR`: judge what a program wrote beside the vectors; nothing of it is run."""
    from lpnorm.verify.candidates import CannotRun
    from lpnorm.verify.vectors_check import check_vectors

    for name in ("eps", "constant", "axis", "ndim", "backend", "momentum", "running", "lr"):
        if getattr(options, name) is not None:
            return _could_not_run(options.target, f"--{name} is for code, vectors name their own")
    if options.strict:
        return _could_not_run(options.target, "--strict is for code, vectors know no limits")
    layers, norms = ([each] if each else None for each in (options.layer, options.p))
    try:
        judged = check_vectors(options.target, layers, norms, options.dtype)
    except CannotRun as error:
        return _could_not_run(options.target, str(error))
    result = {"ok": judged.ok, "json": json.loads(judged.to_json())}
    return _say(options, {**result, "text": judged.text(), "colour": judged.text(colour=True)})


def vectors(options: argparse.Namespace, command: str) -> int:
    """`lpnorm vectors`: write cases for programs in any language."""
    from lpnorm.verify.vectors import write

    try:
        count = write(options.folder, options.layer, options.p, options.dtype)
    except ValueError as error:
        print(f"lpnorm: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"lpnorm: cannot write to {options.folder}: {error}", file=sys.stderr)
        return 2
    print(
        f"{count} cases in {options.folder}: read manifest.json (or cases.txt), write each output "
        f"as <id>.<output>.out.npy, then: lpnorm check {shlex.quote(str(options.folder))}"
    )
    return 0


def _could_not_run(target: str, why: str) -> int:
    print(f"lpnorm: {target} could not be checked: {why}", file=sys.stderr)
    return 2


def _add_check(commands: Any) -> None:
    sub = commands.add_parser(
        "check",
        help="is an implementation right, and if not, what is wrong with it?",
        description="Judge an implementation: exit status 0 correct (also with limits, or under "
        "conventions), 1 wrong, 2 it could not be run. Conventions that are not asked for are "
        "recognised. "
        "A forward of batch or layer norm is forward(x, gamma, beta, eps) -> y, cache and its "
        "backward is backward(dy, cache) -> dx, dgamma, dbeta; a forward alone is judged, too. "
        "README.md lists what else is taken (classes, torch modules, weight norms, SGD).",
    )
    sub.set_defaults(run=check)
    sub.add_argument(
        "target",
        metavar="TARGET",
        help="path.py:name or package.module:name; name may be forward,backward, or be left out "
        "for a module that has both; or a folder from `lpnorm vectors` with a program's outputs",
    )
    sub.add_argument(
        "--layer",
        choices=("batch_norm", "layer_norm", "weight_norm", "bounded_weight_norm", "sgd"),
        help="(default: batch_norm; all of a folder's)",
    )
    sub.add_argument(
        "--p", metavar="P", help="1, 2, 1.5, inf, top10, range (default: 1; all of a folder's)"
    )
    sub.add_argument("--eps", type=float, help="the eps it must use (default: recognised)")
    sub.add_argument("--constant", choices=("paper", "exact", "none"), help="which it must use")
    sub.add_argument(
        "--dtype",
        action="append",
        choices=("float16", "float32", "float64"),
        help="what it must take (repeat for several; default: whatever it takes)",
    )
    sub.add_argument(
        "--axis", type=int, nargs="+", help="channel axis, or those layer norm reduces"
    )
    sub.add_argument("--ndim", type=int, help="how many axes x has (default: several are tried)")
    sub.add_argument("--backend", choices=("numpy", "cupy", "torch", "jax"))
    sub.add_argument(
        "--momentum",
        type=_momentum,
        metavar="M",
        help="what the momentum of running statistics must mean, new or kept; sgd: its number",
    )
    for name in ("--lr", "--dampening", "--weight-decay"):
        sub.add_argument(name, type=float, metavar="X", help="a setting of sgd (default: its own)")
    for name in ("--nesterov", "--decoupled", "--maximize"):
        sub.add_argument(name, action="store_true", help="a setting of sgd (default: its own)")
    sub.add_argument("--running", choices=("scale", "variance", "reciprocal"))
    sub.add_argument(
        "--strict", action="store_true", help="exit status 1 for right values with limits, too"
    )
    sub.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON, too")
    sub.add_argument(
        "--timeout", type=_seconds, default=120.0, metavar="S", help="seconds (default: 120)"
    )


def _momentum(text: str) -> str | float:
    """new, kept or a number."""
    if text in ("new", "kept"):
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be new, kept or a number, got {text!r}") from None


def _add_grade(commands: Any) -> None:
    sub = commands.add_parser(
        "grade",
        help="mark a folder of submissions to a course assignment",
        description="Mark every submission in a folder (*.py, *.ipynb, or sub-folders with one of "
        "these). Each question is computed in a process of its own with limits; on Linux without "
        "network and without sight of the solution. Exit status 0 when all are marked, 2 if not.",
    )
    sub.set_defaults(run=grade)
    sub.add_argument("folder", metavar="DIR", type=Path, help="the submissions")
    sub.add_argument("--assignment", type=int, required=True, choices=range(1, 7), metavar="N")
    sub.add_argument("--csv", type=Path, metavar="FILE", help="write the table there, too")
    sub.add_argument(
        "--jobs", type=_positive, default=1, metavar="N", help="submissions at a time (default: 1)"
    )
    sub.add_argument(
        "--timeout",
        type=_seconds,
        metavar="S",
        help="seconds a submission may compute for each question (default: the assignment's)",
    )
    sub.add_argument(
        "--memory", type=_positive, default=2048, metavar="MIB", help="its memory (default: 2048)"
    )
    sub.add_argument(
        "--seed", type=_natural, metavar="N", help="draw the cases of an earlier run again"
    )
    sub.add_argument(
        "--unsafe",
        action="store_true",
        help="run submissions without namespaces: they see your files and your network",
    )


def _add_bench(commands: Any) -> None:
    sub = commands.add_parser(
        "bench",
        help="how long do forward and backward take, against NumPy and PyTorch?",
        description="Time forward and backward of batch norm and layer norm, every contestant in "
        "turn: the plain code, lpnorm.fast (fresh outputs, and outputs reused), naive NumPy, and "
        "PyTorch if it is installed. Or (`lpnorm bench step`) a training step of a ResNet-20 and a "
        "quarter as wide VGG11 on images of CIFAR's size, by kind of layer: the plain code, "
        "lpnorm.fast and PyTorch. Writes bench_<what>_<dtype>.json and .png. Exit status 0, "
        "2 if it cannot be done, 130 after Ctrl-C (what was measured is kept).",
    )
    sub.set_defaults(run=bench)
    several = {"action": "append"}
    sub.add_argument(
        "subject",
        nargs="?",
        choices=("layers", "step"),
        default="layers",
        help="what is timed (default: layers)",
    )
    sub.add_argument(
        "--shape", type=_positive, nargs="+", metavar="SIZE", **several, help="time this shape"
    )
    sub.add_argument(
        "--layer",
        choices=("batch_norm", "layer_norm"),
        help="layer norm is over the last axis (default: both; of a --shape batch_norm)",
    )
    sub.add_argument(
        "--norm", metavar="P", **several, help="1, 2, inf, range, top10 (default: all)"
    )
    sub.add_argument(
        "--dtype", choices=("float16", "float32", "float64"), default="float32", help="of x"
    )
    sub.add_argument(
        "--accumulate",
        choices=("float16", "float32", "float64"),
        **several,
        help="sums in this dtype (default: the library's)",
    )
    sub.add_argument(
        "--only",
        choices=("plain", "naive", "fast", "reused", "torch"),
        **several,
        help="time this contestant (fast: with fresh outputs)",
    )
    sub.add_argument(
        "--model", choices=("resnet20", "vgg11"), **several, help="of a step (default: both)"
    )
    sub.add_argument(
        "--batch", type=_positive, metavar="N", help="images in a step (default: 128; quick: 32)"
    )
    sub.add_argument("--threads", type=_positive, metavar="N", help="for each (default: all cores)")
    sub.add_argument("--rounds", type=_positive, metavar="N", help="timed calls (default: 11)")
    sub.add_argument("--quick", action="store_true", help="a first look: little work, 3 rounds")
    what = sub.add_mutually_exclusive_group()
    what.add_argument("--sweep", action="store_true", help="time over N, C and H W instead")
    what.add_argument(
        "--memory", action="store_true", help="peak memory instead (of layers: with L2)"
    )
    what.add_argument("--info", action="store_true", help="where compiled loops are kept, and stop")
    what.add_argument("--clear", action="store_true", help="delete the compiled loops, and stop")
    sub.add_argument(
        "--out",
        type=Path,
        default=Path("reproduced"),
        metavar="DIR",
        help="where the files go (default: ./reproduced)",
    )
    sub.add_argument("--no-progress", action="store_true", help="no progress bar")


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 up, got {text!r}")
    return int(text)


def _add_vectors(commands: Any) -> None:
    sub = commands.add_parser(
        "vectors",
        help="write test cases for programs in any language",
        description="Write small cases (.npy files, manifest.json and its schema.json, cases.txt) "
        "that a program in any language can read. It writes its outputs beside them, and "
        "`lpnorm check DIR` judges these. Each filter may be given several times.",
    )
    sub.set_defaults(run=vectors)
    sub.add_argument("folder", metavar="DIR", type=Path)
    for name, metavar, words in (
        ("layer", "LAYER", "batch_norm, layer_norm, weight_norm, bounded_weight_norm, sgd"),
        ("p", "P", "1, 2, 3, 1.5, inf, top10, range"),
        ("dtype", "DTYPE", "float16, float32, float64"),
    ):
        sub.add_argument(f"--{name}", action="append", metavar=metavar, help=f"only these: {words}")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, got {text!r}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lpnorm", description=__doc__)
    parser.add_argument("--version", action="version", version=f"lpnorm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sub = commands.add_parser(
        "reproduce",
        help="measure the paper's claims on real data",
        description="Measure the paper's claims on handwritten digits. Each claim writes "
        "<claim>.json and <claim>.png; what is finished is never done again.",
    )
    sub.set_defaults(run=reproduce)
    sub.add_argument(
        "claims",
        nargs="*",
        metavar="CLAIM",
        help="which (default: all but those --list says are by name only)",
    )
    sub.add_argument("--list", action="store_true", help="list the claims and stop")
    sub.add_argument("--quick", action="store_true", help="3 seeds and 3 epochs: a first look")
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
        help="processes at a time (default: one a core, at most 8)",
    )
    sub.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where to compute")
    sub.add_argument("--no-progress", action="store_true", help="no progress bar")
    _add_check(commands)
    _add_grade(commands)
    _add_vectors(commands)
    _add_bench(commands)
    return parser


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
