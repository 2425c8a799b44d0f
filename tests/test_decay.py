"""SGD against the oracle and torch.optim.SGD, and the laws of scale-invariant weights."""

import math

import numpy as np
import pytest
from draws import normal, seeds
from hypothesis import given
from hypothesis import strategies as st

import lpnorm
from lpnorm import Range, TopK, nn
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


def test_decoupled_decay_shrinks_by_lr_times_decay_and_is_not_in_the_momentum():
    parameter = nn.Parameter(np.array([1.0]), "w")
    sgd = SGD([parameter], lr=0.1, momentum=0.9, weight_decay=0.5, decoupled=True)
    for _ in range(3):
        parameter.grad = np.zeros(1)
        sgd.step()
    assert parameter.data[0] == pytest.approx(0.95**3, rel=1e-15)


# --- scale-invariant weights (section 1 of the paper) ---------------------------------------------


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
@pytest.mark.parametrize("decay", [0.0, 0.125])
def test_bit_law_of_norm_decay_and_learning_rate(p, mode, decay):
    """w -> a w with lr -> a^2 lr and decay -> decay / a^2: exactly a w_t, for a = 2^k."""
    rng = np.random.default_rng(5)
    x, w, labels = rng.standard_normal((16, 5)), rng.standard_normal((3, 5)), rng.integers(0, 3, 16)
    ends = []
    for a in (1.0, 8.0):
        parameter = nn.Parameter(a * w, "w")
        sgd = SGD([parameter], lr=0.3 * a * a, weight_decay=decay / (a * a), **mode)
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
