"""Networks for the experiments, and the implementation that they compute with."""

from __future__ import annotations

import functools
import multiprocessing
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from lpnorm import nn, plain
from lpnorm.arrays import check_count, check_function, check_rng


@functools.cache
def implementation() -> Any:
    """For the argument impl of a layer: `lpnorm.fast` if it can be loaded, else the plain code.

    The plain code is `lpnorm.plain`; the two give the same bits. That it is the plain one is
    said, and why, once, on stderr.
    """
    try:
        from lpnorm import fast
    except ImportError as error:
        if multiprocessing.parent_process() is None:  # for a worker, its parent has said it
            print(f"{error}; the plain code computes the same, more slowly", file=sys.stderr)
        return plain
    return fast


def digits_net(
    normalize: Callable[[int], nn.Layer] | None = nn.BatchNorm,
    wrap: Callable[[nn.Layer], nn.Layer] | None = None,
    width: int = 16,
    rng: int | np.random.Generator = 0,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Three 3x3 convolutions and a linear layer for (N, 1, 8, 8) digits -> (N, 10) logits.

    normalize: channels -> the layer that follows each convolution, for instance
    ``lambda channels: nn.BatchNorm(channels, p=1)``; None for no normalization (the convolutions
    then have a bias). wrap: what to do with each convolution, for instance `nn.WeightNorm`. width:
    channels of the first convolution, doubled after. He initialization from rng, a seed or a
    Generator.
    """
    rng = check_rng("rng", rng)
    width = check_count("width", width)
    check_function("normalize", normalize)
    check_function("wrap", wrap)
    blocks: list[nn.Layer] = []
    for inputs, outputs, pool in (
        (1, width, False),
        (width, 2 * width, True),
        (2 * width,) * 2 + (True,),
    ):
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=normalize is None, rng=rng)
        blocks.append(conv if wrap is None else wrap(conv))
        if normalize is not None:
            blocks.append(normalize(outputs))
        blocks.append(nn.ReLU())
        if pool:
            blocks.append(nn.MaxPool2d(2))
    model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(8 * width, 10, rng=rng))
    model.to(dtype=dtype)
    return model


def exact_net(p: Any, rng: int | np.random.Generator = 0) -> nn.Sequential:
    """Linear(64, 32), batch norm with eps = 0, ReLU, Linear(32, 10) in float64, for flat digits.

    Its first weight is scale-invariant exactly: for the laws that hold to rounding. p as in
    `lpnorm.batch_norm`.
    """
    rng = check_rng("rng", rng)
    return nn.Sequential(
        nn.Linear(64, 32, bias=False, rng=rng, dtype="float64"),
        nn.BatchNorm(32, p=p, eps=0.0, dtype="float64"),
        nn.ReLU(),
        nn.Linear(32, 10, rng=rng, dtype="float64"),
    )
