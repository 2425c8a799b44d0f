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


Normalize = Callable[[int], nn.Layer] | None
Wrap = Callable[[nn.Layer], nn.Layer] | None


def digits_net(
    normalize: Normalize = nn.BatchNorm,
    wrap: Wrap = None,
    width: int = 16,
    rng: int | np.random.Generator = 0,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Three 3x3 convolutions and a linear layer for (N, 1, 8, 8) digits -> (N, 10) logits.

    normalize: channels -> the layer that follows each convolution, for instance
    ``lambda channels: nn.BatchNorm(channels, p=1)``; None for no normalization (the convolutions
    then have a bias). wrap: what to do with each convolution, for instance `nn.WeightNorm`. width:
    channels of the first convolution, doubled after. He initialization from rng, a seed or a
    Generator. dtype: a float dtype. Raises TypeError or ValueError naming the argument.
    """
    rng, width = check_rng("rng", rng), check_count("width", width)
    convolution = _convolutions(normalize, wrap, rng)
    blocks = _blocks(convolution, 1, [width, 2 * width, "pool", 2 * width, "pool"])
    model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(8 * width, 10, rng=rng))
    model.to(dtype=dtype)
    return model


def vgg11(
    normalize: Normalize = nn.BatchNorm,
    wrap: Wrap = None,
    width: int = 64,
    classes: int = 10,
    rng: int | np.random.Generator = 0,
    dtype: Any = "float32",
) -> nn.Sequential:
    """VGG11 for (N, 3, 32, 32) images, as CIFAR's are, -> (N, classes) logits.

    Configuration A of Simonyan & Zisserman (2015): eight 3x3 convolutions and five max pools, which
    leave one position; so, as is usual on CIFAR, one linear layer follows instead of three. width:
    channels of the first convolution, of which the last four have eight times as many (64 is the
    paper's). The other arguments, and what is raised: see `digits_net`.
    """
    rng, w = check_rng("rng", rng), check_count("width", width)
    classes = check_count("classes", classes)
    convolution = _convolutions(normalize, wrap, rng)
    sizes = [w, "pool", 2 * w, "pool", 4 * w, 4 * w, "pool", *[8 * w, 8 * w, "pool"] * 2]
    blocks = _blocks(convolution, 3, sizes)
    model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(8 * w, classes, rng=rng))
    model.to(dtype=dtype)
    return model


def resnet(
    depth: int = 20,
    normalize: Normalize = nn.BatchNorm,
    wrap: Wrap = None,
    width: int = 16,
    classes: int = 10,
    rng: int | np.random.Generator = 0,
    dtype: Any = "float32",
) -> nn.Sequential:
    """The residual network for CIFAR (He et al. 2016, section 4.2): (N, 3, H, W) -> (N, classes).

    depth = 6 n + 2: a 3x3 convolution, three stages of n blocks of two, a global average pool and a
    linear layer. width: channels of the first stage (16 is the paper's), doubled in each following
    one, whose first block has stride 2. There the shortcut is their option B, a 1x1 convolution of
    stride 2 (normalized and wrapped as the others), where they took A on CIFAR, the identity with
    zeros for the new channels: a shortcut of `nn.Residual` is a layer, and that is none of ours. It
    costs 1% more parameters. The other arguments, and what is raised: see `digits_net`.
    """
    n, rest = divmod(check_count("depth", depth) - 2, 6)
    if n < 1 or rest:
        raise ValueError(f"depth must be 6 n + 2 (8, 14, 20, ...), got {depth}")
    rng, width = check_rng("rng", rng), check_count("width", width)
    classes = check_count("classes", classes)
    convolution = _convolutions(normalize, wrap, rng)
    blocks = _blocks(convolution, 3, [width])
    inputs = width
    for outputs in (width, 2 * width, 4 * width):
        for _ in range(n):
            shortcut, stride = None, 1
            if outputs != inputs:
                stride = 2
                shortcut = nn.Sequential(*convolution(inputs, outputs, 1, stride))
            first, second = convolution(inputs, outputs, 3, stride), convolution(outputs, outputs)
            body = nn.Sequential(*first, nn.ReLU(), *second)
            blocks += [nn.Residual(body, shortcut), nn.ReLU()]
            inputs = outputs
    model = nn.Sequential(*blocks, nn.GlobalAvgPool2d(), nn.Linear(inputs, classes, rng=rng))
    model.to(dtype=dtype)
    return model


def _convolutions(
    normalize: Normalize, wrap: Wrap, rng: np.random.Generator
) -> Callable[..., list[nn.Layer]]:
    """A function (inputs, outputs, kernel=3, stride=1) -> the convolution and what normalizes it.

    Padded so that stride 1 keeps height and width.
    """
    check_function("normalize", normalize)
    check_function("wrap", wrap)

    def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Layer]:
        pad, bias = kernel // 2, normalize is None
        conv = nn.Conv2d(inputs, outputs, kernel, stride, pad, bias=bias, rng=rng)
        layer = conv if wrap is None else wrap(conv)
        return [layer] if normalize is None else [layer, normalize(outputs)]

    return convolution


def _blocks(
    convolution: Callable[..., list[nn.Layer]], inputs: int, sizes: list[Any]
) -> list[nn.Layer]:
    """A convolution to so many channels and a ReLU for each number, a max pool for each "pool"."""
    blocks: list[nn.Layer] = []
    for outputs in sizes:
        if outputs == "pool":
            blocks.append(nn.MaxPool2d(2))
        else:
            blocks += [*convolution(inputs, outputs), nn.ReLU()]
            inputs = outputs
    return blocks


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
