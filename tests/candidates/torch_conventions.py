"""Torch modules with a convention to name; `why` is a word for it."""

from __future__ import annotations

from candidates.case import Case
from candidates.torch_layers import torch_modules


def cases():
    """Modules with a convention to name; `why` is a word for it."""
    import torch
    from torch import nn

    L1 = torch_modules()["L1"][0]
    cases = []

    cases.append(Case("torch: biased in name", torch.nn.BatchNorm1d, {"p": 2}, "unbiased"))

    class TwiceEps(L1):
        """eps is in the running scale and added again in evaluation."""

        def forward(self, x):
            if self.training:
                return super().forward(x)
            shape = (1, -1) + (1,) * (x.dim() - 2)
            scale = self.running_scale.view(shape) + self.eps
            x_hat = (x - self.running_mean.view(shape)) / scale
            return self.weight.view(shape) * x_hat + self.bias.view(shape)

    cases.append(Case("torch: eps twice", TwiceEps, {"p": 1}, "eps is added"))

    class UnbiasedL1(L1):
        """Keeps the fraction `momentum` of the old statistics."""

        def __init__(self, channels):
            super().__init__(channels, momentum=0.9)

        def forward(self, x):
            self.momentum = 1 - self.momentum
            try:
                return super().forward(x)
            finally:
                self.momentum = 1 - self.momentum

    cases.append(Case("torch: kept fraction", UnbiasedL1, {"p": 1}, "momentum"))

    class Cumulative(nn.BatchNorm2d):
        """The plain average over all batches: torch's momentum = None."""

        def __init__(self, channels):
            super().__init__(channels, momentum=None)

    cases.append(Case("torch: cumulative average", Cumulative, {"p": 2}, "average"))
    return cases
