"""What is asked and what it is worth: assignment, questions, items; and how an answer is marked.

A question's judge is a generator: for each item it yields the item's name and what is wrong, ""
where nothing is. It calls the submission's functions and never trusts them: every word and every
point comes from comparing what they return with `lpnorm.verify`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpnorm.grading.functions import Functions, Raised, Unusable

Judge = Callable[[Functions, np.random.Generator], Iterator[tuple[str, str]]]
NOT_JUDGED = "not judged"  # how words begin for an item that another one stands in the way of
SEED = 2018  # of the cases a student sees; `lpnorm grade` draws others


@dataclass(frozen=True)
class Item:
    """One thing that gives points; hidden: students are told of it but do not get the test."""

    name: str
    points: int
    asks: str
    hidden: bool = False


@dataclass(frozen=True)
class Question:
    """name: that of the function asked for; contract: how it is called and what it returns."""

    name: str
    contract: str
    items: tuple[Item, ...]
    judge: Judge

    @property
    def points(self) -> int:
        return sum(item.points for item in self.items)

    def item(self, name: str) -> Item:
        return next(item for item in self.items if item.name == name)


@dataclass(frozen=True)
class Assignment:
    """number: 1 to 6; stem: of the files' names; seconds: what a question may take to compute."""

    number: int
    title: str
    stem: str
    questions: tuple[Question, ...]
    seconds: float = 20.0

    @property
    def points(self) -> int:
        return sum(question.points for question in self.questions)

    def question(self, name: str) -> Question:
        return next(question for question in self.questions if question.name == name)


@dataclass(frozen=True)
class Mark:
    """What one item got, and what is wrong in one or two sentences ("" if nothing is)."""

    question: str
    item: Item
    words: str

    @property
    def points(self) -> int:
        return 0 if self.words else self.item.points


def mark(question: Question, functions: Functions, seed: int = SEED) -> list[Mark]:
    """A mark for every item of a question. Nothing a submission does raises."""
    found: dict[str, str] = {}
    words = ""
    rng = np.random.default_rng([seed, *question.name.encode()])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            for item, wrong in question.judge(functions, rng):
                found[item] = wrong
        except Raised as error:
            words = error.words
        except Exception as error:  # a submission may give anything back
            words = f"what came back cannot be judged ({type(error).__name__}: {error})"
    if functions.stopped:
        words = functions.stopped
        found = {item: wrong and words for item, wrong in found.items()}
    assert words or set(found) == {item.name for item in question.items}, (question.name, found)
    return [Mark(question.name, item, found.get(item.name, words)) for item in question.items]


def every(judges: Iterable[Judge]) -> Judge:
    """A judge by several, of the same items: right is what is right for all of them."""
    several = list(judges)

    def judge(functions: Functions, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
        found: dict[str, str] = {}
        for each in several:
            for item, words in each(functions, rng):
                found[item] = found.get(item) or words
        yield from found.items()

    return judge


# ---- comparing, for questions that the judge of normalizers does not cover ---------------------


def compare(
    name: str,
    got: object,
    want: np.ndarray | float,
    known: Mapping[str, np.ndarray | float] | None = None,
    close: float = 1e-10,
) -> str:
    """ "" if got is want to within `close` of the largest entry, otherwise what is wrong.

    known: what typical mistakes give, by the words for each; the first that got equals is named.
    close: a multiple of float64's rounding that n operations explain, for the n at hand.
    """
    right = np.asarray(want)
    if got is None or isinstance(got, (tuple, str)):
        kind = "nothing" if got is None else f"a {type(got).__name__}"
        return f"{name}: {kind} came back where an array of shape {right.shape} belongs"
    value = np.asarray(got)
    if value.dtype.kind not in "fiub":
        return f"{name} has dtype {value.dtype}"
    if value.shape != right.shape:
        return f"{name} has shape {value.shape}, {right.shape} expected"
    with np.errstate(all="ignore"):
        return _compared(name, value, right, known or {}, close)


def _compared(
    name: str,
    value: np.ndarray,
    right: np.ndarray,
    known: Mapping[str, np.ndarray | float],
    close: float,
) -> str:
    if equal(value, right, close):
        return ""
    for words, mistaken in known.items():
        mistaken = np.broadcast_to(np.asarray(mistaken), right.shape)
        if equal(value, mistaken, max(close, 1e-9)) and not equal(mistaken, right, close):
            return f"{name}: {words}"
    if not np.all(np.isfinite(value)) and np.all(np.isfinite(right)):
        return f"{name} is {value[~np.isfinite(value)][0]} where a finite number belongs"
    at = np.unravel_index(int(np.nanargmax(abs(value - right))), right.shape)
    where = f" at [{', '.join(str(int(i)) for i in at)}]" if at else ""
    return f"{name} is {value[at]:.6g} instead of {right[at]:.6g}{where}"


def parts(result: object, *names: str) -> tuple[Any, ...]:
    """The result, a tuple with one entry for each name. Raises Unusable."""
    if isinstance(result, tuple) and len(result) == len(names):
        return result
    kind = type(result).__name__
    if isinstance(result, tuple):
        kind += f" of {len(result)}"
    raise Unusable(f"it must return ({', '.join(names)}), got {kind}")


def equal(a: np.ndarray, b: np.ndarray, close: float) -> bool:
    """Within `close` times the largest finite entry of b; NaN equals NaN, infinity infinity."""
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    finite = np.isfinite(b)
    if not np.array_equal(np.where(finite, 0, a), np.where(finite, 0, b), equal_nan=True):
        return False
    size = float(np.max(abs(b), initial=0.0, where=finite))
    return bool(np.all(abs(np.where(finite, a - b, 0)) <= close * size))
