"""On what it is timed: processor, cores, load, libraries; and whether others use the machine."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from lpnorm import __version__, threads
from lpnorm.bench.contestants import installed

BUSY = 0.1  # cores that others may use before it is said
LOAD = 0.5  # the same for the load average
STAT = Path("/proc/stat")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(count: int) -> None:
    """Give every contestant this many threads.

    BLAS, which lpnorm has compute on the thread that calls it, has threads of its own from the
    moment it is loaded: the variables are for what is loaded later, and for child processes.
    """
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)
    threads.use(count)
    if not isinstance(torch := installed("torch"), str):
        torch.set_num_threads(count)


def describe() -> dict[str, Any]:
    """What a reader of the figures has to know, ready for JSON."""
    blas = np.show_config("dicts")["Build Dependencies"]["blas"]
    return {
        "cpu": _model(),
        "cores": cores(),
        "cores_of_machine": os.cpu_count(),
        "platform": platform.platform(),
        "load_average": _load(),
        "blas": f"{blas.get('name', '?')} {blas.get('version', '')}".strip(),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            **{name: _version(name) for name in ("numba", "torch")},
            "lpnorm": __version__,
        },
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _load() -> list[float] | None:
    """The load average of 1, 5 and 15 minutes, where the system has one."""
    return [round(v, 2) for v in os.getloadavg()] if hasattr(os, "getloadavg") else None


def free_memory() -> int | None:
    """Bytes that can be had without swapping, where /proc says so."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


class Others:
    """How many cores other processes have used since this was made (None without /proc/stat)."""

    def __init__(self) -> None:
        self.start = self._spent()

    @staticmethod
    def _spent() -> tuple[float, float] | None:
        """Now, and the seconds of processor time that others have spent since the machine is up."""
        try:
            words = STAT.read_text(encoding="utf-8").split("\n", 1)[0].split()
        except OSError:
            return None
        user, nice, system, _, _, irq, soft_irq, steal = map(int, words[1:9])
        ticks = user + nice + system + irq + soft_irq + steal
        own = sum(os.times()[:4])
        return time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK") - own

    def cores(self) -> float | None:
        now = self._spent()
        if now is None or self.start is None:
            return None
        seconds, spent = (a - b for a, b in zip(now, self.start, strict=True))
        return max(0.0, round(spent / max(seconds, 1e-3), 2))


def others_during_a_pause(seconds: float = 1.0) -> float | None:
    others = Others()
    time.sleep(seconds)
    return others.cores()


def warnings(load: list[float] | None, before: float | None, during: float | None) -> list[str]:
    """What makes the figures doubtful, in words; empty on a quiet machine.

    before, during: the cores that others used, just before and while it was measured; load: the
    load averages before, which count only where the former is not known (they lag behind).
    """
    found = []
    if before is None and load is not None and load[0] >= LOAD:
        found.append(f"the load average of the minute before was {load[0]:.1f}")
    for cores, when in ((before, "just before"), (during, "while it was measured")):
        if cores is not None and cores >= BUSY:
            found.append(f"other processes used {cores:.1f} cores {when}")
    if not found:
        return []
    return [
        f"THIS MACHINE IS BUSY: {'; '.join(found)}. PyTorch's waiting threads suffer most from "
        "that, so the ratios flatter lpnorm: do not quote them."
    ]
