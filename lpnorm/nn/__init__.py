"""A small engine without autodiff: every layer carries its own, hand-derived backward pass."""

from lpnorm.nn.base import Layer, Parameter, load, save, watch
from lpnorm.nn.containers import Residual, Sequential
from lpnorm.nn.invariant import scale_invariant
from lpnorm.nn.linear import Conv2d, Linear, initialize
from lpnorm.nn.loss import softmax_cross_entropy
from lpnorm.nn.norm import BatchNorm, LayerNorm, MeanOnlyBatchNorm
from lpnorm.nn.pointwise import Flatten, ReLU
from lpnorm.nn.pool import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from lpnorm.nn.weightnorm import BoundedWeightNorm, WeightNorm

__all__ = [
    "AvgPool2d",
    "BatchNorm",
    "BoundedWeightNorm",
    "Conv2d",
    "Flatten",
    "GlobalAvgPool2d",
    "Layer",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
    "MeanOnlyBatchNorm",
    "Parameter",
    "ReLU",
    "Residual",
    "Sequential",
    "WeightNorm",
    "initialize",
    "load",
    "save",
    "scale_invariant",
    "softmax_cross_entropy",
    "watch",
]
