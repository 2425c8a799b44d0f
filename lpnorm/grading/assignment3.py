"""Assignment 3: what half precision does to sums, and L1 batch norm in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lpnorm.arrays import Accumulate
from lpnorm.grading import normalizers
from lpnorm.grading.functions import Functions
from lpnorm.grading.rubric import Assignment, Item, Judge, Question, compare

Array = np.ndarray
Known = tuple[tuple[str, Callable[[Array], Any]], ...]  # what typical mistakes give, in words
WIDE = (
    "this is the sum in float32 or wider, rounded once at the end (numpy.sum does that, too): "
    "every addition must round to float16"
)
KIND = "the result is"
OVERFLOW = "it overflows on the way: form neither a sum nor a + b, only a/2 + b/2"
SUMS: Known = (
    (WIDE, lambda x: np.float16(x.astype("float32").sum())),
    (WIDE, lambda x: np.float16(x.astype("float64").sum())),
    (WIDE, lambda x: x.sum()),
    ("this is the sum one after another", lambda x: _right("sequential", x)),
    ("this is the sum by folding in half", lambda x: _right("pairwise", x)),
    (
        "neighbours were added (0 and 1, 2 and 3, ...) instead of front and back halves",
        lambda x: _neighbours(x),
    ),
    ("the sum goes from the last value to the first", lambda x: _right("sequential", x[::-1])),
    ("the last value of an odd number is lost", lambda x: _lossy(x)),
)
MEANS: Known = (
    (
        "this is the mean in float32 or wider, rounded once at the end (numpy.mean does that, too)",
        lambda x: np.float16(x.astype("float64").mean()),
    ),
    (OVERFLOW, lambda x: _summed(x)),
    (
        "the tree gives 2^-L times the sum; the last step, dividing by n / 2^L, is missing",
        lambda x: _root(x, 0.5),
    ),
    (
        "the value that waits in an odd round must be halved, too",
        lambda x: _over(_root(x, 1.0), len(x)),
    ),
    (
        "n / 2^L was rounded to float16 before the division: only the quotient may be",
        lambda x: _root(x, 0.5) / np.float16(len(x) / 2.0 ** (len(x) - 1).bit_length()),
    ),
)


def _right(order: str, x: Array) -> Any:
    rows = np.ascontiguousarray(x)[None, :]
    if order == "mean":
        return Accumulate("float16").average(rows)[0, 0]
    return Accumulate("float16", order).total(rows)[0, 0]


def _summed(x: Array) -> Any:
    return np.float16(float(_right("pairwise", x)) / len(x))


def _neighbours(x: Array) -> Any:
    while len(x) > 1:
        x = np.append(x[: len(x) // 2 * 2 : 2] + x[1::2], x[len(x) // 2 * 2 :])
    return x[0]


def _lossy(x: Array) -> Any:
    while len(x) > 1:
        x = x[: len(x) // 2] + x[len(x) // 2 : len(x) // 2 * 2]
    return x[0]


def _root(x: Array, wait: float) -> Any:
    """The root of the tree of averages, 2^-L sum x; what waits is multiplied by `wait`."""
    halved = np.float16(0.5)
    while len(x) > 1:
        half = len(x) // 2
        pairs = x[:half] * halved + x[len(x) - half :] * halved
        x = np.append(pairs, x[half : len(x) - half] * np.float16(wait)).astype("float16")
    return x[0]


def _over(root: Any, n: int) -> Any:
    return np.float16(float(root) / (n / 2.0 ** (n - 1).bit_length()))


def _exactly(name: str, make: Any, right: Callable[[Array], Any], known: Known) -> Judge:
    """A judge of items: the result must have exactly right(x)'s bits in every case of `make`.

    make: generator -> (item, x) pairs. known: what typical mistakes give; one is named if it
    explains what came in every case of an item.
    """

    def judge(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
        f = functions.get(name)
        cases: dict[str, list[tuple[Array, Any]]] = {}
        changed = False
        for item, x in make(rng):
            given = x.copy()
            cases.setdefault(item, []).append((x, f(given)))
            changed |= given.tobytes() != x.tobytes()
        for item, results in cases.items():
            words = [_wrong(x, got, right(x)) for x, got in results]
            if any(words) and not any(map(str.startswith, words, [KIND] * len(words))):
                named = (m for m, of in known if all(_same(got, of(x)) for x, got in results))
                words = [next(named, ""), *words]
            if changed and not any(words):
                words = ["x is changed: a caller's array must stay as it was"]
            yield item, next(filter(None, words), "")

    return judge


def _wrong(x: Array, got: Any, want: Any) -> str:
    dtype = getattr(got, "dtype", None)
    if dtype != np.float16:
        return f"{KIND} {dtype or type(got).__name__}, not float16"
    return compare(f"the result for {len(x)} values", got, want, close=0)


def _same(a: Any, b: Any) -> bool:
    return bool(np.shape(a) == np.shape(b) and np.array_equal(a, b, equal_nan=True))


def _draw(rng: np.random.Generator, n: int, low: float, high: float) -> Array:
    return rng.uniform(low, high, n).astype("float16")


def _for_sums(rng: np.random.Generator) -> Iterator[tuple[str, Array]]:
    for n in (1, 2, 3, 7, 64, 99, 257):
        yield "values", _draw(rng, n, -4, 4)
        yield "values", _draw(rng, n, 0, 4)
    for n in (3001, 5000):
        yield "many values", _draw(rng, n, 0.5, 1.5)  # one after another stalls
    yield "many values", _draw(rng, 2049, 40, 60)  # overflows: infinity is right


def _for_means(rng: np.random.Generator) -> Iterator[tuple[str, Array]]:
    for n in (1, 2, 3, 7, 64, 99, 257):
        yield "values", _draw(rng, n, -4, 4)
    for n in (1000, *(2 * rng.integers(1025, 2047, 10) + 1).tolist()):  # n / 2^L is not a float16
        yield "large values", _draw(rng, n, 3e4, 6.4e4)


def _for_statistic(rng: np.random.Generator) -> Iterator[tuple[str, Array]]:
    for n in (2, 3, 17, 64, 301):
        yield "values", _draw(rng, n, -4, 4) + np.float16(rng.uniform(-3, 3))
    yield "large values", _draw(rng, 2001, -1e4, 5e4)


def _statistic(x: Array) -> Any:
    return _right("mean", abs(x - _right("mean", x)))


STATISTICS: Known = (
    ("the mean is not subtracted", lambda x: _right("mean", abs(x))),
    ("the absolute value is missing", lambda x: _right("mean", x - _right("mean", x))),
    (
        "this is the L2 norm of the deviations",
        lambda x: np.sqrt(_right("mean", (x - _right("mean", x)) ** 2)),
    ),
    (
        "this is computed in float32 or wider and rounded once at the end",
        lambda x: np.float16(abs(x.astype("float64") - x.astype("float64").mean()).mean()),
    ),
    ("numpy.mean was used, which adds in float32", lambda x: abs(x - x.mean()).mean()),
    (OVERFLOW, lambda x: _summed(abs(x - _summed(x)))),
)
ASSIGNMENT = Assignment(
    3,
    "Sums in half precision",
    "03_float16_sums",
    (
        Question(
            "sequential_sum",
            "sequential_sum(x) -> the sum of x (n,), a float16",
            (
                Item("values", 2, "the same bits as adding one after another"),
                Item("many values", 1, "also where the sum stalls or overflows", hidden=True),
            ),
            _exactly("sequential_sum", _for_sums, lambda x: _right("sequential", x), SUMS),
        ),
        Question(
            "pairwise_sum",
            "pairwise_sum(x) -> the sum of x (n,), a float16",
            (
                Item("values", 3, "the same bits as folding in half, for any n"),
                Item("many values", 1, "also of many values, and where it overflows", hidden=True),
            ),
            _exactly("pairwise_sum", _for_sums, lambda x: _right("pairwise", x), SUMS),
        ),
        Question(
            "pairwise_mean",
            "pairwise_mean(x) -> the mean of x (n,), a float16",
            (
                Item("values", 3, "the same bits as the tree of averages, for any n"),
                Item("large values", 2, "no overflow where the mean fits"),
            ),
            _exactly("pairwise_mean", _for_means, lambda x: _right("mean", x), MEANS),
        ),
        Question(
            "l1_statistic",
            "l1_statistic(x) -> mean |x - mean x| of x (n,), a float16",
            (
                Item("values", 3, "every step rounded to float16"),
                Item("large values", 1, "no overflow", hidden=True),
            ),
            _exactly("l1_statistic", _for_statistic, _statistic, STATISTICS),
        ),
        Question(
            "l1_forward_half",
            "l1_forward_half(x, gamma, beta, eps) -> (y, cache), float16 in and out",
            (
                Item("values", 3, "y within the bound of float32 sums"),
                Item("edges", 1, "4,096 values a channel, large and small ones", hidden=True),
            ),
            normalizers.forward("l1_forward_half", 1, dtype="float16"),
        ),
    ),
)
