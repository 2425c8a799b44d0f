"""Torch modules and functions, each with its mistake: most are right in training, wrong later."""

from __future__ import annotations

from candidates.case import C1, Case
from candidates.torch_layers import torch_function, torch_modules


def cases():
    """Wrong torch modules and functions: most are right in training and wrong elsewhere."""
    import torch
    from torch import nn

    L1 = torch_modules()["L1"][0]
    l1 = {"p": 1}
    cases = []

    cases.append(
        Case(
            "torch: InstanceNorm2d",
            lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True),
            {"p": 2},
            "statistics of each sample by itself",
        )
    )
    cases.append(
        Case("torch: GroupNorm", lambda c: nn.GroupNorm(1, c), {"p": 2}, "normalizes each sample")
    )
    cases.append(
        Case(
            "torch: L2 for L1",
            nn.BatchNorm2d,
            l1,
            "an L2 batch norm, asked to be L1",
            "the L2 norm",
        )
    )
    cases.append(
        Case(
            "torch: eps 1e-3",
            lambda c: nn.BatchNorm2d(c, eps=1e-3),
            {"p": 2, "eps": 1e-5},
            "eps = 1e-3",
            "eps = 0.001",
        )
    )
    cases.append(
        Case(
            "torch: RMSNorm",
            nn.RMSNorm,
            {"layer": "layer_norm", "p": 2},
            "no mean is subtracted",
            "no mean is subtracted",
        )
    )

    class UpdatesInEvaluation(L1):
        def forward(self, x):
            with torch.no_grad():
                mean, scale = self.statistics(x)
                if not self.training:
                    self.running_mean.lerp_(mean, self.momentum)
                    self.running_scale.lerp_(scale, self.momentum)
            return super().forward(x)

    cases.append(
        Case(
            "torch: updates in evaluation",
            UpdatesInEvaluation,
            l1,
            "evaluation moves the statistics",
            "evaluation changes",
        )
    )

    class LastBatch(L1):
        def forward(self, x):
            y = super().forward(x)
            if self.training:
                mean, scale = self.statistics(x)
                self.running_mean.copy_(mean.detach())
                self.running_scale.copy_(scale.detach())
            return y

    cases.append(
        Case(
            "torch: last batch",
            LastBatch,
            l1,
            "keeps the last batch's statistics only",
            "holds the last batch's",
        )
    )

    class CentredMean(L1):
        """The running mean is that of d, which is zero."""

        def forward(self, x):
            before = self.running_mean.clone()
            y = super().forward(x)
            if self.training:
                self.running_mean.copy_(before * (1 - self.momentum))
            return y

    cases.append(
        Case("torch: centred mean", CentredMean, l1, "averages the mean of d, which is zero")
    )

    class Attached(L1):
        """The running statistics keep the graphs of all batches."""

        def forward(self, x):
            shape = (1, -1) + (1,) * (x.dim() - 2)
            if self.training:
                mean, scale = self.statistics(x)
                m = self.momentum
                self.running_mean = (1 - m) * self.running_mean + m * mean
                self.running_scale = (1 - m) * self.running_scale + m * scale
            else:
                mean, scale = self.running_mean, self.running_scale
            x_hat = (x - mean.view(shape)) / scale.view(shape)
            return self.weight.view(shape) * x_hat + self.bias.view(shape)

    cases.append(
        Case(
            "torch: attached",
            Attached,
            l1,
            "running statistics are not detached from the graph",
            "not detached",
        )
    )

    class BareEvaluation(L1):
        def forward(self, x):
            if self.training:
                return super().forward(x)
            shape = (1, -1) + (1,) * (x.dim() - 2)
            return (x - self.running_mean.view(shape)) / self.running_scale.view(shape)

    cases.append(
        Case(
            "torch: bare evaluation",
            BareEvaluation,
            l1,
            "evaluation forgets gamma and beta",
            "forgets gamma and beta",
        )
    )

    class UnscaledRunning(L1):
        """Training divides by C mean|d|, evaluation by the running mean|d|."""

        def forward(self, x):
            before = self.running_scale.clone()
            y = super().forward(x)
            if self.training:
                _, scale = self.statistics(x)
                self.running_scale.copy_(before.lerp(scale.detach() / C1, self.momentum))
            return y

    cases.append(
        Case(
            "torch: unscaled running",
            UnscaledRunning,
            l1,
            "the running scale lacks C",
            "without the Gaussian constant",
        )
    )

    class RescaledAverage(L1):
        """The running scale is multiplied by C at every step, old part included."""

        def forward(self, x):
            before = self.running_scale.clone()
            y = super().forward(x)
            if self.training:
                _, scale = self.statistics(x)
                self.running_scale.copy_(C1 * before.lerp(scale.detach() / C1, self.momentum))
            return y

    cases.append(
        Case(
            "torch: rescaled average",
            RescaledAverage,
            l1,
            "multiplies the old average by C too",
            "multiplied by C at every batch",
        )
    )

    class MeanAfterScale(L1):
        """Momentum 0.1 for the mean and 0.01 for the scale."""

        def forward(self, x):
            before = self.running_scale.clone()
            y = super().forward(x)
            if self.training:
                _, scale = self.statistics(x)
                self.running_scale.copy_(before.lerp(scale.detach(), self.momentum**2))
            return y

    cases.append(
        Case(
            "torch: two momenta",
            MeanAfterScale,
            l1,
            "the scale has another momentum",
            "another momentum",
        )
    )

    class DetachedMean(L1):
        def statistics(self, x):
            mean, scale = super().statistics(x)
            return mean.detach(), scale

    cases.append(Case("torch: detached mean", DetachedMean, l1, "no gradient through the mean"))

    class NoEvaluation(L1):
        """self.training is never looked at in the subclass that a colleague wrote."""

        def forward(self, x):
            training, self.training = self.training, True
            try:
                return super().forward(x)
            finally:
                self.training = training

    cases.append(
        Case("torch: no evaluation", NoEvaluation, l1, "evaluation uses and moves batch statistics")
    )

    class HalfRunning(L1):
        """Statistics of evaluation frozen at the first batch."""

        def __init__(self, channels):
            super().__init__(channels)
            self.seen = False

        def forward(self, x):
            kept = self.running_mean.clone(), self.running_scale.clone()
            y = super().forward(x)
            if self.training and self.seen:
                self.running_mean.copy_(kept[0])
                self.running_scale.copy_(kept[1])
            self.seen = self.seen or self.training
            return y

    cases.append(
        Case(
            "torch: first batch",
            HalfRunning,
            l1,
            "statistics stop after the first batch",
            "by the first batch only",
        )
    )

    def no_graph(x, gamma, beta, eps):
        """The scale leaves torch for NumPy and comes back without its history."""
        dims = [0, *range(2, x.dim())]
        shape = (1, -1) + (1,) * (x.dim() - 2)
        d = x - x.mean(dim=dims, keepdim=True)
        scale = C1 * d.detach().abs().numpy().mean(axis=tuple(dims), keepdims=True) + eps
        scale = torch.as_tensor(scale, dtype=x.dtype)
        return gamma.view(shape) * (d / scale) + beta.view(shape)

    cases.append(Case("torch: through NumPy", no_graph, l1, "no gradient through the scale"))

    def in_place(x, gamma, beta, eps):
        dims = [0, *range(2, x.dim())]
        with torch.no_grad():
            x.sub_(x.mean(dim=dims, keepdim=True))
        return torch_function(x, gamma, beta, eps)

    cases.append(
        Case("torch: in place", in_place, l1, "centres its input in place", "x is modified")
    )
    return cases
