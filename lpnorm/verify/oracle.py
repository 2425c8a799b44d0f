"""The oracle: every formula of the library once more, from its definition and slow on purpose.

It shares no code with the library, so that it can judge it. NumPy only reads and lays out arrays;
the arithmetic is Python floats, loops and math.fsum. Source: Hoffer, Banner, Golan, Soudry, "Norm
matters", NeurIPS 2018 (arXiv 1803.01814), cited as Hoffer et al. 2018.

`p` is a real number >= 1, math.inf, an object with an attribute `k` (Top-k), or an object whose
class is called Range. Arrays may have any real dtype: their values are taken exactly, results are
float64. Inputs are finite, but a group of x that holds NaN or infinity gives NaN.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Parameter = ArrayLike | None  # gamma or beta: None where there is no affine part
Gradients = tuple[Array, Array | None, Array | None]


class NormOutput(NamedTuple):
    """y and x_hat in x's shape; mean (subtracted) and scale (divided by, eps included)."""

    y: Array
    x_hat: Array
    mean: Array
    scale: Array


# ---- the statistics -------------------------------------------------------------------------


def _top_k(p: Any, n: int) -> int | None:
    """How many of the largest |d| the norm looks at: k, 1 for infinity; None for finite p."""
    if not hasattr(p, "k"):
        if not p >= 1:
            raise ValueError(f"p must be at least 1, got {p}")
        return 1 if p == math.inf else None
    if not 1 <= p.k <= n:
        raise ValueError(f"Top-k needs 1 <= k <= n, got k = {p.k}, n = {n}")
    return int(p.k)


def _is_range(p: Any) -> bool:
    return type(p).__name__ == "Range"


def _sign(value: float) -> float:
    return float((value > 0) - (value < 0))


def _mean(values: Sequence[float]) -> float:
    """The mean; a power of two is taken out first (exactly), so that the sum cannot overflow."""
    exponent = math.frexp(max(abs(v) for v in values))[1]
    total = math.fsum(math.ldexp(v, -exponent) for v in values)
    return math.ldexp(total / len(values), exponent)


def deviation(d: Sequence[float], p: Any) -> float:
    """The statistic of n deviations d, without the Gaussian constant.

    (mean |d|^p)^(1/p); for p = 1 that is mean |d| (Hoffer et al. 2018, equation (5)); max |d| for
    infinity (equation (6)); the mean of the k largest |d| for Top-k; max d - min d for Range.
    """
    if _is_range(p):
        return float(max(d) - min(d))
    k = _top_k(p, len(d))
    sizes = sorted((abs(float(v)) for v in d), reverse=True)
    if k is not None:
        return _mean(sizes[:k])
    if sizes[0] == 0:
        return 0.0
    return float(sizes[0] * _mean([(size / sizes[0]) ** p for size in sizes]) ** (1 / p))


def deviation_gradient(d: Sequence[float], p: Any) -> list[float]:
    """The gradient of `deviation` with respect to its n arguments d: n numbers.

    Finite p: sign(d_i) / n * (|d_i| / deviation)^(p-1). Infinity and Top-k: sign(d_i) / k on the k
    largest; those tied at the k-th place share the slots left equally. Range: +1 shared by the
    maxima, -1 by the minima. sign(0) = 0, and where the statistic is 0 so is the gradient.
    """
    d = [float(v) for v in d]
    if _is_range(p):
        high, low = max(d), min(d)
        most, least = d.count(high), d.count(low)
        return [(v == high) / most - (v == low) / least for v in d]
    n, k, sizes = len(d), _top_k(p, len(d)), [abs(v) for v in d]
    largest = max(sizes)
    if largest == 0:
        return [0.0] * n
    if k is None:  # d / largest has the same gradient and cannot over- or underflow
        value = deviation([v / largest for v in d], p)
        return [_sign(v) / n * (abs(v) / largest / value) ** float(p - 1) for v in d]
    last = sorted(sizes, reverse=True)[k - 1]
    share = (k - sum(size > last for size in sizes)) / sizes.count(last)
    return [_sign(v) / k * (abs(v) > last or (abs(v) == last) * share) for v in d]


# ---- the constants that make E[C * statistic] = 1 for n standard normal values ----------------


def _integral(f: Callable[[float], float], end: float = 12.0, steps: int = 4000) -> float:
    """Integral of f from 0 to 12 (no normal value exceeds that once in 10^30) by Simpson's rule.

    t = u^2 puts more points near 0, where a k close to n makes f steep.
    """
    h = math.sqrt(end) / steps
    values = [f((i * h) ** 2) * 2 * i * h for i in range(steps + 1)]
    inner = math.fsum(values[1::2]) * 4 + math.fsum(values[2:-1:2]) * 2
    return (values[0] + inner + values[-1]) * h / 3


def _expected_top_k(n: int, k: int) -> float:
    """E[mean of the k largest of |z_1|, ..., |z_n|].

    The sum of the k largest is the integral over t > 0 of min(k, N(t)), where N(t) counts the
    |z_i| above t: binomial, n trials of probability erfc(t / sqrt 2). So its expectation is the
    integral of E[min(k, N)] = k - sum_{j<k} (k - j) P(N = j).
    """
    log_ratios = [math.log((n - j) / (j + 1)) for j in range(k)]  # binom(n, j+1) / binom(n, j)

    def expected_count(t: float) -> float:
        above, below = math.erfc(t / math.sqrt(2)), math.erf(t / math.sqrt(2))
        if below == 0:
            return float(k)
        log_below = math.log1p(-above) if above < 0.5 else math.log(below)
        log_odds = math.log(above) - log_below
        log_probability = n * log_below  # of N = j, starting at j = 0
        missing = 0.0
        for j in range(k):
            missing += (k - j) * math.exp(log_probability)
            log_probability += log_ratios[j] + log_odds
        return k - missing

    return _integral(expected_count) / k


def _expected_range(n: int) -> float:
    """E[max z - min z]: the integral over all t of 1 - F(t)^n - (1 - F(t))^n."""

    def f(t: float) -> float:
        above = math.erfc(t / math.sqrt(2)) / 2
        return -math.expm1(n * math.log1p(-above)) - above**n

    return 2 * _integral(f)


def gaussian_constant(p: Any, n: int, constant: str | float | None = "paper") -> float:
    """The constant C for which C * deviation estimates sigma from n Gaussian values.

    Finite p: (E|z|^p)^(-1/p), so sqrt(pi/2) at p = 1 (Hoffer et al. 2018, equation (5)).
    "paper": equation (6) for infinity and every Top-k; 1 / sqrt(2 ln n) for Range (Banner et al.
    2018, "Scalable methods for 8-bit training of neural networks"). "exact": 1 / E[statistic] of n
    standard normal values, the mean known. None: 1. One value (n = 1): 1. A number: itself.
    """
    if isinstance(constant, float):
        return constant
    if constant not in ("paper", "exact", None):
        raise ValueError(f'constant must be "paper", "exact" or None, got {constant!r}')
    k = None if _is_range(p) else _top_k(p, n)
    if constant is None or n == 1 or p == 2:
        return 1.0
    if k is None and not _is_range(p):  # E|z|^p = 2^(p/2) Gamma((p+1)/2) / sqrt(pi)
        log_moment = p / 2 * math.log(2) + math.lgamma((p + 1) / 2) - math.log(math.pi) / 2
        return math.exp(-log_moment / p)
    if constant == "exact":
        return 1 / (_expected_range(n) if k is None else _expected_top_k(n, k))
    numerator = 1.0 if k is None else (1 + math.sqrt(math.pi * math.log(4))) / 2
    return numerator / math.sqrt(2 * math.log(n))


# ---- arrays as lists of Python floats ---------------------------------------------------------


def _float64(x: ArrayLike) -> Array:
    return np.asarray(x, dtype=np.float64)


def _each(f: Callable[..., float], *arrays: Array) -> Array:
    """f, element by element."""
    columns = [a.ravel().tolist() for a in arrays]
    return np.array([f(*v) for v in zip(*columns, strict=True)]).reshape(arrays[0].shape)


def _split(axis: int | Sequence[int], ndim: int) -> tuple[list[int], list[int]]:
    """The axes named, and the others; both counted from 0 and ascending."""
    named = {range(ndim)[a] for a in ([axis] if isinstance(axis, int) else axis)}
    return sorted(named), [a for a in range(ndim) if a not in named]


def _groups(x: Array, axes: list[int]) -> list[list[float]]:
    """The lists of numbers that are reduced together when x is reduced over these axes."""
    n = math.prod(x.shape[a] for a in axes)
    rows: list[list[float]] = x.transpose(_split(axes, x.ndim)[1] + axes).reshape(-1, n).tolist()
    return rows


def _ungroup(groups: list[list[float]], axes: list[int], shape: tuple[int, ...]) -> Array:
    """The inverse of `_groups`."""
    order = _split(axes, len(shape))[1] + axes
    return np.array(groups).reshape([shape[a] for a in order]).transpose(np.argsort(order))


def _spread(values: Parameter, default: float, axes: list[int], shape: tuple[int, ...]) -> Array:
    """Values with x's shape on these axes, repeated to all of x's shape."""
    if values is None:
        return np.full(shape, float(default))
    if np.shape(values) != tuple(shape[a] for a in axes):
        raise ValueError(f"shape {np.shape(values)} does not fit axes {axes} of {shape}")
    wide = [size if a in axes else 1 for a, size in enumerate(shape)]
    return np.broadcast_to(_float64(values).reshape(wide), shape)


def _sum_onto(terms: Array, axes: list[int]) -> Array:
    """The sum over all other axes: the gradient of values that were spread from these axes."""
    sums = [math.fsum(group) for group in _groups(terms, _split(axes, terms.ndim)[1])]
    return np.array(sums).reshape([terms.shape[a] for a in axes])


# ---- batch norm and layer norm ----------------------------------------------------------------


class _Group(NamedTuple):
    """n numbers that are normalized together; slope = d scale / d deviation."""

    mean: float
    d: list[float]
    scale: float
    slope: float
    x_hat: list[float]


def _centre(x: list[float]) -> tuple[float, list[float]]:
    """The mean and the n differences x - mean, correctly rounded even where mean >> x - mean."""
    if not all(math.isfinite(v) for v in x):
        return math.nan, [math.nan] * len(x)
    mean = _mean(x)
    error = 2 * _mean([v for x_i in x for v in (x_i, -mean)])  # true mean - rounded mean
    return mean, [math.fsum((x_i, -mean, -error)) for x_i in x]


PLACES = ("added", "root", "moment", "statistic", "floor")


def with_eps(phi: float, p: Any, eps: float, c: float, place: str) -> tuple[float, float]:
    """What d is divided by, and its derivative by phi, for eps in any of five places.

    added: C phi + eps; root: ((C phi)^2 + eps)^(1/2); moment: C (phi^p + eps)^(1/p), finite p only;
    statistic: C (phi + eps); floor: max(C phi, eps). The derivative at 0 is 0 where phi counts not.
    """
    if place == "root":
        scale = math.hypot(c * phi, math.sqrt(eps))  # hypot: no overflow
        return scale, c * (c * phi / scale) if scale > 0 else math.nan
    if place == "moment":
        largest = max(phi, eps ** (1 / p))
        if not largest > 0:
            return largest, math.nan
        scale = largest * ((phi / largest) ** p + eps / largest**p) ** (1 / p)
        return c * scale, c * (phi / scale) ** (p - 1)
    if place == "floor":
        return (c * phi, c) if not c * phi <= eps else (eps, 0.0)
    return (c * (phi + eps) if place == "statistic" else c * phi + eps), c


def _normalize(x: list[float], p: Any, eps: float, c: float, place: str | None) -> _Group:
    mean, d = _centre(x)
    phi = deviation(d, p) if math.isfinite(mean) else math.nan
    scale, slope = with_eps(phi, p, eps, c, place or ("root" if p == 2 else "added"))
    if not scale > 0:  # a constant group without eps, or one that is not finite
        return _Group(mean, d, scale, math.nan, [math.nan] * len(d))
    return _Group(mean, d, scale, slope, [v / scale for v in d])


def _times_jacobian(g: list[float], group: _Group, p: Any) -> list[float]:
    """dx_j = sum_i g_i * dx_hat_i/dx_j, where g is the gradient at x_hat.

    x_hat_i = d_i / s and dd_i/dx_j = delta_ij - 1/n, so by the quotient rule
    dx_hat_i/dx_j = (delta_ij - 1/n) / s - d_i / s^2 * ds/dx_j, and by the chain rule
    ds/dx_j = sum_i ds/dd_i (delta_ij - 1/n), with ds/dd_i = ds/dphi * dphi/dd_i, phi the deviation.
    The sum of a_i (delta_ij - 1/n) over i is a_j - mean(a), which `_centre` computes.
    """
    s = group.scale
    if not s > 0:
        return [math.nan] * len(g)
    ds_dx = _centre([group.slope * h for h in deviation_gradient(group.d, p)])[1]
    through_s = math.fsum(g_i * (d_i / s) for g_i, d_i in zip(g, group.d, strict=True)) / s
    return [a / s - through_s * b for a, b in zip(_centre(g)[1], ds_dx, strict=True)]


def _norm(
    x: Array,
    gamma: Parameter,
    beta: Parameter,
    reduced: list[int],
    affine: list[int],
    p: Any,
    eps: float,
    constant: str | float | None,
    place: str | None,
) -> NormOutput:
    """Normalize over the axes `reduced`; gamma and beta have x's shape on the axes `affine`."""
    rows = _groups(x, reduced)
    c = gaussian_constant(p, len(rows[0]), constant)
    groups = [_normalize(row, p, eps, c, place) for row in rows]
    x_hat = _ungroup([group.x_hat for group in groups], reduced, x.shape)
    affine_part = _spread(gamma, 1, affine, x.shape), _spread(beta, 0, affine, x.shape)
    y = _each(lambda v, g, b: g * v + b, x_hat, *affine_part)
    kept = [x.shape[a] for a in _split(reduced, x.ndim)[1]]
    mean = np.array([group.mean for group in groups]).reshape(kept)
    return NormOutput(y, x_hat, mean, np.array([group.scale for group in groups]).reshape(kept))


def _norm_backward(
    dy: Array,
    x: Array,
    gamma: Parameter,
    beta: Parameter,
    reduced: list[int],
    affine: list[int],
    p: Any,
    eps: float,
    constant: str | float | None,
    place: str | None,
) -> Gradients:
    if dy.shape != x.shape:
        raise ValueError(f"dy has shape {dy.shape}, x {x.shape}")
    rows = _groups(x, reduced)
    c = gaussian_constant(p, len(rows[0]), constant)
    groups = [_normalize(row, p, eps, c, place) for row in rows]
    g = _each(lambda a, b: a * b, dy, _spread(gamma, 1, affine, x.shape))
    dx = [_times_jacobian(*pair, p) for pair in zip(_groups(g, reduced), groups, strict=True)]
    x_hat = _ungroup([group.x_hat for group in groups], reduced, x.shape)
    dgamma = _sum_onto(_each(lambda a, b: a * b, dy, x_hat), affine)
    return (
        _ungroup(dx, reduced, x.shape),
        None if gamma is None else dgamma,
        None if beta is None else _sum_onto(dy, affine),
    )


def batch_norm(
    x: ArrayLike,
    gamma: Parameter,
    beta: Parameter,
    p: Any = 2,
    axis: int = 1,
    eps: float = 1e-5,
    constant: str | float | None = "paper",
    place: str | None = None,
) -> NormOutput:
    """y = gamma * x_hat + beta with x_hat = (x - mean) / scale, for each of the C channels.

    x: any shape, channels on `axis`; gamma, beta: (C,) or None; mean, scale: (C,).
    scale = C * deviation + eps, or sqrt(deviation^2 + eps) for p = 2; 0 gives NaN. constant: also
    C itself; place: eps elsewhere, see `with_eps`.
    Hoffer et al. 2018, equations (5) and (6); p = 2 is Ioffe & Szegedy 2015.
    """
    channel, rest = _split(axis, np.ndim(x))
    return _norm(_float64(x), gamma, beta, rest, channel, p, eps, constant, place)


def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    gamma: Parameter,
    beta: Parameter,
    p: Any = 2,
    axis: int = 1,
    eps: float = 1e-5,
    constant: str | float | None = "paper",
    place: str | None = None,
) -> Gradients:
    """dx, dgamma, dbeta for the gradient dy at y, through the full Jacobian of x_hat.

    dy, dx: x's shape; dgamma, dbeta: (C,), None where gamma, beta are.
    """
    channel, rest = _split(axis, np.ndim(x))
    return _norm_backward(
        _float64(dy), _float64(x), gamma, beta, rest, channel, p, eps, constant, place
    )


def layer_norm(
    x: ArrayLike,
    gamma: Parameter,
    beta: Parameter,
    p: Any = 2,
    axis: int | Sequence[int] = -1,
    eps: float = 1e-5,
    constant: str | float | None = "paper",
    place: str | None = None,
) -> NormOutput:
    """`batch_norm`'s formula with x reduced over `axis` (one or several); Ba et al. 2016 for p = 2.

    gamma, beta: x's shape on `axis` (in x's order), or None; mean, scale: x's shape without it.
    """
    axes = _split(axis, np.ndim(x))[0]
    return _norm(_float64(x), gamma, beta, axes, axes, p, eps, constant, place)


def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    gamma: Parameter,
    beta: Parameter,
    p: Any = 2,
    axis: int | Sequence[int] = -1,
    eps: float = 1e-5,
    constant: str | float | None = "paper",
    place: str | None = None,
) -> Gradients:
    """dx, dgamma, dbeta in the shapes of x, gamma, beta for the gradient dy (x's shape) at y."""
    axes = _split(axis, np.ndim(x))[0]
    return _norm_backward(
        _float64(dy), _float64(x), gamma, beta, axes, axes, p, eps, constant, place
    )


def batch_norm_inference(
    x: ArrayLike,
    gamma: Parameter,
    beta: Parameter,
    mean: ArrayLike,
    scale: ArrayLike,
    axis: int = 1,
) -> Array:
    """y = gamma * (x - mean) / scale + beta with stored statistics; shapes as in `batch_norm`."""
    x = _float64(x)
    channel = _split(axis, x.ndim)[0]
    given = ((gamma, 1), (beta, 0), (mean, 0), (scale, 1))
    wide = [_spread(values, default, channel, x.shape) for values, default in given]
    return _each(lambda v, g, b, m, s: g * ((v - m) / s if s else math.nan) + b, x, *wide)


# ---- weight norm ------------------------------------------------------------------------------


def _plain_norm(v: list[float], p: float) -> float:
    """(sum |v|^p)^(1/p), or max |v|: no mean and no Gaussian constant."""
    if not any(v):
        raise ValueError("a zero weight vector has no direction")
    return float(deviation(v, p) * len(v) ** (1 / p))


def _plain_norm_gradient(v: list[float], p: float) -> list[float]:
    return [h * len(v) ** (1 / p) for h in deviation_gradient(v, p)]


def weight_norm(v: ArrayLike, g: ArrayLike, p: float = 2, axis: int = 0) -> Array:
    """w_i = g_i v_i / ||v_i||_p for each of the N output channels v_i (Salimans & Kingma 2016).

    v, w: any shape, output channels on `axis`; g: N numbers; p real >= 1 or infinity.
    """
    v = _float64(v)
    rest = _split(axis, v.ndim)[1]
    w = []
    for v_i, g_i in zip(_groups(v, rest), np.ravel(g).tolist(), strict=True):
        norm = _plain_norm(v_i, p)
        w.append([g_i * (a / norm) for a in v_i])
    return _ungroup(w, rest, v.shape)


def weight_norm_backward(
    dw: ArrayLike, v: ArrayLike, g: ArrayLike, p: float = 2, axis: int = 0
) -> tuple[Array, Array]:
    """dv (v's shape) and dg (g's shape) for the gradient dw (v's shape) at w.

    Within a channel, by the quotient rule:
    dw_i/dg = v_i / norm, dw_i/dv_j = g (delta_ij / norm - v_i / norm^2 * dnorm/dv_j).
    """
    v = _float64(v)
    rest = _split(axis, v.ndim)[1]
    dv, dg = [], []
    rows = zip(_groups(_float64(dw), rest), _groups(v, rest), np.ravel(g).tolist(), strict=True)
    for dw_i, v_i, g_i in rows:
        norm, slopes = _plain_norm(v_i, p), _plain_norm_gradient(v_i, p)
        dg.append(math.fsum(a * (b / norm) for a, b in zip(dw_i, v_i, strict=True)))
        dv.append([g_i * (a / norm - dg[-1] / norm * h) for a, h in zip(dw_i, slopes, strict=True)])
    return _ungroup(dv, rest, v.shape), np.array(dg).reshape(np.shape(g))


def bounded_norm(v: ArrayLike, p: float = 2, axis: int = 0) -> float:
    """rho = ||V||_p / N^(1/p): V all of v, N its output channels on `axis` (Hoffer et al. 2018)."""
    return float(_plain_norm(np.ravel(_float64(v)).tolist(), p) / np.shape(v)[axis] ** (1 / p))


def bounded_weight_norm(v: ArrayLike, rho: float, p: float = 2, axis: int = 0) -> Array:
    """w_i = rho v_i / ||v_i||_p, rho fixed for the layer (Hoffer et al. 2018); shapes as above."""
    return weight_norm(v, [rho] * np.shape(v)[axis], p, axis)


def bounded_weight_norm_backward(
    dw: ArrayLike, v: ArrayLike, rho: float, p: float = 2, axis: int = 0
) -> Array:
    """dv (v's shape) for the gradient dw at w; rho is a constant, so it has no gradient."""
    return weight_norm_backward(dw, v, [rho] * np.shape(v)[axis], p, axis)[0]


# ---- stochastic gradient descent --------------------------------------------------------------


def sgd(
    w: ArrayLike,
    gradients: Iterable[ArrayLike],
    lr: float,
    momentum: float = 0,
    dampening: float = 0,
    nesterov: bool = False,
    weight_decay: float = 0,
    decoupled: bool = False,
) -> list[Array]:
    """The weights after each step, as torch.optim.SGD; gradients: one array of w's shape a step.

    g = gradient + weight_decay * w; buffer = momentum * buffer + (1 - dampening) * g, but g the
    first time; w -= lr * buffer, with nesterov lr * (g + momentum * buffer).
    Decoupled: first w *= 1 - lr * weight_decay, and g = gradient.
    """
    if nesterov and (momentum <= 0 or dampening != 0):
        raise ValueError("nesterov needs momentum > 0 and dampening = 0")
    w, buffer, steps = _float64(w), None, []
    for g in map(_float64, gradients):
        if decoupled:
            w = _each(lambda a: a * (1 - lr * weight_decay), w)
        else:
            g = _each(lambda a, b: b + weight_decay * a, w, g)
        if buffer is None or momentum == 0:
            buffer = g
        else:
            buffer = _each(lambda a, b: momentum * a + (1 - dampening) * b, buffer, g)
        step = _each(lambda a, b: b + momentum * a, buffer, g) if nesterov else buffer
        w = _each(lambda a, b: a - lr * b, w, step)
        steps.append(w)
    return steps
