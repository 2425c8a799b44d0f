"""Who judges the judge: the oracle against numbers worked by hand, finite differences, autograd
and simulation. Nothing here uses another part of the library."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from lpnorm.verify import oracle


@dataclass(frozen=True)
class TopK:
    k: int


class Range:
    pass


SQRT2 = math.sqrt(2)
NORMS = [1, 1.3, 2, 3, 7.5, math.inf, TopK(1), TopK(3), Range()]
NORM_IDS = [
    p.__class__.__name__ + str(getattr(p, "k", "")) if not isinstance(p, int | float) else f"L{p}"
    for p in NORMS
]
every_norm = pytest.mark.parametrize("p", NORMS, ids=NORM_IDS)


def finite_difference(f, x, step=1e-5):
    """The gradient of the scalar f at x by central differences, extrapolated once to O(h^4)."""
    x = np.array(x, dtype=np.float64)
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        slopes = []
        for h in (step, 2 * step):
            moved = x.copy()
            moved[i] = x[i] + h
            above = f(moved)
            moved[i] = x[i] - h
            slopes.append((above - f(moved)) / (2 * h))
        gradient[i] = (4 * slopes[0] - slopes[1]) / 3
    return gradient


def close(a, b, tolerance):
    """Equal up to a tolerance relative to the largest entry of b."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= tolerance * max(np.abs(b).max(), 1e-300)


# ---- worked by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize("p, value, gradient", [
    (1, 1.5, [0.25, -0.25, 0, 0.25]),                      # (1 + 2 + 0 + 3) / 4
    (2, math.sqrt(3.5), [0.25 / math.sqrt(3.5), -0.5 / math.sqrt(3.5), 0, 0.75 / math.sqrt(3.5)]),
    (3, 9 ** (1 / 3), [9 ** (-2 / 3) / 4, -(9 ** (-2 / 3)), 0, 9 ** (1 / 3) / 4]),
    (math.inf, 3, [0, 0, 0, 1]),
    (TopK(2), 2.5, [0, -0.5, 0, 0.5]),
    (TopK(4), 1.5, [0.25, -0.25, 0, 0.25]),
    (Range(), 5, [0, -1, 0, 1]),
])  # fmt: skip
def test_statistic_of_1_minus2_0_3(p, value, gradient):
    d = [1.0, -2.0, 0.0, 3.0]
    assert oracle.deviation(d, p) == pytest.approx(value, rel=1e-15)
    assert oracle.deviation_gradient(d, p) == pytest.approx(gradient, rel=1e-15)


@pytest.mark.parametrize("d, p, gradient", [
    ([3, -3, 1, 3], math.inf, [1 / 3, -1 / 3, 0, 1 / 3]),
    ([5, -2, 2, 2, 1], TopK(2), [1 / 2, -1 / 6, 1 / 6, 1 / 6, 0]),   # one slot for three
    ([5, -2, 2, 2, 1], TopK(3), [1 / 3, -2 / 9, 2 / 9, 2 / 9, 0]),   # two slots for three
    ([5, -2, 2, 2, 1], TopK(4), [1 / 4, -1 / 4, 1 / 4, 1 / 4, 0]),
    ([4, 0, 0], TopK(2), [1 / 2, 0, 0]),                             # sign(0) = 0
    ([4, 4, 1, -1, -1, -1], Range(), [1 / 2, 1 / 2, 0, -1 / 3, -1 / 3, -1 / 3]),
])  # fmt: skip
def test_ties_share_equally(d, p, gradient):
    assert oracle.deviation_gradient(d, p) == pytest.approx(gradient, rel=1e-15)


@every_norm
def test_the_statistic_zero_has_gradient_zero(p):
    assert oracle.deviation([0.0] * 4, p) == 0
    assert oracle.deviation_gradient([0.0] * 4, p) == [0.0] * 4


ROOT = math.sqrt(14 / 3)


@pytest.mark.parametrize("p, eps, scale, dx", [
    # x = 0, 1, 5 and dy = 3, 0, 0: d = -2, -1, 3 and dx = (2, -1, -1) / s + 6 / s^2 * ds/dx
    (1, 0, 2, [2 / 3, -5 / 6, 1 / 6]),                       # ds/dx = (-2, -2, 4) / 9
    (1, 1, 3, [14 / 27, -13 / 27, -1 / 27]),
    (math.inf, 0, 3, [4 / 9, -5 / 9, 1 / 9]),                # ds/dx = (-1, -1, 2) / 3
    (TopK(2), 0, 2.5, [0.32, -0.4, 0.08]),                   # ds/dx = (-1, 0, 1) / 2
    (Range(), 0, 5, [0.16, -0.2, 0.04]),                     # ds/dx = (-1, 0, 1)
    (2, 0, ROOT, [8 / 7 / ROOT, -10 / 7 / ROOT, 2 / 7 / ROOT]),     # ds/dx = d / 3s
    (2, 4 / 3, math.sqrt(6), [4 / 3 / math.sqrt(6), -4 / 3 / math.sqrt(6), 0]),
])  # fmt: skip
def test_batch_norm_of_0_1_5(p, eps, scale, dx):
    x, dy, d = np.array([[0], [1], [5]]), np.array([[3.0], [0], [0]]), np.array([[-2], [-1], [3]])
    out = oracle.batch_norm(x, [2], [-1], p, eps=eps, constant=None)
    assert out.mean.tolist() == [2]
    close(out.scale, [scale], 1e-15)
    close(out.x_hat, d / scale, 1e-15)
    close(out.y, 2 * d / scale - 1, 1e-15)
    got, dgamma, dbeta = oracle.batch_norm_backward(dy, x, [2], [-1], p, eps=eps, constant=None)
    close(got, 2 * np.array(dx)[:, None], 1e-15)
    close(dgamma, [-6 / scale], 1e-15)
    assert dbeta.tolist() == [3]


def test_layer_norm_of_0_1_5():
    x, dy = [[0, 1, 5], [0, 2, 10]], [[3, 0, 0], [0, 0, 0]]
    out = oracle.layer_norm(x, [1, 2, 4], [0, 1, 0], p=1, eps=0, constant=None)
    assert out.mean.tolist() == [2, 4] and out.scale.tolist() == [2, 4]
    assert out.y.tolist() == [[-1, 0, 6], [-1, 0, 6]]
    dx, dgamma, dbeta = oracle.layer_norm_backward(
        dy, x, [1, 2, 4], [0, 1, 0], p=1, eps=0, constant=None
    )
    close(dx, [[2 / 3, -5 / 6, 1 / 6], [0, 0, 0]], 1e-15)
    assert dgamma.tolist() == [-3, 0, 0] and dbeta.tolist() == [3, 0, 0]


def test_inference_by_hand():
    y = oracle.batch_norm_inference([[1, 10], [3, 30]], [2, 1], [0, 5], [1, 20], [2, 10])
    assert y.tolist() == [[0, 4], [2, 6]]


@pytest.mark.parametrize("p, w, dv, dg", [
    (2, [[6, 8], [0, -1]], [[1.28, -0.96], [2.5, 0]], [0.6, -7]),
    (1, [[30 / 7, 40 / 7], [0, -1]], [[40 / 49, -30 / 49], [2.5, 0]], [3 / 7, -7]),
    (math.inf, [[7.5, 10], [0, -1]], [[2.5, -1.875], [2.5, 0]], [0.75, -7]),
])  # fmt: skip
def test_weight_norm_by_hand(p, w, dv, dg):
    v, g, dw = [[3, 4], [0, -2]], [10, 1], [[1, 0], [5, 7]]
    close(oracle.weight_norm(v, g, p), w, 1e-15)
    for got, hand in zip(oracle.weight_norm_backward(dw, v, g, p), (dv, dg), strict=True):
        close(got, hand, 1e-15)
    close(oracle.weight_norm(np.transpose(v), g, p, axis=1), np.transpose(w), 1e-15)
    close(oracle.bounded_weight_norm(v, 5, p)[0], np.array(w)[0] / 2, 1e-15)
    close(oracle.bounded_weight_norm_backward(dw, v, 5, p)[0], np.array(dv)[0] / 2, 1e-15)


def test_bounded_norm_by_hand():
    v = [[3, 4], [0, -2]]
    assert oracle.bounded_norm(v, 1) == pytest.approx(4.5, rel=1e-15)
    assert oracle.bounded_norm(v, 2) == pytest.approx(math.sqrt(14.5), rel=1e-15)
    assert oracle.bounded_norm(v, math.inf) == 4
    assert oracle.bounded_norm([[3, 4, 12]], 2, axis=1) == pytest.approx(13 / math.sqrt(3))


@pytest.mark.parametrize("options, hand", [
    ({}, [0.5, -0.5]),
    ({"momentum": 0.5}, [0.5, -0.75]),
    ({"momentum": 0.5, "dampening": 0.25}, [0.5, -0.5]),
    ({"momentum": 0.5, "nesterov": True}, [0.25, -1.375]),
    ({"weight_decay": 0.5}, [0.25, -0.8125]),
    ({"weight_decay": 0.5, "momentum": 0.5}, [0.25, -1.1875]),
    ({"weight_decay": 0.5, "decoupled": True}, [0.25, -0.8125]),
    ({"weight_decay": 0.5, "decoupled": True, "momentum": 0.5}, [0.25, -1.0625]),
])  # fmt: skip
def test_sgd_by_hand(options, hand):
    assert [float(w[0]) for w in oracle.sgd([1], [[1], [2]], lr=0.5, **options)] == hand


# ---- the constants ----------------------------------------------------------------------------


def test_paper_constants():
    for p, hand in [
        (1, 1.2533141),
        (2, 1),
        (math.inf, 0.655444),
        (TopK(5), 0.655444),
        (Range(), 0.424661),
    ]:  # n = 16: sqrt(2 ln 16) = 2.354820
        assert oracle.gaussian_constant(p, 16, "paper") == pytest.approx(hand, abs=1e-6)
        assert oracle.gaussian_constant(p, 16, None) == 1
    for p in (1, 3, math.inf, TopK(1), Range()):
        assert oracle.gaussian_constant(p, 1, "paper") == 1
        assert oracle.gaussian_constant(p, 1, "exact") == 1


def test_finite_p_moments():
    for p, moment in [
        (1, math.sqrt(2 / math.pi)),
        (2, 1),
        (3, 2 * math.sqrt(2 / math.pi)),
        (4, 3),
        (6, 15),
        (8, 105),
    ]:
        for constant in ("paper", "exact"):
            c = oracle.gaussian_constant(p, 9, constant)
            assert c == pytest.approx(moment ** (-1 / p), rel=1e-14)
    moment = math.prod(range(1, 64, 2))  # E z^64 = 63 * 61 * ... * 1
    assert oracle.gaussian_constant(64, 9) == pytest.approx(moment ** (-1 / 64), rel=1e-14)


@pytest.mark.parametrize("p, n, expectation, tolerance", [
    (math.inf, 2, 2 / math.sqrt(math.pi), 1e-12),
    (math.inf, 3, 12 * math.atan(1 / SQRT2) / math.pi**1.5, 1e-12),
    (TopK(1), 2, 2 / math.sqrt(math.pi), 1e-12),
    (TopK(2), 2, math.sqrt(2 / math.pi), 1e-12),         # k = n: E|z|
    (TopK(1000), 1000, math.sqrt(2 / math.pi), 1e-12),
    (Range(), 2, 2 / math.sqrt(math.pi), 1e-12),
    (Range(), 3, 3 / math.sqrt(math.pi), 1e-12),
    (Range(), 4, 6 / math.sqrt(math.pi) * (0.5 + math.asin(1 / 3) / math.pi), 1e-12),
    (Range(), 5, 2.32593, 3e-6),                         # control chart tables, d2
    (Range(), 10, 3.07751, 3e-6),
    (Range(), 100, 5.01519, 3e-6),
])  # fmt: skip
def test_exact_constants_with_known_values(p, n, expectation, tolerance):
    assert 1 / oracle.gaussian_constant(p, n, "exact") == pytest.approx(expectation, rel=tolerance)


def test_top_k_interpolates_between_max_and_mean_consistently():
    """n = 3: the three order statistics of |z| add up to 3 E|z|, and the largest is known."""
    top = [k / oracle.gaussian_constant(TopK(k), 3, "exact") for k in (1, 2, 3)]
    largest, middle, smallest = top[0], top[1] - top[0], top[2] - top[1]
    assert top[2] == pytest.approx(3 * math.sqrt(2 / math.pi), rel=1e-12)
    # E of the largest of each pair, 2/sqrt(pi), is (2 largest + middle) / 3 of all three
    assert (2 * largest + middle) / 3 == pytest.approx(2 / math.sqrt(math.pi), rel=1e-12)
    assert 0 < smallest < middle < largest


@pytest.mark.parametrize("n, samples", [(20, 100_000), (1000, 3000)])
def test_exact_constants_by_simulation(n, samples):
    z = np.random.default_rng(7).standard_normal((samples, n))
    sizes = -np.sort(-np.abs(z), axis=1)
    for p, statistics in [
        (math.inf, sizes[:, 0]), (TopK(4), sizes[:, :4].mean(1)), (TopK(19), sizes[:, :19].mean(1)),
        (TopK(n), sizes.mean(1)), (Range(), z.max(1) - z.min(1)),
    ]:  # fmt: skip
        error = statistics.mean() - 1 / oracle.gaussian_constant(p, n, "exact")
        assert abs(error) < 4 * statistics.std() / math.sqrt(samples)


# ---- finite differences of the oracle's own forwards -----------------------------------------


@every_norm
def test_deviation_gradient_by_finite_differences(p):
    d = np.random.default_rng(0).standard_normal(9) * 3
    close(
        oracle.deviation_gradient(d, p),
        finite_difference(lambda v: oracle.deviation(v, p), d),
        1e-9,
    )


@every_norm
@pytest.mark.parametrize("axis, eps", [(1, 0.3), (0, 1e-5), (-1, 0)])
def test_batch_norm_by_finite_differences(p, axis, eps):
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((2, 3, 4)) * 2 + 5, rng.standard_normal((2, 3, 4))
    gamma, beta = rng.standard_normal((2, x.shape[axis]))

    def loss(x, gamma, beta):
        return float((dy * oracle.batch_norm(x, gamma, beta, p, axis, eps).y).sum())

    dx, dgamma, dbeta = oracle.batch_norm_backward(dy, x, gamma, beta, p, axis, eps)
    close(dx, finite_difference(lambda v: loss(v, gamma, beta), x), 2e-8)
    close(dgamma, finite_difference(lambda v: loss(x, v, beta), gamma), 1e-9)
    close(dbeta, finite_difference(lambda v: loss(x, gamma, v), beta), 1e-9)


@every_norm
@pytest.mark.parametrize("axis", [-1, (0, 2)])
def test_layer_norm_by_finite_differences(p, axis):
    rng = np.random.default_rng(2)
    x, dy = rng.standard_normal((3, 2, 4)) * 2 - 1, rng.standard_normal((3, 2, 4))
    gamma, beta = rng.standard_normal((2, 4) if axis == -1 else (2, 3, 4))

    def loss(x, gamma, beta):
        return float((dy * oracle.layer_norm(x, gamma, beta, p, axis, 0.1).y).sum())

    dx, dgamma, dbeta = oracle.layer_norm_backward(dy, x, gamma, beta, p, axis, 0.1)
    close(dx, finite_difference(lambda v: loss(v, gamma, beta), x), 2e-8)
    close(dgamma, finite_difference(lambda v: loss(x, v, beta), gamma), 1e-9)
    close(dbeta, finite_difference(lambda v: loss(x, gamma, v), beta), 1e-9)


@pytest.mark.parametrize("p", [1, 1.3, 2, 3, 64, math.inf])
@pytest.mark.parametrize("axis", [0, 1])
def test_weight_norm_by_finite_differences(p, axis):
    rng = np.random.default_rng(3)
    v, dw, g = rng.standard_normal((3, 4, 2)), rng.standard_normal((3, 4, 2)), rng.random(3 + axis)
    dv, dg = oracle.weight_norm_backward(dw, v, g, p, axis)
    close(dv, finite_difference(lambda a: (dw * oracle.weight_norm(a, g, p, axis)).sum(), v), 2e-8)
    close(dg, finite_difference(lambda a: (dw * oracle.weight_norm(v, a, p, axis)).sum(), g), 1e-9)
    rho = oracle.bounded_norm(v, p, axis)
    dv = oracle.bounded_weight_norm_backward(dw, v, rho, p, axis)
    close(
        dv,
        finite_difference(lambda a: (dw * oracle.bounded_weight_norm(a, rho, p, axis)).sum(), v),
        2e-8,
    )


# ---- PyTorch's autograd ----------------------------------------------------------------------


def torch_statistic(torch, d, p):
    """The statistic over the last axis, for autograd; amax and amin share ties equally."""
    if isinstance(p, Range):
        return d.amax(-1) - d.amin(-1)
    if isinstance(p, TopK):
        return d.abs().topk(p.k, -1).values.mean(-1)
    if p == math.inf:
        return d.abs().amax(-1)
    return d.abs().pow(p).mean(-1).pow(1 / p)


@every_norm
@pytest.mark.parametrize("constant", ["paper", "exact", None])
def test_batch_norm_against_autograd(p, constant):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    x, dy = rng.standard_normal((5, 3, 4, 2)) * 3 + 7, rng.standard_normal((5, 3, 4, 2))
    gamma, beta = rng.standard_normal((2, 3))
    tx, tg, tb = (torch.tensor(a, requires_grad=True) for a in (x, gamma, beta))
    rows = tx.transpose(0, 1).reshape(3, -1)
    d = rows - rows.mean(1, keepdim=True)
    phi, c = torch_statistic(torch, d, p), oracle.gaussian_constant(p, 40, constant)
    scale = (phi**2 + 1e-3).sqrt() if p == 2 else c * phi + 1e-3
    y = tg[:, None] * d / scale[:, None] + tb[:, None]
    y = y.reshape(3, 5, 4, 2).transpose(0, 1)
    y.backward(torch.tensor(dy))
    out = oracle.batch_norm(x, gamma, beta, p, 1, 1e-3, constant)
    close(out.y, y.detach().numpy(), 1e-13)
    close(out.scale, scale.detach().numpy(), 1e-13)
    grads = oracle.batch_norm_backward(dy, x, gamma, beta, p, 1, 1e-3, constant)
    for got, tensor in zip(grads, (tx, tg, tb), strict=True):
        close(got, tensor.grad.numpy(), 1e-13)


@pytest.mark.parametrize("p", [1, math.inf, Range()], ids=["L1", "Linf", "Range"])
def test_ties_and_zeros_against_autograd(p):
    torch = pytest.importorskip("torch")
    x = np.array([-4.0, 4, 4, 0, 0, -4, 1, -1])  # mean 0: three ties for the maximum, two zeros
    dy = np.random.default_rng(5).standard_normal(8)
    tx = torch.tensor(x, requires_grad=True)
    d = tx - tx.mean()
    (d / torch_statistic(torch, d, p)).backward(torch.tensor(dy))
    dx, _, _ = oracle.layer_norm_backward(dy, x, None, None, p, eps=0, constant=None)
    close(dx, tx.grad.numpy(), 1e-14)


def test_l2_against_torch_layers():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    rng = np.random.default_rng(6)
    x, dy = rng.standard_normal((4, 3, 5)) * 2 + 1, rng.standard_normal((4, 3, 5))

    def compare(f, shape, forward, backward):
        gamma, beta = rng.standard_normal((2, *shape))
        tensors = [torch.tensor(a, requires_grad=True) for a in (x, gamma, beta)]
        y = f(*tensors)
        y.backward(torch.tensor(dy))
        close(forward(x, gamma, beta).y, y.detach().numpy(), 1e-13)
        for got, tensor in zip(backward(dy, x, gamma, beta), tensors, strict=True):
            close(got, tensor.grad.numpy(), 1e-13)

    compare(
        lambda x, g, b: functional.batch_norm(x, None, None, g, b, training=True, eps=1e-5),
        (3,),
        oracle.batch_norm,
        oracle.batch_norm_backward,
    )
    compare(
        lambda x, g, b: functional.layer_norm(x, (5,), g, b, eps=1e-5),
        (5,),
        oracle.layer_norm,
        oracle.layer_norm_backward,
    )
    compare(
        lambda x, g, b: functional.layer_norm(x, (3, 5), g, b, eps=1e-5),
        (3, 5),
        lambda *a: oracle.layer_norm(*a, axis=(1, 2)),
        lambda *a: oracle.layer_norm_backward(*a, axis=(-2, -1)),
    )
    mean, var, gamma, beta = rng.random((4, 3)) + 0.5
    y = functional.batch_norm(*map(torch.tensor, (x, mean, var, gamma, beta)), eps=1e-5)
    close(oracle.batch_norm_inference(x, gamma, beta, mean, np.sqrt(var + 1e-5)), y.numpy(), 1e-14)


@pytest.mark.parametrize("axis", [0, 1])
def test_weight_norm_against_torch(axis):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(8)
    v, dw = rng.standard_normal((3, 4, 2)), rng.standard_normal((3, 4, 2))
    g = rng.standard_normal([n if a == axis else 1 for a, n in enumerate(v.shape)])
    tv, tg = torch.tensor(v, requires_grad=True), torch.tensor(g, requires_grad=True)
    w = torch._weight_norm(tv, tg, axis)
    w.backward(torch.tensor(dw))
    close(oracle.weight_norm(v, g, axis=axis), w.detach().numpy(), 1e-14)
    for got, tensor in zip(oracle.weight_norm_backward(dw, v, g, axis=axis), (tv, tg), strict=True):
        close(got, tensor.grad.numpy(), 1e-14)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("options", [
    {}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.3}, {"dampening": 0.3},
    {"momentum": 0.9, "nesterov": True},
], ids=str)  # fmt: skip
def test_sgd_against_torch(options, decoupled):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(9)
    w, gradients = rng.standard_normal((2, 3)), rng.standard_normal((6, 2, 3))
    parameter = torch.nn.Parameter(torch.tensor(w))
    decay = 0.0 if decoupled else 0.2
    optimizer = torch.optim.SGD([parameter], lr=0.1, weight_decay=decay, **options)
    steps = oracle.sgd(w, gradients, 0.1, weight_decay=0.2, decoupled=decoupled, **options)
    assert len(steps) == 6
    for gradient, step in zip(gradients, steps, strict=True):
        if decoupled:
            parameter.data *= 1 - 0.1 * 0.2
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        close(step, parameter.detach().numpy(), 1e-14)


# ---- extreme and unusual input ----------------------------------------------------------------


def test_powers_neither_overflow_nor_underflow():
    assert oracle.deviation([1e10, -1e10], 64) == pytest.approx(1e10, rel=1e-15)
    assert oracle.deviation([3e-200, 4e-200], 2) == pytest.approx(math.sqrt(12.5) * 1e-200)
    assert oracle.deviation([1.5e308, -1.5e308, 1.5e308], 1) == pytest.approx(1.5e308)
    assert oracle.deviation_gradient([3e-200, 0, -4e-200], 3) == pytest.approx(
        oracle.deviation_gradient([3, 0, -4], 3), rel=1e-14
    )
    assert oracle.deviation_gradient([1e300, 1e-300], 64)[1] == 0
    assert oracle.gaussian_constant(1e6, 9) > 0
    assert oracle.weight_norm([[3e200, 4e200]], [5], 2)[0] == pytest.approx([3, 4], rel=1e-15)


@every_norm
@pytest.mark.parametrize("factor", [2.0**600, 2.0**-600])
def test_powers_of_two_scale_exactly_without_eps(p, factor):
    rng = np.random.default_rng(10)
    x, dy = rng.standard_normal((8, 2)), rng.standard_normal((8, 2))
    one, other = (oracle.batch_norm(x * f, None, None, p, eps=0) for f in (1, factor))
    assert np.array_equal(one.x_hat, other.x_hat)
    assert np.array_equal(one.scale * factor, other.scale)
    dx, large_dx = (
        oracle.batch_norm_backward(dy, x * f, None, None, p, eps=0)[0] for f in (1, factor)
    )
    assert np.array_equal(dx, large_dx * factor)


@every_norm
def test_a_large_mean_costs_no_digits(p):
    x = np.random.default_rng(11).integers(-50, 50, (7, 2)).astype(float)
    near, far = (oracle.batch_norm(x + offset, None, None, p) for offset in (0, 2.0**46))
    close(far.x_hat, near.x_hat, 1e-15)
    close(far.scale, near.scale, 1e-15)


@every_norm
def test_channels_are_independent_and_nan_stays_in_its_own(p):
    rng = np.random.default_rng(12)
    x, dy = rng.standard_normal((2, 6, 3)).astype(np.float16)
    broken = x.copy()
    broken[2, 1] = np.inf
    y, y_broken = (oracle.batch_norm(a, None, None, p).y for a in (x, broken))
    dx, dx_broken = (oracle.batch_norm_backward(dy, a, None, None, p)[0] for a in (x, broken))
    for whole, part in ((y, y_broken), (dx, dx_broken)):
        assert np.isnan(part[:, 1]).all()
        assert np.array_equal(whole[:, ::2], part[:, ::2])
        assert whole.dtype == np.float64


@every_norm
def test_a_constant_channel(p):
    x, dy = np.full((4, 1), 0.1), np.array([[1.0], [2], [3], [6]])
    eps, slope = (0.25, 2) if p == 2 else (0.25, 4)  # 1 / scale: eps is inside the root for p = 2
    assert oracle.batch_norm(x, [3], [7], p, eps=eps).y.tolist() == [[7.0]] * 4
    dx, dgamma, dbeta = oracle.batch_norm_backward(dy, x, [3], None, p, eps=eps)
    close(dx, 3 * slope * (dy - 3), 1e-15)
    assert dgamma.tolist() == [0] and dbeta is None
    assert np.isnan(oracle.batch_norm(x, None, None, p, eps=0).y).all()
    assert np.isnan(oracle.batch_norm_backward(dy, x, None, None, p, eps=0)[0]).all()


def test_layer_norm_over_the_other_axes_is_batch_norm():
    rng = np.random.default_rng(13)
    x, dy = rng.standard_normal((2, 4, 3, 5))
    batch = oracle.batch_norm(x, None, None, 3, axis=1)
    for axis in [(0, 2), (2, 0), (-1, 0)]:
        layer = oracle.layer_norm(x, None, None, 3, axis=axis)
        assert all(np.array_equal(a, b) for a, b in zip(batch, layer, strict=True))
        assert np.array_equal(
            oracle.layer_norm_backward(dy, x, None, None, 3, axis)[0],
            oracle.batch_norm_backward(dy, x, None, None, 3)[0],
        )
    assert oracle.layer_norm(x, None, None, axis=(0, 1, 2)).mean.shape == ()


def test_bad_arguments_are_refused():
    for call in (
        lambda: oracle.deviation([1, 2], 0.5),
        lambda: oracle.deviation([1, 2], TopK(3)),
        lambda: oracle.gaussian_constant(2, 4, "other"),
        lambda: oracle.batch_norm(np.ones((2, 3)), np.ones(2), None),
        lambda: oracle.weight_norm([[0, 0]], [1]),
        lambda: oracle.sgd([1], [[1]], 0.1, nesterov=True),
    ):
        with pytest.raises(ValueError):
            call()
