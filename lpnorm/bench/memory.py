"""How much memory forward and backward, or training steps, take at their peak.

For a layer that is beyond x, dy and the results; for a step, all that is not there once everything
is imported: the network and the images too. Each contestant runs in a process of its own
(`python -m lpnorm.bench.memory`), which is warmed up with a small problem first, so that code,
compilers and thread pools are there already.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lpnorm.bench import machine
from lpnorm.bench.contestants import Entry, Problem, prepare
from lpnorm.bench.steps import CHECKED, Training

PROC = Path("/proc/self")


class Failed(RuntimeError):
    """Memory could not be measured."""


def possible() -> bool:
    """Does the system say what a process's largest size was, and forget it when asked to?"""
    try:
        _forget()
    except OSError:
        return False
    return True


def _forget() -> None:
    PROC.joinpath("clear_refs").write_text("5", encoding="ascii")  # the peak is the present size


def _size(name: str) -> int:
    for line in PROC.joinpath("status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def peak(call: Callable[[], Any]) -> tuple[int, int]:
    """The bytes that a call takes at its peak, and those of its results."""
    _forget()
    before = _size("VmRSS")
    results = call()
    taken = _size("VmHWM") - before
    return taken, sum(v.nbytes for v in results)


def of_each(
    problem: Problem, entries: Iterable[Entry], threads: int, tick: Callable[[], Any]
) -> Iterable[dict[str, Any]]:
    """Peak and results of each contestant with p = 2; raises Failed if its process fails."""
    for entry in entries:
        request = ["layer", asdict(problem), list(entry), threads]
        taken, results = _ask(f"{problem}, {entry.who}", request)
        size = problem.elements * int(problem.dtype.removeprefix("float")) // 8
        yield {
            "who": entry.who,
            "norm": entry.norm,
            "peak_bytes": taken,
            "results_bytes": results,
            "beyond_results_bytes": taken - results,
            "beyond_results_copies_of_x": round((taken - results) / size, 3),
        }
        tick()


def of_steps(
    training: Training, who: Iterable[str], threads: int, tick: Callable[[], Any]
) -> Iterable[dict[str, Any]]:
    """Peak of a few steps of each contestant; raises Failed if its process fails."""
    for each in who:
        request = ["step", asdict(training), each, threads]
        taken, _ = _ask(f"{training}, {each}", request)
        yield {"who": each, "peak_bytes": taken}
        tick()


def _ask(problem: str, request: list[Any]) -> tuple[int, int]:
    """What `peak` gives in a process of its own."""
    line = [sys.executable, "-m", "lpnorm.bench.memory", json.dumps(request)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise Failed(f"{problem}: {last}")
    taken, results = json.loads(done.stdout)
    return taken, results


def _child(request: str) -> None:
    what, given, who, threads = json.loads(request)
    machine.use_threads(threads)
    call = _layer(given, who) if what == "layer" else _steps(given, who)
    print(json.dumps(peak(call)))


def _layer(given: dict[str, Any], entry: tuple[str, str]) -> Callable[[], Any]:
    problem = Problem(**given | {"shape": tuple(given["shape"])})
    who, norm = entry
    entry, p = Entry(who, norm), {"L1": 1, "L2": 2}[norm]
    small = Problem((16, 64, *[8] * (len(problem.shape) - 2)), problem.layer, problem.dtype)
    prepare(small, [p], [entry])[entry]()
    return prepare(problem, [p], [entry])[entry]


def _steps(given: dict[str, Any], who: str) -> Callable[[], Any]:
    def some(training: Training) -> list[Any]:
        step = training.step(who)
        for _ in range(CHECKED):
            step()
        return []

    some(Training(given["model"], 2))
    return lambda: some(Training(**given))


if __name__ == "__main__":
    _child(sys.argv[1])
