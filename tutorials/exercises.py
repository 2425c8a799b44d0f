"""The checks of the tutorials' exercises: `check_05_2(answer)` is Exercise 2 of tutorial 05.

Each returns one line: not answered yet (for None, or a function that returns None), what is wrong,
or correct. They compute what they compare with; the instructor's solutions are in
tutorials/solutions.py, which students need not be given.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

import lpnorm
from lpnorm import data, decay, models, nn, verify
from lpnorm.experiments.runs import Run

TopK = lpnorm.TopK


def exercise(check: Callable[[Any], str]) -> Callable[[Any], str]:
    """Says which exercise it is; None is no answer; what the answer raises is said in one line."""
    number = check.__name__.rsplit("_", 1)[1]

    @functools.wraps(check)
    def checked(answer: Any) -> str:
        if answer is None:
            return f"Exercise {number}: not answered yet."
        try:
            return f"Exercise {number}: {check(answer)}"
        except _NoAnswer:
            return f"Exercise {number}: not answered yet."
        except Exception as error:
            return f"Exercise {number}: your answer raised {type(error).__name__}: {error}"

    return checked


class _NoAnswer(Exception):
    pass


def _of(answer: Callable[..., Any], *arguments: Any) -> Any:
    """What a function that is the answer gives."""
    got = answer(*arguments)
    if got is None:
        raise _NoAnswer
    return got


def _shape(got: Any, shape: tuple[int, ...]) -> str:
    """What is wrong with its shape; "" if nothing is."""
    return (
        "" if np.shape(got) == shape else f"the shape should be {shape}, yours is {np.shape(got)}."
    )


# ---- 00: why normalize ---------------------------------------------------------------------------


@exercise
def check_00_1(folded: Callable[..., Any]) -> str:
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((3, 5)), rng.standard_normal((7, 5))
    b, gamma, beta, mean = rng.standard_normal((4, 3))
    scale = rng.uniform(0.5, 2, 3)
    new_w, new_b = _of(folded, w, b, gamma, beta, mean, scale)
    if wrong := _shape(new_w, (3, 5)) or _shape(new_b, (3,)):
        return wrong
    want = gamma * (x @ w.T + b - mean) / scale + beta
    off = abs(x @ np.asarray(new_w).T + new_b - want).max()
    if off > 1e-9:
        return f"not yet: the outputs differ by {off:.2g}."
    return "correct: in evaluation a batch norm costs nothing."


@exercise
def check_00_2(answer: tuple[int, int]) -> str:
    for m, got in zip((0.1, 0.01), answer, strict=True):
        want = math.ceil(math.log(0.01) / math.log(1 - m))
        if got != want:
            left = 100 * (1 - m) ** got
            return f"not yet: with m = {m} there is {left:.2f} % left after {got} batches."
    return "correct."


@exercise
def check_00_3(answer: tuple[float, float]) -> str:
    y, _ = lpnorm.batch_norm(np.array([[1.7], [0.4]]), None, None, p=2, axis=1, eps=0.0)
    if not np.allclose(answer, y[:, 0], atol=1e-6):
        return "not yet: take x = (1.7, 0.4) and work it out."
    return "correct: 1 and -1, whatever they were. All it learns of a sample is which is larger."


# ---- 01: what a normalizer measures --------------------------------------------------------------


@exercise
def check_01_1(answer: tuple[float, float]) -> str:
    uniform, laplace = (float(value) for value in answer)
    c = math.sqrt(math.pi / 2)
    wrong = [
        name
        for name, got, want in (
            ("uniform", uniform, c * math.sqrt(3) / 2),
            ("Laplace", laplace, c / math.sqrt(2)),
        )
        if abs(got - want) > 1e-3
    ]
    if wrong:
        return f"not yet: {' and '.join(wrong)}. s is C_1 times E|x|, an integral."
    return "correct: above 1 for tails lighter than a Gaussian's, below 1 for heavier ones."


@exercise
def check_01_2(draw: Callable[[np.random.Generator, tuple[int, int]], Any]) -> str:
    values = np.asarray(_of(draw, np.random.default_rng(1), (4000, 256)), dtype=float)
    if wrong := _shape(values, (4000, 256)):
        return wrong
    d = values - values.mean(axis=1, keepdims=True)
    sizes = {"L1": abs(d).mean(axis=1), "L2": np.sqrt((d * d).mean(axis=1))}
    l1, l2 = (100 * s.std() / s.mean() for s in sizes.values())
    said = f"over 4,000 batches L1's s varies by {l1:.1f} %, L2's by {l2:.1f} %"
    return f"correct: {said}." if l1 < l2 else f"not yet: {said}. Try heavier tails."


@exercise
def check_01_3(average: float) -> str:
    x = np.random.default_rng(5).standard_normal((4000, 256))
    _, cache = lpnorm.batch_norm(x, None, None, p=64, axis=0, eps=0.0)
    want = float(cache.scale.mean())
    if abs(average - want) > 0.02:
        return "not yet: average the s of many batches of 256 under p = 64."
    return (
        f"correct: about {want:.2f}, not 1. (1.3) lets n grow first: even |x|^64 is averaged "
        "over all it can be, and 256 values never show the largest of them."
    )


# ---- 02: one backward for every norm -------------------------------------------------------------


def slopes(f: Callable[[Any], Any], x: np.ndarray, h: float = 1e-6) -> np.ndarray:
    """Central differences of f: (rows, n) -> (rows,) at x (1, n)."""
    steps = h * np.eye(x.shape[1])
    return np.asarray((f(x + steps) - f(x - steps)) / (2 * h))[None]


def _statistic(rows: np.ndarray, p: Any) -> np.ndarray:
    size = np.sort(abs(rows), axis=1)[:, ::-1]
    if isinstance(p, lpnorm.Range):
        return np.ptp(rows, axis=1)
    if isinstance(p, TopK):
        return size[:, : p.k].mean(axis=1)
    return size[:, 0] if p == math.inf else (size**p).mean(axis=1) ** (1 / p)


@exercise
def check_02_1(answer: Callable[[Any], Any]) -> str:
    d = np.random.default_rng(101).standard_normal((1, 9))
    got = _of(answer, d)
    if wrong := _shape(got, d.shape):
        return wrong

    def mixed(rows: np.ndarray) -> np.ndarray:
        return (abs(rows).mean(axis=1) + abs(rows).max(axis=1)) / 2

    off = np.flatnonzero(abs(got - slopes(mixed, d))[0] > 1e-6)
    if off.size:
        euler = (got * d).sum() / mixed(d).item()
        return f"not yet; wrong at {off.tolist()}, and <answer, d> / phi = {euler:.3f}."
    return "correct."


FORGOTTEN = ("mean of g", "term through s", "division by s")


def students(g: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
    """dx of an L1 norm (no C, no eps) as three students have it; each has forgotten one thing."""
    d = x - x.mean()
    s, h = abs(d).mean(), np.sign(d) / d.size
    through_s = (g * d / s).sum() * (h - h.mean())
    centred = g - g.mean()
    return {"A": centred / s, "B": centred - through_s, "C": (g - through_s) / s}


@exercise
def check_02_2(answer: dict[str, str]) -> str:
    rng = np.random.default_rng(102)
    x, g = rng.standard_normal((2, 1, 9))
    d, right = x - x.mean(), 0
    for name, dx in students(g, x).items():
        through = abs((dx * d).sum()) > 1e-9
        found = FORGOTTEN[0 if abs(dx.sum()) > 1e-9 else 1 if through else 2]
        right += answer.get(name) == found
    return f"{right} of 3 correct."


@exercise
def check_02_3(answer: Callable[[Any, Any, Any], Any]) -> str:
    rng = np.random.default_rng(103)
    x, g = rng.standard_normal((2, 1, 9))
    x += 0.5
    for name, p in {"L1": 1, "L2": 2, "L3": 3, "L∞": math.inf, "Top-3": TopK(3)}.items():
        got = _of(answer, g, x, p)
        c = lpnorm.gaussian_constant(p, x.size)
        wanted = slopes(
            lambda rows, p=p, c=c: (g * rows / c / _statistic(rows, p)[:, None]).sum(axis=1), x
        )
        if np.shape(got) != x.shape or abs(got - wanted).max() > 1e-6:
            return f"not yet; for {name} your gradient differs from finite differences."
    return (
        "correct. Laws 2 (as <dx, x> = 0) and 3 remain. Law 1 is gone: adding a number to all x "
        "does change the output now."
    )


# ---- 03: scale invariance ------------------------------------------------------------------------


@exercise
def check_03_1(answer: tuple[float, float]) -> str:
    length, step = (float(value) for value in answer)
    if abs(length - 0.25) > 1e-9:
        return "not yet: |w|^4 grows by the same amount in every step."
    if abs(step + 0.5) > 1e-9:
        return "the length is right. The effective step size is lr / |w|^2."
    return "correct: |w| as t^(1/4), lr / |w|^2 as t^(-1/2), a schedule nobody asked for."


@exercise
def check_03_2(answer: tuple[str, float]) -> str:
    argument, scale = answer
    if argument != "eps":
        return "not yet: what is added to s does not grow with the weights."
    digits, losses = data.digits("float64"), []
    for a in (1.0, float(scale)):
        model = models.digits_net(
            lambda channels: nn.BatchNorm(channels, eps=0.0), rng=0, dtype="float64"
        )
        scaled = [p for p, _ in nn.scale_invariant(model)]
        for p in scaled:
            p.data = a * p.data
        groups = [{"params": scaled, "lr": 0.1 * a * a}]
        groups += [{"params": [p for p in model.parameters() if not any(p is q for q in scaled)]}]
        sgd, found = decay.SGD(groups, lr=0.1), []
        for _ in range(4):
            sgd.zero_grad()
            logits, backward = model(digits.train_x[:64], train=True)
            loss, dlogits = nn.softmax_cross_entropy(logits, digits.train_y[:64])
            backward(dlogits)
            sgd.step()
            found.append(float(loss))
        losses.append(found)
    if scale in (1, 4):
        return "another scale than 1 and 4, please."
    if losses[0] == losses[1]:
        return f"correct: with eps = 0 and the scale {scale:g} four losses have the same bits."
    return f"eps it is; but with the scale {scale:g} the losses differ in the last bits."


@exercise
def check_03_3(answer: tuple[bool, bool]) -> str:
    one, every = (bool(value) for value in answer)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((8, 5)), rng.standard_normal((6, 5))
    other = w.copy()
    other[0] *= 3.7
    plain, some, all_ = (
        lpnorm.layer_norm(x @ v.T, None, None, eps=0.0)[0] for v in (w, other, 3.7 * w)
    )
    truth = (not np.allclose(plain, some), not np.allclose(plain, all_))
    if (one, every) != truth:
        return "not yet: what does a layer norm divide by, and whose values are in it?"
    return "correct: under layer norm the laws hold for the whole matrix as one weight."


# ---- 04: one knob --------------------------------------------------------------------------------


def _with_momentum(lr: float, weight_decay: float) -> dict[str, float]:
    """How far the directions are from those with decay on average, momentum 0.9 (degrees)."""
    rng = np.random.default_rng(3)
    start, noise = rng.standard_normal((4, 6)), rng.standard_normal((200, 4, 6))
    target = rng.standard_normal((4, 6))

    def walk(step_scale: Any, wd: float, trace: Any = None) -> tuple[list[np.ndarray], Any]:
        p, path = nn.Parameter(start.copy(), "w"), []
        p.invariant_axis = 0
        scale = step_scale(trace, [(p, 0)]) if step_scale else None
        sgd = decay.SGD([p], lr, 0.9, weight_decay=wd, step_scale=scale)
        kept = decay.NormTrace([(p, 0)], sgd) if trace is None else None
        for t in range(200):
            size = np.linalg.norm(p.data, axis=1, keepdims=True)
            along = p.data / size
            g = noise[t] - target
            if kept is not None:
                kept.record()
            p.grad = (g - (g * along).sum(axis=1, keepdims=True) * along) / size
            sgd.step()
            path.append(p.data / np.linalg.norm(p.data, axis=1, keepdims=True))
        return path, kept

    right, trace = walk(None, weight_decay)
    found = {}
    for name, more in (("(4)", {}), ("(4.3)", {"exact": True}), ("gradient", {"on": "gradient"})):
        path, _ = walk(
            lambda t, pairs, more=more: decay.StepSizeCorrection(t, pairs, **more), 0.0, trace
        )
        cosines = [np.clip((a * b).sum(axis=1), -1, 1) for a, b in zip(right, path, strict=True)]
        found[name] = float(np.degrees(np.arccos(cosines)).mean())
    return found


@exercise
def check_04_1(answer: str) -> str:
    found = _with_momentum(0.1, 0.01)
    if answer not in found:
        return f"one of {', '.join(map(repr, found))}, please."
    said = ", ".join(f"{name} {value:.2g}" for name, value in found.items())
    best = min(found, key=lambda name: found[name])
    if answer != best:
        return (
            f"not yet: in a walk of ours (lr 0.1, decay 0.01) the mean angles are {said} degrees."
        )
    return f"correct: {said} degrees here (lr 0.1, decay 0.01). None is exact."


@exercise
def check_04_2(settled: Callable[[float, float, float, float], Any]) -> str:
    for lr, wd, momentum in ((0.1, 0.1, 0.0), (0.1, 0.1, 0.9), (0.3, 0.1, 0.5)):
        got, rng, size = float(_of(settled, lr, wd, momentum, 299.0)), np.random.default_rng(0), 300
        w = rng.standard_normal((16, size))
        p = nn.Parameter(got * w / np.linalg.norm(w, axis=1, keepdims=True), "w")
        sgd, lengths = decay.SGD([p], lr, momentum, weight_decay=wd, decoupled=True), []
        for _ in range(800):
            length = np.linalg.norm(p.data, axis=1, keepdims=True)
            noise = rng.standard_normal(p.data.shape)
            noise -= (noise * p.data).sum(axis=1, keepdims=True) * p.data / length**2
            p.grad = noise / length
            sgd.step()
            lengths.append(length.mean())
        measured = float(np.mean(lengths[-200:]))
        if abs(got / measured - 1) > 0.02:
            return (
                f"not yet: lr {lr}, decay {wd}, momentum {momentum} settles at {measured:.3f}, "
                f"yours is {got:.3f}."
            )
    return "correct: for small lr decay (1 - momentum)^(-1/4) times as long as with coupled decay."


@exercise
def check_04_3(names: Any) -> str:
    model = models.digits_net()
    last = len(model) - 1
    want = {p.name for p in model.parameters() if p.name.startswith(f"{last}.")}
    if set(names) != want:
        return "not yet: which parameters have no normalizer behind them?"
    return (
        "correct: the last layer is not scale-invariant, so decay acts on the function there; "
        "without it the arms would differ in more than the step size."
    )


# ---- 05: L1, L-infinity and Top-k ----------------------------------------------------------------


@exercise
def check_05_1(k: int) -> str:
    def apart(k: int) -> float:
        return abs(
            lpnorm.gaussian_constant(TopK(k), 1024)
            - lpnorm.gaussian_constant(TopK(k), 1024, "exact")
        )

    if int(k) != k or not 1 <= k <= 1024:
        return "k is a whole number from 1 to 1,024."
    if apart(int(k)) <= min(apart(max(1, k - 1)), apart(min(1024, k + 1))):
        return "correct. Above this k the paper's constant makes the scale too small."
    right = lpnorm.gaussian_constant(TopK(int(k)), 1024, "exact")
    which = "small" if right < lpnorm.gaussian_constant(TopK(1), 1024) else "large"
    return f"not yet: your k is too {which}."


@exercise
def check_05_2(train: Callable[[tuple[float, ...], int], Any]) -> str:
    one = np.asarray(_of(train, (1.0, 1.0, 1.0), 20))
    other = np.asarray(_of(train, (0.25, 0.25, 1.0), 20))
    if one.shape != (20,):
        return f"train should return the losses of 20 steps, yours has shape {one.shape}."
    model = models.digits_net(
        Run(norm="1", factor=(1.0,) * 3).normalization(eps=0.0), rng=0, dtype="float64"
    )
    digits = data.digits("float64")
    logits, _ = model(digits.train_x[:64], train=True)
    first, _ = nn.softmax_cross_entropy(logits, digits.train_y[:64])
    if abs(one[0] - first) > 1e-12:
        return f"the first loss should be {first:.6f}, yours is {one[0]:.6f}: the same network?"
    if not one[-1] < 0.2 * one[0]:
        return f"after 20 steps the loss should be far below {one[0]:.2f}; yours is {one[-1]:.2f}."
    if np.array_equal(one, other):
        return "correct: twenty steps, the same bits."
    return f"not yet: the losses differ by {abs(one - other).max():.1e}. Does beta stay as it is?"


@exercise
def check_05_3(found: Any) -> str:
    if wrong := _shape(found, (20, 16)):
        return wrong
    convolution, digits = models.digits_net()[0], data.digits()
    for i in range(20):
        a, _ = convolution(digits.train_x[64 * i : 64 * i + 64], train=True)
        size = abs(a - a.mean(axis=(0, 2, 3), keepdims=True)).max(axis=(2, 3))
        if not np.array_equal(size.argmax(axis=0), np.asarray(found)[i]):
            return f"not yet: batch {i} has {size.argmax(axis=0).tolist()}."
    pictures = len({(i, j) for i in range(20) for j in np.asarray(found)[i].tolist()})
    return (
        f"correct. {pictures} of 1,280 pictures decide all 320 scales: these few get nearly all of "
        "the gradient that comes through s, the others none of it."
    )


# ---- 06: float16 ---------------------------------------------------------------------------------


@exercise
def check_06_1(answer: tuple[float, float, float, int]) -> str:
    names = ("u", "the largest number", "the smallest normal number", "the n at which it stalls")
    want = (2.0**-8, (2 - 2.0**-7) * 2.0**127, 2.0**-126, 256)
    wrong = [
        name
        for name, got, right in zip(names, answer, want, strict=True)
        if abs(got / right - 1) > 1e-3
    ]
    if wrong:
        return f"not yet: {', '.join(wrong)}."
    return "correct: squares fit from 1e-19 to 1e19, so L2 holds; but a sum of ones stalls at 256."


@exercise
def check_06_2(kahan: Callable[[Any], Any]) -> str:
    got = _of(kahan, np.full(20_000, 0.1, "float16"))
    if np.asarray(got).dtype != np.float16:
        return f"every operation in float16: the result is {np.asarray(got).dtype}."
    exact = 20_000 * float(np.float16(0.1))
    if abs(float(got) - exact) > 2:  # a step of float16 there is 1
        return f"not yet: 20,000 times 0.1 gives {float(got):g}, {exact:.1f} is right."
    with np.errstate(over="ignore", invalid="ignore"):
        large = float(kahan(np.ones(70_000, "float16")))
    end = "infinity or NaN" if not np.isfinite(large) else f"{large:g}"
    return f"correct: no stall. 70,000 ones give {end}: the range is what it was."


@exercise
def check_06_3(one_k_for_all: bool) -> str:
    if bool(one_k_for_all):
        return "not yet: at a large input scale dx is large already, at a small one it is lost."
    return "correct: a factor moves both ends; LossScale(dynamic=True) looks for one that fits now."


# ---- 07: weight norm -----------------------------------------------------------------------------


@exercise
def check_07_1(backward: Callable[[Any, Any, Any], Any]) -> str:
    rng = np.random.default_rng(0)
    v, dw, g = rng.standard_normal((3, 5)), rng.standard_normal((3, 5)), rng.uniform(0.5, 2, 3)
    v[0, 2] = v[1, 4] = 0
    got = _of(backward, dw, v, g)
    if wrong := _shape(got, v.shape):
        return wrong
    _, cache = lpnorm.weight_norm(v, g, p=1)
    want, _ = lpnorm.weight_norm_backward(dw, cache)
    off = np.argwhere(abs(got - want) > 1e-9)
    if off.size:
        at_zero = " (there v is 0)" if v[tuple(off[0])] == 0 else ""
        return f"not yet: dv{off[0].tolist()} is wrong{at_zero}."
    return "correct: at v_j = 0 the second term vanishes and dv_j = g dw_j / S."


@exercise
def check_07_2(answer: tuple[float, float]) -> str:
    output, gradient = (float(value) for value in answer)
    if (output, gradient) == (1.0, 1.0):
        return "correct: batch norm undoes rho, and the gradient of w has 1/rho where dv has rho."
    return "not yet: double weight_rho, with eps=0.0 in the batch norm, and compare."


@exercise
def check_07_3(answer: tuple[bool, bool]) -> str:
    if tuple(bool(value) for value in answer) == (False, True):
        return "correct: equation (1) keeps the function; the step size lr / |v|^2 stays large."
    return "not yet: w depends on the direction of v alone, (1); a step of v does not."


# ---- 08: is my implementation right? -------------------------------------------------------------


@exercise
def check_08_1(answer: tuple[Any, Any]) -> str:
    pair, x = answer
    report = verify.check(pair, p=1)
    if not report.ok:
        return f"not yet: the judge says {report.diagnoses[0]}."
    rng = np.random.default_rng(0)
    channels = np.shape(x)[1]
    gamma, beta = rng.standard_normal((2, channels))
    want, _ = lpnorm.batch_norm(x, gamma, beta, p=1, eps=1e-5)
    if np.allclose(pair[0](x, gamma, beta, 1e-5)[0], want, rtol=1e-6, atol=1e-9):
        return "not yet: for your x the output is right."
    return "correct: it passes and is wrong. If a user could run into it, it is worth an issue."


@exercise
def check_08_2(pair: Any) -> str:
    report = verify.check(pair, p=math.inf)
    if not report.ok:
        return f"not yet: {report.diagnoses[0]}."
    if "first" not in report.verdict:
        return f"it is correct, but not the first of the tied values gets it: {report.verdict}."
    return f"the verdict is: {report.verdict.split(';')[-1].strip()}. Any share is a subgradient."


@exercise
def check_08_3(pair: Any) -> str:
    report = verify.check(pair, p=1)
    if report.ok:
        return "it is judged correct: plant two mistakes."
    if "; and " not in report.diagnoses[0] and len(report.diagnoses) < 2:
        return f"one is named: {report.diagnoses[0]}."
    return "correct: both are named, each by what it changes alone."
