"""A few threads for compiled loops, which run without Python's lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lpnorm.arrays import check_count

_wanted: int | None = None
_pool: tuple[int, int, ThreadPoolExecutor] | None = None  # the process and size it was made for


def count() -> int:
    """How many threads loops are given: `use`, or LPNORM_THREADS, or the cores of this process."""
    if _wanted is not None:
        return _wanted
    named = os.environ.get("LPNORM_THREADS")
    if named:
        return check_count("LPNORM_THREADS", int(named) if named.isdigit() else named)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use(threads: int | None) -> None:
    """Give loops this many threads, at least 1; None: as many as there are cores."""
    global _wanted
    _wanted = None if threads is None else check_count("threads", threads)


def run(parts: list[Callable[[], Any]]) -> None:
    """Call each part, the first one here and the others on the pool; returns when all are done."""
    global _pool
    if len(parts) > 1:
        key = os.getpid(), len(parts) - 1
        if (
            _pool is None or _pool[0] != key[0] or _pool[1] < key[1]
        ):  # threads do not survive a fork
            _pool = (*key, ThreadPoolExecutor(key[1], "lpnorm"))
        waiting = [_pool[2].submit(part) for part in parts[1:]]
        parts[0]()
        for each in waiting:
            each.result()
    else:
        parts[0]()
