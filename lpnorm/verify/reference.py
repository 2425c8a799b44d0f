"""What a right candidate may give: the oracle's values, and how far from them rounding may lead.

`Conventions` says which of the accepted formulas is meant, `Arithmetic` how sums are taken.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from lpnorm.verify import oracle
from lpnorm.verify.bounds import normalize_bounds, with_eps
from lpnorm.verify.cases import Case, Outcome
from lpnorm.verify.chosen import FORMS
from lpnorm.verify.formula import gaussian, row_statistic

Array = np.ndarray


@dataclass(frozen=True)
class Conventions:
    """Which of the accepted formulas: where eps is, which constant; eps: a candidate's own.

    place: a name in `oracle.PLACES`, or "none"; constant: "paper", "exact", "later" (Range in the
    authors' later code), None, or a number that was measured.
    """

    p: Any
    place: str
    constant: str | float | None = "paper"
    eps: float | None = None
    single: bool = False  # eps was rounded to float32

    def c(self, n: int) -> float:
        if isinstance(self.constant, float):
            return self.constant
        return _constant(self.p, n, self.constant)

    def eps_of(self, case: Case) -> float:
        if self.place == "none":
            return 0.0
        eps = case.eps if self.eps is None else self.eps
        return float(np.float32(eps)) if self.single else eps

    @property
    def eps_place(self) -> str:
        return "added" if self.place == "none" else self.place


def _constant(p: Any, n: int, constant: str | None) -> float:
    if constant == "later":
        return 1.0 if n == 1 else 0.35 * gaussian(math.inf, n, "paper")
    return gaussian(p, n, constant)


def default_place(p: Any) -> str:
    return "root" if p == 2 else "added"


def constants(p: Any) -> list[str | None]:
    """The constants that are accepted for p, the usual first."""
    if p == 2:
        return ["paper"]  # all are 1
    if type(p).__name__ == "Range":
        return ["paper", "exact", None, "later"]
    order = p == math.inf or hasattr(p, "k")
    return ["paper", "exact", None] if order else ["paper", None]


def places(p: Any, constant: str | None) -> list[str]:
    """Where eps may be, the usual first; places that mean the same are listed once."""
    finite = isinstance(p, (int, float)) and math.isfinite(p)
    found = [default_place(p), *(["added"] if p == 2 else ["root"])]
    if finite and p not in (1, 2):
        found.append("moment")
    if p != 2 and constant is not None:
        found.append("statistic")
    return [*found, "floor", "none"]


@dataclass(frozen=True)
class Arithmetic:
    """How a candidate computes: the dtype of its sums, their order, and whether y = a x + b."""

    accumulate: str
    sequential: bool = False
    folded: bool = False


def arithmetics(dtype: str) -> list[Arithmetic]:
    """From the most exact to the least."""
    wide = ["float32", "float16"] if dtype == "float16" else [dtype]
    return [
        Arithmetic(each, order, folded)
        for each in wide
        for order in (False, True)
        for folded in (False, True)
    ]


@dataclass(frozen=True)
class _Probe:
    """A case as a key: equal where the numbers are."""

    digest: bytes
    case: Case = field(compare=False)


def _probe(case: Case) -> _Probe:
    digest = hashlib.blake2b(repr((case.layout, case.dtype, case.eps, case.x.shape)).encode())
    for a in case.arrays.values():
        digest.update(a.tobytes())
    return _Probe(digest.digest(), case)


def expected(case: Case, conventions: Conventions) -> Outcome:
    """The oracle's y, dx, dgamma, dbeta for a case; kept, for every candidate meets the same."""
    return _expected(_probe(case), conventions)


def limits(
    case: Case, want: Outcome, conventions: Conventions, arithmetic: Arithmetic
) -> dict[str, Array]:
    """`allowed`, kept where `want` is what `expected` gives."""
    probe = _probe(case)
    if want is not _expected(probe, conventions):
        return allowed(case, want, conventions, arithmetic)
    return _limits(probe, conventions, arithmetic)


@lru_cache(maxsize=2048)
def _limits(probe: _Probe, conventions: Conventions, arithmetic: Arithmetic) -> dict[str, Array]:
    want = _expected(probe, conventions)
    return allowed(probe.case, want, conventions, arithmetic)


@lru_cache(maxsize=512)
def _expected(probe: _Probe, conventions: Conventions) -> Outcome:
    case = probe.case
    backward = oracle.batch_norm_backward
    forward = oracle.batch_norm
    if case.layout.layer == "layer_norm":
        forward, backward = oracle.layer_norm, oracle.layer_norm_backward
    n = case.n
    axis = tuple(case.layout.reduced)
    settings = {
        "p": conventions.p,
        "axis": axis if case.layout.layer == "layer_norm" else case.layout.affine[0],
        "eps": conventions.eps_of(case),
        "constant": conventions.c(n),
        "place": conventions.eps_place,
    }
    y = forward(case.x, case.gamma, case.beta, **settings).y
    return Outcome(y, *backward(case.dy, case.x, case.gamma, case.beta, **settings))


def given(case: Case, conventions: Conventions) -> dict[str, Any]:
    """What `formula.NORM` starts from, in float64."""
    layout, shape = case.layout, case.x.shape
    measured = conventions.constant == "later" or isinstance(conventions.constant, float)
    return {
        "x": case.x.astype("float64"),
        "dy": case.dy.astype("float64"),
        "gamma": layout.wide(case.gamma.astype("float64"), shape),
        "beta": layout.wide(case.beta.astype("float64"), shape),
        "reduced": layout.reduced,
        "unaffine": tuple(a for a in range(len(shape)) if a not in layout.affine),
        "p": conventions.p,
        "k": getattr(conventions.p, "k", 1),
        "eps": conventions.eps_of(case),
        "place": conventions.eps_place,
        "constant": conventions.c(case.n) if measured else conventions.constant,
    }


def allowed(
    case: Case, want: Outcome, conventions: Conventions, arithmetic: Arithmetic
) -> dict[str, Array]:
    """The largest errors that rounding explains, in the shapes of the outputs."""
    layout, dtype = case.layout, case.dtype
    u = float(np.finfo(dtype).eps) / 2
    v = float(np.finfo(arithmetic.accumulate).eps) / 2
    tiny = float(np.finfo(dtype).smallest_subnormal)
    x, dy = (a.astype("float64") for a in (case.x, case.dy))
    gamma, beta = (layout.wide(a.astype("float64"), x.shape) for a in (case.gamma, case.beta))
    rows, n = layout.rows(x), layout.rows(x).shape[1]
    c, eps, place = conventions.c(n), conventions.eps_of(case), conventions.eps_place

    def bounds(g: Array, rounded: bool) -> Any:
        return normalize_bounds(
            rows,
            layout.rows(g),
            conventions.p,
            c,
            eps,
            dtype,
            arithmetic.accumulate,
            rounded,
            place=place,
            sequential=arithmetic.sequential,
        )

    with np.errstate(all="ignore"):
        of_dx, of_product = bounds(gamma * dy, True), bounds(dy, False)
        shape = x.shape
        e_x_hat = layout.array(of_dx.x_hat)
        x_hat_part = want.y - beta
        e_y = abs(gamma) * e_x_hat + u * (2 * abs(x_hat_part) + abs(want.y) + abs(beta)) + 2 * tiny
        if arithmetic.folded:
            mean = np.broadcast_to(rows.mean(axis=1, keepdims=True), rows.shape)
            size = layout.array((abs(rows) + abs(mean)) / scale(rows, conventions, eps))
            e_y = e_y + 2 * (u + v) * abs(gamma) * size
        count = math.prod(shape[a] for a in layout.reduced)
        if layout.layer == "layer_norm":
            count = x.size // count
        depth = count - 1 if arithmetic.sequential else math.ceil(math.log2(max(count, 2)))
        summed = tuple(a for a in range(x.ndim) if a not in layout.affine)
        x_hat = (rows - rows.mean(axis=1, keepdims=True)) / scale(rows, conventions, eps)
        product = abs(dy * layout.array(x_hat))  # not by gamma, which may be 0
        e_dgamma = layout.array(of_product.product).sum(axis=summed)
        e_dgamma = e_dgamma + depth * v * product.sum(axis=summed)
        e_dbeta = depth * v * abs(dy).sum(axis=summed)
        limits = {
            "y": e_y,
            "dx": layout.array(of_dx.dx),
            "dgamma": e_dgamma + u * abs(np.asarray(want.dgamma)) + tiny,
            "dbeta": e_dbeta + u * abs(np.asarray(want.dbeta)) + tiny,
        }
        return {name: FORMS * limit for name, limit in limits.items()}


def scale(rows: Array, conventions: Conventions, eps: float) -> Array:
    """What the deviations of each row are divided by, (groups, 1)."""
    d = rows - rows.mean(axis=1, keepdims=True)
    phi = row_statistic(d, conventions.p)
    c = conventions.c(rows.shape[1])
    s = with_eps(phi, conventions.p, eps, c, conventions.eps_place)[0]
    return np.asarray(np.maximum(s, 1e-300))


def overflows(case: Case, conventions: Conventions) -> dict[str, Array]:
    """Where 1 / s (y) or 1 / s^2 (gradients) is beyond the dtype, in the outputs' shapes; not y
    where all of a group is equal, for 0 / s is 0."""
    layout = case.layout
    if case.dtype != "float16":
        return {}
    rows = layout.rows(case.x.astype("float64"))
    s = np.broadcast_to(scale(rows, conventions, conventions.eps_of(case)), rows.shape)
    most = float(np.finfo(case.dtype).max) / 4
    with np.errstate(all="ignore"):
        varies = np.ptp(rows, axis=1, keepdims=True) > 0
        y, dx = layout.array((1 / s > most) & varies), layout.array(1 / s**2 > most)
    summed = tuple(a for a in range(case.x.ndim) if a not in layout.affine)
    return {"y": y, "dx": dx, "dgamma": np.asarray(dx.any(axis=summed))}
