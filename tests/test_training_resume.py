"""Checkpoints: an interrupted training goes on with the same bits; damage is refused."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lpnorm import models, nn, training
from lpnorm.data import Dataset, digits, shift
from lpnorm.decay import SGD, NormTrace, StepSchedule


def tiny(xp=None):
    d = digits(device="cpu" if xp is None or xp.module is np else "gpu")
    return Dataset(d.train_x[:96], d.train_y[:96], d.test_x[:32], d.test_y[:32])


def run(epochs, checkpoint=None, xp=None, augment=shift, **arguments):
    """(weights and statistics, history, trace) after training a fresh model."""
    model = models.digits_net(width=2, rng=3)
    if xp is not None:
        model.to("cpu" if xp.module is np else "gpu")
    sgd = SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    trace = NormTrace(nn.scale_invariant(model), sgd)
    arguments = {"batch": 32, "seed": 7, "schedule": StepSchedule([2, 3]), **arguments}
    history = training.train(
        model, tiny(xp), sgd, epochs, augment=augment, trace=trace, clip=5.0,
        checkpoint=checkpoint, progress=False, **arguments,
    )  # fmt: skip
    state = {name: xp.numpy(a) if xp else a for name, a in model.state().items()}
    return state, history, trace


def same(one, other):
    for name in one[0]:
        np.testing.assert_array_equal(one[0][name], other[0][name], err_msg=name)
    assert one[1] == other[1]
    for key, values in one[2].state().items():
        np.testing.assert_array_equal(values, other[2].state()[key], err_msg=key)


def test_stopping_after_any_epoch_gives_the_same_bits(xp, tmp_path):
    whole = run(4, xp=xp)
    for stop in (1, 3):
        path = tmp_path / f"{stop}.npz"
        run(stop, path, xp)
        same(run(4, path, xp), whole)
        same(run(4, path, xp), whole)  # finished: nothing left to do


@pytest.mark.parametrize("batches", [1, 4, 8])
def test_an_interruption_loses_the_epoch_in_hand_at_most(tmp_path, batches):
    """Ctrl-C at some batch: the file holds the epoch before, and the same call goes on."""
    path, seen = tmp_path / "model.npz", []

    def interrupted(x, rng):
        seen.append(1)
        if len(seen) == batches:
            raise KeyboardInterrupt
        return shift(x, rng)

    with pytest.raises(KeyboardInterrupt):
        run(4, path, augment=interrupted)
    finished = (batches - 1) // 3
    assert path.exists() == (finished > 0)
    if finished:
        about = json.loads(str(nn.read_arrays(path)["about"]))
        assert about["epoch"] == len(about["history"]["loss"]) == finished
    assert [p.name for p in tmp_path.iterdir()] == (["model.npz"] if finished else [])
    same(run(4, path), run(4))


def test_a_recorded_divergence_is_not_trained_on(tmp_path):
    path = tmp_path / "model.npz"

    def spoil(x, rng):
        return x * np.nan

    first = run(3, path, augment=spoil, if_diverged="record")
    again = run(3, path, if_diverged="record")
    assert first[1].diverged == again[1].diverged and again[1].loss == []


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    run(1, path)
    with pytest.raises(ValueError, match=r"model\.npz.*'seed': 7.*'seed': 8"):
        run(2, path, seed=8)
    model = models.digits_net(width=3)
    sgd = SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"model\.npz.*shape"):
        training.train(model, tiny(), sgd, 2, 32, 7, checkpoint=path, progress=False)


@pytest.mark.parametrize("damage", ["cut", "text", "no about"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "model.npz"
    run(1, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("hello")
    else:
        np.savez(path, x=np.zeros(3))
    with pytest.raises(ValueError, match=r"model\.npz"):
        run(2, path)


def test_a_killed_process_goes_on(tmp_path):
    """SIGKILL in the middle, then the same command: the weights of an uninterrupted run."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[2]); import test_training_resume as t, numpy\n"
        "import time; wait = float(sys.argv[3])\n"
        "slow = lambda x, rng: (time.sleep(wait), t.shift(x, rng))[1]\n"
        "state = t.run(4, sys.argv[1] + '/model.npz', augment=slow)[0]\n"
        "numpy.savez(sys.argv[1] + '/end.npz', **state)\n"
    )
    here = os.path.dirname(__file__)
    command = [sys.executable, "-c", script, str(tmp_path), here]
    process = subprocess.Popen([*command, "0.3"])
    deadline = time.monotonic() + 60
    while not (tmp_path / "model.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "model.npz").exists() and not (tmp_path / "end.npz").exists()
    subprocess.run([*command, "0"], check=True, timeout=60)
    end, whole = nn.read_arrays(tmp_path / "end.npz"), run(4)[0]
    for name, array in whole.items():
        np.testing.assert_array_equal(end[name], array, err_msg=name)
