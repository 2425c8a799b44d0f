"""The digits and their shifts."""

from __future__ import annotations

import numpy as np
import pytest
from draws import normal, seeds
from hypothesis import given
from hypothesis import strategies as st

from lpnorm.data import digits, shift


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_shapes_and_values(dtype):
    d = digits(dtype)
    assert d.train_x.shape == (1437, 1, 8, 8) and d.test_x.shape == (360, 1, 8, 8)
    assert d.train_y.shape == (1437,) and d.test_y.shape == (360,)
    for x in (d.train_x, d.test_x):
        assert x.dtype == dtype and x.min() == 0 and x.max() == 1
        assert (16 * x == np.round(16 * x)).all()  # exact in every dtype
    assert {d.train_y.dtype.name, d.test_y.dtype.name} == {"int64"}


def test_both_parts_have_all_classes_about_equally():
    d = digits()
    for y in (d.train_y, d.test_y):
        counts = np.bincount(y)
        assert len(counts) == 10
        expected = len(y) / 10
        assert (abs(counts - expected) < 4 * np.sqrt(expected)).all()
    assert (np.diff(d.train_y) != 0).mean() > 0.8  # shuffled


def test_they_are_those_of_scikit_learn():
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    d = digits("float64")
    ours = np.concatenate([d.train_x, d.test_x]).reshape(-1, 64) * 16
    labels = np.concatenate([d.train_y, d.test_y])

    def rows(images, labels):
        return sorted(map(tuple, np.column_stack([images, labels]).astype(int).tolist()))

    assert rows(ours, labels) == rows(bunch.data, bunch.target)


def test_every_call_gives_its_own_copy():
    digits().train_x[...] = 7
    assert digits().train_x.max() == 1


def test_on_the_device_that_was_asked_for(xp):
    d = digits(device="cpu" if xp.module is np else "gpu")
    assert all(isinstance(a, xp.module.ndarray) for a in vars(d).values())
    assert (xp.numpy(d.train_x) == digits().train_x).all()


@pytest.mark.parametrize(
    "arguments, error",
    [({"device": "tpu"}, ValueError), ({"dtype": "int32"}, TypeError), ({"dtype": "x"}, TypeError)],
)
def test_digits_refuse_a_wrong_argument(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        digits(**arguments)


# --- shifts ---------------------------------------------------------------------------------------


def all_shifts(image, pixels):
    """Every shifted version of one image (C, H, W), zeros moving in: a list of arrays."""
    height, width = image.shape[1:]
    versions = []
    for down in range(-pixels, pixels + 1):
        for right in range(-pixels, pixels + 1):
            moved = np.zeros_like(image)
            for i in range(height):
                for j in range(width):
                    if 0 <= i - down < height and 0 <= j - right < width:
                        moved[:, i, j] = image[:, i - down, j - right]
            versions.append(moved)
    return versions


@given(
    seed=seeds,
    channels=st.integers(1, 3),
    size=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    pixels=st.integers(0, 2),
)
def test_each_image_is_one_of_its_shifted_versions(xp, seed, channels, size, pixels):
    images = normal(seed, (5, channels, *size), "float32")
    x = xp(images)
    moved = shift(x, np.random.default_rng(seed), pixels)
    assert moved.dtype == "float32"
    for image, result in zip(images, xp.numpy(moved), strict=True):
        assert any(np.array_equal(result, version) for version in all_shifts(image, pixels))
    assert (xp.numpy(x) == images).all()  # a new array


def test_every_shift_occurs_and_equally_often():
    rng = np.random.default_rng(0)
    image = np.arange(1.0, 10).reshape(1, 3, 3)
    moved = shift(np.repeat(image[None], 9000, axis=0), rng)
    for version in all_shifts(image, 1):
        hits = (moved == version).all(axis=(1, 2, 3)).sum()
        assert abs(hits - 1000) < 4 * np.sqrt(1000)


def test_the_same_seed_gives_the_same_shifts(xp):
    x = normal(0, (20, 1, 4, 4))

    def shifted(seed):
        return xp.numpy(shift(xp(x), np.random.default_rng(seed)))

    assert (shifted(1) == shifted(1)).all()
    assert (shifted(1) != shifted(2)).any()


def test_no_pixels_is_the_identity_in_a_new_array(xp):
    x = xp(normal(0, (3, 2, 4, 5)))
    moved = shift(x, np.random.default_rng(0), pixels=0)
    assert (xp.numpy(moved) == xp.numpy(x)).all()
    moved[...] = 7
    assert (xp.numpy(x) != 7).all()


@pytest.mark.parametrize("pixels, error", [(-1, ValueError), (5, ValueError), (1.5, TypeError)])
def test_shift_refuses_a_wrong_number_of_pixels(pixels, error):
    with pytest.raises(error, match="pixels"):
        shift(np.zeros((2, 1, 4, 6)), np.random.default_rng(0), pixels)


def test_shift_refuses_what_is_no_batch_of_images():
    with pytest.raises(ValueError, match="x must"):
        shift(np.zeros((4, 6)), np.random.default_rng(0))
