"""As the paper's authors wrote theirs: `why` names how it departs from their paper."""

from __future__ import annotations

import math

from candidates.case import C1, Case
from lpnorm import TopK


def cases():
    """The departures of the authors' code from their paper (Case.why names them)."""
    import torch
    from torch import nn

    usual = "momentum is the kept fraction; running_var holds the reciprocal scale, from 0"
    cases = []

    class Authors(nn.Module):
        """Momentum is the part kept; running_var holds 1/scale, from 0; affine not initialised."""

        def __init__(self, channels, momentum=0.1, eps=1e-5):
            super().__init__()
            self.momentum, self.eps = momentum, eps
            self.weight = nn.Parameter(torch.empty(channels))
            self.bias = nn.Parameter(torch.empty(channels))
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.zeros(channels))

        def inverse(self, d):
            raise NotImplementedError

        def apply_inverse(self, d, kept):
            return d * kept

        def forward(self, x):
            shape = (1, -1) + (1,) * (x.dim() - 2)
            if self.training:
                rows = x.transpose(0, 1).contiguous().view(x.size(1), -1)
                mean = rows.mean(1)
                kept = self.inverse(rows - mean.unsqueeze(1))
                self.running_mean.mul_(self.momentum).add_(mean.detach() * (1 - self.momentum))
                self.running_var.mul_(self.momentum).add_(kept.detach() * (1 - self.momentum))
            else:
                mean, kept = self.running_mean, self.running_var
            out = self.apply_inverse(x - mean.view(shape), kept.view(shape))
            return out * self.weight.view(shape) + self.bias.view(shape)

    class AuthorsL1(Authors):
        def inverse(self, d):
            return (d.abs().mean(1) * C1 + self.eps) ** -1

    cases.append(Case("authors' L1", AuthorsL1, {"p": 1}, usual))

    class AuthorsTopK(Authors):
        def inverse(self, d):
            constant = 0.5 * (1 + math.sqrt(math.pi * math.log(4)))
            constant = constant / math.sqrt(2 * math.log(d.size(1)))
            return 1 / (d.abs().topk(3, dim=1)[0].mean(1) * constant + self.eps)

    cases.append(Case("authors' Top-k", AuthorsTopK, {"p": TopK(3)}, usual))

    class AuthorsMeanL1(Authors):
        """The L1 layer of the mean-only file: keeps the scale itself and has no eps."""

        def inverse(self, d):
            return d.abs().mean(1) * C1

        def apply_inverse(self, d, kept):
            return d / kept

    cases.append(
        Case("authors' L1 without eps", AuthorsMeanL1, {"p": 1}, "momentum is kept; no eps")
    )
    return cases
