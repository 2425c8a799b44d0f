"""A few threads for work that is cut into parts and runs without Python's lock.

NumPy's products, its operations on whole arrays and compiled loops all do. How work is cut never
depends on the number of threads where that could be felt in a result.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from lpnorm.arrays import check_count

WORTH = 2**19  # operations on a value that are worth a thread: waking one takes a fifth of that
_wanted: int | None = None


def count() -> int:
    """How many threads work is given: `use`, or LPNORM_THREADS, or the cores of this process.

    Raises TypeError or ValueError naming LPNORM_THREADS if it is no number of threads.
    """
    if _wanted is not None:
        return _wanted
    named = os.environ.get("LPNORM_THREADS")
    if named:
        return check_count("LPNORM_THREADS", int(named) if named.isdecimal() else named)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use(threads: int | None) -> None:
    """Give work this many threads, at least 1; None: as many as there are cores.

    Raises TypeError or ValueError naming threads.
    """
    global _wanted
    _wanted = None if threads is None else check_count("threads", threads)


class _Helper:
    """A thread that does what it is handed and says so; half as long to wake as an executor's."""

    def __init__(self) -> None:
        self.parts: queue.SimpleQueue[Any] = queue.SimpleQueue()  # (number, part)
        self.done: queue.SimpleQueue[Any] = queue.SimpleQueue()  # (number, error or None)
        self.given = 0
        self.thread = threading.Thread(target=self._work, name="lpnorm", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while True:
            number, part = self.parts.get()
            error: BaseException | None = None
            try:
                part()
            except BaseException as raised:
                error = raised
            del part  # and what it refers to, before anybody is told
            self.done.put((number, error))
            del error

    def give(self, part: Callable[[], Any]) -> None:
        self.given += 1
        self.parts.put((self.given, part))

    def wait(self) -> BaseException | None:
        """The error of what it was given last, once that is done, or of an interruption before."""
        interruption = None
        while True:
            try:
                number, error = self.done.get()
                if number == self.given:
                    return error or interruption
            except BaseException as raised:  # Ctrl-C: what the part works on must not go before
                interruption = raised


class _Helpers:
    """Helpers of the calling thread, kept off the core it runs on.

    A helper is woken and done within a millisecond; left to itself, Linux likes to wake it on the
    core of the caller, where it waits until the caller has done its own part (measured: half of the
    calls took twice as long).
    """

    def __init__(self) -> None:
        self.process, self.lock = os.getpid(), threading.Lock()
        self.helpers: list[_Helper] = []
        self.core, self.apart = -1, 0  # the core that so many of them are kept off
        self.core_of_caller = getattr(ctypes.PyDLL(None), "sched_getcpu", None) if _LINUX else None

    def run(self, parts: list[Callable[[], Any]]) -> None:
        """Call every part, the first one here, and any that no helper can take."""
        with contextlib.suppress(RuntimeError):  # no more threads; at the end of the program
            while len(self.helpers) < len(parts) - 1:
                self.helpers.append(_Helper())
        helping = self.helpers[: len(parts) - 1]
        self._keep_off()
        working: list[_Helper] = []
        try:
            for helper, part in zip(helping, parts[1:], strict=False):
                helper.give(part)
                working.append(helper)
            for part in [parts[0], *parts[1 + len(helping) :]]:
                part()
        finally:
            errors = [helper.wait() for helper in working]
        for error in errors:
            if error is not None:
                raise error

    def _keep_off(self) -> None:
        """Keep the helpers off this core, if it is another one than last time."""
        if self.core_of_caller is None:
            return
        core = self.core_of_caller()
        if (core, len(self.helpers)) == (self.core, self.apart):
            return
        with contextlib.suppress(OSError):  # a sandbox, a set of cores that has shrunk
            others = os.sched_getaffinity(0) - {core}
            for helper in self.helpers if others else ():
                os.sched_setaffinity(helper.thread.native_id or 0, others)
            self.core, self.apart = core, len(self.helpers)


_LINUX = hasattr(os, "sched_setaffinity")
_helpers: _Helpers | None = None


def run(parts: list[Callable[[], Any]]) -> None:
    """Call every part, on as many threads as there are parts; returns when all are done.

    While one thread's parts run, those of another run on that thread alone.
    """
    global _helpers
    if _helpers is None or _helpers.process != os.getpid():
        _helpers = _Helpers()  # threads do not survive a fork
    ours = _helpers
    if len(parts) > 1 and ours.lock.acquire(blocking=False):
        try:
            ours.run(parts)
        finally:
            ours.lock.release()
    else:
        for part in parts:
            part()


def share(most: int) -> int:
    """How many parts to cut work into that is worth no more than so many."""
    return max(1, min(most, count())) if most > 1 else 1


def each(function: Callable[[int, int], Any], pieces: int, work: float) -> None:
    """function(first, last) for runs of all pieces 0 ... pieces - 1, a run for each thread.

    A result must not depend on how pieces are shared out. work: how many operations on a value
    there are in all: little work stays on this thread. NumPy's `errstate` is that of the caller.
    """
    parts = share(min(pieces, int(work / WORTH)))
    if parts == 1:
        function(0, pieces)
        return
    errors, call = np.geterr(), np.geterrcall()

    def some(first: int, last: int) -> None:
        with np.errstate(call=call, **errors):  # type: ignore[arg-type]
            function(first, last)

    run([functools.partial(some, first, last) for first, last in cut(pieces, parts)])


def cut(n: int, most: int) -> list[tuple[int, int]]:
    """0 ... n - 1 in at most so many even runs, none of them empty: [(first, last + 1), ...]."""
    k = min(n, most)
    return [(n * i // k, n * (i + 1) // k) for i in range(k)]


class _OneBlasThread(contextlib.ContextDecorator):
    """In the block NumPy's BLAS computes on the thread that calls it, if it can be told so.

    A product's bits may depend on how many threads BLAS shares it among. The first to enter says
    one, the last to leave puts back what was: blocks may overlap, on several threads too.
    """

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0
        self.before: list[int] = []

    @functools.cached_property
    def libraries(self) -> list[Any]:
        """What `threadpoolctl` found to control; nothing without it (extra "fast")."""
        try:
            from threadpoolctl import ThreadpoolController
        except ImportError:
            return []
        return list(ThreadpoolController().select(user_api="blas").lib_controllers)

    def __bool__(self) -> bool:
        """Can it be told?"""
        return bool(self.libraries)

    def __enter__(self) -> None:
        libraries = self.libraries
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.before = [blas.num_threads for blas in libraries]
                for blas, threads in zip(libraries, self.before, strict=True):
                    if threads != 1:
                        blas.set_num_threads(1)

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                for blas, threads in zip(self.libraries, self.before, strict=True):
                    if threads != 1:
                        blas.set_num_threads(threads)


one_blas_thread = _OneBlasThread()
