"""Data sets: the handwritten digits that come with the library, and shifts to augment them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from lpnorm.arrays import Array, check_count, check_device, check_dtype, namespace, short, to_device


@dataclass(frozen=True)
class Dataset:
    """Images (N, channels, H, W) and integer labels (N,), for training and for testing."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array


def digits(dtype: Any = "float32", device: str = "cpu") -> Dataset:
    """1,797 handwritten digits in 10 classes, shape (N, 1, 8, 8), pixels from 0 to 1.

    The split is fixed: 1,437 to train, 360 to test, shuffled once and for all (the original order
    groups digits by writer). Source and licence (UCI, CC BY 4.0): `digits.LICENSE.md` beside the
    data. Raises ValueError or RuntimeError for a device that is not there.
    """
    check_device(device)
    check_dtype("dtype", dtype)
    with np.load(str(files("lpnorm.data") / "digits.npz"), allow_pickle=False) as archive:
        x = (archive["images"][:, None] / 16).astype(dtype)
        y = archive["labels"].astype("int64")
    train, test = slice(0, 1437), slice(1437, None)
    return Dataset(*(to_device(a, device) for a in (x[train], y[train], x[test], y[test])))


def shift(x: Array, rng: np.random.Generator, pixels: int = 1) -> Array:
    """Each image moved by a random whole number of pixels, from -pixels to pixels each way.

    x: (N, C, H, W); what moves in is 0. Returns a new array. ValueError naming pixels if negative
    or larger than the image.
    """
    namespace(x=x)
    pixels = check_count("pixels", pixels, 0)
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy Generator, got {short(rng)}")
    if x.ndim != 4:
        raise ValueError(f"x must have shape (N, C, H, W), got {tuple(x.shape)}")
    n, _, height, width = x.shape
    if pixels > min(height, width):
        raise ValueError(
            f"pixels must be at most the image's size {height} x {width}, got {pixels}"
        )
    moved = x.copy()
    where = rng.integers(0, 2 * pixels + 1, size=(n, 2))
    padded = np.pad(to_device(x, "cpu"), ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    chosen = windows[np.arange(n), :, where[:, 0], where[:, 1]]
    moved[...] = to_device(chosen, "cpu" if isinstance(x, np.ndarray) else "gpu")
    return moved
