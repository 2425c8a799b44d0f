"""The command `lpnorm bench`: what it measures, prints and writes, and when it refuses."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

from tqdm import tqdm

from lpnorm.bench import clock, machine, memory, picture, report, steps
from lpnorm.bench.contestants import LAYERS, WHO, Entry, Problem, installed, lineup, prepare
from lpnorm.experiments.report import have_matplotlib
from lpnorm.experiments.runs import norm_named
from lpnorm.files import atomic

Shapes = dict[str, list[tuple[int, ...]]]
SHAPES: Shapes = {
    "batch_norm": [
        (128, 64, 32, 32),
        (256, 64, 56, 56),
        (128, 16, 32, 32),
        (64, 256, 14, 14),
        (128, 128),
        (1024, 512),
    ],
    "layer_norm": [(4096, 768)],
}
HALF_SHAPES: Shapes = {"batch_norm": [(128, 64, 32, 32)], "layer_norm": [(4096, 768)]}
MEMORY_SHAPES: Shapes = {"batch_norm": [(256, 64, 56, 56)], "layer_norm": [(4096, 768)]}
QUICK_SHAPES: Shapes = {"batch_norm": [(64, 256, 14, 14), (128, 128)], "layer_norm": [(1024, 768)]}
NORMS = ["1", "2", "inf", "range", "top10"]
SIZES = [2, 8, 32, 128, 512, 2048]  # of N and C: three decades
SIDES = [4, 8, 16, 32, 64, 128]  # of H and W: three decades of H W
SWEPT = ("reused", "torch")
Plan = list[tuple[Any, dict[str, Any]]]  # Problems, or for steps Trainings


def run(options: argparse.Namespace, command: str) -> int:
    """Measure; the exit status: 0, 2 if it cannot be done, 130 interrupted (files written)."""
    if options.info or options.clear:
        return _compiled_loops(options.clear)
    try:
        norms = [norm_named(name) for name in options.norm or _default_norms(options)]
        plan = _plan(options, norms)
    except (TypeError, ValueError) as error:
        return _cannot(str(error))
    known = WHO if options.subject == "layers" else steps.WHO
    who, absent = _present(options.only or (SWEPT if options.sweep else tuple(known)))
    if options.sweep and not options.only:
        who = who or ["plain"]
    for line in absent:
        print(f"lpnorm: left out: {line}", file=sys.stderr)
    if not who:
        return _cannot("there is nobody left to be timed")
    if not have_matplotlib() and not options.memory:
        print('lpnorm: no picture without matplotlib: pip install "lpnorm[plots]"', file=sys.stderr)
    record: dict[str, Any] = {
        "what": _what(options),
        "command": command,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "threads": options.threads or machine.cores(),
        "rounds": options.rounds or (3 if options.quick else clock.ROUNDS),
        "protocol": clock.PROTOCOL,
        "machine": machine.describe(),
        "contestants": {each: known[each] for each in who},
        "missing": absent,
        "stopped": None,
        "cases": [],
    }
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=options.out):  # can one write there?
            pass
    except OSError as error:
        return _cannot(f"cannot write to --out {options.out}: {error}")
    try:
        return _measure_and_tell(options, record, plan, norms, who)
    except KeyboardInterrupt:
        return 130


def _measure_and_tell(
    options: argparse.Namespace,
    record: dict[str, Any],
    plan: Plan,
    norms: list[Any],
    who: list[str],
) -> int:
    before = machine.others_during_a_pause()
    load = record["machine"]["load_average"]
    for line in machine.warnings(load, before, None):
        print(f"lpnorm: {line}", file=sys.stderr)
    machine.use_threads(record["threads"])
    others = machine.Others()
    try:
        MEASURES[record["what"]](record, plan, norms, who, not options.no_progress)
    except KeyboardInterrupt:
        record["stopped"] = "interrupted"
    except (memory.Failed, steps.Disagree, MemoryError) as error:
        record["stopped"] = str(error) or "out of memory"
    during = others.cores()
    record["others_used_cores"] = {"before": before, "during": during}
    record["warnings"] = machine.warnings(load, before, during)
    status = {None: 0, "interrupted": 130}.get(record["stopped"], 2)
    if not record["cases"]:
        return _cannot(f"{record['stopped']}, before anything was measured", status)
    stem = f"bench_{record['what']}_{options.dtype}"
    with atomic(options.out / f"{stem}.json") as path:
        path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    written = [f"{stem}.json"]
    if have_matplotlib() and not options.memory:
        picture.draw(record, options.out / f"{stem}.png")
        written.append(f"{stem}.png")
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # for an ASCII terminal
    print(TEXTS[record["what"]](record["cases"]))
    print(f"\n{report.about(record)}\n{' and '.join(written)} in {options.out}")
    for line in record["warnings"]:
        print(line)
    if status:
        print(f"lpnorm: {record['stopped']}; what was measured is kept", file=sys.stderr)
    return status


def _what(options: argparse.Namespace) -> str:
    if options.subject == "step":
        return "step_memory" if options.memory else "step"
    return "memory" if options.memory else "sweep" if options.sweep else "table"


def _default_norms(options: argparse.Namespace) -> list[str]:
    if options.memory:
        return ["2"]
    return ["1", "2"] if options.sweep else NORMS[:3] if options.quick else NORMS


def _plan(options: argparse.Namespace, norms: list[Any]) -> Plan:
    """Which problems, each with what else its record says; raises ValueError, before any work."""
    plan = _trainings(options) if options.subject == "step" else _problems(options, norms)
    free = machine.free_memory()
    for problem, _ in plan:
        if free is not None and problem.room > free:
            needs, there = (f"{v / 2**30:.1f} GiB" for v in (problem.room, free))
            raise ValueError(f"{problem} needs about {needs} of memory, {there} are free")
    return plan


def _trainings(options: argparse.Namespace) -> Plan:
    for name in ("shape", "layer", "norm", "accumulate", "sweep"):
        if getattr(options, name):
            raise ValueError(f"a step is one of whole networks: leave --{name} out")
    if options.dtype != "float32":
        raise ValueError("a step is in float32: leave --dtype out")
    for each in options.only or ():
        if each not in steps.WHO:
            raise ValueError(f"--only must be one of {', '.join(steps.WHO)} for a step, got {each}")
    batch = options.batch or (steps.QUICK_BATCH if options.quick else steps.BATCH)
    if batch < 2:
        raise ValueError(f"--batch must be at least 2, got {batch}")
    return [(steps.Training(model, batch), {}) for model in options.model or steps.MODELS]


def _problems(options: argparse.Namespace, norms: list[Any]) -> Plan:
    for name in ("model", "batch"):
        if getattr(options, name):
            raise ValueError(f"--{name} is for `lpnorm bench step`: leave it out")
    for name in ("shape", "layer"):
        if options.sweep and getattr(options, name):
            raise ValueError(f"--sweep varies N, C and H W of batch norm: leave --{name} out")
    if options.memory and options.norm:
        raise ValueError("--memory is that of L2: leave --norm out")
    plan = [
        (Problem(shape, layer, options.dtype, sums), about)
        for shape, layer, about in (_sweep(options.quick) if options.sweep else _shapes(options))
        for sums in options.accumulate or [None]
    ]
    for problem, _ in plan:
        problem.check(norms)
    return plan


def _shapes(options: argparse.Namespace) -> Iterator[tuple[tuple[int, ...], str, dict[str, Any]]]:
    """Those given, of batch norm if no layer is named, or the default ones of both layers."""
    shapes = (
        QUICK_SHAPES if options.quick else HALF_SHAPES if options.dtype == "float16" else SHAPES
    )
    if options.memory:
        shapes = MEMORY_SHAPES
    if options.shape:
        given = [tuple(shape) for shape in options.shape]
        shapes = {options.layer or "batch_norm": given}
    for layer in [options.layer] if options.layer else LAYERS:
        yield from ((shape, layer, {}) for shape in shapes.get(layer, []))


def _sweep(quick: bool) -> Iterator[tuple[tuple[int, ...], str, dict[str, Any]]]:
    """Three decades (two if quick) of each of N, C and H W, the others as in (64, 64, 32, 32)."""
    axes = {"N": "C = 64, H W = 1,024", "C": "N = 64, H W = 1,024", "H W": "N = C = 64"}
    for axis, fixed in axes.items():
        for size in (SIDES if axis == "H W" else SIZES)[: 4 if quick else None]:
            n, c, side = (size if axis == a else b for a, b in (("N", 64), ("C", 64), ("H W", 32)))
            at = size * size if axis == "H W" else size
            yield (n, c, side, side), "batch_norm", {"along": axis, "at": at, "fixed": fixed}


def _present(who: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those of who that can be timed, and what is missing for the others, a line each."""
    needs = {"fast": "lpnorm.fast", "reused": "lpnorm.fast", "torch": "torch"}
    missing = {n: why for n in set(needs.values()) if isinstance(why := installed(n), str)}
    here = [each for each in WHO if each in who and needs.get(each) not in missing]
    concerned = {needs[each] for each in who if each in needs}
    return here, [why for name, why in sorted(missing.items()) if name in concerned]


def _times(
    record: dict[str, Any],
    plan: Plan,
    norms: list[Any],
    who: list[str],
    progress: bool,
) -> None:
    """Time every contestant on every problem, into record["cases"]."""
    lines = [lineup(problem, norms, who) for problem, _ in plan]
    total = record["rounds"] * sum(map(len, lines))
    with tqdm(total=total, unit=" calls", disable=not progress) as bar:
        for (problem, about), entries in zip(plan, lines, strict=True):
            bar.set_description(str(problem))
            times: dict[Any, list[float]] = {}
            try:
                calls = prepare(problem, norms, entries)
                clock.take_turns(calls, record["rounds"], times, bar.update)
                del calls
            finally:
                if times:
                    record["cases"].append(report.case(problem, times, **about))


def _memory(
    record: dict[str, Any],
    plan: Plan,
    norms: list[Any],
    who: list[str],
    progress: bool,
) -> None:
    """The peak of every contestant with L2, into record["cases"]."""
    _check_memory_can_be_read()
    chosen = [each for each in who if each != "reused"]  # the outputs are in it either way
    total = len(chosen) * len(plan)
    with tqdm(total=total, unit=" processes", disable=not progress) as bar:
        for problem, _ in plan:
            entries = [Entry(each, "L2") for each in chosen]
            for row in memory.of_each(problem, entries, record["threads"], bar.update):
                record["cases"].append({"problem": str(problem), **row})


def _check_memory_can_be_read() -> None:
    if not memory.possible():
        raise memory.Failed("--memory reads /proc, which this system does not have")


def _steps(
    record: dict[str, Any],
    plan: Plan,
    norms: list[Any],
    who: list[str],
    progress: bool,
) -> None:
    """Time a step, and its layers, of every contestant, into record["cases"]; they must agree."""
    with tqdm(unit=" calls", disable=not progress) as bar:
        for training, about in plan:
            bar.set_description(f"{training}: do all compute the same?")
            losses = training.losses(who)
            bar.set_description(str(training))
            calls, counts = training.parts(who)
            whole = steps.Part(steps.STEP)
            calls |= {(whole, each): training.step(each) for each in who}
            counts[whole] = 1
            bar.reset(record["rounds"] * len(calls))
            times: dict[Any, list[float]] = {}
            try:
                clock.take_turns(calls, record["rounds"], times, bar.update)
                del calls
            finally:
                if len(times) == len(who) * len(counts):
                    case = report.step_case(training, counts, times, losses)
                    record["cases"].append({**case, **about})


def _steps_memory(
    record: dict[str, Any],
    plan: Plan,
    norms: list[Any],
    who: list[str],
    progress: bool,
) -> None:
    """The peak of every contestant over a few steps, into record["cases"]."""
    _check_memory_can_be_read()
    with tqdm(total=len(who) * len(plan), unit=" processes", disable=not progress) as bar:
        for training, _ in plan:
            for row in memory.of_steps(training, who, record["threads"], bar.update):
                record["cases"].append({"problem": str(training), **row})


MEASURES = {
    "table": _times,
    "sweep": _times,
    "memory": _memory,
    "step": _steps,
    "step_memory": _steps_memory,
}
TEXTS = {
    "table": report.table,
    "sweep": report.sweep_table,
    "memory": report.memory_table,
    "step": report.step_table,
    "step_memory": report.step_memory_table,
}


def _compiled_loops(clear: bool) -> int:
    """`--info` and `--clear`: the cache of compiled loops."""
    if isinstance(why := installed("lpnorm.fast"), str):
        return _cannot(why)
    from lpnorm.fast import compiled

    folder, kept = compiled.folder(), compiled.kept()
    if clear:
        compiled.clear()
        print(f"cleared {folder} ({len(kept)} compiled functions) and those of older versions")
        return 0
    size = sum(path.stat().st_size for path in folder.glob("*")) / 2**20
    functions = f"{len(kept)} function{'s' * (len(kept) != 1)}"
    print(f"compiled loops are kept in {folder} ({functions}, {size:.1f} MiB)")
    for name in kept:
        print(f"  {name}")
    print("lpnorm bench --clear deletes them; what is needed again is compiled again")
    return 0


def _cannot(why: str, status: int = 2) -> int:
    print(f"lpnorm: {why}", file=sys.stderr)
    return status
