"""The one rule for verdicts, and the words made from it."""

import math

import pytest

from lpnorm.experiments import verdicts
from lpnorm.experiments.verdicts import above, below, difference, difference_text, interval


def test_the_interval_is_students():
    found = difference([3.0, 4.0, 5.0], [1.0, 3.0, 2.0])
    assert found["mean"] == pytest.approx(2)
    assert found["half_95"] == pytest.approx(4.30 / math.sqrt(3), rel=1e-3)
    assert interval([1.0])["half_95"] == math.inf


@pytest.mark.parametrize(
    ("mean", "half", "better", "worse", "as_well_as", "fails"),
    [
        (1.0, 0.5, "yes", "no", "yes", "no"),
        (-1.0, 0.4, "no", "yes", "no", "no"),
        (1.0, 2.0, "within noise", "within noise", "within noise", "no"),
        (0.1, 0.5, "within noise", "within noise", "yes", "no"),
        (-60.0, 49.0, "no", "yes", "no", "yes"),
        (0.0, 0.0, "within noise", "within noise", "yes", "no"),  # on the bound is on no side
        (5.0, math.inf, *4 * ["cannot say"]),
        (math.nan, math.nan, *4 * ["within noise"]),
    ],
)
def test_verdicts(mean, half, better, worse, as_well_as, fails):
    measured = {"mean": mean, "half_95": half}
    assert verdicts.better(measured) == better
    assert verdicts.worse(measured) == worse
    assert verdicts.as_well_as(measured) == as_well_as
    assert verdicts.fails(measured) == fails


def test_errors_are_judged_by_the_same_rule():
    assert below(interval([2e-15, 4e-15]), 1e-12) == "yes"
    assert below(interval([2e-11, 2.1e-11]), 1e-12) == "no"
    assert below(interval([1e-13, 3e-12]), 1e-12) == "within noise"
    assert below(interval([2e-15]), 1e-12) == "cannot say"
    assert above(interval([1.98, 1.99, 2.0]), 1.9) == "yes"


def test_no_interval_is_printed_that_says_nothing():
    assert difference_text(interval([1.0, 1.2])) == "difference +1.10 ± 1.27"
    assert difference_text(interval([1.0])) == "difference +1.0, one seed"
    assert difference_text(interval([1.0, 9.0])) == "difference +5.0, too few seeds"  # ± 36
    failing = interval([-80.0, -85.0, -40.0])
    assert "±" in difference_text(failing) and verdicts.worse(failing) == "yes"


def test_the_rule_states_its_bounds():
    for word in ("95 %", "Student", f"-{verdicts.POINT:g}", f"-{verdicts.FAR:g}", "half"):
        assert word in verdicts.RULE
    for word in (verdicts.YES, verdicts.NO, verdicts.NOISE, verdicts.UNKNOWN):
        assert word in verdicts.RULE.lower()
