"""SGD with momentum and weight decay, and schedules for its learning rate.

Under normalization weight decay does not regularize the function, it steers the effective step
size lr / ||w||^2 (Hoffer et al., "Norm matters", section 2); this module is where that knob is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lpnorm.arrays import Array, check_count, check_number, is_array


class SGD:
    """Stochastic gradient descent; one step is, for each parameter w with gradient g,

        g <- g + weight_decay w                         (coupled decay; not if decoupled)
        b <- momentum b + (1 - dampening) g             (b = g at the first step)
        u  = g + momentum b  if nesterov else b         (u = g without momentum)
        w <- (1 - lr weight_decay) w                    (only if decoupled)
        w <- w - lr step_scale u

    parameters: a list of `nn.Parameter` (anything with .data, .grad and .name), or of groups
    ``{"params": [...], "lr": ..., "weight_decay": ...}`` that override the other arguments. A
    parameter whose grad is None is skipped. weight_decay is the coefficient of w in the gradient
    (PyTorch's, the derivative of weight_decay/2 ||w||^2). decoupled: decay shrinks w directly by
    lr * weight_decay and stays out of the momentum (Loshchilov & Hutter 2019). nesterov needs
    momentum > 0 and dampening = 0. step_scale: None, or a function parameter -> a factor for its
    step, a number or an array of shape (channels,) on the first axis (or one that broadcasts).

    `lr_factor`, 1.0 at first, multiplies the learning rate of every group; set it from a schedule.
    The modes that torch.optim.SGD shares agree with it. Raises TypeError or ValueError naming the
    argument, the parameter and what is allowed.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        step_scale: Callable[[Any], Any] | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "decoupled": decoupled,
            "step_scale": step_scale,
        }
        given = list(parameters)
        if not given:
            raise ValueError("parameters must not be empty")
        groups = given if isinstance(given[0], dict) else [{"params": given}]
        self.groups = [_checked_group(group, defaults) for group in groups]
        self.lr_factor = 1.0
        self.buffers: dict[int, Array] = {}  # id of the parameter -> b
        everyone = [id(p) for group in self.groups for p in group["params"]]
        if len(set(everyone)) != len(everyone):
            raise ValueError("parameters holds one parameter twice")

    def step(self) -> None:
        """One update of every parameter from its gradient."""
        for group in self.groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def zero_grad(self) -> None:
        """Forget all gradients (they become None)."""
        for group in self.groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _update(self, parameter: Any, group: dict[str, Any]) -> None:
        w, u = parameter.data, parameter.grad
        lr, momentum = group["lr"] * self.lr_factor, group["momentum"]
        decay = group["weight_decay"]
        if u.shape != w.shape:
            raise ValueError(f"{parameter.name}: the gradient has shape {u.shape}, not {w.shape}")
        if decay and not group["decoupled"]:
            u = u + decay * w
        if momentum:
            b = self.buffers.get(id(parameter))
            b = u if b is None else momentum * b + (1 - group["dampening"]) * u
            self.buffers[id(parameter)] = b
            u = u + momentum * b if group["nesterov"] else b
        if group["decoupled"]:
            w = (1 - lr * decay) * w
        if group["step_scale"] is not None:
            u = u * _for_channels(group["step_scale"](parameter), u)
        parameter.data = w - lr * u


def _for_channels(factor: Any, like: Array) -> Any:
    """A factor (channels,) made to broadcast along the first axis of `like`."""
    if is_array(factor) and factor.ndim == 1:
        factor = factor.reshape((-1,) + (1,) * (like.ndim - 1))
    return factor.astype(like.dtype, copy=False) if is_array(factor) else float(factor)


def _checked_group(group: Any, defaults: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(group, dict) or "params" not in group:
        raise TypeError('parameters must be all parameters or all groups {"params": [...], ...}')
    unknown = set(group) - set(defaults) - {"params"}
    if unknown:
        raise ValueError(
            f"parameters: a group has no {sorted(unknown)[0]!r}; it may have {', '.join(defaults)}"
        )
    group = {**defaults, **group, "params": list(group["params"])}
    for parameter in group["params"]:
        if not all(hasattr(parameter, name) for name in ("data", "grad", "name")):
            raise TypeError(
                f"parameters must hold nn.Parameter objects, got {type(parameter).__name__}"
            )
    for name in ("lr", "momentum", "dampening", "weight_decay"):
        group[name] = check_number(name, group[name])
    if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
        raise ValueError("nesterov needs momentum > 0 and dampening = 0")
    if group["step_scale"] is not None and not callable(group["step_scale"]):
        raise TypeError("step_scale must be None or a function of a parameter")
    return group


class StepSchedule:
    """Multiply the learning rate by `factor` at each milestone: schedule(t) -> factor so far.

    milestones: increasing integers >= 1, in the unit t is counted in (epochs, usually). The result
    belongs into `SGD.lr_factor`. Raises TypeError or ValueError naming the argument.
    """

    def __init__(self, milestones: Sequence[int], factor: float = 0.1) -> None:
        self.milestones = [check_count("milestones", m) for m in milestones]
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ValueError(f"milestones must increase, got {list(milestones)}")
        self.factor = check_number("factor", factor)

    def __call__(self, t: int) -> float:
        return self.factor ** sum(t >= m for m in self.milestones)
