"""SGD with momentum and weight decay, and the knob that norm, decay and learning rate are.

Under normalization weight decay does not regularize the function, it steers the effective step
size lr / ||w||^2 (Hoffer et al., "Norm matters", 2018). So a run with decay can be matched
without it in three ways, all here: by correcting each channel's step with the norms of the run
with decay (`NormTrace`, `StepSizeCorrection`), by imposing those norms (`NormSchedule`), or by a
learning rate that grows (`GrowingSchedule`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from lpnorm.arrays import (
    Array,
    check_array,
    check_axes,
    check_count,
    check_dtype,
    check_function,
    check_gradient,
    check_number,
    check_positive,
    check_shape,
    is_array,
    library_of,
    namespace,
    one_axis,
    short,
    to_device,
    to_rows,
    total,
)
from lpnorm.files import load_arrays, save_arrays

Pairs = Iterable[tuple[Any, int]]  # what nn.scale_invariant returns: (parameter, channel axis)


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
    step, a number or an array of shape (channels,) on the first axis (or one that broadcasts); if
    it has an attribute `t`, that is set to the number of steps done before, and if its attribute
    `on` is "gradient" the factor multiplies g in the first line instead of u in the last.

    master: None, or a float dtype at least as wide as every parameter's: each parameter then has a
    master copy in it (and so has its b), gradients are converted to it, and the parameter is the
    rounded master. Small steps that float16 weights would lose add up there. Who sets a parameter's
    data in between, to a new array, sets its master too (so a `NormSchedule` undoes masters).

    `lr_factor`, 1.0 at first, multiplies the learning rate of every group; set it from a schedule.
    `loss_scale`, 1.0 at first, divides every gradient, for losses that were multiplied by it.
    `t` counts the steps done.
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
        master: Any = None,
    ) -> None:
        self.master = None if master is None else check_dtype("master", master)
        defaults: dict[str, Any] = {"lr": lr, "momentum": momentum, "dampening": dampening}
        defaults |= {"nesterov": nesterov, "weight_decay": weight_decay}
        defaults |= {"decoupled": decoupled, "step_scale": step_scale}
        if not isinstance(parameters, (list, tuple)):
            kind = type(parameters).__name__
            raise TypeError(f"parameters must be a list of nn.Parameter or of groups, got {kind}")
        if not parameters:
            raise ValueError("parameters must not be empty")
        groups = parameters if isinstance(parameters[0], dict) else [{"params": parameters}]
        self.groups = [_checked_group(group, defaults) for group in groups]
        for parameter in (p for group in self.groups for p in group["params"]):
            if self.master is not None and self.master.itemsize < parameter.data.dtype.itemsize:
                what = f"{parameter.name!r}, which is {parameter.data.dtype}, got {self.master}"
                raise ValueError(f"master must be at least as wide as parameter {what}")
        self.lr_factor, self.loss_scale, self.t = 1.0, 1.0, 0
        self.buffers: dict[int, Array] = {}  # id of the parameter -> b
        self.masters: dict[int, tuple[Array, Array]] = {}  # id -> the data as last set, the master
        self.names: dict[int, str] = {}
        if len(self._named()) < sum(len(group["params"]) for group in self.groups):
            raise ValueError("parameters holds one parameter twice")

    def step(self) -> None:
        """One update of every parameter from its gradient."""
        for group in self.groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        self.t += 1

    def zero_grad(self) -> None:
        """Forget all gradients (they become None)."""
        for parameter in self._named().values():
            parameter.grad = None

    def state(self) -> dict[str, Array]:
        """Momentum buffers, parameter name -> array, and masters, name + ":master" -> array.

        The names are those when the optimizer was made, "name#position" where one was taken.
        """
        named = self._named()
        state = {n: self.buffers[id(p)].copy() for n, p in named.items() if id(p) in self.buffers}
        masters = {n: self._master(p).copy() for n, p in named.items() if id(p) in self.masters}
        return state | {f"{name}:master": master for name, master in masters.items()}

    def load_state(self, state: dict[str, Array], t: int) -> None:
        """Put back what `state` returned after t steps, once the parameters have their data.

        ValueError naming a parameter that is unknown, or whose master is missing or of another
        dtype.
        """
        named, buffers, masters = self._named(), {}, {}
        for name, array in state.items():
            check_array(f"state[{name!r}]", array)
            parameter, is_master = named.get(name.removesuffix(":master")), name not in named
            if parameter is None or array.shape != parameter.data.shape:
                raise ValueError(f"state has a buffer {name!r} that fits no parameter")
            if is_master:
                rounded = array.astype(parameter.data.dtype)
                if array.dtype != self.master or not bool((rounded == parameter.data).all()):
                    raise ValueError(f"state has {name!r}, not a {self.master} master of its data")
                masters[id(parameter)] = (parameter.data, array.copy())
            else:
                buffers[id(parameter)] = array.copy()
        for name, parameter in named.items() if self.master is not None else ():
            if id(parameter) in buffers and id(parameter) not in masters:
                raise ValueError(f"state has a buffer {name!r} and no master for it")
        self.buffers, self.masters, self.t = buffers, masters, check_count("t", t, 0)

    def _named(self) -> dict[str, Any]:
        everyone = [p for group in self.groups for p in group["params"]]
        for i, p in enumerate(everyone):
            free = p.name not in self.names.values()
            self.names.setdefault(id(p), p.name if free else f"{p.name}#{i}")
        return {self.names[id(p)]: p for p in everyone}

    def _master(self, parameter: Any) -> Array:
        """The master of a parameter, or its data: what the step is computed with."""
        if self.master is None:
            return parameter.data
        data, master = self.masters.get(id(parameter), (None, None))
        if data is parameter.data:
            return master
        return parameter.data.astype(self.master)

    def rate(self, parameter: Any) -> tuple[float, float]:
        """(lr, lr * weight_decay) that the next step will use for a parameter."""
        for group in self.groups:
            if any(parameter is p for p in group["params"]):
                lr = float(group["lr"] * self.lr_factor)
                return lr, lr * group["weight_decay"]
        raise ValueError(f"parameter {parameter.name!r} is not in this optimizer")

    def _update(self, parameter: Any, group: dict[str, Any]) -> None:
        """Writes to arrays made here and to b: who holds an old weight or gradient keeps it."""
        u, w = parameter.grad, parameter.data
        check_gradient(f"{parameter.name}: the gradient", u, w, w.shape)
        w = self._master(parameter)
        lr, momentum = float(group["lr"] * self.lr_factor), float(group["momentum"])
        decay, step_scale, scale = float(group["weight_decay"]), group["step_scale"], 1.0
        if self.loss_scale != 1:
            u = u.astype("float64") / self.loss_scale  # float16 holds no 2^16
        u = u.astype(w.dtype, copy=False)
        if step_scale is not None:
            if hasattr(step_scale, "t"):
                step_scale.t = self.t
            scale = _for_channels(step_scale(parameter), u)
            if getattr(step_scale, "on", "step") == "gradient":
                u, scale = _times(scale, u), 1.0
        if decay and not group["decoupled"]:
            u = u + decay * w
        if momentum:
            b = self.buffers.get(id(parameter))
            if b is None:
                b = u.copy()
            elif b.dtype != u.dtype:  # the parameter's has changed
                b = momentum * b + _times(1 - group["dampening"], u)
            else:  # in place: b is nobody else's, `state` and `load_state` copy
                b *= momentum
                b += _times(1 - group["dampening"], u)
            self.buffers[id(parameter)] = b
            u = u + momentum * b if group["nesterov"] else b
        if group["decoupled"]:
            w = _times(1 - lr * decay, w)
        step = -lr * _times(scale, u)
        step += w
        parameter.data = step.astype(parameter.data.dtype, copy=False)
        if self.master is not None:
            self.masters[id(parameter)] = (parameter.data, step)


def _times(factor: Any, x: Array) -> Array:
    """factor * x; x itself where factor is the number 1, which has the same bits."""
    return x if isinstance(factor, float) and factor == 1 else factor * x


def _for_channels(factor: Any, like: Array) -> Any:
    """A factor (channels,) made to broadcast along the first axis of `like`."""
    if not is_array(factor):
        return check_number("the factor from step_scale", factor, -math.inf)
    if factor.ndim == 1:
        check_shape("the factor from step_scale", factor, like.shape[:1])
        return _along(factor, like, 0)
    return factor.astype(like.dtype, copy=False)


def _checked_group(group: Any, defaults: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(group, dict) or "params" not in group:
        raise TypeError('parameters must be all parameters or all groups {"params": [...], ...}')
    unknown = set(group) - set(defaults) - {"params"}
    if unknown:
        raise ValueError(
            f"parameters: a group has no {sorted(unknown)[0]!r}; it may have {', '.join(defaults)}"
        )
    if not isinstance(group["params"], (list, tuple)):
        got = short(group["params"])
        raise TypeError(f"parameters: params of a group must be a list of nn.Parameter, got {got}")
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
    check_function("step_scale", group["step_scale"])
    return group


class StepSchedule:
    """Multiply the learning rate by `factor` at each milestone: schedule(t) -> factor so far.

    milestones: increasing integers >= 1, in the unit t is counted in (epochs, usually). The result
    belongs into `SGD.lr_factor`. Raises TypeError or ValueError naming the argument.
    """

    def __init__(self, milestones: Sequence[int], factor: float = 0.1) -> None:
        if not isinstance(milestones, (list, tuple)):
            raise TypeError(f"milestones must be a list of integers, got {short(milestones)}")
        self.milestones = [check_count("milestones", m) for m in milestones]
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ValueError(f"milestones must increase, got {list(milestones)}")
        self.factor = check_number("factor", factor)

    def __call__(self, t: int) -> float:
        return self.factor ** sum(t >= m for m in self.milestones)


class CosineSchedule:
    """From 1 to `floor` along half a cosine over `total` epochs (or steps), then `floor`.

    floor + (1 - floor) (1 + cos(pi t / total)) / 2 (Loshchilov & Hutter 2017). Raises TypeError or
    ValueError naming the argument.
    """

    def __init__(self, total: int, floor: float = 0.0) -> None:
        self.total = check_count("total", total)
        self.floor = check_number("floor", floor, 0, 1)

    def __call__(self, t: int) -> float:
        fraction = min(t / self.total, 1.0)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * fraction)) / 2


class Warmup:
    """A linear start, (t + 1) / steps up to 1, times another schedule if one is given."""

    def __init__(self, steps: int, schedule: Callable[[int], float] | None = None) -> None:
        check_function("schedule", schedule)
        self.steps, self.schedule = check_count("steps", steps), schedule

    def __call__(self, t: int) -> float:
        start = min((t + 1) / self.steps, 1.0)
        return start if self.schedule is None else start * self.schedule(t)


class GrowingSchedule:
    """Weight decay as a learning rate that grows: (1 - lr weight_decay)^-(2t + 1) at step t.

    Exact for SGD without momentum on scale-invariant weights (Li & Arora 2020). With decay,
    w+ = (1 - a) w - lr g(w), a = lr weight_decay. Let v_t = w_t (1 - a)^-t. Equation (2) gives
    g(v_t) = g(w_t) (1 - a)^t, so

        v_{t+1} = w_{t+1} (1 - a)^-(t+1) = v_t - lr (1 - a)^-(2t + 1) g(v_t):

    the same directions without decay, at this learning rate. It amplifies rounding as it grows.
    """

    def __init__(self, lr: float, weight_decay: float) -> None:
        self.shrink = 1 - check_number("lr", lr) * check_number("weight_decay", weight_decay)
        if self.shrink <= 0:
            raise ValueError(f"lr * weight_decay must be below 1, got {1 - self.shrink}")

    def __call__(self, t: int) -> float:
        return self.shrink ** -(2 * t + 1)


def channel_norms(w: Array, axis: int = 0) -> Array:
    """The L2 norm of each output channel of w along `axis`: shape (channels,), in float64.

    TypeError or ValueError naming w or axis.
    """
    namespace(w=w)
    (axis,) = check_axes(one_axis(axis), w.ndim)
    rows = to_rows(w, tuple(a for a in range(w.ndim) if a != axis)).astype("float64", copy=False)
    return total(rows * rows, "float64")[:, 0] ** 0.5


_KINDS = ("norms", "rates", "decays")


class NormTrace:
    """Norms and effective step sizes of scale-invariant weights, recorded step by step.

    parameters: what `nn.scale_invariant(model)` returns; optimizer: the SGD that moves them. Each
    `record()` appends, for every parameter, the channel norms ||w_i|| (float64), the learning
    rate lr and lr * weight_decay of the coming step, so call it at the *start* of a step.

    norms: dict name -> array (records, channels); rates, decays: dict name -> array (records,).
    """

    def __init__(self, parameters: Pairs = (), optimizer: Any = None) -> None:
        self.parameters, self.optimizer = _invariant(parameters), optimizer
        if optimizer is not None and not isinstance(optimizer, SGD):
            raise TypeError(f"optimizer must be an SGD, got {short(optimizer)}")
        self.norms: dict[str, list[np.ndarray]] = {name: [] for name in self.parameters}
        self.rates: dict[str, list[float]] = {name: [] for name in self.parameters}
        self.decays: dict[str, list[float]] = {name: [] for name in self.parameters}

    def record(self) -> None:
        """Append the present norms and the rates of the coming step; TypeError if no optimizer."""
        if self.optimizer is None:
            raise TypeError("optimizer must be an SGD for a trace that records, got None")
        for name, (parameter, axis) in self.parameters.items():
            lr, decay = self.optimizer.rate(parameter)
            self.norms[name].append(to_device(channel_norms(parameter.data, axis), "cpu"))
            self.rates[name].append(lr)
            self.decays[name].append(decay)

    def step_sizes(self, name: str) -> np.ndarray:
        """The effective step sizes lr / ||w_i||^2 (equation 3), shape (records, channels)."""
        return np.array(self.rates[name])[:, None] / np.array(self.norms[name]) ** 2

    def state(self) -> dict[str, np.ndarray]:
        """Everything recorded: dict of "norms/<name>", "rates/<name>", "decays/<name>"."""
        return {f"{k}/{n}": np.array(v) for k in _KINDS for n, v in getattr(self, k).items()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Put back what `state` returned; ValueError naming what is missing, unknown, misshapen."""
        names = list(self.norms) or [key[6:] for key in state if key.startswith("norms/")]
        for key in sorted(set(state) ^ {f"{kind}/{name}" for kind in _KINDS for name in names}):
            raise ValueError(f"the trace has {'an unknown' if key in state else 'no'} entry {key}")
        for name in names:
            norms, *rates = (state[f"{kind}/{name}"] for kind in _KINDS)
            if norms.ndim != 1 + any(norms.shape) or {r.shape for r in rates} != {norms.shape[:1]}:
                raise ValueError(f"the trace's entries of {name} have shapes that do not agree")
        for key, values in state.items():
            getattr(self, key.partition("/")[0])[key.partition("/")[2]] = list(values)

    def save(self, path: str | PathLike[str]) -> None:
        """Write `state()` to an .npz file at this path, all of it or nothing."""
        save_arrays(path, "trace", self.state())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> NormTrace:
        """A trace read from a file, to look at or to correct another run with.

        FileNotFoundError, or ValueError naming the file and what is wrong.
        """
        trace = cls()
        load_arrays(path, "trace", trace.load_state)
        return trace


class StepSizeCorrection:
    """Equation (4): the step of a run *without* decay, corrected to that of the run *with* decay.

    For SGD's step_scale. trace: the NormTrace of the run with decay, one record a step; parameters:
    what `nn.scale_invariant(model)` returns for the model of this run (others get 1). The factor is

        ||w||^2 / ||w_WD||^2    (exact=True: times 1 / (1 - lr weight_decay))

    per channel, both norms at the start of the step. The second form is exact without momentum:
    with decay w+ = (1 - a) w_WD - lr g(w_WD) turns by lr g(w_WD) / ((1 - a) ||w_WD||), a = lr
    weight_decay; without decay, v+ = v - lr' g(v), g(v) = g(w_WD) ||w_WD|| / ||v|| by equation (2),
    turns by lr' g(w_WD) ||w_WD|| / ||v||^2; the two are equal for lr' = lr / (1 - a) * ||v||^2 /
    ||w_WD||^2. With momentum both are approximate, since the buffer mixes gradients of older
    norms. on: "step" (the factor multiplies the step, as the authors do) or "gradient" (what
    enters the buffer). Raises ValueError naming a parameter that is not scale-invariant, or that
    the trace lacks, or a step beyond the end of the trace.
    """

    def __init__(
        self, trace: NormTrace, parameters: Pairs, on: str = "step", exact: bool = False
    ) -> None:
        if on not in ("step", "gradient"):
            raise ValueError(f'on must be "step" or "gradient", got {on!r}')
        if not isinstance(trace, NormTrace):
            raise TypeError(f"trace must be a NormTrace, got {short(trace)}")
        self.places = {id(p): (n, axis) for n, (p, axis) in _invariant(parameters, trace).items()}
        self.trace, self.on, self.exact, self.t = trace, on, exact, 0

    def __call__(self, parameter: Any) -> Any:
        if id(parameter) not in self.places:
            return 1.0
        name, axis = self.places[id(parameter)]
        norms = self.trace.norms[name]
        if self.t >= len(norms):
            raise ValueError(f"trace has {len(norms)} records, and this is step {self.t}")
        own = channel_norms(parameter.data, axis)
        factor = (own / library_of(own).asarray(norms[self.t])) ** 2
        if self.exact:
            factor = factor / (1 - self.trace.decays[name][self.t])
        return _along(factor, parameter.data, axis)


class NormSchedule:
    """Impose the norm: before each step, rescale every channel to its target.

    parameters: what `nn.scale_invariant(model)` returns. target: a NormTrace (its record t before
    step t), or a dict of parameter name -> norms (channels,), the same at every step. Dividing the
    learning rate by 10 is the same as multiplying the norm by sqrt(10): `apply(t, factor)`
    multiplies the target by `factor`. The gradient at the new norm follows equation (2). Not
    between a step and an evaluation: running statistics are those of the norm in the steps before.
    Raises TypeError or ValueError naming a parameter that is not scale-invariant, or has no target
    or one that is not finite and above 0.
    """

    def __init__(self, parameters: Pairs, target: NormTrace | Mapping[str, Any]) -> None:
        if not isinstance(target, (NormTrace, Mapping)):
            raise TypeError(f"target must be a NormTrace or a dict of norms, got {short(target)}")
        self.parameters, self.target = _invariant(parameters, target), target
        for name, (parameter, axis) in self.parameters.items():
            channels = parameter.data.shape[axis]
            traced = target.norms[name] if isinstance(target, NormTrace) else [target[name]]
            for record in traced:
                check_positive(f"target[{name!r}]", record, channels)

    def apply(self, t: int, factor: float = 1.0) -> None:
        """Rescale every channel to factor * target at record t (or the last one there is).

        ValueError naming factor unless above 0, or a parameter with a channel of norm 0.
        """
        check_count("t", t, 0)
        check_positive("factor", factor, 1)
        for name, (parameter, axis) in self.parameters.items():
            if isinstance(self.target, NormTrace):
                if not (norms := self.target.norms[name]):
                    raise ValueError(f"target has no record of {name!r} yet")
                wanted = norms[min(t, len(norms) - 1)]
            else:
                wanted = self.target[name]
            own = channel_norms(parameter.data, axis)
            if bool((own == 0).any()):  # NaN stays, for `train` to report
                raise ValueError(f"parameter {name!r} has a channel of norm 0: no direction")
            scale = library_of(own).asarray(wanted) * factor / own
            parameter.data = parameter.data * _along(scale, parameter.data, axis)


def _invariant(parameters: Pairs, target: Any = None) -> dict[str, tuple[Any, int]]:
    """name -> pair, after checking that `nn.scale_invariant` named each and the target has it."""
    found: dict[str, tuple[Any, int]] = {}
    pairs: Any = parameters if isinstance(parameters, (list, tuple)) else [parameters]
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:
            got = f"got {short(pair)}"
            raise TypeError(f"parameters must be what nn.scale_invariant(model) returns, {got}")
        name = getattr(pair[0], "invariant_name", "") or getattr(pair[0], "name", "?")
        if getattr(pair[0], "invariant_axis", None) != pair[1]:
            raise ValueError(f"{name!r} is not scale-invariant: nn.scale_invariant(model) lacks it")
        known = target.norms if isinstance(target, NormTrace) else target
        if known is not None and name not in known:
            raise ValueError(f"parameter {name!r} is not in the target, which has {list(known)}")
        if name in found:
            raise ValueError(f"parameters has {name!r} twice: ask nn.scale_invariant(model) once")
        found[name] = pair
    return found


def _along(factor: Array, like: Array, axis: int) -> Array:
    """A factor (channels,) shaped to multiply `like` along its channel axis, in its dtype."""
    shape = [1] * like.ndim
    shape[axis] = -1
    return factor.reshape(shape).astype(like.dtype)
