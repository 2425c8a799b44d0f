"""The training loop: what it does, what it reports, and what it says when something is wrong."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from draws import normal

from lpnorm import models, nn, training
from lpnorm.data import Dataset, digits, shift
from lpnorm.decay import SGD, NormTrace, StepSchedule


def on(xp, model, dtype="float32"):
    return model.to("cpu" if xp.module is np else "gpu", dtype)


def tiny(xp, count=48, dtype="float32"):
    """A few digits in the library under test."""
    d = digits(dtype)
    parts = (d.train_x[:count], d.train_y[:count], d.test_x[:20], d.test_y[:20])
    return Dataset(*(xp(part) for part in parts))


def train(model, data, lr=0.1, **arguments):
    arguments = {"epochs": 1, "batch": 16, "progress": False} | arguments
    optimizer = arguments.pop("optimizer", None) or SGD(model.parameters(), lr)
    return training.train(model, data, optimizer, **arguments)


def net(xp, seed=0, dtype="float32"):
    return on(xp, models.digits_net(width=2, rng=seed), dtype)


def values(xp, model):
    return {name: xp.numpy(a).copy() for name, a in model.state().items()}


def same(one, other):
    return all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)


# --- what it does ---------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits(xp):
    def result(seed, augment=shift):
        model = net(xp)
        history = train(model, tiny(xp), epochs=2, seed=seed, augment=augment)
        return history.to_dict(), values(xp, model)

    (history, weights), (again, weights_again) = result(3), result(3)
    assert history == again and same(weights, weights_again)
    assert not same(weights, result(4)[1])
    assert not same(weights, result(3, augment=None)[1])


def test_a_full_batch_is_one_step_of_gradient_descent(xp):
    data, model, other = tiny(xp, dtype="float64"), net(xp, dtype="float64"), net(xp)
    on(xp, other, "float64")
    train(model, data, lr=0.5, batch=48)
    logits, backward = other(data.train_x)
    backward(nn.softmax_cross_entropy(logits, data.train_y)[1])
    for parameter in other.parameters():
        parameter.data = parameter.data - 0.5 * parameter.grad
    want = values(xp, other)
    for name, a in values(xp, model).items():
        assert np.abs(a - want[name]).max() < 1e-10


def test_an_epoch_is_all_full_batches_and_every_sample_once(xp):
    data, seen = tiny(xp), []
    train(net(xp), data, batch=20, epochs=2, augment=lambda x, rng: seen.append(x) or x)
    assert [x.shape[0] for x in seen] == [20, 20, 20, 20]
    images = np.concatenate([xp.numpy(x) for x in seen]).reshape(2, 40, 64)
    for epoch in images:
        assert len(np.unique(epoch, axis=0)) == 40
    assert (images[0] != images[1]).any()  # in another order


def test_labels_stay_with_their_images(xp):
    """A linear model learns 16 distinct images by heart only if they do."""
    data = tiny(xp, count=16)
    model = on(xp, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    history = train(model, data, lr=0.5, batch=8, epochs=40)
    assert history.train_accuracy[-1] == 1
    assert training.accuracy(model, data.train_x, data.train_y) == 1


def test_the_schedule_is_applied(xp):
    model, asked = net(xp), []
    before = values(xp, model)
    optimizer = SGD(model.parameters(), 0.1)
    schedule = StepSchedule([2], 0.5)
    history = train(
        model,
        tiny(xp),
        epochs=3,
        optimizer=optimizer,
        schedule=lambda epoch: asked.append(epoch) or schedule(epoch),
    )
    assert asked == [0, 1, 2] and optimizer.lr_factor == 0.5
    sizes, norms = np.array(history.step_sizes["0.weight"]), np.array(history.norms["0.weight"])
    assert (sizes * norms**2)[:, 0] == pytest.approx([0.1, 0.1, 0.05])
    still = net(xp)
    train(still, tiny(xp), schedule=lambda epoch: 0.0)
    assert all((xp.numpy(p.data) == before[p.name]).all() for p in still.parameters())


def test_what_the_history_holds(xp):
    model, data = net(xp), tiny(xp)
    history = train(model, data, epochs=2, lr=0.25)
    assert json.loads(json.dumps(history.to_dict())) == history.to_dict()
    assert len(history.loss) == len(history.train_accuracy) == len(history.test_accuracy) == 2
    assert history.diverged is None
    assert history.test_accuracy[-1] == training.accuracy(model, data.test_x, data.test_y)
    assert list(history.norms) == list(history.step_sizes) == ["0.weight", "3.weight", "7.weight"]
    w = xp.numpy(model[3].weight.data).astype("float64")
    norms = np.sqrt((w**2).sum(axis=(1, 2, 3)))
    assert history.norms["3.weight"][-1] == pytest.approx(norms.tolist(), rel=1e-12)
    assert history.step_sizes["3.weight"][-1] == pytest.approx((0.25 / norms**2).tolist())


def test_a_channel_of_zeros_has_a_finite_step_size(xp):
    model = net(xp)
    model[0].weight.data[1] = 0
    history = train(model, tiny(xp), lr=0.0)
    assert history.norms["0.weight"][0][1] == 0
    json.dumps(history.to_dict(), allow_nan=False)


def test_loss_and_accuracy_are_means_over_the_batches(xp):
    """With a learning rate of 0 the model stands still, so they can be computed afterwards."""
    data, model = tiny(xp, count=32), on(xp, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    history = train(model, data, lr=0.0, batch=8)
    logits = model(data.train_x)[0]
    assert history.loss == pytest.approx([nn.softmax_cross_entropy(logits, data.train_y)[0]])
    hits = xp.numpy(logits).argmax(axis=1) == xp.numpy(data.train_y)
    assert history.train_accuracy == [hits.mean()]


def test_the_samples_of_the_incomplete_batch_do_not_count(xp):
    """48 samples in batches of 20; logits that are 1 for the right class and 0 elsewhere."""
    data, model = tiny(xp), on(xp, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    data.train_y[...] = 3
    model[1].weight.data[...] = 0
    model[1].bias.data[3] = 1
    history = train(model, data, lr=0.0, batch=20)
    assert history.train_accuracy == [1.0]
    assert history.loss == pytest.approx([np.log(np.e + 9) - 1])


def test_accuracy_counts_every_sample_once_with_fixed_statistics(xp):
    model, data = net(xp), tiny(xp)
    train(model, data, epochs=2)
    before = values(xp, model)
    want = xp.numpy(model(data.train_x, train=False)[0]).argmax(axis=1) == xp.numpy(data.train_y)
    for batch in (1, 7, 48, 100):
        got = training.accuracy(model, data.train_x, data.train_y, batch=batch)
        assert got == want.mean()
    assert same(values(xp, model), before)


def test_no_epochs_change_nothing(xp):
    model = net(xp)
    before = values(xp, model)
    assert train(model, tiny(xp), epochs=0) == training.History()
    assert same(values(xp, model), before)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_training_keeps_the_dtype(xp, dtype):
    model = net(xp, dtype=dtype)
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    history = train(model, tiny(xp, dtype=dtype), optimizer=optimizer, epochs=2)
    assert {str(p.data.dtype) for p in model.parameters()} == {dtype}
    assert np.isfinite(history.loss).all()


def test_the_digits_are_learned():
    model = models.digits_net(lambda channels: nn.BatchNorm(channels, p=1), width=4)
    history = train(model, digits(), lr=0.2, batch=32, epochs=4)
    assert history.loss == sorted(history.loss, reverse=True)
    assert history.test_accuracy[-1] > 0.9


# --- the progress bar -----------------------------------------------------------------------------


def test_the_progress_bar_goes_to_the_standard_error(xp, capsys):
    train(net(xp), tiny(xp), progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "3/3" in err and "loss=" in err
    train(net(xp), tiny(xp), progress=False)
    assert capsys.readouterr() == ("", "")


# --- when the loss is not finite ------------------------------------------------------------------


def nan_in(xp, name):
    model = net(xp)
    for parameter in model.parameters():
        if parameter.name == name:
            parameter.data = parameter.data * np.nan
    return model


@pytest.mark.parametrize("name", ["0.weight", "4.gamma", "8.beta", "12.bias"])
def test_nan_in_a_parameter_is_named(xp, name):
    with pytest.raises(training.Diverged, match=f"nan at step 0 .*parameter {name} is not finite"):
        train(nan_in(xp, name), tiny(xp))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_an_input_that_is_not_finite_is_named(xp, bad):
    data = tiny(xp)
    data.train_x[...] = bad
    with pytest.raises(training.Diverged, match=r"step 0 .*the input is not finite"):
        train(net(xp), data)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_huge_learning_rate_is_noticed_in_the_layer_that_overflows(xp):
    with pytest.raises(training.Diverged, match=r"step [12] .*(layer|parameter) \d+"):
        train(net(xp), tiny(xp), lr=1e38)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_overflow_in_a_layer_is_named(xp):
    model = net(xp)
    model[3].weight.data = model[3].weight.data * 0 + 3e38
    with pytest.raises(training.Diverged, match=r"the output of layer 3 \(Conv2d\)"):
        train(model, tiny(xp))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_nested_layer_is_named_by_its_path(xp):
    linear = nn.Linear(64, 10)
    model = on(xp, nn.Sequential(nn.Flatten(), nn.Sequential(nn.Residual(nn.ReLU()), linear)))
    linear.weight.data = linear.weight.data * 0 + 3e38
    with pytest.raises(training.Diverged, match=r"layer 1\.1 \(Linear\)"):
        train(model, tiny(xp))


def test_a_divergence_can_be_recorded(xp):
    history = train(nan_in(xp, "4.gamma"), tiny(xp), if_diverged="record")
    assert history.diverged == {
        "epoch": 0,
        "step": 0,
        "where": "parameter 4.gamma is not finite",
    }
    assert history.loss == history.test_accuracy == []
    json.dumps(history.to_dict(), allow_nan=False)


def test_the_step_counts_over_all_epochs(xp):
    """A model that breaks at its fifth batch, the second of the second epoch."""
    model, batches = net(xp), []

    def break_later(x, rng):
        batches.append(x)
        if len(batches) == 5:
            model[0].weight.data = model[0].weight.data * np.nan
        return x

    history = train(model, tiny(xp), epochs=3, augment=break_later, if_diverged="record")
    assert (history.diverged["epoch"], history.diverged["step"]) == (1, 4)
    assert len(history.loss) == len(history.test_accuracy) == 1


def test_looking_for_the_layer_leaves_the_model_as_it_was(xp):
    model, x = nan_in(xp, "7.weight"), xp(normal(0, (4, 1, 8, 8), "float32"))
    before = values(xp, model)
    assert "7.weight" in training.first_not_finite(model, x)
    assert same(values(xp, model), before)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_weights_that_overflow_in_the_last_step_are_noticed(xp):
    """The last loss was finite; the model that is left is not."""
    with pytest.raises(training.Diverged):
        train(net(xp), tiny(xp), batch=48, lr=1e45)


def test_a_divergence_is_one_error_and_no_flood_of_warnings():
    model = models.digits_net(width=2)
    data = Dataset(*(part[:48] for part in vars(digits()).values()))
    with pytest.raises(training.Diverged):
        train(model, data, lr=1e38)


# --- wrong arguments ------------------------------------------------------------------------------

WRONG = {
    "epochs": [(1.5, TypeError), (-1, ValueError), (True, TypeError)],
    "batch": [(0, ValueError), ("all", TypeError), (49, ValueError)],
    "seed": [("x", TypeError), (-1, ValueError), (1.5, TypeError)],
    "schedule": [(0.1, TypeError), (lambda epoch: "x", TypeError), (lambda epoch: -1, ValueError)],
    "augment": [(3, TypeError)],
    "after_step": [(3, TypeError), ([], TypeError)],
    "trace": [(3, TypeError), ({}, TypeError)],
    "clip": [(-1, ValueError), ("x", TypeError)],
    "if_diverged": [("ignore", ValueError)],
    "optimizer": [("sgd", TypeError)],
    "checkpoint": [(3, TypeError), ("", ValueError), ("/dev/null/x", ValueError)],
}


def refused(error, words, data=None, **given):
    """train raises this, and neither weights nor statistics have moved."""
    model = models.digits_net(width=2)
    before = {key: a.copy() for key, a in model.state().items()}
    data = tiny(np.array) if data is None else data
    with pytest.raises(error, match=words):
        train(model, data, **given)
    assert same(model.state(), before)


@pytest.mark.parametrize(
    "name, value, error", [(n, value, error) for n, row in WRONG.items() for value, error in row]
)
def test_a_wrong_argument_is_named_before_any_work(name, value, error):
    refused(error, name, **{name: value})


def test_a_schedule_that_breaks_later_is_noticed_before():
    refused(TypeError, "factor from schedule", epochs=9, schedule=lambda e: 1 if e < 8 else None)


def test_the_order_of_model_and_data_is_named():
    model, data = models.digits_net(width=2), tiny(np.array)
    sgd = SGD(model.parameters(), 0.1)
    for given in ((data, model, sgd), (model, sgd, data), (sgd, data, model)):
        with pytest.raises(
            TypeError, match=r"must be a lpnorm.*got .*the order is train\(model, data"
        ):
            training.train(*given, 1)


def test_an_optimizer_of_another_model_is_refused():
    other = SGD(models.digits_net(width=2).parameters(), 0.1)
    refused(ValueError, "optimizer holds none of the model's parameters", optimizer=other)


def test_a_trace_of_another_model_or_optimizer_is_refused():
    model, other = models.digits_net(width=2), models.digits_net(width=2)
    sgd, few = SGD(model.parameters(), 0.1), SGD(model[0].parameters(), 0.1)
    for trace, optimizer, words in (
        (NormTrace(nn.scale_invariant(other), sgd), sgd, "trace records '0.weight'"),
        (NormTrace(nn.scale_invariant(model), few), sgd, "trace must be .* of the optimizer"),
        (NormTrace(nn.scale_invariant(model)), sgd, "trace must be .* of the optimizer"),
        (NormTrace(nn.scale_invariant(model), few), few, "not in this optimizer"),
    ):
        with pytest.raises(ValueError, match=words):
            train(model, tiny(np.array), optimizer=optimizer, trace=trace)
    assert sgd.t == few.t == 0


def changed(**parts):
    return Dataset(**(vars(tiny(np.array)) | parts))


DATA = tiny(np.array)
WRONG_DATA = {
    "data.test_x must not be empty": {"test_x": DATA.test_x[:0], "test_y": DATA.test_y[:0]},
    "data.train_x must not be empty": {"train_x": DATA.train_x[:0], "train_y": DATA.train_y[:0]},
    "data.train_y must have shape": {"train_y": DATA.train_y[:-1]},
    "data.test_y must have shape": {"test_y": DATA.test_y[:-1]},
    "data.test_x must have shape": {"test_x": DATA.test_x[:, :, 1:]},
    "data.train_y must be from 0 to 9, got from 0 to 10": {
        "train_y": np.where(np.arange(48) == 47, 10, DATA.train_y)
    },
    "data.test_y must be from 0 to 9, got from -1": {"test_y": DATA.test_y - 1},
    "data.train_y must have an integer dtype, got float64": {"train_y": DATA.train_y * 1.0},
    "data.test_y must be a NumPy or CuPy array, got list": {"test_y": DATA.test_y.tolist()},
    "x has dtype float64 but": {"test_x": DATA.test_x * np.float64(1)},
    "x has dtype float64": {"train_x": DATA.train_x * np.float64(1)},
}


@pytest.mark.parametrize("words", WRONG_DATA)
def test_wrong_data_are_named_before_any_work(words):
    refused((TypeError, ValueError), words, changed(**WRONG_DATA[words]))


def test_a_model_whose_outputs_are_no_logits_is_refused_before_any_work():
    model = nn.Sequential(nn.BatchNorm(1), nn.Conv2d(1, 10, 3))
    before = model.state()
    with pytest.raises(ValueError, match="logits must have shape"):
        train(model, DATA)
    assert same(model.state(), before)


def test_numpys_integers_are_integers(tmp_path):
    whole = train(models.digits_net(width=2), DATA, seed=3)
    given = {"seed": np.int64(3), "epochs": np.int32(1), "batch": np.uint8(16)}
    model = models.digits_net(width=2)
    assert train(model, DATA, checkpoint=tmp_path / "c", **given) == whole


def test_a_checkpoint_path_without_a_suffix(tmp_path):
    for name in ("ck", "ck.dat", "deep/er/ck"):
        whole = train(models.digits_net(width=2), DATA, checkpoint=tmp_path / name, epochs=2)
        again = train(models.digits_net(width=2), DATA, checkpoint=tmp_path / name, epochs=2)
        assert whole == again and (tmp_path / name).stat().st_size > 1000


def test_images_and_labels_must_be_as_many():
    d = digits()
    data = Dataset(d.train_x[:48], d.train_y[:40], d.test_x, d.test_y)
    with pytest.raises(ValueError, match="train_y"):
        train(models.digits_net(width=2), data)


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [nn.BatchNorm, None])
def test_the_network_for_digits(normalize):
    model = models.digits_net(normalize, width=3, rng=1, dtype="float64")
    again = models.digits_net(normalize, width=3, rng=np.random.default_rng(1), dtype="float64")
    assert same(model.state(), again.state())
    assert model(normal(0, (2, 1, 8, 8)))[0].shape == (2, 10)
    names = {p.name: p.data.shape for p in model.parameters()}
    convolutions = [shape for name, shape in names.items() if len(shape) == 4]
    assert convolutions == [(3, 1, 3, 3), (6, 3, 3, 3), (6, 6, 3, 3)]
    assert ("0.bias" in names) == (normalize is None)


# --- float16: loss scaling and masters ------------------------------------------------------------


def test_a_loss_scale_that_is_a_power_of_two_changes_no_bit_where_nothing_is_rounded_away():
    """In float32 nothing underflows here: scaled and divided again, every gradient is the same."""

    def result(**arguments):
        model = models.digits_net(width=2, rng=0)
        train(model, tiny(lambda a: a), **arguments)
        return model.state()

    scaled = result(loss_scale=training.LossScale(2.0**12), clip=1.0)
    assert same(result(clip=1.0), scaled) and not same(result(), scaled)
    assert same(result(), result(loss_scale=training.LossScale(2.0**-3)))


def test_loss_scaling_saves_gradients_that_vanish_in_float16(xp):
    x, labels = xp(normal(0, (4096, 3)), "float16"), xp(np.zeros(4096, "int64"))
    _, lost = nn.softmax_cross_entropy(x * 0 + xp([20.0, 0, 0], "float16"), labels)
    _, kept = nn.softmax_cross_entropy(x * 0 + xp([12.0, 0, 0], "float16"), labels, 2.0**15)
    assert not xp.numpy(lost).any() and xp.numpy(kept).all()
    _, plain = nn.softmax_cross_entropy(x, labels)
    _, scaled = nn.softmax_cross_entropy(x, labels, 1024.0)
    np.testing.assert_allclose(xp.numpy(scaled) / 1024.0, xp.numpy(plain), atol=2.0**-24)


def test_a_dynamic_loss_scale_skips_and_halves_and_grows_again(xp):
    """2^24 overflows float16: those steps are left out until the gradients fit."""
    model, scale = net(xp, dtype="float16"), training.LossScale(2.0**24, dynamic=True, growth=3)
    before = values(xp, model)
    train(model, tiny(xp, 160, "float16"), loss_scale=scale, batch=16, epochs=2)
    assert 0 < scale.skipped < 20 and scale.scale < 2.0**24
    weights = values(xp, model)
    assert all(np.isfinite(w).all() for w in weights.values())
    assert not np.array_equal(before["12.bias"], weights["12.bias"])

    twice = training.LossScale(8.0, dynamic=True, growth=2)
    for _ in range(4):
        twice.update(finite=True)
    assert twice.scale == 32.0
    twice.update(finite=False)
    assert (twice.scale, twice.skipped) == (16.0, 1)
    again = training.LossScale()
    again.load_state(twice.state())
    assert vars(again) | {"dynamic": True, "growth": 2} == vars(twice)


def test_gradients_that_never_fit_are_a_divergence():
    """A finite loss, a gradient beyond float16, and no scale left to halve."""
    layers = [nn.Linear(*sizes, dtype="float16") for sizes in ((2, 3), (3, 2))]
    layers[0].weight.data = np.zeros((3, 2), "float16")
    layers[1].weight.data = np.array([[3e4, -3e4, 3e4], [-3e4, 3e4, 0]], "float16")
    x, y = np.full((16, 2), 6e4, "float16"), np.zeros(16, int)
    with pytest.raises(training.Diverged, match=r"gradient of parameter 1\.weight .* loss scale 1"):
        train(
            nn.Sequential(nn.Flatten(), *layers),
            Dataset(x, y, x, y),
            loss_scale=training.LossScale(1.0, dynamic=True),
        )


def test_a_loss_scale_counts_its_steps():
    scale = training.LossScale(2.0**24, dynamic=True, growth=2)
    for finite, want in ((True, 24), (False, 23), (True, 23), (True, 24), (True, 24), (True, 24)):
        scale.update(finite)
        assert scale.scale == 2.0**want
    low = training.LossScale(1.5, dynamic=True)
    low.update(finite=False)
    assert low.scale == 1


def test_a_growing_scale_changes_no_bit_and_a_static_one_stays():
    def result(scale):
        model = models.digits_net(width=2, rng=0)
        train(model, tiny(lambda a: a), loss_scale=scale)
        return model.state()

    growing = training.LossScale(8.0, dynamic=True, growth=1)
    static = training.LossScale(8.0, growth=1)
    assert same(result(None), result(growing)) and growing.scale == 64
    result(static)
    assert static.scale == 8


def test_a_skipped_step_leaves_no_record_in_the_trace():
    model = models.digits_net(width=2, rng=0, dtype="float16")
    sgd = SGD(model.parameters(), 0.1)
    trace = NormTrace(nn.scale_invariant(model), sgd)
    scale = training.LossScale(2.0**20, dynamic=True)
    data = tiny(lambda a: a, 160, "float16")
    train(model, data, optimizer=sgd, trace=trace, loss_scale=scale)
    assert 0 < scale.skipped < 10
    assert len(next(iter(trace.norms.values()))) == sgd.t == 10 - scale.skipped


@pytest.mark.parametrize("arguments", [{}, {"master": "float32"}])
def test_float16_training_goes_on_with_the_same_bits(tmp_path, arguments):
    """Masters, momentum and the loss scale are part of the checkpoint."""

    def result(epochs, **more):
        model = models.digits_net(width=2, rng=0, dtype="float16")
        optimizer = SGD(model.parameters(), 0.05, momentum=0.9, **arguments)
        scale = training.LossScale(2.0**16, dynamic=True, growth=2)
        more = {"optimizer": optimizer, "loss_scale": scale, "epochs": epochs, **more}
        train(model, tiny(lambda a: a, 96, "float16"), **more)
        return model.state() | optimizer.state() | scale.state()

    whole = result(3)
    result(1, checkpoint=tmp_path / "c.npz")
    assert same(whole, result(3, checkpoint=tmp_path / "c.npz"))
    masters = [name for name in whole if name.endswith(":master")]
    assert bool(masters) == bool(arguments)
    assert all(whole[name].dtype == "float32" for name in masters)


@pytest.mark.parametrize("bad", [0, -1.0, 2.0**30, "1", None])
def test_a_wrong_loss_scale_is_named(bad):
    with pytest.raises((TypeError, ValueError), match="scale must be"):
        training.LossScale(bad)
    with pytest.raises(TypeError, match=r"loss_scale must be None or a training\.LossScale"):
        train(models.digits_net(width=2), tiny(lambda a: a), loss_scale=128.0)


@pytest.mark.parametrize("clip", [-1, "x", math.inf])
def test_a_wrong_clip_is_named(clip):
    with pytest.raises((TypeError, ValueError), match="clip must be"):
        train(models.digits_net(width=2), tiny(lambda a: a), clip=clip)
