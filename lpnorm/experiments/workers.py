"""Worker processes, none of which outlives the process that started them, however that ends.

- Ctrl-C and SIGTERM are for the parent alone. A terminal or a job scheduler may send them to the
  whole group, so workers are started with both held back; the parent kills them on its way out.
- When the parent is killed it can do nothing. Each worker therefore waits, in a thread, for the end
  of a pipe (on Windows: a handle) that the system closes with the parent, and then exits at once.
  The resource tracker of `multiprocessing` waits the same way for the last of them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

# spawned workers read these when they import NumPy, and lpnorm.fast: the same bits for any number
# of jobs, and no more threads than cores
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LPNORM_THREADS"), "1"
)


class WorkerEnded(RuntimeError):
    """A worker process ended before its work did."""


@contextlib.contextmanager
def at_work(
    calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], jobs: int
) -> Iterator[list[Future[Any]]]:
    """The futures of all calls (function, arguments), `jobs` of them at a time.

    Each worker computes with one BLAS thread. When the block ends by an exception, also by
    KeyboardInterrupt, the workers are killed; in any case none is left after the block. Raises
    WorkerEnded if a worker is killed by somebody else.
    """
    others = multiprocessing.active_children()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(calls)), context, _begin)
    try:
        with _environment(ONE_THREAD), _signals_held():
            futures = [pool.submit(function, *arguments) for function, arguments in calls]
            pool.submit(os.getpid)  # or the pool does not see the end of the worker it started last
        yield futures
    except BaseException as error:
        for worker in multiprocessing.active_children():
            if worker not in others:
                worker.kill()
        if isinstance(error, BrokenProcessPool):
            raise WorkerEnded("a worker was killed (out of memory?)") from None
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def sigterm_like_ctrl_c() -> Iterator[None]:
    """In the block SIGTERM raises KeyboardInterrupt; not where a program handles or ignores it."""
    ours = threading.current_thread() is threading.main_thread()  # only there can one say so
    if not ours or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _begin() -> None:
    """First thing in a worker."""
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())  # tqdm's own is a semaphore, which a kill would leave behind
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for Windows, which has no mask to inherit
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Processes started here inherit that SIGINT and SIGTERM are held back; here they come after.

    The resource tracker is started before, since its start would let them through.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing.resource_tracker import ensure_running

    ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
