"""Checkpoints: an interrupted training goes on with the same bits; damage is refused."""

import ctypes
import functools
import json
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

import lpnorm
from lpnorm import models, nn, training
from lpnorm.data import Dataset, digits, shift
from lpnorm.decay import SGD, NormTrace, StepSchedule, StepSizeCorrection
from lpnorm.files import load_arrays, save_arrays


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
        if x.shape[0] == 32:  # and not the few samples it is recognized by
            seen.append(1)
            if len(seen) == batches:
                raise KeyboardInterrupt
        return shift(x, rng)

    with pytest.raises(KeyboardInterrupt):
        run(4, path, augment=interrupted)
    finished = (batches - 1) // 3
    assert path.exists() == (finished > 0)
    if finished:
        about = json.loads(load_arrays(path, "checkpoint")["about"].tobytes())
        assert about["epoch"] == len(about["history"]["loss"]) == finished
    assert [p.name for p in tmp_path.iterdir()] == (["model.npz"] if finished else [])
    same(run(4, path), run(4))


def test_a_recorded_divergence_is_not_trained_on(tmp_path):
    path, seen = tmp_path / "model.npz", []

    def spoil(x, rng):
        seen.append(x.shape[0])
        return x * np.nan

    first = run(3, path, augment=spoil, if_diverged="record")
    assert seen.count(32) == 1
    again = run(3, path, augment=spoil, if_diverged="record")
    assert first[1].diverged == again[1].diverged and again[1].loss == []
    assert seen.count(32) == 1


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
    with np.load(tmp_path / "end.npz") as end:
        for name, array in run(4)[0].items():
            np.testing.assert_array_equal(end[name], array, err_msg=name)


# --- which training it is -------------------------------------------------------------------------


def make(path, epochs=1, **changes):
    """A small training in which everything can be another; returns (model, optimizer, trace)."""
    given = {
        "p": 1, "eps": 1e-5, "momentum": 0.9, "lr": 0.1, "weight_decay": 1e-3, "dampening": 0.0,
        "nesterov": False, "decoupled": False, "step_scale": None, "master": None, "data": tiny(),
        "trace": True, "augment": functools.partial(shift, pixels=1), "norm_momentum": 0.1,
        "pool": nn.MaxPool2d(2), "batch": 32, "seed": 7, "schedule": StepSchedule([2]),
        "clip": None, "loss_scale": None, "after_step": None, "groups": False,
    }  # fmt: skip
    assert set(changes) <= set(given)
    given |= changes
    norm = nn.BatchNorm(2, p=given["p"], eps=given["eps"], momentum=given["norm_momentum"])
    layers = [nn.Conv2d(1, 2, 3, bias=False), norm, given["pool"]]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(18, 10))
    names = ["lr", "momentum", "dampening", "nesterov", "weight_decay", "decoupled", "step_scale"]
    parameters = model.parameters()
    if given["groups"]:
        parameters = [{"params": parameters[:2]}, {"params": parameters[2:]}]
    sgd = SGD(parameters, **{name: given[name] for name in names}, master=given["master"])
    trace = NormTrace(nn.scale_invariant(model), sgd) if given["trace"] else None
    names = ["batch", "seed", "schedule", "augment", "clip", "loss_scale", "after_step"]
    settings = {name: given[name] for name in names}
    history = training.train(
        model, given["data"], sgd, epochs, trace=trace, checkpoint=path, progress=False, **settings
    )
    return model, sgd, trace, history


def fewer(count=95):
    d = tiny()
    return Dataset(d.train_x[:count], d.train_y[:count], d.test_x, d.test_y)


def one_pixel():
    d = tiny()
    x = d.train_x.copy()
    x[5, 0, 3, 3] += 2.0**-20
    return Dataset(x, d.train_y, d.test_x, d.test_y)


def halve(parameter):
    return 0.5


def nothing(step, epoch):
    pass


OTHERS = {  # a change of `make`, and the words that name it
    "p": (2, "p': 1.*p': 2"),
    "eps": (1e-3, "eps': 1e-05.*eps': 0.001"),
    "norm_momentum": (0.2, "momentum': 0.1.*momentum': 0.2"),
    "pool": (nn.MaxPool2d(3, 2, padding=1), "windows.*kernel"),
    "pool ": (nn.AvgPool2d(2), "MaxPool2d.*AvgPool2d"),
    "lr": (0.2, "lr': 0.1.*lr': 0.2"),
    "momentum": (0.8, "momentum"),
    "weight_decay": (0.0, "weight_decay"),
    "dampening": (0.5, "dampening"),
    "nesterov": (True, "nesterov"),
    "decoupled": (True, "decoupled"),
    "step_scale": (halve, "step_scale.*halve"),
    "master": ("float64", "master"),
    "groups": (True, "group 1"),
    "data": (fewer(), r"data.train_x.*\(96,.*\(95,"),
    "data ": (one_pixel(), "data.train_x"),
    "batch": (16, "'batch': 32.*'batch': 16"),
    "seed": (8, "'seed': 7.*'seed': 8"),
    "clip": (1.0, "clip"),
    "augment": (functools.partial(shift, pixels=2), "augment"),
    "augment ": (None, "augment"),
    "trace": (False, "trace.*0.weight.*None"),
    "loss_scale": (training.LossScale(2.0), "loss_scale.*scale.*2.0"),
    "after_step": (nothing, "after_step.*nothing"),
    "schedule": (lambda epoch: 0.5, "schedule gives 1.0 in epoch 0, not 0.5"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_would_not_be_the_same_training_is_refused_and_named(name, tmp_path):
    """Both ways round, before anything has changed."""
    path, (other, words) = tmp_path / "ck", OTHERS[name]
    make(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"ck: it is of a training .*{words}") as caught:
        make(path, 2, **{name.strip(): other})
    assert "\n" not in str(caught.value) and path.read_bytes() == before
    path.unlink()
    make(path, **{name.strip(): other})
    with pytest.raises(ValueError, match="ck: it is of a training"):
        make(path, 2)


def test_what_is_the_same_training_goes_on(tmp_path):
    """Another function with the same results, another way to say p, more epochs."""
    path = tmp_path / "ck"
    make(path, p=1, augment=functools.partial(shift, pixels=1), schedule=StepSchedule([2]))
    again = {"p": 1.0, "augment": lambda x, rng: shift(x, rng), "seed": np.int64(7)}
    again |= {"schedule": lambda epoch: 1.0 if epoch < 2 else 0.1, "batch": np.int32(32)}
    model, sgd, trace, history = make(path, 3, **again)
    whole = make(None, 3)
    assert history == whole[-1] and sgd.t == 9
    for name, array in whole[0].state().items():
        np.testing.assert_array_equal(model.state()[name], array)
    np.testing.assert_array_equal(trace.state()["rates/0.weight"], [0.1] * 6 + [0.1 * 0.1] * 3)


def test_the_same_objects_can_go_on(tmp_path):
    model = models.digits_net(width=2)
    sgd = SGD(model.parameters(), 0.1, momentum=0.9)
    scale = training.LossScale(4.0, dynamic=True, growth=2)
    for epochs in (1, 2):
        given = {"checkpoint": tmp_path / "ck", "loss_scale": scale, "progress": False}
        history = training.train(model, tiny(), sgd, epochs, 32, **given)
    assert len(history.loss) == 2 and sgd.t == 6


class Counting(nn.Layer):
    """Somebody's layer, with a private count that is no setting."""

    def __init__(self):
        self._calls = 0

    def forward(self, x, train):
        self._calls += 1
        return x, lambda dy: dy


def test_a_layers_private_attributes_are_no_settings(tmp_path):
    model = nn.Sequential(Counting(), nn.Flatten(), nn.Linear(64, 10))
    sgd = SGD(model.parameters(), 0.1)
    for epochs in (1, 2):
        given = {"checkpoint": tmp_path / "ck", "progress": False}
        assert len(training.train(model, tiny(), sgd, epochs, 32, **given).loss) == epochs


def test_another_implementation_of_the_same_bits_goes_on(tmp_path):
    functions = types.SimpleNamespace(**vars(lpnorm.batchnorm))
    module = types.ModuleType("module")
    vars(module).update(vars(lpnorm.batchnorm), libraries=ctypes.cdll)  # loads what it is asked for
    for epochs, impl in ((1, None), (2, functions), (3, module)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm(10, impl=impl))
        given = {"checkpoint": tmp_path / "ck", "progress": False}
        sgd = SGD(model.parameters(), 0.1)
        assert len(training.train(model, tiny(), sgd, epochs, 32, **given).loss) == epochs


@pytest.mark.parametrize("again", ["fresh", "same"])
def test_a_corrected_training_goes_on_with_its_trace_and_no_other(again, tmp_path):
    """`StepSizeCorrection` counts steps; that is no setting, but the trace it follows is."""

    def corrected(epochs, factor=1.0, path=tmp_path / "ck", kept=None):
        if kept is None:
            model = models.digits_net(width=2)
            invariant = nn.scale_invariant(model)
            trace = NormTrace()
            source = decayed.state()
            trace.load_state({k: factor * a if k[0] == "n" else a for k, a in source.items()})
            correction = StepSizeCorrection(trace, invariant)
            kept = model, SGD(model.parameters(), 0.1, momentum=0.9, step_scale=correction)
        training.train(*kept[:1], tiny(), kept[1], epochs, 32, checkpoint=path, progress=False)
        return kept

    model = models.digits_net(width=2)
    sgd = SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    decayed = NormTrace(nn.scale_invariant(model), sgd)
    training.train(model, tiny(), sgd, 2, 32, trace=decayed, progress=False)
    kept = corrected(1)
    with pytest.raises(ValueError, match=r"step_scale.*trace.*SHA-256"):
        corrected(2, factor=2.0)
    model, _ = corrected(2, kept=kept if again == "same" else None)
    whole, _ = corrected(2, path=None)
    for name, array in whole.state().items():
        np.testing.assert_array_equal(model.state()[name], array, err_msg=name)


def test_fewer_epochs_than_are_done_are_refused(tmp_path):
    make(tmp_path / "ck", 2)
    with pytest.raises(ValueError, match="holds 2 epochs, and epochs is 1"):
        make(tmp_path / "ck", 1)


def edited(path, change):
    """A checkpoint with changed arrays and history, written and sealed as this library does."""
    arrays = load_arrays(path, "checkpoint")
    about = json.loads(arrays.pop("about").tobytes())
    change(arrays, about)
    text = np.frombuffer(json.dumps(about).encode(), "uint8")
    save_arrays(path, "checkpoint", {"about": text, **arrays})


def without(part):
    def change(arrays, about):
        for name in [name for name in arrays if name.startswith(part)]:
            del arrays[name]

    return change


def not_a_number(name):
    def change(arrays, about):
        arrays[name] = arrays[name] * np.nan

    return change


def short_trace(arrays, about):
    for name in [name for name in arrays if name.startswith("trace/")]:
        arrays[name] = arrays[name][1:]


def and_its_list(change):
    """The same, and the list of the arrays is edited as well."""

    def both(arrays, about):
        change(arrays, about)
        about["arrays"] = {name: f"{a.dtype} of shape {a.shape}" for name, a in arrays.items()}

    return both


EDITS = {
    "no momentum at all": (and_its_list(without("momentum")), "no momentum"),
    "no trace at all": (and_its_list(without("trace")), "trace has no entry"),
    "a short trace throughout": (and_its_list(short_trace), "2 records for 3 steps"),
    "no weight at all": (and_its_list(without("model/4.weight")), "4.weight"),
    "no momentum": (without("momentum"), "arrays are not those"),
    "no momentum of one": (without("momentum/0.weight"), "momentum/0.weight"),
    "no trace": (without("trace"), "arrays are not those"),
    "a short trace": (short_trace, "another shape"),
    "no weight": (without("model/4.weight"), "model/4.weight"),
    "NaN weights": (not_a_number("model/4.weight"), "model/4.weight is not finite"),
    "NaN momentum": (not_a_number("momentum/4.bias"), "momentum/4.bias is not finite"),
    "unknown": (lambda arrays, about: arrays.update(x=np.ones(1)), "x"),
    "history": (lambda arrays, about: about["history"]["loss"].append(1.0), "history"),
    "no settings": (lambda arrays, about: about.pop("settings"), "settings"),
    "epoch": (lambda arrays, about: about.update(epoch=2), "history"),
    "generator": (lambda arrays, about: about.update(rng={"bit_generator": "x"}), "PCG64"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_checkpoint_is_refused(name, tmp_path):
    path, (change, words) = tmp_path / "ck", EDITS[name]
    make(path)
    edited(path, change)
    with pytest.raises(ValueError, match=f"ck: .*{words}"):
        make(path, 2)


def test_a_refused_checkpoint_changes_nothing(tmp_path):
    path = tmp_path / "model.npz"
    run(1, path)
    edited(path, EDITS["generator"][0])
    model = models.digits_net(width=2, rng=5)
    sgd = SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    given = {"clip": 5.0, "batch": 32, "seed": 7, "schedule": StepSchedule([2, 3])}
    trace = NormTrace(nn.scale_invariant(model), sgd)
    before = model.state()
    with pytest.raises(ValueError, match="PCG64"):
        training.train(
            model, tiny(), sgd, 2, augment=shift, trace=trace, checkpoint=path, progress=False,
            **given,
        )  # fmt: skip
    assert all((before[name] == a).all() for name, a in model.state().items())
    assert sgd.t == 0 and sgd.state() == {}
