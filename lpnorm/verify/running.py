"""Training against evaluation mode: running statistics over several batches, of torch modules.

What a buffer holds and what momentum means are conventions: each buffer is compared, batch after
batch, with every quantity it may hold and both meanings of momentum,

    new = old + f (batch - old),        f = momentum, 1 - momentum, or 1 / (batches so far),

and evaluation with every way to turn what it holds into a scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from lpnorm.norms import as_norm
from lpnorm.verify import cases
from lpnorm.verify.bounds import with_eps
from lpnorm.verify.candidates import Raised, TorchModule, theirs
from lpnorm.verify.report import Check
from lpnorm.verify.variants import FLOAT64

if TYPE_CHECKING:
    from lpnorm.verify.norm_checks import NormChecks

Array = np.ndarray
HOLDS = {  # quantity: (what was asked for as `running`, in words)
    "scale": ("scale", "the scale, eps included"),
    "deviation": ("scale", "the scale without eps"),
    "statistic": ("scale", "the statistic without the Gaussian constant C"),
    "unbiased deviation": ("scale", "the unbiased standard deviation"),
    "variance": ("variance", "the biased variance (the square of the scale without eps)"),
    "unbiased variance": ("variance", "the unbiased variance"),
    "variance with eps": ("variance", "the variance plus eps"),
    "squared scale": ("variance", "the square of the scale, eps included"),
    "reciprocal": ("reciprocal", "the reciprocal of the scale, averaged as a reciprocal"),
    "plain reciprocal": ("reciprocal", "the reciprocal of the scale without eps"),
}
WHY = "evaluation must use averages that were collected in training, in one convention throughout"
BATCHES = 4
NOT_FOLLOWED = "no buffer was recognised as a scale, so evaluation cannot be followed"
NOTHING_KNOWN = "evaluation mode gives something else than gamma (x - mean) / scale + beta"


def checks(judge: NormChecks) -> Iterator[Check]:
    """Running statistics, and evaluation with them; nothing for what has no buffers."""
    candidate = judge.candidate
    if not isinstance(candidate, TorchModule) or judge.layer != "batch_norm":
        return
    try:
        yield from _Modes(judge, candidate).checks()
    except Raised as error:
        words = f"it raised {error}"
        yield Check("running statistics", "failed", WHY, words, words)


class _Modes:
    def __init__(self, judge: NormChecks, candidate: TorchModule) -> None:
        self.judge, self.candidate = judge, candidate
        self.layout, self.dtype = judge.layouts[0], judge.dtype
        self.u = float(np.finfo(self.dtype).eps) / 2
        case = self.batch(0)
        self.gamma, self.beta = case.gamma, case.beta
        self.module = candidate.fresh(case.gamma, self.dtype)
        candidate.set(self.module, case.gamma, case.beta)
        self.names = [
            name
            for name, b in self.tensors().items()
            if b.numel() == judge.groups and b.is_floating_point()
        ]

    def tensors(self) -> dict[str, Any]:
        """The module's buffers, and tensors that it holds as plain attributes, by name."""
        import torch

        found = dict(self.module.named_buffers())
        for path, module in self.module.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
                    found[f"{path}.{name}" if path else name] = value
        return found

    def batch(self, i: int) -> cases.Case:
        n = max(8, cases.least(self.judge.p))
        rows = cases.gaps(n, self.judge.groups, seed=i) * 2.0 ** (i % 3) + i
        eps = self.judge.conventions.eps or self.judge.eps(self.dtype)
        return cases.build("running", WHY, rows, self.layout, self.dtype, eps)

    def forward(self, x: Array) -> Array:
        import torch

        given = torch.from_numpy(np.array(x)).requires_grad_(True)  # as behind another layer
        with theirs():
            return np.array(self.module(given).detach().numpy(), "float64")

    def buffers(self) -> dict[str, Array]:
        named = self.tensors()
        with theirs():
            return {q: np.array(named[q].detach().numpy(), "float64").ravel() for q in self.names}

    def attached(self) -> list[str]:
        named = self.tensors()
        return [name for name in self.names if named[name].requires_grad]

    def lost(self) -> Iterator[Check]:
        """Statistics that are no buffers; what one value a channel leaves in them."""
        plain = [name for name in self.names if name not in dict(self.module.named_buffers())]
        if plain:
            words = f"{' and '.join(plain)}: no buffer, so state_dict() and .to() leave it out"
            yield Check("statistics are buffers", "limited", WHY, words, words)
        shape = [1] * self.layout.ndim
        shape[self.layout.axis % self.layout.ndim] = self.judge.groups
        before = self.buffers()
        try:
            self.forward(np.ones(shape, self.dtype))
        except Raised:
            return  # it refuses, as it may
        names = [q for q, v in self.buffers().items() if not np.all(np.isfinite(v))]
        names = [q for q in names if np.all(np.isfinite(before[q]))]
        if names:
            words = f"one value a channel (n = 1) makes {' and '.join(names)} NaN for good"
            yield Check("statistics after n = 1", "limited", WHY, words, words)

    def quantities(self, x: Array) -> dict[str, Array]:
        """What a buffer may hold of this batch, one number a channel."""
        rows = self.layout.rows(x.astype("float64"))
        n, conventions = rows.shape[1], self.judge.conventions
        eps = 0.0 if conventions.place == "none" else self.eps
        d = rows - rows.mean(axis=1, keepdims=True)
        phi = as_norm(self.judge.p).statistic(d, FLOAT64)
        c = conventions.c(n)
        s = with_eps(phi, self.judge.p, eps, c, conventions.eps_place)[0][:, 0]
        plain = c * phi[:, 0]
        more = n / (n - 1)
        return {
            "mean": rows.mean(axis=1),
            "scale": s,
            "deviation": plain,
            "unbiased deviation": plain * math.sqrt(more),
            "variance": plain**2,
            "unbiased variance": plain**2 * more,
            "variance with eps": plain**2 + eps,
            "squared scale": s**2,
            "reciprocal": 1 / s,
            "plain reciprocal": 1 / plain,
            "statistic": phi[:, 0],
        }

    @property
    def eps(self) -> float:
        return self.judge.conventions.eps or self.judge.eps(self.dtype)

    # ---- the checks ----

    def checks(self) -> Iterator[Check]:
        self._uninitialised()
        if not self.names:
            self.judge.report.notes.append("it has no running statistics")
            return
        seen, batches = [self.buffers()], []
        for i in range(1, BATCHES + 1):
            x = self.batch(i).x
            self.forward(x)
            batches.append(self.quantities(x))
            seen.append(self.buffers())
        if names := " and ".join(self.attached()):
            words = (
                f"{names}: not detached from the graph, so every batch keeps all those before it "
                "in memory"
            )
            yield Check("running statistics, detached", "failed", WHY, words, words)
        held: dict[str, tuple[str, str]] = {}
        for name in self.names:
            found = self._recognise([b[name] for b in seen], batches)
            if isinstance(found, str):
                words, known = f"{name} {found}", self.judge.values_wrong
                yield Check(
                    f"running statistics, {name}", "failed", WHY, words, words, general=known
                )
                continue
            held[name] = found
        yield from self._said(held, seen[0])
        yield from self._evaluation(held, seen[-1], len(held) < len(self.names))
        self.module.train()
        yield from self.lost()

    def _uninitialised(self) -> None:
        """torch can fill memory that nobody set with NaN: then what was left as it was shows."""
        import torch

        before = torch.are_deterministic_algorithms_enabled()
        warn = torch.is_deterministic_algorithms_warn_only_enabled()
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            module = self.candidate.fresh(self.gamma, self.dtype)
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn)
        names = [q for q, a in module.named_parameters() if bool(torch.isnan(a).any())]
        if names:
            self.judge.report.conventions.append(
                f"{' and '.join(names)}: uninitialised memory until somebody sets it"
            )

    def _recognise(self, values: list[Array], batches: list[dict[str, Array]]) -> Any:
        """(quantity, meaning of momentum), or in words what is wrong."""
        momentum = getattr(self.module, "momentum", None)
        known = isinstance(momentum, (int, float)) and not isinstance(momentum, bool)
        meanings: list[tuple[str, Any]] = []
        if known:
            meanings = [("new", lambda t: momentum), ("kept", lambda t: 1 - float(momentum or 0))]
        meanings.append(("cumulative", lambda t: 1 / t))
        # where the steps do not have one size, take it from the first one
        n, quantities = max(8, cases.least(self.judge.p)), list(batches[0])
        follows = [
            (self._off(values, [b[quantity] for b in batches], f, n), quantity, meaning)
            for quantity in quantities
            for meaning, f in meanings
        ]
        nearest = min(off for off, _, _ in follows)
        if nearest <= 1:  # in float16 several fit: the first that is about as near as the nearest
            near = (each for each in follows if each[0] <= max(2 * nearest, 0.02))
            return next((quantity, meaning) for _, quantity, meaning in near)
        if all(np.array_equal(v, values[0]) for v in values):
            return "is never updated in training"
        if all(np.array_equal(v, values[1]) for v in values[1:]):
            return "is updated by the first batch only"
        for quantity in quantities:
            if all(np.allclose(v, b[quantity]) for v, b in zip(values[1:], batches, strict=True)):
                return f"is not averaged: it holds the last batch's {quantity}"
        c = self.judge.conventions.c(n)
        if known and c != 1:
            steps = zip(values, values[1:], batches, strict=False)
            f = float(momentum or 0)
            moved = [(o + f * (b["statistic"] - o), w) for o, w, b in steps]
            if all(np.allclose(c * a, w) for a, w in moved):
                return "is multiplied by C at every batch, the old average with it"
            if all(np.allclose(a, w, rtol=1e-4) for a, w in moved):
                return "averages the statistic without the Gaussian constant C"
        for quantity in quantities:
            first = batches[0][quantity] - values[0]
            with np.errstate(all="ignore"):
                f0 = float(np.median((values[1] - values[0]) / first))
            of = [b[quantity] for b in batches]
            if 0 < f0 < 1 and self._off(values, of, lambda t, f0=f0: f0, n) <= 1:
                if not known:
                    return quantity, f"new share {f0:.4g}"
                words = f"a new batch has the share {f0:.4g} in it: momentum is {momentum:g}"
                return f"is averaged with another momentum: {words}"
        for quantity in quantities:
            total = values[0] + np.cumsum([b[quantity] * (momentum or 1) for b in batches], axis=0)
            if np.allclose(total, values[1:]):
                return f"only adds up: the old {quantity} is not faded out"
        return "is no running average of the mean, variance, scale or reciprocal scale"

    def _off(self, values: list[Array], of: list[Array], f: Any, n: int) -> float:
        """How far from this average, as a fraction of what rounding explains."""
        worst = 0.0
        for t, (old, new, batch) in enumerate(zip(values, values[1:], of, strict=False), 1):
            slack = 4 * (n + 16) * self.u * (abs(old) + abs(batch) * 8 + 1)
            off = abs(old + f(t) * (batch - old) - new) / slack
            worst = max(worst, float(np.max(np.where(np.isnan(off), np.inf, off))))
        return worst

    def _said(self, held: dict[str, tuple[str, str]], first: dict[str, Array]) -> Iterator[Check]:
        judge = self.judge
        said, meanings = judge.report.conventions, {m for _, m in held.values()}
        if len(meanings) > 1:
            words = "the running statistics use momentum in different ways: " + ", ".join(
                f"{name} {meaning}" for name, (_, meaning) in held.items()
            )
            yield Check("running statistics", "failed", WHY, words, words)
            return
        for name, (quantity, _) in held.items():
            asked = judge.settings.running
            kind, words = HOLDS.get(quantity, ("mean", "the mean"))
            if self.judge.conventions.place == "none":
                words = words.removesuffix(", eps included")
            if asked is not None and kind not in (asked, "mean"):
                text = f"{name} holds {words}; {asked} was asked for"
                yield Check(f"running statistics, {name}", "failed", WHY, text, text)
                continue
            if quantity not in ("mean", "scale") or (quantity == "scale" and "var" in name):
                said.append(f"{name} holds {words}")
            start = 0.0 if quantity == "mean" else 1.0
            if not np.all(first[name] == start):
                said.append(f"{name} starts at {first[name][0]:g}")
            yield Check(f"running statistics, {name}", "passed", WHY, f"holds {words}")
        for meaning in meanings:
            momentum = getattr(self.module, "momentum", None)
            text = {
                "kept": f"momentum = {momentum} is the share of the old value that is kept "
                f"(PyTorch's is the share of the new batch)",
                "cumulative": "running statistics are plain averages over all batches",
                "new": "",
            }.get(meaning, f"running statistics take a {meaning} of each batch")
            if judge.settings.momentum is not None and judge.settings.momentum != meaning:
                text = f"momentum is reversed: {text or 'it is the share of the new batch'}"
                yield Check("momentum", "failed", WHY, text, text)
            elif text:
                said.append(text)

    def _evaluation(
        self, held: dict[str, tuple[str, str]], now: dict[str, Array], unknown: bool
    ) -> Iterator[Check]:
        self.module.eval()
        case = self.batch(9)
        y, again = self.forward(case.x), self.forward(case.x)
        name, why = "evaluation mode", "in evaluation the stored statistics normalize, nothing else"
        changed = [q for q, v in self.buffers().items() if not np.array_equal(v, now[q])]
        if changed:
            words = f"evaluation changes {', '.join(changed)}"
            yield Check("evaluation leaves statistics", "failed", why, words, words)
            if not np.array_equal(y, again):
                return  # nothing to compare with
        if not np.array_equal(y, again):
            words = "two evaluations of the same x differ"
            yield Check("evaluation twice", "failed", why, words, words)
        mean = next((q for q, (what, _) in held.items() if what == "mean"), None)
        spread = next((q for q, (what, _) in held.items() if what != "mean"), None)
        mu = now[mean] if mean else np.zeros(self.judge.groups)
        options = self._scales(now[spread], held[spread][0]) if spread else {}
        for right, (words, s) in options.items():
            if self._close(y, self._y(case.x, mu, s), s, mu):
                if words:
                    self.judge.report.conventions.append(words)
                yield Check(name, "passed", why, f"y = gamma (x - mean) / {right} + beta")
                yield from self._alone(case.x, y)
                yield from self._gradient(case, s)
                return
        quantity = held[spread][0] if spread else ""
        words = self._what_it_does(case.x, y, mu, now, spread, quantity)
        if unknown and words in (NOT_FOLLOWED, NOTHING_KNOWN):
            return  # the buffer was named above
        yield Check(name, "failed", why, words, words, "y = gamma (x - mean) / scale + beta")

    def _scales(self, r: Array, quantity: str) -> dict[str, tuple[str, Array]]:
        """How what is held may become a scale: formula, and the convention in words."""
        eps, place = self.eps, self.judge.conventions.eps_place
        eps = 0.0 if self.judge.conventions.place == "none" else eps
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
        if not self.candidate.affine:
            wide[0], wide[1] = np.ones_like(wide[0]), np.zeros_like(wide[1])
        with np.errstate(all="ignore"):
            return np.asarray(wide[0] * (x.astype("float64") - wide[2]) / wide[3] + wide[1])

    def _close(self, y: Array, want: Array, s: Array, mu: Array) -> bool:
        """Each of a dozen operations rounds; x, mean and beta may cancel."""
        size = 16 * self.u * (4 + (abs(y).max() + (32 + abs(mu).max()) / abs(s).min() * 2))
        return bool(np.all(abs(y - want) <= 4 * size))

    def _what_it_does(
        self, x: Array, y: Array, mu: Array, now: Any, spread: str | None, quantity: str
    ) -> str:
        batch = self.quantities(x)
        zero = np.zeros_like(mu)
        if self._close(y, self._y(x, batch["mean"], batch["scale"]), batch["scale"], mu):
            return "evaluation mode uses the statistics of the batch"
        for what in ("scale", "deviation"):
            if self._close(y, self._y(x, mu, batch[what]), batch[what], mu):
                return "evaluation mode uses the scale of the batch"
        if spread is None:
            return NOT_FOLLOWED
        r, eps = now[spread], self.eps
        ways = {
            f"{spread} itself": r,
            f"{spread} without eps": np.sqrt(r),
            f"1 / {spread}": 1 / r,
            f"sqrt({spread} + eps)": np.sqrt(r + eps),
            f"{spread} squared": r * r,
            f"{spread} + eps": r + eps,
        }
        ones, zeros = np.ones_like(self.gamma), np.zeros_like(self.beta)
        for _, s in self._scales(r, quantity).values():
            if self._close(y, self._y(x, mu, s, ones, zeros), s, mu):
                return "evaluation mode forgets gamma and beta"
        for words, s in ways.items():
            if self._close(y, self._y(x, mu, s), s, mu):
                return f"evaluation mode divides by {words}, which is not what it holds"
            if self._close(y, self._y(x, zero, s), s, mu):
                return "evaluation mode does not subtract the running mean"
        if self._close(y, self._y(x, batch["mean"], np.sqrt(r + eps)), np.sqrt(r), mu):
            return "evaluation mode subtracts the mean of the batch"
        return NOTHING_KNOWN

    def _gradient(self, case: cases.Case, s: Array) -> Iterator[Check]:
        """In evaluation mean and scale are constants."""
        import torch

        why = "in evaluation mean and scale are constants: dx = gamma dy / scale"
        given = torch.from_numpy(np.array(case.x)).requires_grad_(True)
        dy = torch.from_numpy(np.array(case.dy))
        try:
            with theirs():
                y = self.module(given)
                (dx,) = torch.autograd.grad(y, [given], dy.to(y.dtype))
        except Raised as error:
            words = f"there is no gradient in evaluation mode ({error})"
            yield Check("gradient in evaluation", "limited", why, words, words)
            return
        got = np.array(dx.numpy(), "float64")
        gamma = np.asarray(self.gamma, "float64") if self.candidate.affine else np.ones_like(s)
        want, bare = self._scaled(case.dy, gamma / s), self._scaled(case.dy, 1 / s)

        def close(want: Array) -> bool:
            """s, its reciprocal and the products round a dozen times, at most."""
            return bool(np.all(abs(got - want) <= 24 * self.u * abs(want)))

        if close(want):
            yield Check("gradient in evaluation", "passed", why, "it is")
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
        yield Check("gradient in evaluation", "failed", why, words, words, "dx = gamma dy / scale")

    def _scaled(self, dy: Array, factor: Array) -> Array:
        wide = self.layout.wide(np.asarray(factor, "float64"), dy.shape)
        return np.asarray(dy.astype("float64") * wide)

    def _alone(self, x: Array, y: Array) -> Iterator[Check]:
        why = "in evaluation a sample's result must not depend on the others in its batch"
        alone = self.forward(x[:1])
        ok = np.all(abs(alone - y[:1]) <= 64 * self.u * (1 + abs(y[:1])))
        words = "" if ok else "a sample evaluated alone gives something else"
        status = "passed" if ok else "failed"
        yield Check("evaluation, one sample", status, why, words or "the same", words)
