"""SGD of torch, in all modes and by another hand, right."""

from __future__ import annotations

from candidates.case import Case

SGD_MODES = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "decay": {"weight_decay": 0.01},
    "momentum and decay": {"momentum": 0.9, "weight_decay": 0.01},
    "dampening and decay": {"momentum": 0.8, "dampening": 0.5, "weight_decay": 0.02},
    "nesterov and decay": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
}


def optimizers():
    """An SGD of torch written by hand, with and without decoupled decay."""
    import torch

    class SGD(torch.optim.Optimizer):
        def __init__(
            self,
            parameters,
            lr=0.1,
            momentum=0.0,
            dampening=0.0,
            nesterov=False,
            weight_decay=0.0,
            decoupled=False,
        ):
            settings = {"lr": lr, "momentum": momentum, "dampening": dampening}
            settings |= {"nesterov": nesterov, "weight_decay": weight_decay}
            super().__init__(parameters, settings | {"decoupled": decoupled})

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        self.update(p, p.grad, self.state[p], **group)

        def update(
            self, p, g, state, lr, momentum, dampening, nesterov, weight_decay, decoupled, **_
        ):
            if decoupled:
                p.mul_(1 - lr * weight_decay)
            elif weight_decay:
                g = g + weight_decay * p
            if momentum:
                if "buffer" not in state:
                    state["buffer"] = g.clone()
                else:
                    state["buffer"].mul_(momentum).add_(g, alpha=1 - dampening)
                g = g + momentum * state["buffer"] if nesterov else state["buffer"]
            p.sub_(lr * g)

    return SGD


def cases():
    """Correct optimizers."""
    import torch

    own = optimizers()
    cases = []
    for name, mode in SGD_MODES.items():
        arguments = {"layer": "sgd", "lr": 0.1, **mode}
        for kind in ("loop", "foreach", "fused", "own"):
            more = {} if kind in ("loop", "own") else {kind: True}
            maker = own if kind == "own" else torch.optim.SGD

            def factory(parameters, maker=maker, mode=mode, more=more):
                return maker(parameters, lr=0.1, **mode, **more)

            cases.append(Case(f"sgd {name}, {kind}", factory, arguments))
    for name in ("decay", "momentum and decay", "nesterov and decay"):
        mode = {**SGD_MODES[name], "decoupled": True}

        def factory(parameters, mode=mode):
            return own(parameters, lr=0.1, **mode)

        cases.append(Case(f"sgd decoupled {name}", factory, {"layer": "sgd", "lr": 0.1, **mode}))
    return cases
