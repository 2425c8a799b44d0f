"""Mechanical mutants: every change of one token in plain implementations, from their syntax trees.

`SOURCES` holds forward/backward pairs as text, one for each norm. `mutants()` yields each program
that differs from one of them in a single place, and never the same text twice:

- an operator of arithmetic or comparison becomes another one; either operand is dropped
- a number becomes a near one; True becomes False
- a function or method becomes a related one (mean, sum; max, min; ...) or is dropped, f(x) -> x
- a keyword argument is dropped (axis, keepdims)
- a name becomes another one that the function knows
- a right-hand side, an operand, or a returned value changes its sign

`equivalent(mutant)` says for which the result is nevertheless the same, and why.
"""

from __future__ import annotations

import ast
import copy
import itertools
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

_HEAD = """
def forward(x, gamma, beta, eps):
    axes = (0, 2, 3)[: x.ndim - 1]
    shape = (1, -1, 1, 1)[: x.ndim]
    mean = x.mean(axis=axes, keepdims=True)
    d = x - mean
"""
_TAIL = """
    x_hat = d / scale
    y = gamma.reshape(shape) * x_hat + beta.reshape(shape)
    return y, ({kept}x_hat, scale, gamma)


def backward(dy, cache):
    {kept}x_hat, scale, gamma = cache
    axes = (0, 2, 3)[: dy.ndim - 1]
    shape = (1, -1, 1, 1)[: dy.ndim]
    n = dy.size / dy.shape[1]
    g = dy * gamma.reshape(shape)
    dot = (g * x_hat).sum(axis=axes, keepdims=True)
"""
_END = """
    dgamma = (dy * x_hat).sum(axis=axes)
    dbeta = dy.sum(axis=axes)
    return dx, dgamma, dbeta
"""

_L1 = """    scale = math.sqrt(math.pi / 2) * np.abs(d).mean(axis=axes, keepdims=True) + eps
"""
_L1_BACK = """    h = np.sign(d)
    c = math.sqrt(math.pi / 2) * dot / n
    b = g.mean(axis=axes, keepdims=True) - c * h.mean(axis=axes, keepdims=True)
    dx = (g - b - c * h) / scale
"""
_L2 = """    scale = np.sqrt((d * d).mean(axis=axes, keepdims=True) + eps)
"""
_L2_BACK = """    dx = (g - g.mean(axis=axes, keepdims=True) - x_hat * dot / n) / scale
"""
_L3 = """    largest = np.abs(d).max(axis=axes, keepdims=True)
    u = np.abs(d) / np.where(largest > 0, largest, 1)
    m = np.cbrt((u**3).mean(axis=axes, keepdims=True))
    scale = (math.sqrt(math.pi) / 2**1.5) ** (1 / 3) * m * largest + eps
"""
_L3_BACK = """    h = np.sign(d) * (u / np.where(m > 0, m, 1)) ** 2
    c = (math.sqrt(math.pi) / 2**1.5) ** (1 / 3) * dot / n
    b = g.mean(axis=axes, keepdims=True) - c * h.mean(axis=axes, keepdims=True)
    dx = (g - b - c * h) / scale
"""
_LINF_CONSTANT = """    growth = math.sqrt(2 * math.log(max(n, 2)))
    constant = (1 + math.sqrt(math.pi * math.log(4))) / 2 / growth
"""
_LINF = f"""    n = x.size // x.shape[1]
{_LINF_CONSTANT}    scale = constant * np.abs(d).max(axis=axes, keepdims=True) + eps
"""
_LINF_BACK = f"""    size = np.abs(d)
    hit = (size == size.max(axis=axes, keepdims=True)).astype(d.dtype)
    h = np.sign(d) * hit / hit.sum(axis=axes, keepdims=True)
{_LINF_CONSTANT}    c = constant * dot
    b = g.mean(axis=axes, keepdims=True) - c * h.mean(axis=axes, keepdims=True)
    dx = (g - b - c * h) / scale
"""


def _program(statistic: str, gradient: str, kept: str = "d, ") -> str:
    lines = (_HEAD + statistic + _TAIL + gradient + _END).replace("{kept}", kept).splitlines()
    return "\n".join(line for line in lines if line).replace("\ndef", "\n\n\ndef") + "\n"


SOURCES: dict[str, tuple[Any, str]] = {  # name -> (p, text); for batches (N, C) to (N, C, H, W)
    "L1": (1, _program(_L1, _L1_BACK)),
    "L2": (2, _program(_L2, _L2_BACK, "")),
    "L3": (3, _program(_L3, _L3_BACK, "d, u, m, ")),
    "Linf": (math.inf, _program(_LINF, _LINF_BACK)),
}


@dataclass(frozen=True)
class Mutant:
    """One changed program: `label` is unique, e.g. "L1, line 5: d = x - mean -> d = x + mean"."""

    source: str
    p: Any
    line: int
    change: str
    text: str

    @property
    def label(self) -> str:
        return f"{self.source}, line {self.line}: {self.change}"

    def pair(self) -> tuple[Any, Any]:
        """Fresh (forward, backward)."""
        return compiled(self.text, self.label)


def compiled(text: str, name: str = "original") -> tuple[Any, Any]:
    names: dict[str, Any] = {"np": np, "math": math}
    exec(compile(text, f"<{name}>", "exec"), names)
    return names["forward"], names["backward"]


def original(source: str) -> tuple[Any, Any]:
    return compiled(SOURCES[source][1])


# ---- the changes -------------------------------------------------------------------------------

_BINARY = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.FloorDiv)
_INSTEAD: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add, ast.Mult),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult, ast.Sub),
    ast.FloorDiv: (ast.Mult,),
    ast.Pow: (ast.Mult, ast.Div),
}
_COMPARE: dict[type, tuple[type, ...]] = {
    ast.Eq: (ast.NotEq, ast.GtE, ast.LtE, ast.Gt, ast.Lt),
    ast.Gt: (ast.GtE, ast.Lt, ast.LtE, ast.Eq, ast.NotEq),
}
_RELATED = {
    "mean": ("sum", "max"),
    "sum": ("mean", "max"),
    "max": ("min", "mean", "sum"),
    "abs": ("sign", "square"),
    "sign": ("abs", "ceil"),
    "sqrt": ("square", "cbrt", "exp"),
    "cbrt": ("sqrt",),
    "maximum": ("minimum",),
    "log": ("log2", "sqrt"),
    "shape": ("strides",),
    "size": ("ndim",),
    "ndim": ("size",),
    "pi": ("e", "tau"),
}


_OF_SHAPE = ("ndim", "size", "shape", "dtype")  # of most arrays here the same: not exchanged


def _negative(node: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.USub(), node)


def _numbers(value: Any) -> list[Any]:
    if value is True:
        return [False]
    if isinstance(value, int):
        return [value + 1, value - 1] if value > 1 else [value + 1, -1] if value == 1 else [1, 2]
    return [value * 2, value / 2, -value]


def _replacements(node: ast.AST, names: list[str]) -> Iterator[ast.AST]:
    """Every node that may stand where this one stands."""
    if isinstance(node, ast.BinOp):
        for kind in _INSTEAD[type(node.op)]:
            yield ast.BinOp(node.left, kind(), node.right)
        yield node.left
        yield node.right
        yield _negative(node)
        if isinstance(node.op, (ast.Sub, ast.Div, ast.Pow, ast.FloorDiv)):
            yield ast.BinOp(node.right, node.op, node.left)
    elif isinstance(node, ast.Compare):
        for kind in _COMPARE[type(node.ops[0])]:
            yield ast.Compare(node.left, [kind()], node.comparators)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Constant):
        for value in _numbers(node.value):
            yield ast.Constant(value)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names:
        yield _negative(node)
        for name in names:
            if name != node.id:
                yield ast.Name(name, ast.Load())
    elif isinstance(node, ast.Attribute):
        for name in _RELATED.get(node.attr, ()):
            yield ast.Attribute(node.value, name, ast.Load())
    elif isinstance(node, ast.Call):
        yield _negative(node)
        yield from node.args[:2]  # np.abs(d) -> d
        if isinstance(node.func, ast.Attribute):
            inner = node.func.value
            if not (isinstance(inner, ast.Name) and inner.id in ("np", "math")):
                yield inner  # d.mean() -> d
        for i in range(len(node.keywords)):
            kept = node.keywords[:i] + node.keywords[i + 1 :]
            yield ast.Call(node.func, node.args, kept)
        for i, keyword in enumerate(node.keywords):
            if keyword.arg == "axis":
                for axis in (0, 1):
                    changed = ast.keyword("axis", ast.Constant(axis))
                    kept = [*node.keywords[:i], changed, *node.keywords[i + 1 :]]
                    yield ast.Call(node.func, node.args, kept)
    elif isinstance(node, ast.Slice) and node.upper is not None:
        yield ast.Slice(node.upper, None, None)


def _places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """(parent, field, index) of every node below, in a fixed order."""
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if isinstance(value, list):
                for i, item in enumerate(value):
                    if isinstance(item, ast.AST):
                        yield parent, name, i
            elif isinstance(value, ast.AST):
                yield parent, name, None


def _known(function: ast.FunctionDef, line: int) -> list[str]:
    """The names that a function has set, or was given, before this line."""
    names = [a.arg for a in function.args.args]
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.lineno < line:
            names.append(node.id)
    return names


def _changed(statement: ast.stmt, names: list[str]) -> Iterator[str]:
    """The text of the statement with one place changed, for each place and each change."""
    for place, (parent, field, i) in enumerate(_places(statement)):
        here = getattr(parent, field)
        for k, new in enumerate(_replacements(here if i is None else here[i], names)):
            if isinstance(parent, ast.Attribute) and parent.attr in _OF_SHAPE:
                continue
            other = copy.deepcopy(statement)  # `new` hangs in the old tree: make it once more
            parent_, _, _ = next(itertools.islice(_places(other), place, None))
            here_ = getattr(parent_, field)
            new = next(
                itertools.islice(_replacements(here_ if i is None else here_[i], names), k, None)
            )
            if i is None:
                setattr(parent_, field, new)
            else:
                here_[i] = new
            yield ast.unparse(ast.fix_missing_locations(other))


def _mutants_of(source: str, p: Any, text: str) -> Iterator[Mutant]:
    functions = [f for f in ast.parse(text).body if isinstance(f, ast.FunctionDef)]
    heads = [text.splitlines()[f.lineno - 1] for f in functions]
    bodies = [[ast.unparse(statement) for statement in f.body] for f in functions]
    seen = set()
    for f, function in enumerate(functions):
        for s, statement in enumerate(function.body):
            before = bodies[f][s]
            seen.add((f, s, before))
            for after in _changed(statement, _known(function, statement.lineno)):
                if (f, s, after) in seen:
                    continue
                seen.add((f, s, after))
                lines = []
                for g, head in enumerate(heads):
                    changed = [after if (g, t) == (f, s) else b for t, b in enumerate(bodies[g])]
                    lines += [head, *("    " + line for line in changed)]
                change = f"{before}  ->  {after}"
                yield Mutant(source, p, statement.lineno, change, "\n".join(lines) + "\n")


def mutants() -> list[Mutant]:
    """All of them, in a fixed order; no text occurs twice."""
    return [m for source, (p, text) in SOURCES.items() for m in _mutants_of(source, p, text)]


def run(pair: tuple[Any, Any], x: Any, dy: Any, gamma: Any, beta: Any, eps: float) -> list[Any]:
    """y, dx, dgamma, dbeta."""
    forward, backward = pair
    y, cache = forward(x.copy(), gamma.copy(), beta.copy(), eps)
    return [y, *backward(dy.copy(), cache)]


def live(mutant: Mutant) -> bool:
    """Whether it runs on two plain batches and returns arrays of the right shapes.

    The others are found by whoever calls them once: they tell nothing about a judge.
    """
    for shape in ((4, 3, 2, 2), (5, 3)):
        x, dy = np.random.default_rng(0).standard_normal((2, *shape))
        gamma, beta = np.random.default_rng(1).standard_normal((2, 3))
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shapes = [np.shape(a) for a in run(mutant.pair(), x, dy, gamma, beta, 1e-5)]
        except Exception:
            return False
        if shapes != [shape, shape, (3,), (3,)]:
            return False
    return True


# ---- those that change nothing -----------------------------------------------------------------

_ANY_NEGATIVE = "reshape takes any negative size for the one to work out"
_EVEN = "the sign is lost in the absolute value or square that follows"
_SAME_SIGN = "x_hat = d / scale has the sign of d, and is the largest where d is: scale > 0"
_CANCELS = "|d| may be divided by any positive number: it cancels, up to over- and underflow"
_POSITIVE = _CANCELS + "; max d > 0 unless d = 0, since the mean of d is 0, up to rounding"
_ZERO = "for u = 0, or a constant channel, only: 0 divided by anything but 0 is 0"
_NEVER_LESS = "nothing exceeds the maximum, and no |d|, largest or m is negative"
_BOTH = "the sign cancels: it is in the numerator and in the sum it is divided by"
_ORDER = "the squares are ordered as the absolute values are, up to over- and underflow"
_BOOLEAN = "True counts as 1; only the dtype of the result may differ"
_CENTRED = "mean(x d) = mean(d d), since mean(d) = 0; but rounding tells where x is far from 0"

EQUIVALENT: dict[str, str] = {  # what follows "->" in a label, after its source -> the reason
    "L1: shape = (1, -2, 1, 1)[:x.ndim]": _ANY_NEGATIVE,
    "L2: shape = (1, -2, 1, 1)[:x.ndim]": _ANY_NEGATIVE,
    "L2: scale = np.sqrt((x * d).mean(axis=axes, keepdims=True) + eps)": _CENTRED,
    "L2: scale = np.sqrt((d * x).mean(axis=axes, keepdims=True) + eps)": _CENTRED,
    "L3: shape = (1, -2, 1, 1)[:x.ndim]": _ANY_NEGATIVE,
    "Linf: shape = (1, -2, 1, 1)[:x.ndim]": _ANY_NEGATIVE,
    "L1: shape = (1, -2, 1, 1)[:dy.ndim]": _ANY_NEGATIVE,
    "L2: shape = (1, -2, 1, 1)[:dy.ndim]": _ANY_NEGATIVE,
    "L3: shape = (1, -2, 1, 1)[:dy.ndim]": _ANY_NEGATIVE,
    "Linf: shape = (1, -2, 1, 1)[:dy.ndim]": _ANY_NEGATIVE,
    "L1: scale = math.sqrt(math.pi / 2) * np.abs(-d).mean(axis=axes, keepdims=True) + eps": _EVEN,
    "L1: return (y, (x_hat, x_hat, scale, gamma))": _SAME_SIGN,
    "L1: h = np.sign(x_hat)": _SAME_SIGN,
    "L3: largest = np.abs(-d).max(axis=axes, keepdims=True)": _EVEN,
    "L3: largest = np.square(d).max(axis=axes, keepdims=True)": _CANCELS,
    "L3: largest = d.max(axis=axes, keepdims=True)": _POSITIVE,
    "L3: largest = np.abs(d).max(keepdims=True)": _CANCELS,
    "L3: largest = np.abs(d).mean(axis=axes, keepdims=True)": _CANCELS,
    "L3: largest = np.abs(d).sum(axis=axes, keepdims=True)": _CANCELS,
    "L3: largest = np.abs(x).max(axis=axes, keepdims=True)": _CANCELS,
    "L3: largest = np.sign(d).max(axis=axes, keepdims=True)": _POSITIVE,
    "L3: u = np.abs(-d) / np.where(largest > 0, largest, 1)": _EVEN,
    "L3: u = np.abs(d) / np.where(largest != 0, largest, 1)": _NEVER_LESS,
    "L3: u = np.abs(d) / np.where(largest > 0, largest, 2)": _ZERO,
    "L3: u = np.abs(d) / np.where(largest > 0, largest, -1)": _ZERO,
    "L3: return (y, (x_hat, u, m, x_hat, scale, gamma))": _SAME_SIGN,
    "L3: return (y, (d, -u, m, x_hat, scale, gamma))": _EVEN,
    "L3: h = np.sign(x_hat) * (u / np.where(m > 0, m, 1)) ** 2": _SAME_SIGN,
    "L3: h = np.sign(d) * (-(u / np.where(m > 0, m, 1))) ** 2": _EVEN,
    "L3: h = np.sign(d) * (-u / np.where(m > 0, m, 1)) ** 2": _EVEN,
    "L3: h = np.sign(d) * (u / -np.where(m > 0, m, 1)) ** 2": _EVEN,
    "L3: h = np.sign(d) * (u / np.where(m > 0, -m, 1)) ** 2": _EVEN,
    "L3: h = np.sign(d) * (u / np.where(m != 0, m, 1)) ** 2": _NEVER_LESS,
    "L3: h = np.sign(d) * (u / np.where(m > 0, m, 2)) ** 2": _ZERO,
    "L3: h = np.sign(d) * (u / np.where(m > 0, m, -1)) ** 2": _ZERO,
    "L3: h = np.sign(d) * (u / np.where(u > 0, m, 1)) ** 2": _ZERO,
    "Linf: scale = constant * np.abs(-d).max(axis=axes, keepdims=True) + eps": _EVEN,
    "Linf: return (y, (x_hat, x_hat, scale, gamma))": _SAME_SIGN,
    "Linf: size = np.square(d)": _ORDER,
    "Linf: size = np.abs(-d)": _EVEN,
    "Linf: size = np.abs(x_hat)": _SAME_SIGN,
    "Linf: hit = -(size == size.max(axis=axes, keepdims=True)).astype(d.dtype)": _BOTH,
    "Linf: hit = size == size.max(axis=axes, keepdims=True)": _BOOLEAN,
    "Linf: hit = (size >= size.max(axis=axes, keepdims=True)).astype(d.dtype)": _NEVER_LESS,
    "Linf: h = np.sign(x_hat) * hit / hit.sum(axis=axes, keepdims=True)": _SAME_SIGN,
}


def equivalent(mutant: Mutant) -> str:
    """Why the mutant computes the same as its original; "" if it does not."""
    after = mutant.change.partition("  ->  ")[2]
    return EQUIVALENT.get(f"{mutant.source}: {after}", "")
