"""A few threads for compiled loops, which run without Python's lock."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from lpnorm.arrays import check_count

_wanted: int | None = None


def count() -> int:
    """How many threads loops are given: `use`, or LPNORM_THREADS, or the cores of this process.

    Raises TypeError or ValueError naming LPNORM_THREADS if it is no number of threads.
    """
    if _wanted is not None:
        return _wanted
    named = os.environ.get("LPNORM_THREADS")
    if named:
        return check_count("LPNORM_THREADS", int(named) if named.isdecimal() else named)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use(threads: int | None) -> None:
    """Give loops this many threads, at least 1; None: as many as there are cores.

    Raises TypeError or ValueError naming threads.
    """
    global _wanted
    _wanted = None if threads is None else check_count("threads", threads)


class _Pool:
    """Helpers of the calling thread, kept off the core it runs on.

    A helper is woken and done within a millisecond; left to itself, Linux likes to wake it on the
    core of the caller, where it waits until the caller has done its own part (measured: half of the
    calls took twice as long).
    """

    def __init__(self, helpers: int) -> None:
        self.process, self.helpers = os.getpid(), helpers
        ids: list[int] = []  # (a function that knew self would keep the pool for ever)
        self.ids = ids
        self.executor = ThreadPoolExecutor(
            helpers, "lpnorm", lambda: ids.append(threading.get_native_id())
        )
        self.core = -1
        self.core_of_caller = getattr(ctypes.PyDLL(None), "sched_getcpu", None) if _LINUX else None

    def run(self, parts: list[Callable[[], Any]]) -> None:
        """Call every part, the first one here, and any that no helper can take."""
        waiting: list[Future[Any]] = []
        left = list(parts)
        try:
            with contextlib.suppress(RuntimeError):  # no more threads; at the end of the program
                while len(left) > 1:
                    waiting.append(self.executor.submit(left[-1]))
                    left.pop()
            self._keep_off()
            for part in left:
                part()
        finally:
            wait(waiting)  # what they work on must not go before they are done
        for each in waiting:
            each.result()

    def _keep_off(self) -> None:
        """Keep the helpers off this core, if it is another one than last time."""
        if self.core_of_caller is None or (core := self.core_of_caller()) == self.core:
            return
        with contextlib.suppress(OSError):  # a sandbox, a set of cores that has shrunk
            others = os.sched_getaffinity(0) - {core}
            for each in self.ids if others else ():
                os.sched_setaffinity(each, others)
            self.core = core if len(self.ids) == self.helpers else -1


_LINUX = hasattr(os, "sched_setaffinity")
_pool: _Pool | None = None


def run(parts: list[Callable[[], Any]]) -> None:
    """Call every part, on as many threads as there are parts; returns when all are done."""
    global _pool
    if len(parts) == 1:
        parts[0]()
        return
    helpers = len(parts) - 1
    if _pool is None or _pool.process != os.getpid() or _pool.helpers < helpers:
        _pool = _Pool(helpers)  # threads do not survive a fork
    _pool.run(parts)
