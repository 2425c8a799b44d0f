"""Accumulate: every order and dtype against its definition in exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from conftest import EXAMPLES
from draws import normal, seeds
from half_emulation import levels
from hypothesis import given, settings
from hypothesis import strategies as st

import lpnorm
from lpnorm import Accumulate
from lpnorm.arrays import accumulator

FORMATS = {"float16": (11, -14, 15), "float32": (24, -126, 127), "float64": (53, -1022, 1023)}
ORDERS = ["pairwise", "sequential", "pairwise_mean", None]


def rounded(q, dtype):
    """A rational number rounded to the nearest of a format, ties to even; OverflowError beyond."""
    bits, smallest, largest = FORMATS[dtype]
    if q == 0:
        return Fraction(0)
    exponent = abs(q.numerator).bit_length() - q.denominator.bit_length()
    exponent -= abs(q) < Fraction(2) ** exponent
    ulp = Fraction(2) ** (max(exponent, smallest) - bits + 1)
    result = round(q / ulp) * ulp  # Fraction rounds halves to even
    if abs(result) >= Fraction(2) ** (largest + 1):
        raise OverflowError
    return result


def folded(row, dtype, weight):
    """The root of the tree: recursion on the row folded in half."""
    n, half = len(row), len(row) // 2
    if n == 1:
        return row[0]
    row = [rounded(v * weight, dtype) for v in row]
    level = [rounded(row[i] + row[i + n - half], dtype) for i in range(half)]
    return folded(level + row[half : n - half], dtype, weight)


def total(row, dtype, order):
    if order == "sequential":
        result = row[0]
        for v in row[1:]:
            result = rounded(result + v, dtype)
        return result
    if order == "pairwise_mean":
        return rounded(folded(row, dtype, Fraction(1, 2)) * 2 ** levels(len(row)), dtype)
    return folded(row, dtype, Fraction(1))


def average(row, dtype, order):
    n, power = len(row), 2 ** levels(len(row))
    if order in ("pairwise_mean", None):
        scaled = folded(row, dtype, Fraction(1, 2))
    else:
        scaled = rounded(total(row, dtype, order) / power, dtype)
    return rounded(scaled / Fraction(n, power), dtype)


def agree(xp, rows, dtype, order):
    """total and average of float16 rows are what the rational definition says."""
    accumulate, rows = Accumulate(dtype, order), np.asarray(rows, "float16")
    with np.errstate(over="ignore"):
        totals, averages = (xp.numpy(f(xp(rows))) for f in (accumulate.total, accumulate.average))
    for got, define in ((totals, total), (averages, average)):
        assert got.dtype == dtype and got.shape == (len(rows), 1)
        for row, result in zip(rows, got[:, 0], strict=True):
            exact = [Fraction(float(v)) for v in row]
            try:
                want = define(exact, dtype, order)
            except OverflowError:
                assert not np.isfinite(result)
            else:
                assert Fraction(float(result)) == want, (define.__name__, len(row), order)


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("dtype", FORMATS)
def test_every_n_up_to_40(xp, dtype, order):
    """Every way to be odd or even at up to five levels."""
    for n in range(1, 41):
        agree(xp, normal(n, (2, n)) * [[1.0], [2.0**-14]], dtype, order)


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("dtype", FORMATS)
@settings(max_examples=max(1, EXAMPLES // 6))  # exact arithmetic is slow
@given(seed=seeds, n=st.integers(41, 2500), scale=st.integers(-22, 10))
def test_larger_n(xp, dtype, order, seed, n, scale):
    with np.errstate(over="ignore"):
        agree(xp, normal(seed, (1, n)) * 2.0**scale, dtype, order)


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("wide", ["float32", "float64"])
@given(seed=seeds, n=st.integers(1, 60))
def test_wide_values(order, wide, seed, n):
    """float32 and float64 rows, whose sums round at every step, not only float16 ones."""
    row = np.random.default_rng(seed).standard_normal((1, n)).astype(wide)
    exact = [Fraction(float(v)) for v in row[0]]
    accumulate = Accumulate(wide, order)
    assert Fraction(float(accumulate.total(row)[0, 0])) == total(exact, wide, order)
    assert Fraction(float(accumulate.average(row)[0, 0])) == average(exact, wide, order)


@given(seed=seeds, n=st.integers(1, 200), count=st.integers(1, 300))
def test_over_is_the_mean_or_the_sum_divided(seed, n, count):
    row = normal(seed, (1, n), "float16")
    for order in ORDERS:
        accumulate = Accumulate("float16", order)
        by_hand = accumulate.total(row) / np.float16(count)
        want = accumulate.average(row) if count == n else by_hand
        np.testing.assert_array_equal(accumulate.over(row, count), want)


def test_rows_are_independent_and_not_modified(xp):
    rows = normal(0, (3, 45), "float16")
    for dtype in FORMATS:
        for order in ORDERS:
            accumulate, array = Accumulate(dtype, order), xp(rows.copy())
            for f in (accumulate.total, accumulate.average):
                whole = xp.numpy(f(array))
                alone = [xp.numpy(f(xp(rows[i : i + 1]))) for i in range(3)]
                np.testing.assert_array_equal(whole, np.concatenate(alone))
            np.testing.assert_array_equal(xp.numpy(array), rows)


def test_the_same_bits_in_every_layout(xp):
    rows = normal(1, (5, 77), "float16")
    views = [np.asfortranarray(rows), rows[:, ::-1].copy()[:, ::-1], np.repeat(rows, 2, 1)[:, ::2]]
    for dtype in ("float16", "float32"):
        for order in ORDERS:
            accumulate = Accumulate(dtype, order)
            for f in (accumulate.total, accumulate.average):
                want = f(rows)
                for view in views:
                    np.testing.assert_array_equal(f(view), want)
                np.testing.assert_array_equal(xp.numpy(f(xp(rows))), want)


# --- what the orders are for ----------------------------------------------------------------------


def test_sequential_float16_stalls(xp):
    x = abs(np.random.default_rng(0).standard_normal((1, 8192))).astype("float16")
    exact = float(x.astype("float64").sum())
    results = {
        order: float(xp.numpy(Accumulate("float16", order).total(xp(x)))[0, 0]) for order in ORDERS
    }
    assert 6400 < exact < 6700
    assert 4000 < results["sequential"] < 5000, results
    for order in ("pairwise", "pairwise_mean", None):
        assert abs(results[order] - exact) < 13 * 2.0**-11 * exact, results


def test_a_stalled_sum_is_2_to_the_12_times_a_term(xp):
    ones = xp(np.ones((1, 5000)), "float16")
    total = Accumulate("float16", "sequential").total(ones)
    assert float(xp.numpy(total)[0, 0]) == 2048  # 2048 + 1 is a tie, and ties go to even
    x = np.full((1, 2), 1.0)
    x[0, 0] = 4096
    assert float(Accumulate("float16", "sequential").total(x.astype("float16"))[0, 0]) == 4096


def test_only_pairwise_mean_holds_100352_values(xp):
    x = xp(abs(np.random.default_rng(0).standard_normal((1, 100_352))), "float16")
    exact = float(xp.numpy(x).astype("float64").mean())
    with np.errstate(over="ignore"):
        assert np.isinf(xp.numpy(Accumulate("float16", "pairwise").total(x)))
        assert np.isinf(xp.numpy(Accumulate("float16", "pairwise").average(x)))
    for default in (None, "pairwise_mean"):
        mean = float(xp.numpy(Accumulate("float16", default).average(x))[0, 0])
        assert abs(mean - exact) < 18 * 2.0**-11 * exact


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int32", "complex64", "nonsense", object, 3, "longdouble"])
def test_dtype_is_named(dtype):
    with pytest.raises(TypeError, match="dtype of Accumulate"):
        Accumulate(dtype)


@pytest.mark.parametrize("order", ["tree", "", 1, "PAIRWISE", ["pairwise"], ("pairwise",)])
def test_order_is_named(order):
    with pytest.raises((TypeError, ValueError), match=r"order of Accumulate.*pairwise_mean"):
        Accumulate("float32", order)


CALLS = {
    "batch_norm": lambda x, a: lpnorm.batch_norm(x, None, None, accumulate=a),
    "layer_norm": lambda x, a: lpnorm.layer_norm(x, None, None, accumulate=a),
    "weight_norm": lambda x, a: lpnorm.weight_norm(x, x[:, 0], accumulate=a),
    "bounded_norm": lambda x, a: lpnorm.bounded_norm(x, accumulate=a),
    "bounded_weight_norm": lambda x, a: lpnorm.bounded_weight_norm(x, 1.0, accumulate=a),
    "accumulator": lambda x, a: accumulator(x.dtype, a),
}


@pytest.mark.parametrize("call", CALLS)
def test_accumulate_is_named(xp, call):
    x = xp(normal(0, (4, 3)), "float32")
    for wrong in ("int8", "pairwise", 7, "bfloat16", object()):
        with pytest.raises(TypeError, match=r"^accumulate must be"):
            CALLS[call](x, wrong)
    for narrow in ("float16", Accumulate("float16"), Accumulate("float16", "sequential")):
        with pytest.raises(ValueError, match=r"^accumulate must be at least as wide"):
            CALLS[call](x, narrow)


def test_accumulator_defaults():
    assert accumulator("float16") == Accumulate("float32")
    assert accumulator("float32") == Accumulate("float32")
    assert accumulator("float64") == Accumulate("float64")
    assert accumulator("float16", "float16") == Accumulate(np.float16)
    given = Accumulate("float64", "sequential")
    assert accumulator("float16", given) == given
    assert len({given, Accumulate(np.float64, "sequential"), Accumulate("float64")}) == 2


def test_a_mean_of_the_largest_number_is_that_number():
    tree = Accumulate("float16", "pairwise_mean")
    for n in (4097, 8193):
        assert float(tree.average(np.full((1, n), 65504, "float16"))[0, 0]) == 65504
    for dtype in ("float32", "float64"):
        top = np.finfo(dtype).max
        assert Accumulate(dtype).average(np.full((1, 8), top, dtype)) == top


def test_a_count_that_float16_does_not_hold():
    ones = np.ones((1, 4000), "float16")
    for count in (2049, 70000):
        assert Accumulate("float16", "pairwise").over(ones, count) == np.float16(4000 / count)


@pytest.mark.parametrize("wrong", [("float16", "pairwise"), None, "int8", 3.0])
def test_what_is_no_dtype_is_named(wrong):
    with pytest.raises((TypeError, ValueError), match="dtype of Accumulate must"):
        Accumulate(wrong)
