"""`lpnorm.plain` and `lpnorm.fast` against oracles that are written here, in loops and einsum.

In float64 with `math.fsum`-like care where that matters: the tolerance is a few roundings.
"""

from __future__ import annotations

import numpy as np
import pytest
from draws import normal, seeds
from hypothesis import given
from hypothesis import strategies as st

from lpnorm import plain
from lpnorm.plain import Windows

LAYOUTS = ["c", "fortran", "transposed", "sliced", "read-only", "reversed"]


@pytest.fixture(scope="module", params=["lpnorm.plain", "lpnorm.fast"])
def impl(request):
    return pytest.importorskip(request.param, exc_type=ImportError)


def relaid(x, layout):
    """The same values elsewhere in memory."""
    if layout == "fortran":
        return np.asfortranarray(x)
    if layout == "transposed":
        return np.ascontiguousarray(x.T).T
    if layout == "sliced":
        room = np.full([2 * size + 1 for size in x.shape], np.nan, x.dtype)
        view = room[(slice(1, None, 2),) * x.ndim]
        view[...] = x
        return view
    if layout == "reversed":
        return np.ascontiguousarray(x[::-1, ..., ::-1])[::-1, ..., ::-1]
    x = x.copy()
    x.flags.writeable = layout != "read-only"
    return x


def assert_close(got, want, scale=1.0, unit=2.0**-52):
    """Equal up to some roundings of the largest entry there is on the way."""
    assert type(got) is np.ndarray and got.shape == want.shape, (type(got), got.shape, want.shape)
    size = max(scale, np.abs(want).max(initial=0))
    assert np.abs(got - want).max(initial=0) <= 100 * unit * size


@st.composite
def geometries(draw, pool=False):
    """Kernels that are not square, padding up to the kernel and more, strides above it."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.one_of(st.just((1, 1)), st.tuples(st.integers(1, 5), st.integers(1, 5))))
    padding = tuple(draw(st.integers(0, k // 2 if pool else k + 1)) for k in kernel)
    least = [max(1, k - 2 * p) for k, p in zip(kernel, padding, strict=True)]
    size = tuple(draw(st.integers(low, low + 8)) for low in least)
    return kernel, stride, padding, size


def places(size, kernel, stride, padding):
    """(i, a, row) for each output i and tap a along one axis whose row is inside."""
    for i in range((size + 2 * padding - kernel) // stride + 1):
        for a in range(kernel):
            if 0 <= i * stride + a - padding < size:
                yield i, a, i * stride + a - padding


def pairs(geometry):
    kernel, stride, padding, size = geometry
    rows, columns = (
        list(places(*axis)) for axis in zip(size, kernel, stride, padding, strict=True)
    )
    return [(r, c) for r in rows for c in columns]


def out_of(geometry):
    kernel, stride, padding, size = geometry
    sides = zip(size, kernel, stride, padding, strict=True)
    return tuple((s + 2 * p - k) // d + 1 for s, k, d, p in sides)


# --- convolution and linear -----------------------------------------------------------------------


@given(
    geometry=geometries(), n=st.integers(1, 3), channels=st.tuples(*[st.integers(1, 4)] * 2),
    seed=seeds, bias=st.booleans(), layout=st.sampled_from(LAYOUTS),
)  # fmt: skip
def test_conv2d_is_its_definition(impl, geometry, n, channels, seed, bias, layout):
    inputs, outputs = channels
    x = normal(seed, (n, inputs, *geometry[3]))
    w = normal(seed + 1, (outputs, inputs, *geometry[0]))
    b = normal(seed + 2, (outputs,)) if bias else None
    dy = normal(seed + 3, (n, outputs, *out_of(geometry)))
    y, dx, dw = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(w.shape)
    for (i, a, row), (j, c, column) in pairs(geometry):
        seen, sent = x[:, :, row, column], dy[:, :, i, j]
        y[:, :, i, j] += np.einsum("nc,oc->no", seen, w[:, :, a, c])
        dx[:, :, row, column] += np.einsum("no,oc->nc", sent, w[:, :, a, c])
        dw[:, :, a, c] += np.einsum("no,nc->oc", sent, seen)
    if bias:
        y += b[:, None, None]
    arrays = [relaid(v, layout) for v in (x, w, dy)]
    before = [v.copy() for v in arrays]
    found, backward = impl.conv2d(*arrays[:2], b, Windows("test", *geometry[:3]))
    assert_close(found, y, 16)
    for _ in range(2):
        got_dx, got_dw, got_db = backward(arrays[2])
        assert_close(got_dx, dx, 16)
        assert_close(got_dw, dw, 16)
        assert got_db is None if not bias else np.allclose(got_db, dy.sum((0, 2, 3)), 0, 1e-11)
    assert all((v == old).all() for v, old in zip(arrays, before, strict=True))


@given(sides=st.tuples(*[st.integers(1, 6)] * 3), seed=seeds, layout=st.sampled_from(LAYOUTS))
def test_linear_is_its_definition(impl, sides, seed, layout):
    n, inputs, outputs = sides
    x, w, b = normal(seed, (n, inputs)), normal(seed + 1, (outputs, inputs)), normal(2, (outputs,))
    dy = normal(seed + 3, (n, outputs))
    arrays = [relaid(v, layout) for v in (x, w, dy)]
    y, backward = impl.linear(*arrays[:2], b)
    assert_close(y, np.einsum("ni,oi->no", x, w) + b, 16)
    dx, dw, db = backward(arrays[2])
    assert_close(dx, np.einsum("no,oi->ni", dy, w), 16)
    assert_close(dw, np.einsum("no,ni->oi", dy, x), 16)
    assert_close(db, np.einsum("no->o", dy), 16)
    assert impl.linear(x, w, None)[1](dy)[2] is None


@pytest.mark.parametrize("sides", [(300, 257, 260), (5, 3000, 2500)], ids=str)
def test_linear_in_parts(impl, sides):
    """Products so large that they are cut, along either side."""
    n, inputs, outputs = sides
    x, w, dy = normal(1, (n, inputs)), normal(2, (outputs, inputs)), normal(3, (n, outputs))
    y, backward = impl.linear(x, w, None)
    dx, dw, _ = backward(dy)
    for got, want in ((y, x @ w.T), (dx, dy @ w), (dw, dy.T @ x)):
        assert_close(got, want, 100)


@given(geometry=geometries(), n=st.integers(1, 4), seed=seeds)
def test_float16_is_computed_in_float32_and_rounded_once(impl, geometry, n, seed):
    x = normal(seed, (n, 3, *geometry[3]), "float16")
    w = normal(seed + 1, (2, 3, *geometry[0]), "float16")
    dy = normal(seed + 2, (n, 2, *out_of(geometry)), "float16")
    results = []
    for dtype in ("float16", "float32"):
        y, backward = impl.conv2d(
            *(v.astype(dtype) for v in (x, w)), None, Windows("", *geometry[:3])
        )
        flat, flat_backward = impl.linear(
            x.reshape(n, -1).astype(dtype), x.reshape(n, -1).astype(dtype), None
        )
        back = [*backward(dy.astype(dtype))[:2], *flat_backward(flat)[:2]]
        results.append([y, *back[:2], flat])
    for half, single in zip(*results, strict=True):
        assert half.dtype == "float16" and single.dtype == "float32"
        assert (half == single.astype("float16")).all()


# --- pools ----------------------------------------------------------------------------------------


@given(
    geometry=geometries(pool=True), planes=st.tuples(*[st.integers(1, 3)] * 2), seed=seeds,
    values=st.sampled_from([3, 1000]), layout=st.sampled_from(LAYOUTS),
)  # fmt: skip
def test_max_pool2d_is_its_definition(impl, geometry, planes, seed, values, layout):
    """Of few values, so that there are ties, or of many; the first maximum has the gradient."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-values, values, (*planes, *geometry[3])).astype("float64")
    dy = normal(seed, (*planes, *out_of(geometry)))
    y, dx = np.full(dy.shape, -np.inf), np.zeros(x.shape)
    best = np.zeros((*dy.shape, 2), int)
    for (i, _, row), (j, _, column) in sorted(pairs(geometry), key=lambda rc: (rc[0], rc[1])):
        wins = x[:, :, row, column] > y[:, :, i, j]
        y[:, :, i, j][wins] = x[:, :, row, column][wins]
        best[:, :, i, j][wins] = row, column
    for place in np.ndindex(dy.shape):
        dx[(*place[:2], *best[place])] += dy[place]
    found, backward = impl.max_pool2d(relaid(x, layout), Windows("test", *geometry[:3]))
    assert type(found) is np.ndarray and (found == y).all()
    assert_close(backward(relaid(dy, layout)), dx, 4)


@given(
    geometry=geometries(pool=True), planes=st.tuples(*[st.integers(1, 3)] * 2), seed=seeds,
    layout=st.sampled_from(LAYOUTS),
)  # fmt: skip
def test_average_pools_are_their_definition(impl, geometry, planes, seed, layout):
    x = normal(seed, (*planes, *geometry[3]))
    dy, area = normal(seed + 1, (*planes, *out_of(geometry))), np.prod(geometry[0])
    y, dx = np.zeros(dy.shape), np.zeros(x.shape)
    for (i, _, row), (j, _, column) in pairs(geometry):
        y[:, :, i, j] += x[:, :, row, column] / area
        dx[:, :, row, column] += dy[:, :, i, j] / area
    found, backward = impl.avg_pool2d(relaid(x, layout), Windows("test", *geometry[:3]))
    assert_close(found, y, 4)
    assert_close(backward(relaid(dy, layout)), dx, 4)
    found, backward = impl.global_avg_pool2d(relaid(x, layout))
    assert_close(found, np.einsum("nchw->nc", x) / (x.shape[2] * x.shape[3]), 4)
    share = dy[:, :, 0, 0] / (x.shape[2] * x.shape[3])
    want = np.einsum("nc,hw->nchw", share, np.ones(x.shape[2:]))
    assert_close(backward(np.ascontiguousarray(dy[:, :, 0, 0])), want, 4)


# --- values and channels --------------------------------------------------------------------------

shapes = st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple)


@given(shape=shapes, seed=seeds, layout=st.sampled_from(LAYOUTS))
def test_relu_and_add_are_their_definitions(impl, shape, seed, layout):
    x, dy = np.round(2 * normal(seed, shape)), normal(seed + 1, shape)
    y, backward = impl.relu(relaid(x, layout))
    dx, total = backward(relaid(dy, layout)), impl.add(relaid(x, layout), relaid(dy, layout))
    for place in np.ndindex(shape):
        assert y[place] == max(x[place], 0)
        assert dx[place] == (dy[place] if x[place] > 0 else 0)
        assert total[place] == x[place] + dy[place]


@given(shape=shapes, seed=seeds, layout=st.sampled_from(LAYOUTS), data=st.data())
def test_center_is_its_definition(impl, shape, seed, layout, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    x, dy, beta = normal(seed, shape), normal(seed + 1, shape), normal(seed + 2, (shape[axis],))
    constant = data.draw(st.none() | st.just(normal(seed + 3, (shape[axis],))))
    arrays = relaid(x, layout), relaid(dy, layout)
    y, mean, backward = impl.center(arrays[0], beta, constant, axis)
    dx, dbeta = backward(arrays[1])
    assert not np.shares_memory(dx, arrays[1])
    for c in range(shape[axis]):
        own = tuple(c if a == axis else slice(None) for a in range(len(shape)))
        average = x[own].mean() if constant is None else constant[c]
        assert mean[c] == pytest.approx(average, abs=1e-14)
        assert_close(y[own], x[own] - average + beta[c], 4)
        assert_close(dx[own], dy[own] - (dy[own].mean() if constant is None else 0), 4)
        assert dbeta[c] == pytest.approx(dy[own].sum(), abs=1e-12)


def test_both_have_the_same_functions(impl):
    assert impl.__all__ == plain.__all__ and all(hasattr(impl, name) for name in plain.__all__)
