"""How much memory forward and backward take at their peak, beyond x, dy and the results.

Each contestant runs in a process of its own (`python -m lpnorm.bench.memory`), which is warmed up
with a small problem first, so that code, compilers and thread pools are there already.
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
        request = json.dumps([asdict(problem), list(entry), threads])
        line = [sys.executable, "-m", "lpnorm.bench.memory", request]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            raise Failed(f"{problem}, {entry.who}: {last}")
        taken, results = json.loads(done.stdout)
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


def _child(request: str) -> None:
    given, (who, norm), threads = json.loads(request)
    machine.use_threads(threads)
    problem = Problem(**given | {"shape": tuple(given["shape"])})
    entry, p = Entry(who, norm), {"L1": 1, "L2": 2}[norm]
    small = Problem((16, 64, *[8] * (len(problem.shape) - 2)), problem.layer, problem.dtype)
    prepare(small, [p], [entry])[entry]()
    call = prepare(problem, [p], [entry])[entry]
    print(json.dumps(peak(call)))


if __name__ == "__main__":
    _child(sys.argv[1])
