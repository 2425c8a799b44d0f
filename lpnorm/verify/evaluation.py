"""Evaluation mode: what a layer does with its running statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lpnorm.verify import cases, chosen
from lpnorm.verify.candidates.common import Raised
from lpnorm.verify.report import Check

Array = np.ndarray
NOT_FOLLOWED = "no statistic was recognised as a scale, so evaluation cannot be followed"
NOTHING_KNOWN = "evaluation mode gives something else than gamma (x - mean) / scale + beta"


def checks(
    training: Any, held: Mapping[str, Any], now: Mapping[str, Array], unknown: bool
) -> Iterator[Check]:
    """held: what each statistic holds (`running.Held`); now: their values after training; unknown:
    one of them was not recognised."""
    yield from _Evaluation(training, held, now).checks(unknown)


class _Evaluation:
    def __init__(self, training: Any, held: Mapping[str, Any], now: Mapping[str, Array]) -> None:
        self.of, self.held, self.now = training, held, now
        self.judge, self.layout, self.u = training.judge, training.layout, training.u
        self.eps = 0.0 if self.judge.conventions.place == "none" else training.eps
        affine, case = self.judge.candidate.affine, training.case
        self.gamma = np.asarray(case.gamma if affine else np.ones_like(case.gamma), "float64")
        shift = affine and self.judge.candidate.shift
        self.beta = np.asarray(case.beta if shift else np.zeros_like(case.beta), "float64")
        self.mean = next((q for q, h in held.items() if h.quantity == "mean"), None)
        self.spread = next((q for q, h in held.items() if h.quantity != "mean"), None)

    def evaluate(self, x: Array) -> Array:
        return np.asarray(self.of.model.forward(x, False)[0], "float64")

    def checks(self, unknown: bool) -> Iterator[Check]:
        case = self.of.batch(9)
        name, why = "evaluation mode", "in evaluation the stored statistics normalize, nothing else"
        y, again = self.evaluate(case.x), self.evaluate(case.x)
        changed = [q for q, v in self.of.held().items() if not np.array_equal(v, self.now[q])]
        if changed:
            words = f"evaluation changes {', '.join(changed)}"
            yield Check("evaluation leaves statistics", "failed", why, words, words)
        if not np.array_equal(y, again):
            words = "two evaluations of the same x differ"
            yield Check("evaluation twice", "failed", why, words, words)
            return
        for mu, r, corrected in self._values():
            for right, (words, s) in self._scales(r).items():
                if self._close(y, self._y(case.x, mu, s), s, mu):
                    said = [words] if words else []
                    if corrected:
                        said.append("in evaluation the averages are divided by 1 - (1 - m)^t")
                    self.judge.report.conventions += said
                    yield Check(name, "passed", why, f"y = gamma (x - mean) / {right} + beta")
                    yield from self._alone(case.x, y)
                    yield from self._gradient(case, s)
                    return
        words = self._what_it_does(case.x, y)
        if unknown and words in (NOT_FOLLOWED, NOTHING_KNOWN):
            return  # the statistic was named above
        yield Check(name, "failed", why, words, words, "y = gamma (x - mean) / scale + beta")

    def _values(self) -> Iterator[tuple[Array, Array, bool]]:
        """Mean and spread as they are held, and divided by the sum of their weights."""
        if self.spread is None:
            return
        mu = self.now[self.mean] if self.mean else np.zeros(self.judge.groups)
        r, f = self.now[self.spread], self.held[self.spread].f
        yield mu, r, False
        if f is not None and 0 < f < 1:
            weights = 1 - (1 - f) ** self.of.batches
            yield mu / weights, r / weights, True

    def _scales(self, r: Array) -> dict[str, tuple[str, Array]]:
        """How what is held may become a scale: formula, and the convention in words."""
        eps, place = self.eps, self.judge.conventions.eps_place
        quantity = self.held[self.spread].quantity if self.spread else ""
        if "variance" in quantity or quantity == "squared scale":
            if quantity in ("variance with eps", "squared scale"):
                return {"sqrt(r)": ("", np.sqrt(r))}
            other = "in evaluation eps is added outside the root"
            return {
                "sqrt(r + eps)": ("", np.sqrt(r + eps)),
                "(sqrt(r) + eps)": ("" if place == "added" else other, np.sqrt(r) + eps),
            }
        if "reciprocal" in quantity:
            return {"(1 / r)": ("", 1 / r), "(1 / r + eps)": ("", 1 / r + eps)}
        if quantity == "statistic":
            c = self.judge.conventions.c(max(8, cases.least(self.judge.p)))
            return {"(C r + eps)": ("", c * r + eps)}
        if quantity == "scale":
            return {"r": ("", r), "(r + eps)": ("in evaluation eps is added once more", r + eps)}
        return {
            "(r + eps)": ("", r + eps),
            "sqrt(r^2 + eps)": ("", np.sqrt(r * r + eps)),
            "r": ("in evaluation there is no eps", r),
        }

    def _y(self, x: Array, mu: Array, s: Array, *affine: Array) -> Array:
        """gamma (x - mu) / s + beta; affine: another gamma and beta."""
        gamma, beta = affine or (self.gamma, self.beta)
        wide = [self.layout.wide(np.asarray(a, "float64"), x.shape) for a in (gamma, beta, mu, s)]
        with np.errstate(all="ignore"):
            return np.asarray(wide[0] * (x.astype("float64") - wide[2]) / wide[3] + wide[1])

    def _close(self, y: Array, want: Array, s: Array, mu: Array) -> bool:
        """Each of a dozen operations rounds; x, mean and beta may cancel."""
        size = self.u * (4 + (abs(y).max() + (32 + abs(mu).max()) / abs(s).min() * 2))
        return bool(np.all(abs(y - want) <= chosen.EVALUATION * size))

    def _what_it_does(self, x: Array, y: Array) -> str:
        batch = self.of.quantities(x)
        mu = self.now[self.mean] if self.mean else np.zeros(self.judge.groups)
        zero = np.zeros_like(mu)
        if self._close(y, self._y(x, batch["mean"], batch["scale"]), batch["scale"], mu):
            return "evaluation mode uses the statistics of the batch"
        for what in ("scale", "deviation"):
            if self._close(y, self._y(x, mu, batch[what]), batch[what], mu):
                return "evaluation mode uses the scale of the batch"
        if self.spread is None:
            return NOT_FOLLOWED
        r, eps, name = self.now[self.spread], self.eps, self.spread
        ways = {
            f"{name} itself": r,
            f"{name} without eps": np.sqrt(r),
            f"1 / {name}": 1 / r,
            f"sqrt({name} + eps)": np.sqrt(r + eps),
            f"{name} squared": r * r,
            f"{name} + eps": r + eps,
        }
        ones, zeros = np.ones_like(self.gamma), np.zeros_like(self.beta)
        for _, s in self._scales(r).values():
            if self._close(y, self._y(x, mu, s, ones, zeros), s, mu):
                return "evaluation mode forgets gamma and beta"
        for words, s in ways.items():
            if self._close(y, self._y(x, mu, s), s, mu):
                return f"evaluation mode divides by {words}, which is not what it holds"
            if self._close(y, self._y(x, zero, s), s, mu):
                return "evaluation mode does not subtract the running mean"
        if self._close(y, self._y(x, batch["mean"], np.sqrt(r + eps)), np.sqrt(r), mu):
            return "evaluation mode subtracts the mean of the batch"
        return self._measured(x, y, mu, r) or NOTHING_KNOWN

    def _measured(self, x: Array, y: Array, mu: Array, r: Array) -> str:
        """y = gamma (x - mean) / s + beta gives the s of evaluation, a channel at a time."""
        rows = self.layout.rows(x.astype("float64"))
        y = self.layout.rows((y - self.layout.wide(self.beta, x.shape)) / self._wide_gamma(x))
        d = rows - rows.mean(axis=1, keepdims=True)
        s = (d * d).sum(axis=1) / (d * y).sum(axis=1)
        own = rows.mean(axis=1) - y.mean(axis=1) * s
        if abs(y - (rows - own[:, None]) / s[:, None]).max() > 1e4 * self.u * abs(y).max():
            return ""
        said = []
        if abs(own - mu).max() > 1e-3 * (abs(mu).max() + s.max()):
            said.append(f"subtracts {own[0]:.6g} where the running mean is {mu[0]:.6g}")
        for words, eps in (("inside the root", s**2 - r), ("added to the root", s - np.sqrt(r))):
            if np.ptp(eps) <= 1e-3 * abs(eps).max():
                said.append(f"divides with eps = {np.median(eps):.4g} {words}; eps is {self.eps:g}")
                break
        else:
            ratio = s / next(iter(self._scales(r).values()))[1]
            said.append(f"divides by {np.median(ratio):.6g} times the running scale")
        return "evaluation mode " + " and ".join(said)

    def _wide_gamma(self, x: Array) -> Array:
        return np.asarray(self.layout.wide(self.gamma, x.shape))

    def _gradient(self, case: cases.Case, s: Array) -> Iterator[Check]:
        """In evaluation mean and scale are constants."""
        why = "in evaluation mean and scale are constants: dx = gamma dy / scale"
        name = "gradient in evaluation"
        try:
            got, _ = self.of.model.forward(case.x, False)[1](case.dy)
        except Raised as error:
            words = f"there is no gradient in evaluation mode ({error})"
            yield Check(name, "limited", why, words, words)
            return
        if got is None or np.shape(got) != case.x.shape:
            return
        got = np.asarray(got, "float64")
        dy = case.dy.astype("float64")
        want = dy * self.layout.wide(self.gamma / s, dy.shape)
        bare = dy * self.layout.wide(1 / s, dy.shape)

        def close(want: Array) -> bool:
            """s, its reciprocal and the products round a dozen times, at most."""
            return bool(np.all(abs(got - want) <= chosen.EVALUATION_GRADIENT * self.u * abs(want)))

        if close(want):
            yield Check(name, "passed", why, "it is")
            return
        words = "the gradient in evaluation mode is not gamma dy / scale"
        rows = self.layout.rows(got)
        if close(bare):
            words = "the gradient in evaluation mode lacks gamma"
        elif np.all(abs(rows.sum(axis=1)) <= 1e-6 * abs(rows).sum(axis=1)):
            words = (
                "the gradient in evaluation mode is that of training: it goes through the batch's "
                "mean and scale, on which y does not depend then"
            )
        status = "failed"
        if self.of.model.by_hand:  # written for training, as most are
            status, words = "limited", f"{words}: its backward is for training alone"
        yield Check(name, status, why, words, words, "dx = gamma dy / scale")

    def _alone(self, x: Array, y: Array) -> Iterator[Check]:
        why = "in evaluation a sample's result must not depend on the others in its batch"
        alone = self.evaluate(x[:1])
        ok = np.all(abs(alone - y[:1]) <= chosen.EVALUATION * self.u * (1 + abs(y[:1])))
        words = "" if ok else "a sample evaluated alone gives something else"
        status = "passed" if ok else "failed"
        yield Check("evaluation, one sample", status, why, words or "the same", words)
