"""SGD against the oracle and torch.optim.SGD, and the laws of scale-invariant weights."""

import itertools
import math

import numpy as np
import pytest
from draws import normal, seeds
from hypothesis import given
from hypothesis import strategies as st

import lpnorm
from lpnorm import Range, TopK, decay, files, models, nn, training
from lpnorm.decay import SGD, StepSchedule
from lpnorm.verify import oracle

MODES = [  # every mode torch.optim.SGD shares
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.5, "dampening": 0.3},
    {"weight_decay": 0.05},
    {"momentum": 0.9, "weight_decay": 0.01},
    {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
    {"momentum": 0.9, "weight_decay": 0.01, "dampening": 0.1},
]
DECOUPLED = [{**mode, "decoupled": True} for mode in MODES if "weight_decay" in mode]


def gradient(w, t):
    """A smooth, nonlinear gradient that depends on the step."""
    return np.sin(3 * w + t) + 0.1 * w


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_trajectory_is_torchs(xp, mode):
    torch = pytest.importorskip("torch")
    start = normal(0, (5, 3))
    ours = nn.Parameter(xp(start), "w")
    theirs = torch.nn.Parameter(torch.tensor(start))
    sgd, their_sgd = SGD([ours], lr=0.1, **mode), torch.optim.SGD([theirs], lr=0.1, **mode)
    for t in range(100):
        ours.grad = xp(gradient(xp.numpy(ours.data), t))
        theirs.grad = torch.tensor(gradient(theirs.detach().numpy(), t))
        sgd.step()
        their_sgd.step()
    # a difference of one rounding may grow with the trajectory; 1e-12 is the promise
    np.testing.assert_allclose(xp.numpy(ours.data), theirs.detach().numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES + DECOUPLED, ids=str)
@given(seed=seeds)
def test_trajectory_is_the_oracles(mode, seed):
    w, gradients = normal(seed, (4,)), normal(seed + 1, (12, 4))
    parameter = nn.Parameter(w, "w")
    sgd = SGD([parameter], lr=0.1, **mode)
    for g, want in zip(gradients, oracle.sgd(w, gradients, lr=0.1, **mode), strict=True):
        parameter.grad = g
        sgd.step()
        np.testing.assert_allclose(parameter.data, want, rtol=1e-13, atol=1e-14)


def test_groups_schedule_step_scale_and_skipping(xp):
    a, b, c = (nn.Parameter(xp(np.ones((2, 3))), name) for name in "abc")
    sgd = SGD(
        [{"params": [a], "lr": 1.0}, {"params": [b, c], "weight_decay": 0.5}],
        lr=0.1,
        step_scale=lambda parameter: xp(np.array([1.0, 3.0])) if parameter is b else 1.0,
    )
    a.grad, b.grad = xp(np.ones((2, 3))), xp(np.ones((2, 3)))
    sgd.lr_factor = StepSchedule([3, 5], 0.5)(4)
    sgd.step()
    np.testing.assert_allclose(xp.numpy(a.data), 0.5)
    np.testing.assert_allclose(xp.numpy(b.data), 1 - 0.075 * np.array([[1.0] * 3, [3.0] * 3]))
    np.testing.assert_array_equal(xp.numpy(c.data), 1)
    sgd.zero_grad()
    assert a.grad is None and b.grad is None


def test_step_schedule():
    schedule = StepSchedule([20, 40], 0.1)
    assert [schedule(t) for t in (0, 19, 20, 39, 40, 99)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_the_gradient_array_is_not_kept():
    """torch's semantics too: the buffer is its own, so grad may be refilled in place."""
    parameter, grad = nn.Parameter(np.zeros(1), "w"), np.ones(1)
    sgd = SGD([parameter], 1.0, momentum=0.9)
    for value, want in ((1.0, -1.0), (2.0, -1.0 - 2.9), (0.0, -3.9 - 0.9 * 2.9)):
        grad[...] = value
        parameter.grad = grad
        sgd.step()
        assert parameter.data[0] == pytest.approx(want, rel=1e-14)


def test_a_float64_schedule_leaves_float32_weights_float32():
    parameter = nn.Parameter(np.ones(2, "float32"), "w")
    sgd = SGD([parameter], 0.1, weight_decay=0.5, decoupled=True)
    sgd.lr_factor = np.float64(0.5)
    parameter.grad = np.ones(2, "float32")
    sgd.step()
    assert parameter.data.dtype == np.float32
    np.testing.assert_allclose(parameter.data, (1 - 0.05 * 0.5) - 0.05, rtol=1e-6)


def test_decoupled_decay_shrinks_by_lr_times_decay_and_is_not_in_the_momentum():
    parameter = nn.Parameter(np.array([1.0]), "w")
    sgd = SGD([parameter], lr=0.1, momentum=0.9, weight_decay=0.5, decoupled=True)
    for _ in range(3):
        parameter.grad = np.zeros(1)
        sgd.step()
    assert parameter.data[0] == pytest.approx(0.95**3, rel=1e-15)


# --- scale-invariant weights ----------


def loss_gradient(w, x, labels, p):
    """The gradient of a cross-entropy behind batch norm of x w^T, with eps = 0."""
    model = nn.Sequential(nn.Linear(x.shape[1], w.shape[0], bias=False, dtype="float64"))
    model[0].weight.data = w
    z, back_linear = model(x)
    y, cache = lpnorm.batch_norm(z, None, None, p=p, eps=0.0)
    loss, dy = nn.softmax_cross_entropy(y, labels)
    back_linear(lpnorm.batch_norm_backward(dy, cache)[0])
    return loss, model[0].weight.grad


NORMS = [1, 2, 3, math.inf, TopK(4), Range()]


@pytest.mark.parametrize("p", NORMS, ids=str)
@given(seed=seeds, k=st.integers(-6, 6))
def test_equations_one_and_two(p, seed, k):
    """L(aw) = L(w), grad L(aw) = grad L(w)/a, <w, grad L> = 0; bit for bit for a = 2^k."""
    rng = np.random.default_rng(seed)
    x, w, labels = rng.standard_normal((16, 5)), rng.standard_normal((3, 5)), rng.integers(0, 3, 16)
    loss, grad = loss_gradient(w, x, labels, p)
    scaled, scaled_grad = loss_gradient(w * 2.0**k, x, labels, p)
    assert scaled == loss
    np.testing.assert_array_equal(scaled_grad * 2.0**k, grad)
    assert np.all(
        np.abs((w * grad).sum(axis=1)) <= 1e-12 * np.abs(w * grad).sum(axis=1).max() + 1e-14
    )


@pytest.mark.parametrize("p", NORMS, ids=str)
@pytest.mark.parametrize(
    "mode", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}], ids=str
)
@pytest.mark.parametrize("weight_decay", [0.0, 0.125])
def test_bit_law_of_norm_decay_and_learning_rate(p, mode, weight_decay):
    """w -> a w with lr -> a^2 lr and decay -> decay / a^2: exactly a w_t, for a = 2^k."""
    rng = np.random.default_rng(5)
    x, w, labels = rng.standard_normal((16, 5)), rng.standard_normal((3, 5)), rng.integers(0, 3, 16)
    ends = []
    for a in (1.0, 8.0):
        parameter = nn.Parameter(a * w, "w")
        sgd = SGD([parameter], lr=0.3 * a * a, weight_decay=weight_decay / (a * a), **mode)
        for _ in range(20):
            parameter.grad = loss_gradient(parameter.data, x, labels, p)[1]
            sgd.step()
        ends.append(parameter.data / a)
    np.testing.assert_array_equal(ends[0], ends[1])
    assert np.abs(ends[0] - w).max() > 0.01


@pytest.mark.parametrize("p", NORMS, ids=str)
def test_norm_grows_by_the_squared_step(p):
    """||w+||^2 = ||w||^2 + lr^2 ||grad||^2 without decay and momentum (Pythagoras)."""
    rng = np.random.default_rng(6)
    x, w, labels = rng.standard_normal((16, 5)), rng.standard_normal((3, 5)), rng.integers(0, 3, 16)
    parameter = nn.Parameter(w, "w")
    sgd = SGD([parameter], lr=0.5)
    parameter.grad = grad = loss_gradient(w, x, labels, p)[1]
    sgd.step()
    grown = (parameter.data**2).sum(axis=1)
    np.testing.assert_allclose(grown, (w**2).sum(axis=1) + 0.25 * (grad**2).sum(axis=1), rtol=1e-13)


# --- norm, decay and learning rate are one knob ----------


def test_schedules_by_their_formulas():
    cosine = decay.CosineSchedule(10, floor=0.1)
    for t in range(15):
        want = 0.1 + 0.9 * (1 + math.cos(math.pi * min(t, 10) / 10)) / 2
        assert cosine(t) == pytest.approx(want, rel=1e-14)
    warm = decay.Warmup(4, StepSchedule([6], 0.5))
    assert [warm(t) for t in range(8)] == [0.25, 0.5, 0.75, 1, 1, 1, 0.5, 0.5]
    assert [decay.Warmup(2)(t) for t in range(3)] == [0.5, 1, 1]
    growing = decay.GrowingSchedule(0.1, 0.5)
    assert [growing(t) for t in range(3)] == pytest.approx([0.95**-1, 0.95**-3, 0.95**-5])


def test_channel_norms_and_clipping(xp):
    w = normal(0, (3, 4, 2))
    for axis in (0, 1, -1):
        rest = tuple(a for a in range(3) if a != axis % 3)
        want = np.sqrt((w**2).sum(axis=rest))
        np.testing.assert_allclose(xp.numpy(decay.channel_norms(xp(w), axis)), want, rtol=1e-14)
    parameters = [
        nn.Parameter(xp(w), "w"),
        nn.Parameter(xp(w[0]), "v"),
        nn.Parameter(xp(w), "none"),
    ]
    parameters[0].grad, parameters[1].grad = xp(3 * w), xp(w[0])
    norm = math.sqrt(9 * (w**2).sum() + (w[0] ** 2).sum())
    assert training.clip_gradient_norm(parameters, 1e6) == pytest.approx(norm, rel=1e-14)
    np.testing.assert_array_equal(xp.numpy(parameters[0].grad), 3 * w)
    assert training.clip_gradient_norm(parameters, 0.5) == pytest.approx(norm, rel=1e-14)
    np.testing.assert_allclose(xp.numpy(parameters[0].grad), 3 * w * (0.5 / norm), rtol=1e-13)
    assert training.clip_gradient_norm(parameters, 1.0) == pytest.approx(0.5, rel=1e-13)
    parameters[1].grad = xp(np.full((4, 2), np.inf))
    assert training.clip_gradient_norm(parameters, 0.1) == math.inf
    assert np.isinf(xp.numpy(parameters[1].grad)).all()


def normed(xp, seed=0):
    """A scale-invariant layer and one that is not, on the library under test, in float64."""
    model = nn.Sequential(nn.Linear(5, 3, bias=False, rng=seed), nn.BatchNorm(3, eps=0.0))
    model.sequence.append(nn.Linear(3, 2, rng=seed + 1))
    return model.to("cpu" if xp.module is np else "gpu", "float64")


def test_a_trace_records_norms_and_rates_and_survives_a_file(xp, tmp_path):
    model = normed(xp)
    invariant = nn.scale_invariant(model)
    sgd = SGD(model.parameters(), 0.5, weight_decay=0.1)
    trace = decay.NormTrace(invariant, sgd)
    w = xp.numpy(model[0].weight.data).copy()
    for factor in (1.0, 0.1):
        sgd.lr_factor = factor
        trace.record()
        model[0].weight.data = 2 * model[0].weight.data
    norms = np.sqrt((w**2).sum(axis=1))
    np.testing.assert_allclose(trace.norms["0.weight"], [norms, 2 * norms], rtol=1e-14)
    np.testing.assert_allclose(trace.rates["0.weight"], [0.5, 0.05])
    np.testing.assert_allclose(trace.decays["0.weight"], [0.05, 0.005])
    sizes = trace.step_sizes("0.weight")
    np.testing.assert_allclose(sizes, [0.5 / norms**2, 0.05 / (2 * norms) ** 2], rtol=1e-14)
    trace.save(tmp_path / "trace.npz")
    again = decay.NormTrace.load(tmp_path / "trace.npz")
    np.testing.assert_array_equal(again.step_sizes("0.weight"), sizes)
    assert list(again.norms) == ["0.weight"]


def test_the_correction_is_the_ratio_of_squared_norms(xp):
    model = normed(xp)
    invariant = nn.scale_invariant(model)
    weight = model[0].weight
    sgd = SGD(model.parameters(), 0.5, weight_decay=0.1)
    trace = decay.NormTrace(invariant, sgd)
    trace.record()
    weight.data = weight.data * xp(np.array([[1.0], [2.0], [4.0]]))
    correction = decay.StepSizeCorrection(trace, invariant)
    np.testing.assert_allclose(xp.numpy(correction(weight))[:, 0], [1, 4, 16], rtol=1e-14)
    exact = decay.StepSizeCorrection(trace, invariant, exact=True)
    np.testing.assert_allclose(xp.numpy(exact(weight))[:, 0], np.array([1, 4, 16]) / 0.95)
    assert correction(model[2].weight) == 1.0
    correction.t = 1
    with pytest.raises(ValueError, match="trace has 1 records"):
        correction(weight)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_correction_on_the_step_or_on_the_gradient(momentum):
    """Without momentum the same; with it the buffer holds corrected or plain gradients."""
    ends = {}
    for on in ("step", "gradient"):
        model = normed_numpy()
        invariant = nn.scale_invariant(model)
        sgd = SGD([model[0].weight], 0.1, momentum, step_scale=None)
        trace = decay.NormTrace(invariant, sgd)
        for t in range(3):
            trace.norms["0.weight"].append(np.array([1.0, 2.0, 3.0]) * (t + 1))
            trace.decays["0.weight"].append(0.0)
        correction = decay.StepSizeCorrection(trace, invariant, on=on)
        sgd.groups[0]["step_scale"] = correction
        w, buffer = model[0].weight.data, 0.0
        for t in range(3):
            g = normal(t, (3, 5))
            factor = ((w**2).sum(axis=1) / trace.norms["0.weight"][t] ** 2)[:, None]
            buffer = momentum * buffer + (g * factor if on == "gradient" else g)
            w = w - 0.1 * (buffer * factor if on == "step" else buffer)
            model[0].weight.grad = g
            sgd.step()
        np.testing.assert_allclose(model[0].weight.data, w, rtol=1e-12)
        ends[on] = w
    assert (np.abs(ends["step"] - ends["gradient"]).max() > 1e-6) == (momentum > 0)


def normed_numpy():
    model = nn.Sequential(nn.Linear(5, 3, bias=False), nn.BatchNorm(3, eps=0.0))
    return model.to(dtype="float64")


def test_norm_schedule_imposes_the_norm_and_keeps_the_direction(xp):
    model = normed(xp)
    invariant = nn.scale_invariant(model)
    weight = model[0].weight
    w = xp.numpy(weight.data).copy()
    decay.NormSchedule(invariant, {"0.weight": np.array([1.0, 2.0, 3.0])}).apply(7, factor=2.0)
    new = xp.numpy(weight.data)
    np.testing.assert_allclose(np.sqrt((new**2).sum(axis=1)), [2, 4, 6], rtol=1e-14)
    np.testing.assert_allclose(
        new / np.sqrt((new**2).sum(axis=1, keepdims=True)),
        w / np.sqrt((w**2).sum(axis=1, keepdims=True)),
        rtol=1e-13,
    )
    trace = decay.NormTrace(invariant, SGD(model.parameters(), 0.1))
    trace.norms["0.weight"] += [np.full(3, 5.0), np.full(3, 7.0)]
    for t, norm in ((0, 5), (1, 7), (9, 7)):
        decay.NormSchedule(invariant, trace).apply(t)
        np.testing.assert_allclose(xp.numpy(decay.channel_norms(weight.data)), norm, rtol=1e-14)


def test_a_norm_times_root_ten_is_a_tenth_of_the_learning_rate():
    """Norm and learning rate are one knob: the direction after a step is the same."""
    rng = np.random.default_rng(8)
    x, w, labels = rng.standard_normal((16, 5)), rng.standard_normal((3, 5)), rng.integers(0, 3, 16)
    ends = []
    for scale, lr in ((1.0, 0.03), (math.sqrt(10), 0.3)):
        parameter = nn.Parameter(scale * w, "w")
        parameter.grad = loss_gradient(parameter.data, x, labels, 2)[1]
        SGD([parameter], lr).step()
        ends.append(parameter.data / np.sqrt((parameter.data**2).sum(axis=1, keepdims=True)))
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-13)


def test_what_is_not_scale_invariant_is_refused_by_name():
    model = normed_numpy()
    model.sequence.append(nn.Linear(3, 2, dtype="float64"))
    invariant = nn.scale_invariant(model)
    sgd = SGD(model.parameters(), 0.1)
    trace = decay.NormTrace(invariant, sgd)
    felt = (model[2].weight, 0)
    for call in (
        lambda: decay.NormTrace([felt], sgd),
        lambda: decay.StepSizeCorrection(trace, [*invariant, felt]),
        lambda: decay.NormSchedule([felt], {"2.weight": np.ones(2)}),
    ):
        with pytest.raises(ValueError, match=r"'2\.weight' is not scale-invariant"):
            call()
    with pytest.raises(ValueError, match=r"'0\.weight' is not in the target"):
        decay.NormSchedule(invariant, {"other": np.ones(3)})
    with pytest.raises(TypeError, match="scale_invariant"):
        decay.StepSizeCorrection(trace, model.parameters())
    with pytest.raises(ValueError, match="on must be"):
        decay.StepSizeCorrection(trace, invariant, on="both")
    with pytest.raises(ValueError, match=r"lr \* weight_decay"):
        decay.GrowingSchedule(1.0, 1.0)
    with pytest.raises(ValueError, match="'w' is not in this optimizer"):
        sgd.rate(nn.Parameter(np.ones(2), "w"))


def test_the_optimizers_state_goes_on_with_the_same_bits(xp):
    def run(steps, interrupted):
        parameter = nn.Parameter(xp(normal(0, (3, 4))), "w")
        sgd = SGD([parameter], 0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
        for t in range(steps):
            if t == interrupted:
                state, data = sgd.state(), parameter.data
                parameter = nn.Parameter(data, "w")
                sgd = SGD([parameter], 0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
                sgd.load_state(state, t)
            parameter.grad = xp(gradient(xp.numpy(parameter.data), t))
            sgd.step()
        assert sgd.t == steps
        return xp.numpy(parameter.data)

    np.testing.assert_array_equal(run(7, interrupted=4), run(7, interrupted=None))
    sgd = SGD([nn.Parameter(xp(np.ones(2)), "w")], 0.1, momentum=0.9)
    with pytest.raises(ValueError, match="'v'"):
        sgd.load_state({"v": xp(np.ones(2))}, 1)


@pytest.mark.parametrize("floor", [-0.1, 1.1, np.nan, np.inf])
def test_the_floor_of_a_cosine_is_from_0_to_1(floor):
    with pytest.raises(ValueError, match="floor must be finite and from 0 to 1"):
        decay.CosineSchedule(10, floor)
    assert decay.CosineSchedule(10, 0)(10) == 0 and decay.CosineSchedule(10, 1)(10) == 1


def test_a_master_must_fit():
    p = nn.Parameter(np.ones(3, "float16"), "w")
    for master, saved in (("float64", "float32"), (None, "float32")):
        with pytest.raises(ValueError, match="w:master"):
            decay.SGD([p], 0.1, master=master).load_state({"w:master": np.ones(3, saved)}, 1)
    with pytest.raises(ValueError, match="not a float32 master of its data"):
        decay.SGD([p], 0.1, master="float32").load_state({"w:master": np.full(3, 7, "f4")}, 1)
    with pytest.raises(ValueError, match="not a float32 master of its data"):  # one of them is not
        half_right = np.array([1, 1 + 1e-5, 7], "float32")
        decay.SGD([p], 0.1, master="float32").load_state({"w:master": half_right}, 1)
    wide = nn.Parameter(np.ones(3, "float64"), "v")
    with pytest.raises(ValueError, match="master must be at least as wide as parameter 'v'"):
        decay.SGD([p, wide], 0.1, master="float32")


# --- names ----------------------------------------------------------------------------------------


def stepped(parameters, steps=3):
    """An optimizer after some steps with gradients that differ from parameter to parameter."""
    sgd = SGD(parameters, 0.1, momentum=0.9, master="float64")
    for _ in range(steps):
        for i, parameter in enumerate(parameters):
            parameter.grad = np.full_like(parameter.data, i + 1)
        sgd.step()
    return sgd


def test_parts_of_a_model_lose_no_buffer():
    """Asked part by part, several parameters are called "weight"; none is forgotten."""

    def parts():
        model = models.digits_net(width=2)
        return model, [p for i in range(len(model)) for p in model[i].parameters()]

    model, parameters = parts()
    sgd = stepped(parameters)
    state = sgd.state()
    assert len(state) == 2 * len(parameters) == 2 * len(model.parameters()) == 22
    assert list(sgd.state()) == list(state)  # although the names are those of the whole model now
    other, again = parts()
    other.load_state(model.state())
    resumed = SGD(again, 0.1, momentum=0.9, master="float64")
    other.parameters()
    resumed.load_state(state, sgd.t)
    for optimizer, its in ((sgd, parameters), (resumed, again)):
        for i, parameter in enumerate(its):
            parameter.grad = np.full_like(parameter.data, -i)
        optimizer.step()
    for one, two in zip(parameters, again, strict=True):
        np.testing.assert_array_equal(one.data, two.data)
    for name, array in sgd.state().items():
        np.testing.assert_array_equal(resumed.state()[name], array, err_msg=name)


def test_parameters_without_a_name_are_told_apart():
    sgd = stepped([nn.Parameter(np.ones(2)), nn.Parameter(np.ones(2)), nn.Parameter(np.ones(1))])
    assert len(sgd.state()) == 6


def test_a_parameter_that_joins_a_group_later_has_a_buffer_too():
    one, two = nn.Parameter(np.ones(2), "w"), nn.Parameter(np.ones(2), "w")
    sgd = stepped([one])
    sgd.groups[0]["params"].append(two)
    two.grad = np.ones(2)
    sgd.step()
    assert len([name for name in sgd.state() if not name.endswith(":master")]) == 2


ASKS = {  # what somebody may ask of a part of the model in between
    "state": lambda part: part.state(),
    "parameters": lambda part: part.parameters(),
    "load_state": lambda part: part.load_state(part.state()),
    "to": lambda part: part.to(dtype="float64"),
}


@pytest.mark.parametrize("ask", ASKS)
def test_what_is_recorded_does_not_depend_on_who_was_asked_in_between(ask, tmp_path):
    """At every moment: before the optimizer, before the trace, before a record."""
    model = normed(type("NumPy", (), {"module": np}))
    invariant = nn.scale_invariant(model)
    ASKS[ask](model[0])
    sgd = SGD(model.parameters(), 0.5, momentum=0.9, weight_decay=0.1)
    ASKS[ask](model[0])
    trace = decay.NormTrace(invariant, sgd)
    ASKS[ask](model[0])
    trace.record()
    assert list(trace.norms) == ["0.weight"] and len(trace.norms["0.weight"]) == 1
    ASKS[ask](model[0])
    correction = decay.StepSizeCorrection(trace, invariant)
    schedule = decay.NormSchedule(invariant, trace)
    ASKS[ask](model[0])
    model[0].weight.data = 3 * model[0].weight.data
    np.testing.assert_allclose(correction(model[0].weight), 9)
    schedule.apply(0)
    np.testing.assert_allclose(correction(model[0].weight), 1)
    for parameter in (weight := model[0].weight, model[1].gamma):
        parameter.grad = np.ones_like(parameter.data)
    sgd.step()
    ASKS[ask](model[0])
    assert list(sgd.state()) == ["0.weight", "1.gamma"] and sgd.rate(weight) == (0.5, 0.05)


def test_two_parameters_of_one_name_are_refused_by_a_trace():
    """Two models, asked one after the other: their weights have the same name."""
    models_ = [normed(type("NumPy", (), {"module": np})) for _ in range(2)]
    pairs = [pair for model in models_ for pair in nn.scale_invariant(model)]
    with pytest.raises(ValueError, match=r"'0.weight' twice"):
        decay.NormTrace(pairs)


TRACE = {"norms/w": np.ones((2, 3)), "rates/w": np.ones(2), "decays/w": np.zeros(2)}
WRONG_TRACES = {
    "no rates": ({"rates/w": None}, "no entry rates/w"),
    "unknown": ({"rates/v": np.ones(2)}, "unknown entry rates/v"),
    "another word": ({"x": np.ones(2)}, "unknown entry x"),
    "a record too many": ({"rates/w": np.ones(3)}, "w have shapes"),
    "no channels": ({"norms/w": np.ones(2)}, "w have shapes"),
    "too many axes": ({"norms/w": np.ones((2, 3, 1))}, "w have shapes"),
    "a number": ({"decays/w": np.array(1.0)}, "w have shapes"),
}


@pytest.mark.parametrize("name", WRONG_TRACES)
def test_a_wrong_trace_is_refused(name, tmp_path):
    change, words = WRONG_TRACES[name]
    state = {key: a for key, a in {**TRACE, **change}.items() if a is not None}
    trace = decay.NormTrace()
    with pytest.raises(ValueError, match=words):
        trace.load_state(state)
    assert trace.state() == {}
    files.save_arrays(tmp_path / "t", "trace", state)
    with pytest.raises(ValueError, match=f"/t: .*{words}"):
        decay.NormTrace.load(tmp_path / "t")


def test_a_trace_of_other_parameters_is_refused():
    model = normed(type("NumPy", (), {"module": np}))
    trace = decay.NormTrace(nn.scale_invariant(model), None)
    with pytest.raises(ValueError, match=r"entry (decays|norms|rates)/(0.weight|w)"):
        trace.load_state(TRACE)
    empty = trace.state()
    trace.load_state(empty)
    assert trace.norms == {"0.weight": []}


# --- what a step computes, and what it writes to ----------


class Scale:
    """A step_scale: the same factor at every step."""

    def __init__(self, factor, on):
        self.factor, self.on = factor, on

    def __call__(self, parameter):
        return self.factor


STEPS_OF = [  # momentum, dampening, nesterov
    (0.0, 0.0, False),
    (0.9, 0.0, False),
    (0.9, 0.0, True),
    (0.9, 0.3, False),
    (0.9, 1.0, False),
]
DECAYS_OF = [(0.0, False), (0.05, False), (0.05, True), (0.0, True)]  # weight_decay, decoupled
WIDTHS = [("float16", None), ("float16", "float32"), ("float16", "float64"), ("float32", None)]
WIDTHS += [("float32", "float32"), ("float32", "float64"), ("float64", None)]


def the_formula(w, b, g, lr, mode, loss_scale, factor, on):
    """One step as the docstring of SGD has it, nothing left out; w: the master. New w and b."""
    u = (g.astype("float64") / loss_scale).astype(w.dtype)
    if on == "gradient":
        u, factor = u * factor, 1.0
    if not mode["decoupled"]:
        u = u + mode["weight_decay"] * w if mode["weight_decay"] else u
    if mode["momentum"]:
        b = u if b is None else mode["momentum"] * b + (1 - mode["dampening"]) * u
        u = u + mode["momentum"] * b if mode["nesterov"] else b
    if mode["decoupled"]:
        w = (1 - lr * mode["weight_decay"]) * w
    return w - lr * (u * factor), b


def assert_same_bits(xp, got, want):
    """Every bit, but for the sign and payload of a NaN."""
    got, want = xp.numpy(got), xp.numpy(want)
    assert got.dtype == want.dtype and got.shape == want.shape
    nan = np.isnan(want)
    assert np.array_equal(np.isnan(got), nan)
    assert np.where(nan, 0, got).tobytes() == np.where(nan, 0, want).tobytes()


@pytest.mark.parametrize("dtype, master", WIDTHS)
def test_a_step_has_the_bits_of_the_formula_and_leaves_what_others_hold(xp, dtype, master):
    """Every mode, also where multiplying by 1 is left out; with zeros of both signs, Inf and NaN.

    Weights, gradients and states of earlier steps that somebody holds stay as they were.
    """
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-7]
    start = xp(np.concatenate([normal(0, (12,)), np.repeat(special, 3)]).reshape(3, 10), dtype)
    gradients = [np.concatenate([normal(t, (12,)), special * 3]).reshape(3, 10) for t in (1, 2, 3)]
    wide = np.dtype(master or dtype)
    channels = xp([0.5, 1.0, -3.0], wide)
    factors = [(1.0, "step"), (0.3, "step"), (channels, "step")]
    factors += [(1.0, "gradient"), (channels, "gradient")]
    names = ("momentum", "dampening", "nesterov", "weight_decay", "decoupled")
    for steps_of, decays_of in itertools.product(STEPS_OF, DECAYS_OF):
        mode = dict(zip(names, steps_of + decays_of, strict=True))
        kept = {"w"} if mode["momentum"] else set()
        kept |= {"w:master"} if master else set()
        for loss_scale, rule in itertools.product((1.0, 1024.0, 3.0), [None, *factors]):
            factor, on = rule or (1.0, "step")
            step_scale = None if rule is None else Scale(factor, on)
            factor = factor if isinstance(factor, float) else factor[:, None]
            parameter = nn.Parameter(start.copy(), "w")
            sgd = SGD([parameter], 0.1, step_scale=step_scale, master=master, **mode)
            sgd.loss_scale = loss_scale
            w, b, held = start.astype(wide), None, []
            for g in (xp(g, dtype) for g in gradients):
                parameter.grad, before = g, parameter.data
                held += [(a, a.copy()) for a in (before, g, *sgd.state().values())]
                with np.errstate(all="ignore"):
                    sgd.step()
                    w, b = the_formula(w, b, g, 0.1, mode, loss_scale, factor, on)
                    assert_same_bits(xp, parameter.data, w.astype(dtype))
                assert parameter.data is not before and parameter.grad is g
                state = sgd.state()
                assert set(state) == kept
                for name, want in {"w": b, "w:master": w}.items():
                    if name in kept:
                        assert_same_bits(xp, state[name], want)
            for array, copy in held:
                assert_same_bits(xp, array, copy)


@pytest.mark.parametrize("master", [None, "float64"])
def test_a_state_that_was_loaded_is_not_written_to(xp, master):
    def start():
        parameter = nn.Parameter(xp(normal(0, (2, 3), "float32")), "w")
        return parameter, SGD([parameter], 0.1, momentum=0.9, master=master)

    def step(parameter, sgd, t):
        parameter.grad = xp(normal(t, (2, 3), "float32"))
        sgd.step()

    one, two = start(), start()
    step(*one, 1)
    state = one[1].state()
    copies = {name: array.copy() for name, array in state.items()}
    two[0].data = one[0].data
    two[1].load_state(state, 1)
    for t in (2, 3):
        step(*one, t)
        step(*two, t)
    assert_same_bits(xp, two[0].data, one[0].data)
    for name, array in state.items():
        assert_same_bits(xp, array, copies[name])


def test_a_parameter_that_changes_its_dtype_keeps_its_momentum(xp):
    parameter = nn.Parameter(xp(np.ones(3, "float32")), "w")
    sgd, b = SGD([parameter], 1.0, momentum=0.9), None
    for t, dtype in enumerate(("float32", "float64", "float64")):
        parameter.data = parameter.data.astype(dtype)
        parameter.grad = xp(normal(t, (3,), dtype))
        w, b = parameter.data, parameter.grad if b is None else 0.9 * b + parameter.grad
        sgd.step()
        assert_same_bits(xp, parameter.data, w - 1.0 * b)
        assert_same_bits(xp, sgd.state()["w"], b)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_clipping_makes_new_gradients_of_the_same_bits(xp, dtype):
    parameters = [nn.Parameter(xp(np.ones((2, 3), dtype)), name) for name in "ab"]
    for t, parameter in enumerate(parameters):
        parameter.grad = xp(normal(t, (2, 3), dtype))
    held = [(p.grad, p.grad.copy()) for p in parameters]
    norm = training.clip_gradient_norm(parameters, 0.5)
    assert norm > 0.5
    for parameter, (grad, copy) in zip(parameters, held, strict=True):
        assert_same_bits(xp, grad, copy)
        want = (copy.astype("float64") * (0.5 / norm)).astype(dtype)
        assert_same_bits(xp, parameter.grad, want)


def test_a_master_must_come_with_its_momentum():
    parameter = nn.Parameter(np.ones(3, "float16"), "w")
    sgd = SGD([parameter], 0.1, momentum=0.9, master="float32")
    parameter.grad = np.full(3, 0.3, "float16")
    sgd.step()
    state = sgd.state()
    sgd.load_state(state, 1)
    del state["w:master"]
    with pytest.raises(ValueError, match=r"'w'.*no master"):
        sgd.load_state(state, 1)
    assert sgd.state()["w:master"].tolist() != parameter.data.tolist()  # as it was
