"""Faults as numbers: the candidate's own mean and scale, and how often an output holds each term.

From y = gamma (x - mean) / s + beta follow the mean and the scale that a candidate used, a group at
a time: (y - beta) / gamma is a straight line in x. An output is a sum of known terms
(`formula.Terms`), such as dx s of g, mean(g), T h and T mean(h), which belong there 1, -1, -1 and 1
times: least squares over all groups, stacked (mean(g) and T mean(h) are constant within one), gives
how often each is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lpnorm.verify.chosen import FITS, SAME
from lpnorm.verify.formula import rows_of
from lpnorm.verify.layers import LAYERS
from lpnorm.verify.measure_weights import norm_of_w, number
from lpnorm.verify.mistakes import Mistake
from lpnorm.verify.reference import Conventions
from lpnorm.verify.report import Diagnosis
from lpnorm.verify.trials import Trial, off

Array = np.ndarray
Mistakes = tuple[Mistake, ...]
SCALE = "the scale s is"


def _own_line(v: Any) -> tuple[Array, Array, float]:
    """(y - beta) / gamma as a x + b in each group: 1/a and -b/a, in the shape of v.mu, and the
    largest remainder (x_hat is about 1)."""
    x, x_hat = rows_of(v.x, v.axes), rows_of((v.own["y"] - v.beta) / v.gamma, v.axes)
    d = x - x.mean(axis=1, keepdims=True)
    level = x_hat.mean(axis=1, keepdims=True)
    a = (d * x_hat).sum(axis=1, keepdims=True) / (d * d).sum(axis=1, keepdims=True)
    left = float(abs(x_hat - level - a * d).max())
    shape = v.mu.shape
    return (1 / a).reshape(shape), (x.mean(axis=1, keepdims=True) - level / a).reshape(shape), left


OWN: Mistakes = (
    Mistake(
        "the candidate's own mean and scale",
        "",
        {"mu": lambda v: _own_line(v)[1], "s": lambda v: _own_line(v)[0]},
        lambda layer, p: False,
    ),
)


def measured_first(trials: Sequence[Trial], conventions: Conventions) -> Diagnosis | None:
    """What y is in place of gamma (x - mean) / s + beta, or how often w is what it should be."""
    formula = LAYERS[trials[0].case.layer].formula
    name = formula.outputs[0]
    words = fitted(trials, name, (), conventions) or pattern(trials, name, conventions)
    if not words and name == "w":
        words = norm_of_w(trials, conventions)
    if words or name != "y" or trials[0].case.dtype not in FITS:
        return Diagnosis(words, formula.text(name)) if words else None
    close = FITS[trials[0].case.dtype]
    said, often = [], _beta(trials, conventions)
    if abs(often - 1) > 1e-6:
        said.append(f"beta is in y {number(often)} times")
    rows: list[tuple[Any, ...]] = []  # s, its value, C phi, eps, mean, its value, a group each
    for trial in (t for t in trials if t.case.n == trials[0].case.n):
        v = trial.run(conventions, ())
        got = None if trial.got is None else trial.got.y
        if v is None or got is None or got.shape != v.x.shape or not np.all(v.gamma):
            continue
        v.beta = often * v.beta
        own, mu, left = _own_line(v)
        if not left <= 1e3 * close * (1 + abs(v.x_hat).max()):
            words = "y is no gamma (x - mean) / s + beta: within a group it is not a straight line "
            return Diagnosis(words + "in x", formula.text("x_hat", "y"))
        of = (own, v.s, v.C * v.phi, v.eps, mu, v.mu)
        rows += zip(*(np.broadcast_to(a, own.shape).ravel() for a in of), strict=True)
    if not rows:
        return None
    s, right, plain, eps, mean, middle = np.array(rows).T
    said += [
        _parts(s, plain, eps, trials[0], conventions)
        or _power(s, right, trials[0])
        or _against(SCALE, s, right, trials[0]),
        _against("the mean that is subtracted is", mean, middle, trials[0]),
    ]
    words = "; and ".join(filter(None, said))
    return Diagnosis(words, formula.text("mu", "s")) if words else None


def _beta(trials: Sequence[Trial], conventions: Conventions) -> float:
    """How often y holds beta: where the mean is subtracted, the mean of y over a channel is that,
    whatever the mean of x. 1 where that cannot be told."""
    pairs = []
    for trial in trials:
        v = trial.run(conventions, ()) if trial.case.layer == "batch_norm" else None
        if v is None or trial.got is None or trial.got.y.shape != v.x.shape:
            return 1.0
        level = trial.got.y.astype("float64").mean(axis=v.axes, keepdims=True)
        pairs += list(zip(level.ravel(), v.beta.ravel(), strict=True))
    level, beta = np.array(pairs).T
    often = float((level * beta).sum() / (beta * beta).sum())
    apart = abs(level - often * beta).max()
    return often if apart <= 1e3 * FITS[trials[0].case.dtype] * abs(beta).max() else 1.0


def _parts(s: Array, plain: Array, eps: Array, trial: Trial, conventions: Conventions) -> str:
    """s = a C phi + b eps (squares of s and C phi, with eps in the root): a and b, if they fit."""
    power = 2 if conventions.eps_place == "root" else 1
    sizes = np.array([(plain**power).max(), max(eps.max(), 1e-300)])
    matrix, y = np.stack([plain**power, eps], axis=1) / sizes, s**power
    weights = 1 / y[:, None]  # relative, for eps shows where s is small
    found, _, rank, _ = np.linalg.lstsq(matrix * weights, np.ones(len(y)), rcond=1e-12)
    left = abs((matrix * weights) @ found - 1).max()
    if rank < 2 or left > 1e3 * FITS[trial.case.dtype]:
        return ""
    a, b = (float(t) for t in found / sizes)
    a = np.sign(a) * abs(a) ** (1 / power)
    words = []
    if abs(a - 1) > 1e-6:
        known = _known_number(a, trial, conventions)
        if not known and conventions.p != 2:
            known = f" for n = {trial.case.n}: is the constant right?"
        words.append(f"{SCALE} {number(a)} times what it should be{known}")
    if abs(b - 1) > 1e-5:
        words.append(f"eps is in it {b:.4g} times" if abs(b) > 1e-5 else "eps is missing from it")
    return "; ".join(words)


def _power(s: Array, right: Array, trial: Trial) -> str:
    """Is the scale another power of what it should be?"""
    if np.any(s <= 0) or np.ptp(right) <= 1e-2 * right.max():
        return ""
    x, y = np.log(right), np.log(s)
    q, k = np.polyfit(x, y, 1)
    if abs(q - 1) < 1e-6 or abs(q * x + k - y).max() > 1e4 * FITS[trial.case.dtype]:
        return ""
    why = {2: ": the root is missing", 4: ": a square was taken where the root belongs"}
    times = "" if abs(k) < 1e-6 else f", times {np.exp(k):.6g}"
    return f"the scale is what it should be to the power {q:.4g}{times}{why.get(round(q, 6), '')}"


def _against(words: str, got: Array, want: Array, trial: Trial) -> str:
    """Two lists of numbers, one a group: the same, or something else."""
    apart = abs(got - want)
    if np.all(apart <= 1e3 * FITS[trial.case.dtype] * (1 + abs(want).max())):
        return ""
    i = int(apart.argmax())
    return f"{words} {got[i]:.6g} in a group where {want[i]:.6g} is right"


# ---- measured: how often each term --------------------------------------------------------------


def fitted(trials: Sequence[Trial], name: str, base: Mistakes, meant: Conventions) -> str | None:
    """How often the output holds each of its terms, where that is not as often as it should; None
    where it is no sum of them."""
    close = FITS.get(trials[0].case.dtype)
    terms = LAYERS[trials[0].case.layer].formula.terms.get(name)
    if close is None or terms is None:
        return None
    columns: list[list[Array]] = [[] for _ in terms.terms]
    target: list[Array] = []
    size = None
    for trial in trials:
        v = trial.run(meant, base)
        got = None if trial.got is None else trial.got.get(name)
        if v is None or got is None or size not in (None, getattr(v, "n", 0)):
            continue
        size = getattr(v, "n", 0)  # the numbers may depend on n: one n at a time
        factor = np.asarray(terms.factor(v))
        shape = np.broadcast_shapes(got.shape, factor.shape)
        made = [np.asarray(value(v)) for _, _, value in terms.terms]
        if any(a.size > got.size for a in made):
            return None
        if shape != got.shape or any(a.ndim != got.ndim for a in made):  # (C, 1, 1) for (C,)
            made = [a.reshape(got.shape) if a.size == got.size else a for a in made]
        with np.errstate(all="ignore"):
            target.append((got.astype("float64") * np.broadcast_to(factor, got.shape)).ravel())
        for column, a in zip(columns, made, strict=True):
            column.append(np.broadcast_to(a, got.shape).ravel())
    if not target:
        return None
    y, matrix = np.concatenate(target), np.stack([np.concatenate(c) for c in columns], axis=1)
    if not (np.all(np.isfinite(y)) and np.all(np.isfinite(matrix))) or not np.any(y):
        return None
    sizes = abs(matrix).max(axis=0)
    there = sizes > 1e-9 * sizes.max()  # mean(h) is 0 for p = 2
    scaled = matrix[:, there] / sizes[there]
    found, _, rank, _ = np.linalg.lstsq(scaled, y, rcond=1e-10)
    if rank < there.sum() or len(y) <= rank:
        return None
    if abs(scaled @ found - y).max() > close * (abs(y).max() + abs(scaled * found).max()):
        return None
    times = found / sizes[there]
    kept = [term for term, is_there in zip(terms.terms, there, strict=True) if is_there]
    right = np.array([each for _, each, _ in kept])
    off = abs(times - right) * sizes[there] > 30 * close * abs(y).max()
    ratio = times[right != 0] / right[right != 0]
    if not off.any():
        return ""
    if np.ptp(ratio) <= 30 * close and not off[right == 0].any():
        factor_ = float(np.median(ratio))
        words = f"{name} is {number(factor_)} times what it should be"
        return words + _known_number(factor_, trials[0], meant)
    return "; and ".join(
        _counted(name, text, float(t), float(r), trials[0], meant)
        for (text, _, _), t, r, wrong in zip(kept, times, right, off, strict=True)
        if wrong
    )


def _counted(
    name: str, term: str, times: float, right: float, trial: Trial, meant: Conventions
) -> str:
    """One term that is there so many times, in words."""
    times = 0.0 if abs(times) < 1e-6 else times
    does = "subtracted" if right < 0 else "added"
    if right == 0:
        return f"{name} holds {term} {number(times)} times, which does not belong there"
    ratio = times / right
    if ratio == 0:
        return f"{term} is missing from {name}, where it is {does}"
    if abs(ratio + 1) < 1e-5:
        return f"{term} has the wrong sign in {name}: it is {does}"
    if abs(ratio - 2) < 1e-5:
        return f"{term} is {does} twice in {name}"
    known = _known_number(ratio, trial, meant)
    return f"{name} holds {term} {number(times)} times, {right:g} is right{known}"


def _known_number(factor: float, trial: Trial, conventions: Conventions) -> str:
    """What the factor is, if it is one of the numbers that occur in a normalizer."""
    case = trial.case
    if case.layer == "sgd":
        return ""
    n = case.n
    c, k = (conventions.c(n) if case.layout else 1.0), getattr(conventions.p, "k", 1)
    more = n / max(n - 1, 1)
    known = {
        "n": n,
        "1 / n": 1 / n,
        "n / (n - 1)": more,
        "(n - 1) / n": 1 / more,
        "the root of n / (n - 1)": more**0.5,
        "the root of n": n**0.5,
        "C": c,
        "1 / C": 1 / c,
        "C^2": c * c,
        "k": k,
        "1 / k": 1 / k,
    }
    close = SAME[case.dtype]
    for words, value in known.items():
        if value not in (1, 0) and abs(abs(factor) - value) <= close * value:
            return f" ({'-' if factor < 0 else ''}{words})"
    return ""


# ---- patterns -----------------------------------------------------------------------------------


def pattern(trials: Sequence[Trial], name: str, conventions: Conventions) -> str:
    """What an output looks like from outside: zero, few digits, clipped, off by one amount."""
    trial = max(trials, key=lambda t: t.values(name)[1].size)
    got, want = trial.values(name)
    if got.shape != want.shape or not np.all(np.isfinite(got)) or not np.any(want):
        return ""
    close = SAME[trial.case.dtype]
    if not np.any(got):
        return f"{name} is zero everywhere"
    for narrow in ("float16", "float32"):
        fits = np.finfo(narrow).eps >= 8 * np.finfo(trial.case.dtype).eps
        few = fits and np.array_equal(got, got.astype(narrow).astype("float64"))
        if few and off(got, want) < 64 * np.finfo(narrow).eps and np.ptp(got):
            return f"{name} has only the digits of {narrow}: something is computed in {narrow}"
    apart = got - want
    if np.ptp(apart) <= close * abs(want).max() and abs(apart).max() > 10 * close * abs(want).max():
        return f"{name} is off by the same amount everywhere, {np.median(apart):.6g}"
    ordered = off(np.sort(got, axis=None), np.sort(want, axis=None)) <= close
    if ordered and got.size > 2 and off(got, want) > 0.01:
        return f"{name} has the right values in the wrong order"
    most = abs(got).max()
    clipped = (abs(got) == most) & (abs(want) > (1 + 10 * close) * most)
    if clipped.any() and np.all(clipped | (abs(got - want) <= close * most)):
        return f"{name} is clipped at {most:g}"
    v = trial.run(conventions, ())
    factors = (
        {} if v is None or trial.case.layout is None else {"the scale s": v.s, "gamma": v.gamma}
    )
    for words, factor in factors.items():
        for said, times in ((words, factor), (f"1 / {words}", 1 / factor)):
            try:
                scaled = want * (times if want.ndim == times.ndim else times.reshape(want.shape))
            except ValueError:
                continue
            if off(got, scaled) <= close and off(want, scaled) > 10 * close:
                return f"{name} is what it should be times {said}"
    return ""


def _times(a: Array, b: Array) -> tuple[Array, float]:
    """How many times b's deviations a's are, row by row, and the largest remainder."""
    a, b = (q - q.mean(axis=1, keepdims=True) for q in (a, b))
    slope = (a * b).sum(axis=1, keepdims=True) / ((b * b).sum(axis=1, keepdims=True) + 1e-300)
    return slope, float(abs(a - slope * b).max())


def shape_of_h(trials: Sequence[Trial], name: str, base: Mistakes, meant: Conventions) -> str:
    """dx holds another h: s dx less g and mean(g) is T h up to a constant in each group, so its
    shape over a group tells which gradient of the scale was taken."""
    trial = trials[0]
    if name != "dx" or trial.case.dtype not in FITS or trial.case.layout is None:
        return ""
    v = trial.run(meant, base)
    got = None if trial.got is None else trial.got.get("dx")
    if v is None or got is None or got.shape != v.x.shape:
        return ""
    through = rows_of(v.g - v.s * got.astype("float64"), v.axes)
    d, x = rows_of(v.d, v.axes), rows_of(v.x, v.axes)
    shapes = {
        "sign(d)": np.sign(d),
        "d": d,
        "|d|": abs(d),
        "d |d|": d * abs(d),
        "d^3": d**3,
        "x": x,
        "sign(x)": np.sign(x),
        "d at the largest |d| alone": np.sign(d) * (abs(d) == abs(d).max(axis=1, keepdims=True)),
        "1 at the largest d alone": 1.0 * (d == d.max(axis=1, keepdims=True)),
    }
    h = rows_of(np.broadcast_to(v.h, v.x.shape), v.axes)
    slack = 1e2 * FITS[trial.case.dtype] * abs(through).max()
    for words, shape in shapes.items():
        right = _times(shape, h)[1] <= 1e-9 * abs(shape).max()  # that of this norm itself
        if not right and _times(through, shape)[1] <= slack:
            return f"the gradient of the scale in dx has the shape of {words} over a group"
    own, left = _times(through, h)
    part = left / abs(rows_of(v.s * v.dx, v.axes)).max()
    if part <= 1e2 * FITS[trial.case.dtype]:
        t = rows_of(np.broadcast_to(v.T, v.x.shape), v.axes)[:, :1]
        i = int(abs(own - t).argmax())
        if abs(own - t).max() > 1e-6 * abs(t).max():
            return f"T in dx is {own[i, 0]:.6g} in a group where {t[i, 0]:.6g} is right"
        return "what is subtracted from g in dx is another constant than mean(g) - T mean(h)"
    return f"dx is no sum of g, mean(g), T h and T mean(h): {100 * part:.2g} % are something else"
