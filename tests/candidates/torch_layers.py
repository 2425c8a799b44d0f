"""Torch's own layers, and modules and functions written with it, right."""

from __future__ import annotations

import math

from candidates.case import C1, Case, c_inf
from lpnorm import TopK


def torch_modules():
    """Modules differentiated by torch's autograd: name -> (class, p)."""
    import torch
    from torch import nn

    class BatchNorm(nn.Module):
        """Running statistics in torch's convention; they hold the mean and the scale."""

        def __init__(self, channels, eps=1e-5, momentum=0.1):
            super().__init__()
            self.eps, self.momentum = eps, momentum
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_scale", torch.ones(channels))

        def measure(self, d):
            """d: (C, n) -> (C,)"""
            raise NotImplementedError

        def statistics(self, x):
            rows = x.transpose(0, 1).reshape(x.shape[1], -1)
            mean = rows.mean(dim=1)
            return mean, self.measure(rows - mean[:, None]) + self.eps

        def forward(self, x):
            shape = (1, -1) + (1,) * (x.dim() - 2)
            if self.training:
                mean, scale = self.statistics(x)
                with torch.no_grad():
                    self.running_mean.lerp_(mean, self.momentum)
                    self.running_scale.lerp_(scale, self.momentum)
            else:
                mean, scale = self.running_mean, self.running_scale
            x_hat = (x - mean.view(shape)) / scale.view(shape)
            return self.weight.view(shape) * x_hat + self.bias.view(shape)

    class L1(BatchNorm):
        def measure(self, d):
            return C1 * d.abs().mean(dim=1)

    class LInf(BatchNorm):
        def measure(self, d):
            return c_inf(d.shape[1]) * d.abs().amax(dim=1)

    class LInfFirst(BatchNorm):
        """`max` with an index: the whole gradient goes to one of those tied."""

        def measure(self, d):
            return c_inf(d.shape[1]) * d.abs().max(dim=1).values

    class Top3(BatchNorm):
        def measure(self, d):
            return c_inf(d.shape[1]) * d.abs().topk(3, dim=1).values.mean(dim=1)

    class L1Variance(L1):
        """Keeps the square of the scale, under torch's own name for it."""

        def __init__(self, channels, eps=1e-5, momentum=0.1):
            super().__init__(channels, eps, momentum)
            del self.running_scale
            self.register_buffer("running_var", torch.ones(channels))

        def forward(self, x):
            shape = (1, -1) + (1,) * (x.dim() - 2)
            if self.training:
                mean, scale = self.statistics(x)
                with torch.no_grad():
                    self.running_mean.lerp_(mean, self.momentum)
                    self.running_var.lerp_(scale**2, self.momentum)
            else:
                mean, scale = self.running_mean, self.running_var.sqrt()
            x_hat = (x - mean.view(shape)) / scale.view(shape)
            return self.weight.view(shape) * x_hat + self.bias.view(shape)

    class L1Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, bias, eps):
            shape = (1, -1) + (1,) * (x.dim() - 2)
            dims = [0, *range(2, x.dim())]
            d = x - x.mean(dims, keepdim=True)
            scale = C1 * d.abs().mean(dims, keepdim=True) + eps
            x_hat = d / scale
            ctx.save_for_backward(d.sign(), x_hat, scale, weight)
            return weight.view(shape) * x_hat + bias.view(shape)

        @staticmethod
        def backward(ctx, dy):
            sign, x_hat, scale, weight = ctx.saved_tensors
            dims = [0, *range(2, dy.dim())]
            g = dy * weight.view((1, -1) + (1,) * (dy.dim() - 2))
            v = g - C1 * (g * x_hat).mean(dims, keepdim=True) * sign
            dx = (v - v.mean(dims, keepdim=True)) / scale
            return dx, (dy * x_hat).sum(dims), dy.sum(dims), None

    class L1ByHand(BatchNorm):
        """A backward written by hand; nothing is kept for evaluation."""

        def __init__(self, channels, eps=1e-5):
            super().__init__(channels, eps)
            del self.running_mean, self.running_scale

        def forward(self, x):
            return L1Function.apply(x, self.weight, self.bias, self.eps)

    modules = {
        "L1": (L1, 1),
        "Linf, amax": (LInf, math.inf),
        "Linf, max": (LInfFirst, math.inf),
        "Top-k k=3": (Top3, TopK(3)),
        "L1, running variance": (L1Variance, 1),
        "L1, autograd.Function": (L1ByHand, 1),
    }
    return modules


def torch_function(x, gamma, beta, eps):
    """An L1 batch norm of torch tensors."""
    dims = [0, *range(2, x.dim())]
    shape = (1, -1) + (1,) * (x.dim() - 2)
    d = x - x.mean(dim=dims, keepdim=True)
    scale = C1 * d.abs().mean(dim=dims, keepdim=True) + eps
    return gamma.view(shape) * (d / scale) + beta.view(shape)


def torch_weight_function(v, g):
    norm = v.flatten(1).norm(dim=1)
    return v * (g / norm).view(-1, *(1,) * (v.dim() - 1))


def torch_bounded_function(v, rho):
    return rho * v / v.flatten(1).norm(dim=1).view(-1, *(1,) * (v.dim() - 1))


def cases():
    """Correct candidates of torch: its own layers, and modules and functions written with it."""
    import torch
    from torch import nn
    from torch.nn.utils.parametrizations import weight_norm

    l2, layer, weight = {"p": 2}, {"layer": "layer_norm", "p": 2}, {"layer": "weight_norm", "p": 2}
    cases = []
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        cases += [
            Case(f"torch {kind.__name__}", kind, l2),
            Case(f"torch {kind.__name__}(4)", kind(4), l2),
        ]
    cases += [
        Case("torch BatchNorm2d float32", nn.BatchNorm2d, {"p": 2, "dtype": "float32"}),
        Case("torch BatchNorm2d float16", nn.BatchNorm2d, {"p": 2, "dtype": "float16"}),
        Case("torch BatchNorm2d, no affine", lambda c: nn.BatchNorm2d(c, affine=False), l2),
        Case(
            "torch BatchNorm2d, eps 1e-3",
            lambda c: nn.BatchNorm2d(c, eps=1e-3),
            {**l2, "eps": 1e-3},
        ),
        Case("torch BatchNorm2d, momentum 0.3", lambda c: nn.BatchNorm2d(c, momentum=0.3), l2),
        Case(
            "torch BatchNorm2d, no running statistics",
            lambda c: nn.BatchNorm2d(c, track_running_stats=False),
            l2,
        ),
        Case("torch LayerNorm", nn.LayerNorm, layer),
        Case("torch LayerNorm(6)", nn.LayerNorm(6), layer),
        Case("torch LayerNorm, no bias", lambda c: nn.LayerNorm(c, bias=False), layer),
        Case("torch weight norm, linear", weight_norm(nn.Linear(5, 4, bias=False)), weight),
        Case("torch weight norm, linear and bias", weight_norm(nn.Linear(5, 4)), weight),
        Case("torch weight norm, conv", weight_norm(nn.Conv2d(3, 4, 3)), weight),
        Case("torch weight norm, factory", lambda c: weight_norm(nn.Linear(5, c)), weight),
        Case("torch weight norm function", torch_weight_function, weight),
        Case(
            "torch._weight_norm",
            lambda v, g: torch._weight_norm(v, g.reshape(-1, *(1,) * (v.dim() - 1)), 0),
            weight,
        ),
        Case(
            "torch bounded function",
            torch_bounded_function,
            {"layer": "bounded_weight_norm", "p": 2},
        ),
        Case("torch L1 function", torch_function, {"p": 1, "backend": "torch"}),
    ]
    for name, (module, p) in torch_modules().items():
        cases += [
            Case(f"torch module {name}", module, {"p": p}),
            Case(f"torch module {name}, built", module(3), {"p": p}),
            Case(f"torch module {name}, float32", module, {"p": p, "dtype": "float32"}),
        ]
    return cases
