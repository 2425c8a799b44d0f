"""Worker processes: none outlives its parent, Ctrl-C and SIGTERM are the parent's, errors are told.

Whether a process is left shows at the parent's standard error: workers and the resource tracker
inherit it, so it ends when the last of them does.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from lpnorm.experiments import workers

posix = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")

SCRIPT = """
import os, sys, time
from lpnorm.experiments import workers
if __name__ == "__main__":
    calls = [(os.getpid, ()), (os.getpid, ()), *2 * [(time.sleep, (300,))]]
    with workers.sigterm_like_ctrl_c(), workers.at_work(calls, 2) as futures:
        if sys.argv[1] == "running":
            futures[0].result(), futures[1].result()
        print("ready", flush=True)
        futures[2].result()
"""


def started(*arguments):
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@posix
@pytest.mark.parametrize("when", ["starting", "running"])
@pytest.mark.parametrize("way", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_no_process_is_left(when, way):
    process = started("-c", SCRIPT, when)
    os.kill(process.pid, getattr(signal, way))  # the parent alone
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        pytest.fail(f"workers are left after {way}")


@posix
def test_signals_to_the_group_reach_the_parent_alone():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    calls = [(signal.pthread_sigmask, (signal.SIG_BLOCK, set()))]
    with workers.at_work(calls, 1) as futures:
        held = futures[0].result()
    assert {signal.SIGINT, signal.SIGTERM} <= held
    assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == before


def test_sigterm_is_ctrl_c_in_the_block_alone(monkeypatch):
    with pytest.raises(KeyboardInterrupt), workers.sigterm_like_ctrl_c():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    own = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a program that ignores it goes on
    try:
        with workers.sigterm_like_ctrl_c():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, own)


def test_what_workers_give_and_that_they_have_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    calls = [(os.getenv, ("OMP_NUM_THREADS",)), (divmod, (7, 2)), (divmod, (7, 0))]
    with workers.at_work(calls, 2) as futures:
        assert futures[0].result() == "1" and futures[1].result() == (3, 1)
        with pytest.raises(ZeroDivisionError):
            futures[2].result()
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ


@pytest.mark.parametrize("turn", range(6))
def test_a_worker_that_is_killed_is_told(turn):
    """At once, whichever it is: the pool did not always see the end of the one started last."""
    calls = [(os._exit, (3,)), (time.sleep, (300,))]
    with (
        pytest.raises(workers.WorkerEnded, match="a worker was killed"),
        workers.at_work(calls if turn % 2 else calls[::-1], 2) as futures,
    ):
        futures[0 if turn % 2 else 1].result()


@posix
@pytest.mark.slow
def test_ten_kills_at_random_moments(tmp_path):
    """No process left, and the figures of an uninterrupted run."""
    claims = ["scale-invariance", "norms", "exact-step"]

    def command(folder):
        given = ["reproduce", *claims, "--seeds", "1", "--epochs", "1", "--jobs", "2"]
        return [sys.executable, "-m", "lpnorm.cli", *given, "--no-progress", "--out", str(folder)]

    def figures(folder):
        return {n: json.loads((folder / f"{n}.json").read_text())["figures"] for n in claims}

    start = time.perf_counter()
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    whole, rng = time.perf_counter() - start, random.Random(0)
    for i in range(10):
        folder = tmp_path / str(i)
        process = subprocess.Popen(
            command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        time.sleep(rng.uniform(0.1, whole))
        process.send_signal((signal.SIGTERM, signal.SIGKILL, signal.SIGINT)[i % 3])
        process.communicate(timeout=30)
        again = subprocess.run(command(folder), capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert figures(folder) == figures(tmp_path / "whole")
