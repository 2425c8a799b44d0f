"""Does the judge catch mechanical mistakes? Every change of one token in plain implementations.

`pytest -m slow` judges all that run (LPNORM_MUTANTS=n takes every n-th); the usual run every 40th.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mutants
import numpy as np
import pytest
from mutants import Mutant

from lpnorm import verify

SECONDS = 30  # for one mutant
_REFUSES = (
    "differs from the original for n = 1 alone, where log 1 = 0: it raises ZeroDivisionError in "
    "the forward. A forward may refuse groups of one value (torch's does), which is noted"
)
SURVIVE = {  # what the judge lets pass, and why
    "Linf, line 7: growth = math.sqrt(2 * math.log(max(n, 2)))  ->  "
    "growth = math.sqrt(2 * math.log(n))": _REFUSES,
    "Linf, line 7: growth = math.sqrt(2 * math.log(max(n, 2)))  ->  "
    "growth = math.sqrt(2 * math.log(max(n, 1)))": _REFUSES,
}


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """TimeoutError if the block takes longer, where the system has alarms."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def verdict(mutant: Mutant) -> str:
    """What the judge says, or how it fails to say anything."""
    asked = {"layer": "batch_norm", "p": mutant.p, "constant": "paper", "eps": 1e-5}
    try:
        with limit(SECONDS):
            return verify.check(mutant.pair(), **asked, first_failure=True).verdict
    except Exception as error:
        return f"crash: {type(error).__name__}: {error}"


def judge(chosen: list[Mutant]) -> None:
    """All of those not equivalent are wrong, but those in SURVIVE; prints the others."""
    start = time.monotonic()
    verdicts = {m.label: verdict(m) for m in chosen if not mutants.equivalent(m)}
    survivors = {label: v for label, v in verdicts.items() if v != "wrong"}
    print(f"{len(verdicts)} mutants in {time.monotonic() - start:.0f} s")
    print(*(f"survived: {label}\n    {v}" for label, v in survivors.items()), sep="\n")
    assert set(survivors) <= set(SURVIVE), survivors


@functools.cache
def live() -> list[Mutant]:
    return [m for m in mutants.mutants() if mutants.live(m)]


def test_there_are_enough_and_none_twice() -> None:
    every = mutants.mutants()
    assert len({m.text for m in every}) == len({m.label for m in every}) == len(every)
    assert {m.text for m in every}.isdisjoint(text for _, text in mutants.SOURCES.values())
    assert len(live()) >= 300
    assert {mutants.equivalent(m) for m in live()} == {"", *mutants.EQUIVALENT.values()}
    assert len([m for m in live() if mutants.equivalent(m)]) == len(mutants.EQUIVALENT)


@pytest.mark.parametrize("source", mutants.SOURCES)
def test_the_originals_are_judged_correct(source: str) -> None:
    p = mutants.SOURCES[source][0]
    report = verify.check(
        mutants.original(source), layer="batch_norm", p=p, constant="paper", eps=1e-5
    )
    assert report.ok, str(report)


def draw(seed: int) -> tuple[Any, ...]:
    """x, dy, gamma, beta, eps of varied size, with ties, zeros and constant channels."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(size) for size in rng.integers(1, 6, int(rng.integers(2, 5))))
    x, dy = rng.standard_normal((2, *shape))
    kind = seed % 4
    if kind == 1:
        x = np.round(2 * x) / 2
    elif kind == 2:
        x = x * 10.0 ** rng.integers(-3, 4) + 3 * rng.standard_normal()
    elif kind == 3 and shape[1] > 1:
        x[:, 0] = 0.5
    return x, dy, *rng.standard_normal((2, shape[1])), float(rng.choice([1e-5, 1e-3, 0.1]))


@functools.cache
def expected(source: str, seed: int) -> list[Any]:
    return mutants.run(mutants.original(source), *draw(seed))


def differs(mutant: Mutant, pair: Any, seed: int) -> bool:
    """Whether the mutant's pair and its original give different numbers (or one raises)."""
    x, dy, gamma, beta, eps = draw(seed)
    want = expected(mutant.source, seed)
    try:
        got = mutants.run(pair, x, dy, gamma, beta, eps)
    except Exception:
        return True
    axes = tuple(a for a in range(x.ndim) if a != 1)
    spread = abs(x - x.mean(axis=axes, keepdims=True)).max(axis=axes, keepdims=True) + eps
    size = abs(dy).max() * abs(gamma).max() / spread  # dx cancels almost entirely where n = 2
    scales = [1.0, size, 1.0, 1.0]
    return any(
        a.shape != b.shape or not np.all(abs(a - b) <= 1e-9 * (abs(b) + abs(b).max() + s))
        for a, b, s in zip(got, want, scales, strict=True)
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", mutants.SOURCES)
def test_equivalent_mutants_are_equivalent(source: str) -> None:
    """Those in the table compute the same; the others do not. (4,000 inputs were tried once.)"""
    for mutant in (m for m in live() if m.source == source):
        pair = mutant.pair()
        different = any(differs(mutant, pair, seed) for seed in range(100))
        assert different != bool(mutants.equivalent(mutant)), mutant.label


def test_a_sample_of_the_mutants_is_judged_wrong() -> None:
    judge(live()[::40])


@pytest.mark.slow
@pytest.mark.parametrize("source", mutants.SOURCES)
def test_mutants_are_judged_wrong(source: str) -> None:
    step = int(os.environ.get("LPNORM_MUTANTS", "1"))
    judge([m for m in live() if m.source == source][::step])
