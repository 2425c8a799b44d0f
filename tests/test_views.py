"""How an array is seen as (outer, groups, inner): which values, in which order, copied or not."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpnorm.arrays import View, column, from_rows, to_rows, view_of


def counted(shape):
    return np.arange(math.prod(shape), dtype="float32").reshape(shape)


def axis_sets(ndim):
    """Every set of reduced axes, the empty one left out."""
    return [
        axes for count in range(1, ndim + 1) for axes in itertools.combinations(range(ndim), count)
    ]


def rows_of(seen):
    """(outer, groups, inner) -> (groups, n), a group's values over outer, then inner."""
    outer, groups, inner = seen.shape
    return np.array(
        [[seen[o, g, i] for o in range(outer) for i in range(inner)] for g in range(groups)]
    )


def values_of(x, kept, group):
    """A group's values: x at these indices of its kept axes, in logical order."""
    at = dict(zip(kept, group, strict=True))
    return x[tuple(at.get(a, slice(None)) for a in range(x.ndim))].ravel()


def assert_seen_rightly(x, reduced):
    view = view_of(x, reduced)
    seen = view.see(x)
    kept = tuple(a for a in range(x.ndim) if a not in reduced)
    assert view.shape == x.shape and seen.shape == view.sizes and seen.size == x.size
    assert view.n == math.prod(x.shape[a] for a in reduced)
    groups = np.ndindex(*[x.shape[a] for a in kept])
    want = np.array([values_of(x, kept, group) for group in groups])
    assert np.array_equal(rows_of(seen), want), (x.shape, x.strides, reduced)
    back = view.back(seen)
    assert back.shape == x.shape and np.array_equal(back, x)
    return view, seen, back


LAYOUTS = {
    "c": lambda x: x,
    "fortran": np.asfortranarray,
    "reversed": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "last reversed": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
    "sliced": lambda x: np.repeat(x, 2, axis=0)[::2],
    "last sliced": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "axis 1 last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
    "axis 0 last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0),
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [(3, 4), (2, 3, 4), (2, 3, 2, 2), (2, 1, 3, 2), (1, 1), (5, 1)], ids=str
)
def test_every_set_of_axes(shape, layout):
    """A group's values are in the logical order of the reduced axes, whatever the memory layout,
    and groups in the logical order of the kept ones; `back` undoes `see`."""
    x = LAYOUTS[layout](counted(shape))
    for reduced in axis_sets(len(shape)):
        assert_seen_rightly(x, reduced)


@given(data=st.data())
def test_any_strides(data):
    """Axes in any order in memory, some reversed, some sliced."""
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=5)))
    order = data.draw(st.permutations(range(len(shape))))
    steps = [data.draw(st.sampled_from([1, 1, -1, 2])) for _ in shape]
    room = counted(tuple(shape[a] * abs(steps[a]) for a in order))
    x = room[tuple(slice(None, None, steps[a]) for a in order)].transpose(np.argsort(order))
    assert x.shape == shape
    reduced = data.draw(st.sampled_from(axis_sets(len(shape))))
    view, seen, back = assert_seen_rightly(x, reduced)
    if not view.gathered:
        assert np.shares_memory(back, seen), "back copies what was not gathered"


NOT_COPIED = [  # x's axes as they are in memory, what is reduced, (outer, groups, inner)
    ((0, 1, 2, 3), (0, 2, 3), (2, 3, 20)),  # batch norm of (N, C, H, W)
    ((0, 2, 3, 1), (0, 2, 3), (40, 3, 1)),  # of channels-last memory
    ((1, 0, 2, 3), (0, 2, 3), (1, 3, 40)),  # channels first in memory
    ((0, 1, 2, 3), (1, 2, 3), (1, 2, 60)),  # layer norm of a sample
    ((0, 1, 2, 3), (3,), (1, 24, 5)),
    ((0, 1, 2, 3), (0,), (2, 60, 1)),
    ((0, 1, 2, 3), (2, 3), (1, 6, 20)),
    ((0, 1, 2, 3), (0, 3), (2, 12, 5)),
    ((0, 1, 2, 3), (0, 1, 2, 3), (1, 1, 120)),
]


@pytest.mark.parametrize(("memory", "reduced", "sizes"), NOT_COPIED, ids=str)
def test_not_copied(memory, reduced, sizes):
    shape = (2, 3, 4, 5)
    x = counted(tuple(shape[a] for a in memory)).transpose(np.argsort(memory))
    assert x.shape == shape
    view, seen, back = assert_seen_rightly(x, reduced)
    assert not view.gathered and np.shares_memory(seen, x) and np.shares_memory(back, x)
    assert view.sizes == sizes
    assert back.strides == x.strides


GATHERED = [
    ((0, 1, 2, 3), (1, 3)),  # reduced axes between kept ones
    ((0, 1, 2, 3), (1,)),
    ((0, 1, 2, 3), (0, 2)),
    ((3, 2, 1, 0), (1, 3)),
]


@pytest.mark.parametrize(("memory", "reduced"), GATHERED, ids=str)
def test_gathered(memory, reduced):
    """(1, groups, n), a copy; what comes back is contiguous and nobody else's."""
    shape = (2, 3, 4, 5)
    x = counted(tuple(shape[a] for a in memory)).transpose(np.argsort(memory))
    view, seen, back = assert_seen_rightly(x, reduced)
    assert view.gathered and view.sizes[0] == 1
    assert not np.shares_memory(seen, x) and back.flags.c_contiguous
    assert view.sizes[2] == view.n


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (1, 3, 1, 5), (2, 3, 1, 1), (1, 1, 1, 1)], ids=str)
def test_axes_of_length_one_are_not_in_the_way(shape):
    """Whatever strides they have: batch norm on axis 1 is never gathered."""
    x = counted(shape)
    odd = np.lib.stride_tricks.as_strided(
        x, shape, [s if n > 1 else 4 * 7919 for n, s in zip(shape, x.strides, strict=True)]
    )
    for each in (x, odd):
        view, seen, _ = assert_seen_rightly(each, (0, 2, 3))
        assert not view.gathered and np.shares_memory(seen, x)


def test_an_axis_of_length_one_between_kept_ones():
    x = counted((2, 1, 3))
    view, seen, _ = assert_seen_rightly(x, (1,))
    assert not view.gathered and view.sizes == (1, 6, 1) and np.shares_memory(seen, x)


def test_memory_that_has_another_order_than_the_values():
    """The logical order, then: still not copied where no axes need to be merged."""
    fortran, rows = np.asfortranarray(counted((2, 3, 4))), counted((6, 5))
    for x, reduced, sizes in (
        (fortran, (0, 2), (2, 3, 4)),
        (np.broadcast_to(counted((1, 3, 4)), (2, 3, 4)), (0, 2), (2, 3, 4)),
        (rows[::-1], (0,), (6, 5, 1)),
        (rows[:, ::-1], (0,), (6, 5, 1)),
        (rows.T, (0,), (1, 6, 5)),
    ):
        view, seen, _ = assert_seen_rightly(x, reduced)
        assert not view.gathered and np.shares_memory(seen, x), (x.strides, reduced)
        assert view.sizes == sizes, (x.strides, reduced)


def test_a_view_is_a_value():
    """It can be compared and kept (a cache has one)."""
    x = counted((2, 3, 4))
    assert view_of(x, (0, 2)) == View((2, 3, 4), (0, 1, 2), (2, 3, 4), False)
    assert hash(view_of(x, (0, 2))) == hash(view_of(x + 1, (0, 2)))


@given(data=st.data())
def test_rows(data):
    """`to_rows`, `from_rows` and `column`, for every set of axes."""
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    x = counted(shape)
    reduced = data.draw(st.sampled_from(axis_sets(len(shape))))
    rows = to_rows(x, reduced)
    view = view_of(x, reduced)
    assert np.array_equal(rows, rows_of(view.see(x)))
    back = from_rows(rows, shape, reduced)
    assert np.array_equal(back, x) and back.flags.c_contiguous
    assert np.array_equal(rows - column(rows[:, 0]), rows - rows[:, :1])
