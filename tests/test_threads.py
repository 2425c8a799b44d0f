"""Work that is cut into parts: every piece once, errors come back, one thread of BLAS meanwhile."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lpnorm
from lpnorm import threads


@contextlib.contextmanager
def using(count):
    """Any work is worth one of `count` threads."""
    worth, threads.WORTH = threads.WORTH, 1
    threads.use(count)
    try:
        yield
    finally:
        threads.WORTH = worth
        threads.use(None)


def done_by_each(pieces, work, count):
    runs = []
    with using(count):
        threads.each(lambda first, last: runs.append((first, last)), pieces, work)
    return sorted(runs)


@given(pieces=st.integers(1, 60), count=st.integers(1, 6), work=st.integers(0, 100))
def test_every_piece_once(pieces, count, work):
    runs = done_by_each(pieces, work, count)
    assert [p for first, last in runs for p in range(first, last)] == list(range(pieces))
    assert len(runs) == max(1, min(pieces, count, work))
    sizes = [last - first for first, last in runs]
    assert max(sizes) - min(sizes) <= 1


@given(n=st.integers(0, 100), most=st.integers(1, 20))
def test_cut(n, most):
    runs = threads.cut(n, most)
    assert len(runs) == min(n, most) and all(first < last for first, last in runs)
    assert [p for first, last in runs for p in range(first, last)] == list(range(n))


def test_each_part_has_a_thread_of_its_own():
    """They wait for one another, so no two can be on one thread."""
    meet, seen = threading.Barrier(3, timeout=60), set()

    def part(first, last):
        meet.wait()
        seen.add(threading.get_ident())

    with using(3):
        threads.each(part, 3, 3)
    assert len(seen) == 3 and threading.get_ident() in seen


@pytest.mark.parametrize("failing", range(4))
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_an_error_of_any_part_is_raised_once_all_are_done(failing, error):
    finished = []

    def part(first, last):
        if first == failing:
            raise error("in a part")
        time.sleep(0.02)
        finished.append(first)

    with using(4):
        for _ in range(3):  # and the helpers are as good as new
            finished.clear()
            with pytest.raises(error, match="in a part"):
                threads.each(part, 4, 4)
            assert sorted(finished) == [i for i in range(4) if i != failing]
    assert done_by_each(4, 4, 4) == [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize("count", [1, 3])
def test_errstate_is_that_of_the_caller(count):
    zero, raised, calls = np.zeros(3), [], []

    def part(first, last):
        try:
            np.divide(zero, zero)
        except FloatingPointError:
            raised.append(first)

    with using(count):
        with np.errstate(invalid="raise"):
            threads.each(part, 3, 3)
        assert len(raised) == count
        with np.errstate(invalid="ignore"):
            threads.each(part, 3, 3)
        with np.errstate(invalid="call", call=lambda *what: calls.append(what)):
            threads.each(part, 3, 3)
    assert len(raised) == len(calls) == count


def test_each_within_each():
    done = []

    def inner(outer):
        threads.each(lambda first, last: done.append((outer, first, last)), 4, 4)

    with using(3):
        threads.each(lambda first, last: [inner(i) for i in range(first, last)], 6, 6)
    pieces = [(outer, p) for outer, first, last in done for p in range(first, last)]
    assert sorted(pieces) == [(outer, p) for outer in range(6) for p in range(4)]


def test_two_callers_at_once():
    """While one thread has the helpers, another does its parts alone."""
    started, release, mine = threading.Event(), threading.Event(), []

    def first_part():
        started.set()
        assert release.wait(60)

    other = threading.Thread(target=threads.run, args=([first_part, int],))
    other.start()
    assert started.wait(60)
    threads.run([lambda: mine.append(threading.get_ident())] * 3)
    release.set()
    other.join()
    assert mine == [threading.get_ident()] * 3


def test_helpers_hold_on_to_nothing():
    """What a part referred to is free when `run` returns: its memory may be used again."""
    count = sys.getrefcount
    held = object()
    before = count(held)
    threads.run([lambda held=held: None for _ in range(4)])
    assert count(held) == before


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_while_helpers_work():
    """It is raised, once everybody is done."""
    script = """
import os, signal, threading, time
from lpnorm import threads
finished = []
def slow():
    time.sleep(0.5)
    finished.append(True)
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    threads.run([int, slow, slow])
except KeyboardInterrupt:
    print("interrupted", len(finished))
threads.run([int, slow])
print(len(finished))
"""
    assert python(script) == "interrupted 2\n3\n"


def python(script, **environment):
    root = str(Path(lpnorm.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- one thread of BLAS ---------------------------------------------------------------------------


class Blas:
    """Stands for a library that can be told how many threads to use."""

    def __init__(self, count):
        self.num_threads, self.told = count, []

    def set_num_threads(self, count):
        self.num_threads = count
        self.told.append(count)


def one_thread_of(*libraries):
    guard = threads._OneBlasThread()
    guard.libraries = list(libraries)  # what is found first is kept
    return guard


def test_one_thread_of_blas_inside_and_as_many_as_before_after():
    many, one = Blas(4), Blas(1)
    guard = one_thread_of(many, one)
    assert guard
    with guard:
        assert many.num_threads == one.num_threads == 1
        with guard:
            assert many.num_threads == 1
        assert many.num_threads == 1
    assert many.num_threads == 4 and many.told == [1, 4] and one.told == []
    many.num_threads = 3  # somebody else says so meanwhile
    with pytest.raises(ZeroDivisionError), guard, guard:
        raise ZeroDivisionError
    assert many.num_threads == 3 and guard.inside == 0
    decorated = guard(lambda: many.num_threads)
    assert decorated() == 1 and many.num_threads == 3


def test_blocks_that_overlap_on_two_threads():
    many = Blas(4)
    guard = one_thread_of(many)
    inside, leave = threading.Event(), threading.Event()

    def other():
        with guard:
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with guard:
        thread.start()
        assert inside.wait(60)
    assert many.num_threads == 1  # for the other one
    leave.set()
    thread.join()
    assert many.num_threads == 4 and many.told == [1, 4]


def test_without_threadpoolctl(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    guard = threads._OneBlasThread()
    with guard:
        assert not guard and guard.libraries == []
    assert guard.inside == 0


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="BLAS takes no more threads than cores")
def test_numpys_own_blas():
    pytest.importorskip("threadpoolctl")
    script = """
import numpy, threadpoolctl
from lpnorm import threads
def counts():
    return {each["num_threads"] for each in threadpoolctl.threadpool_info()}
before = counts()
with threads.one_blas_thread:
    print(counts() == {1}, before == {2})
print(counts() == before)
"""
    assert python(script, OPENBLAS_NUM_THREADS="2", OMP_NUM_THREADS="2") == "True True\nTrue\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_one_thread_of_blas_after_a_fork():
    """A child made within a block, too."""
    script = """
import os, numpy as np
from lpnorm import plain, threads
a = np.random.default_rng(0).standard_normal((300, 300)).astype("float32")
want = plain.linear(a, a, None)[0].tobytes()
with threads.one_blas_thread:
    inner = os.fork()
child = os.fork() if inner else 0
if child == 0:
    threads.use(2)
    threads.WORTH = 1
    os._exit(plain.linear(a, a, None)[0].tobytes() != want)
print([os.waitpid(each, 0)[1] for each in (inner, child)])
"""
    assert python(script) == "[0, 0]\n"
