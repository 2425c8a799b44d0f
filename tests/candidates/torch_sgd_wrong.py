"""Torch optimizers, each with its mistake."""

from __future__ import annotations

from candidates.case import Case
from candidates.torch_sgd import optimizers


def cases():
    """Wrong optimizers."""
    import torch

    own = optimizers()
    momentum = {"momentum": 0.9}
    decay = {"momentum": 0.9, "weight_decay": 0.01}
    cases = []

    def case(name, kind, mode, why):
        def factory(parameters):
            return kind(parameters, lr=0.1, **mode)

        return Case(f"sgd: {name}", factory, {"layer": "sgd", "lr": 0.1, **mode}, why)

    class DampedFirst(own):
        def update(self, p, g, state, lr, momentum, dampening, weight_decay, **_):
            g = g + weight_decay * p
            buffer = state.get("buffer", torch.zeros_like(p))
            state["buffer"] = momentum * buffer + (1 - dampening) * g
            p.sub_(lr * state["buffer"])

    cases.append(
        case(
            "damped first", DampedFirst, {**decay, "dampening": 0.5}, "dampening in the first step"
        )
    )

    class DoubleDecay(own):
        def update(self, p, g, state, weight_decay, **rest):
            super().update(p, g, state, weight_decay=2 * weight_decay, **rest)

    cases.append(case("double decay", DoubleDecay, decay, "the decay's gradient is 2 lambda w"))

    class SwappedDecay(own):
        def update(self, p, g, state, decoupled, **rest):
            super().update(p, g, state, decoupled=not decoupled, **rest)

    cases.append(case("decoupled", SwappedDecay, decay, "decoupled decay, asked to be coupled"))
    cases.append(
        case(
            "coupled", SwappedDecay, {**decay, "decoupled": True}, "coupled, asked to be decoupled"
        )
    )

    class DecayAfter(own):
        def update(self, p, g, state, lr, weight_decay, decoupled, **rest):
            super().update(p, g, state, lr=lr, weight_decay=0, decoupled=False, **rest)
            p.mul_(1 - lr * weight_decay)

    cases.append(case("decay after", DecayAfter, decay, "the decay acts on the new weights"))

    class SharedBuffer(own):
        """One buffer for each shape, not for each parameter."""

        def update(self, p, g, state, **rest):
            if not hasattr(self, "shared"):
                self.shared = {}
            super().update(p, g, self.shared.setdefault(p.shape, {}), **rest)

    cases.append(
        case("shared buffer", SharedBuffer, momentum, "parameters of one shape share one buffer")
    )

    class NoDecayOfVectors(own):
        def update(self, p, g, state, weight_decay, **rest):
            super().update(p, g, state, weight_decay=weight_decay * (p.dim() > 1), **rest)

    cases.append(case("vectors", NoDecayOfVectors, decay, "does not decay vectors"))

    class AliasedBuffer(own):
        """The first buffer is the gradient itself, which the next backward overwrites."""

        def update(self, p, g, state, lr, momentum, weight_decay, **_):
            if weight_decay:
                g = g + weight_decay * p
            if "buffer" not in state:
                state["buffer"] = g
            else:
                state["buffer"] = momentum * state["buffer"] + g
            p.sub_(lr * state["buffer"])

    cases.append(
        case("aliased", AliasedBuffer, momentum, "the first buffer is the gradient's own memory")
    )

    class GradientInPlace(own):
        def update(self, p, g, state, weight_decay, **rest):
            p.grad.add_(p, alpha=weight_decay)
            super().update(p, p.grad, state, weight_decay=0, **rest)

    cases.append(case("in place", GradientInPlace, decay, "adds the decay to p.grad itself"))

    class MovingAverage(own):
        """b = m b + (1 - m) g, as Adam's first moment."""

        def update(self, p, g, state, lr, momentum, weight_decay, **_):
            g = g + weight_decay * p
            buffer = state.get("buffer", torch.zeros_like(p))
            state["buffer"] = momentum * buffer + (1 - momentum) * g
            p.sub_(lr * state["buffer"])

    cases.append(case("moving average", MovingAverage, decay, "(1 - momentum) times the gradient"))

    class NesterovTwice(own):
        """g + m (m b + g) computed with a buffer that already moved twice."""

        def update(self, p, g, state, lr, momentum, weight_decay, **_):
            g = g + weight_decay * p
            buffer = momentum * state.get("buffer", torch.zeros_like(p)) + g
            state["buffer"] = buffer
            p.sub_(lr * (g + momentum * (momentum * buffer + g)))

    cases.append(
        case("nesterov twice", NesterovTwice, {**decay, "nesterov": True}, "looks ahead twice")
    )

    class FirstGroup(own):
        """The settings of the first group for all groups."""

        @torch.no_grad()
        def step(self, closure=None):
            settings = {k: v for k, v in self.param_groups[0].items() if k != "params"}
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        self.update(p, p.grad, self.state[p], **settings)

    cases.append(
        case("first group", FirstGroup, decay, "all groups have the settings of the first")
    )

    class StaleRate(own):
        """Reads the learning rate once: a schedule changes nothing."""

        def update(self, p, g, state, lr, **rest):
            super().update(p, g, state, lr=self.defaults["lr"], **rest)

    cases.append(
        case("stale rate", StaleRate, momentum, "changes of the learning rate are ignored")
    )

    class NoneIsZero(own):
        """A parameter without gradient still moves on with its momentum and decay."""

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    g = torch.zeros_like(p) if p.grad is None else p.grad
                    self.update(p, g, self.state[p], **group)

    cases.append(case("none", NoneIsZero, decay, "parameters without a gradient move"))
    return cases
