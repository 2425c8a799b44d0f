"""Norms: value, gradient and Gaussian constant against the oracle and the papers' figures."""

import inspect
import math
import re
import time

import numpy as np
import pytest
import sample_mean_bias
from draws import NORMS, any_values, directional, normal, seeds, with_gaps
from hypothesis import given
from hypothesis import strategies as st

import lpnorm
from lpnorm import Accumulate, Range, TopK
from lpnorm.norms import as_norm
from lpnorm.verify import oracle

FLOAT64 = Accumulate("float64")


@pytest.mark.parametrize("p", NORMS, ids=str)
@given(data=st.data(), size=st.sampled_from([1.0, 2.0**-20, 2.0**20]))
def test_value_and_gradient_are_the_oracles(xp, p, data, size):
    """Any values, ties and zeros included: d is given, so there is no mean to be in doubt."""
    d = data.draw(any_values((2, 6))) * size
    norm = as_norm(p)
    value = norm.statistic(xp(d), FLOAT64)
    with np.errstate(invalid="ignore"):  # 0/0 in a row of zeros, for p = 2
        h, a = norm.direction(xp(d), norm.scale(xp(d), 1.0, 0.0, FLOAT64), FLOAT64)
    slopes = xp.numpy(h / (norm.count(6) * a))
    for row, got, slope in zip(d.tolist(), xp.numpy(value)[:, 0], slopes, strict=True):
        assert got == pytest.approx(oracle.deviation(row, p), rel=1e-14, abs=0)
        if any(row):  # at 0 the library leaves 0/0 to eps
            want = oracle.deviation_gradient(row, p)
            np.testing.assert_allclose(slope, want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("p", NORMS, ids=str)
@given(seed=seeds)
def test_gradient_is_the_slope_of_the_value(p, seed):
    d = with_gaps(seed, 9, 1)
    d = d - d.mean()
    v = np.random.default_rng(seed).standard_normal(d.shape)
    norm = as_norm(p)
    h, a = norm.direction(d, norm.scale(d, 1.0, 0.0, FLOAT64), FLOAT64)
    slope = directional(lambda d: float(norm.statistic(d, FLOAT64)[0, 0]), d, v)
    assert (h / (norm.count(9) * a) * v).sum() == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("p", NORMS, ids=str)
@given(data=st.data())
def test_euler_and_order_one(p, data):
    """<grad phi, d> = phi(d), homogeneous of degree 1; and phi is no larger than n^(1-1/p) says."""
    d = data.draw(any_values((1, 7)))
    if not d.any() or (isinstance(p, Range) and np.ptp(d) == 0):
        return
    norm = as_norm(p)
    value = norm.statistic(d, FLOAT64)
    h, a = norm.direction(d, value, FLOAT64)
    assert (h / (norm.count(7) * a) * d).sum() == pytest.approx(value[0, 0], rel=1e-13)
    assert np.abs(h).max() <= (math.sqrt(7) * (1 + 1e-14) if p == 2 else 1)


def test_l1_l2_and_infinity_are_the_lp_of_their_p():
    d = normal(0, (3, 20))
    for p in (1, 2):
        plain = lpnorm.norms.Lp(float(p)).statistic(d, FLOAT64)
        np.testing.assert_allclose(as_norm(p).statistic(d, FLOAT64), plain, rtol=1e-14)
    many = lpnorm.norms.Lp(2.0**20).statistic(d, FLOAT64)
    np.testing.assert_allclose(as_norm(math.inf).statistic(d, FLOAT64), many, rtol=1e-5)
    assert as_norm(math.inf) == TopK(1)


# --- Gaussian constants ---------------------------------------------------------------------------

SIZES = [1, 2, 3, 16, 100, 256, 4096, 131_072, 802_816, 10**7]


@pytest.mark.parametrize("constant", ["paper", "exact", None])
@pytest.mark.parametrize("n", SIZES)
def test_constants_are_the_oracles(n, constant):
    for p in [1, 1.5, 2, 3, 64, math.inf, TopK(2), TopK(10), TopK(100), TopK(1024), Range()]:
        if isinstance(p, TopK) and p.k > n:
            continue
        got = lpnorm.gaussian_constant(p, n, constant)
        assert type(got) is float
        assert got == pytest.approx(oracle.gaussian_constant(p, n, constant), rel=1e-7), p


def test_constants_by_hand():
    """Closed forms, and figures measured elsewhere."""
    c = lpnorm.gaussian_constant
    assert c(1, 50) == pytest.approx(math.sqrt(math.pi / 2))
    assert c(2, 50) == c(math.inf, 1) == c(Range(), 1) == 1.0
    assert c(4, 50) == pytest.approx(3**-0.25)  # E z^4 = 3
    assert 1 / c(math.inf, 2, "exact") == pytest.approx(2 / math.sqrt(math.pi))
    assert 1 / c(Range(), 2, "exact") == pytest.approx(2 / math.sqrt(math.pi))
    assert 1 / c(Range(), 3, "exact") == pytest.approx(3 / math.sqrt(math.pi))
    assert c(TopK(50), 50, "exact") == pytest.approx(math.sqrt(math.pi / 2))  # all of them: L1
    for n, product in ((16, 1.36), (256, 1.41), (4096, 1.44), (802_816, 1.47)):
        both = c(math.inf, n), c(math.inf, n, "exact")
        assert both[0] / both[1] == pytest.approx(product, abs=0.005)
    for n, product in ((256, 0.90), (802_816, 0.74)):  # the standard deviation Top-10 leaves
        assert c(TopK(10), n, "exact") / c(TopK(10), n) == pytest.approx(product, abs=0.005)


@given(n=st.integers(2, 10**7), k=st.integers(1, 1024))
def test_exact_constants_fall_with_n_and_rise_with_k(n, k):
    k = min(k, n)
    exact = [lpnorm.gaussian_constant(TopK(k), size, "exact") for size in (n, n + 1)]
    assert exact[1] < exact[0]
    if k < n:
        assert lpnorm.gaussian_constant(TopK(k + 1), n, "exact") > exact[0]


def test_a_new_constant_takes_milliseconds_and_an_old_one_none():
    """No test asserts a time; this one prints it (pytest -s) and checks that it is cached."""
    start = time.perf_counter()
    first = lpnorm.gaussian_constant(TopK(1024), 9_876_543, "exact")
    print(f"a new Top-1024 constant: {(time.perf_counter() - start) * 1e3:.1f} ms")
    before = lpnorm.norms._constant.cache_info().hits
    assert lpnorm.gaussian_constant(TopK(1024), 9_876_543, "exact") == first
    assert lpnorm.norms._constant.cache_info().hits == before + 1


def test_the_docstrings_table_of_the_sample_mean_bias():
    """Every entry against a smaller simulation, within 5 standard errors of both."""
    text = inspect.getdoc(lpnorm.gaussian_constant)
    rows = re.findall(r"^\| +(\d+) \|(.*)\|$", text, re.MULTILINE)
    assert [int(n) for n, _ in rows] == sample_mean_bias.SIZES
    for n, entries in rows:
        for p, entry in zip(sample_mean_bias.NORMS, entries.split("|"), strict=True):
            if entry.strip() != "-":
                mean, error = sample_mean_bias.simulate(p, int(n), groups=20_000, seed=1)
                assert float(entry) == pytest.approx(mean, abs=5 * error + 0.002), (n, p)
