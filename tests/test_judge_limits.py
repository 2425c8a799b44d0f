"""Right values with limits; what is taken for what; faults that are measured, not only named."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from lpnorm.verify import check

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
if importlib.util.find_spec("torch") is not None:
    import torch


def keep(x, gamma, beta, eps):
    d = x - x.mean(0)
    s = np.sqrt((d * d).mean(0) + x.dtype.type(eps))
    return gamma * d / s + beta, (d / s, s, gamma)


def back(dy, cache):
    h, s, gamma = cache
    g = gamma * dy
    return (g - g.mean(0) - h * (g * h).mean(0)) / s, (dy * h).sum(0), dy.sum(0)


def limited(candidate, words, **arguments):
    """Right, with this limit and no other; strict, it is not ok."""
    report = check(candidate, **arguments)
    assert report.ok and len(report.limits) == 1 and words in report.limits[0], str(report)
    assert report.verdict.startswith("correct, with limits: " + report.limits[0])
    assert report.limits[0] in " ".join(str(report).split())
    strict = check(candidate, strict=True, **arguments)
    assert not strict.ok and strict.verdict == report.verdict
    return report


TWO = {"p": 2, "ndim": 2, "dtype": "float64"}


# --- limits ---------------------------------------------------------------------------------------


def one_pass(x, gamma, beta, eps):
    mean = x.mean(0)
    s = np.sqrt(np.maximum((x * x).mean(0) - mean * mean, 0) + x.dtype.type(eps))
    return gamma * (x - mean) / s + beta, ((x - mean) / s, s, gamma)


def test_a_variance_in_one_pass():
    limited((one_pass, back), "E[x^2] - E[x]^2", p=2, ndim=2, dtype="float32")


def test_a_variance_that_is_wrong_is_no_limit():
    """More than what cancels: half a percent off where the mean is large."""

    def wrong(x, gamma, beta, eps):
        more = 1 + 0.005 * (abs(x.mean(0)) > 10)
        return gamma * (x - x.mean(0)) / np.sqrt(x.var(0) * more + eps) + beta

    assert check(wrong, **TWO).verdict == "wrong"


def test_gradients_with_axes_of_length_one():
    def wide(dy, cache):
        dx, dgamma, dbeta = back(dy, cache)
        return dx, dgamma[None], dbeta[None]

    limited((keep, wide), "dgamma of shape (1, 3)", **TWO)


def test_gradients_with_another_shape_are_wrong():
    def lost(dy, cache):
        dx, dgamma, dbeta = back(dy, cache)
        return dx, dgamma.sum(), dbeta

    assert check((keep, lost), **TWO).verdict == "wrong"


class Adds:
    def __init__(self, *arrays):
        self.y, self.cache = keep(*arrays)
        self.dgamma = self.dbeta = 0

    def backward(self, dy):
        dx, dgamma, dbeta = back(dy, self.cache)
        self.dgamma, self.dbeta = self.dgamma + dgamma, self.dbeta + dbeta
        return dx, self.dgamma, self.dbeta


def adds(*arrays):
    layer = Adds(*arrays)
    return layer.y, layer


def test_gradients_that_add_up():
    limited((adds, lambda dy, layer: layer.backward(dy)), "add up over calls", **TWO)


def test_arrays_that_are_refused():
    def contiguous(x, gamma, beta, eps):
        if not x.flags.c_contiguous:
            raise ValueError("x must be contiguous")
        return keep(x, gamma, beta, eps)

    report = check((contiguous, back), **TWO)
    assert report.ok and "refuses non-contiguous arrays (ValueError" in report.limits[0]


@pytest.mark.parametrize("p", [1, 2])
def test_sums_that_overflow_in_float16(p):
    def narrow(x, gamma, beta, eps):
        total, n = np.float16(0), np.float16(len(x))
        for row in x:
            total = total + row
        d = x - total / n
        phi = np.float16(0)
        for row in d:
            phi = phi + (abs(row) if p == 1 else row * row)
        c = x.dtype.type(np.sqrt(np.pi / 2) if p == 1 else 1)
        s = c * (phi / n) + x.dtype.type(eps) if p == 1 else np.sqrt(phi / n + x.dtype.type(eps))
        return gamma * d / s + beta

    report = check(narrow, p=p, ndim=2, dtype="float16")
    assert report.ok and any("overflow: 4,096 values near 100" in each for each in report.limits)


@needs_torch
def test_one_value_leaves_nan_in_the_statistics():
    class Unbiased(torch.nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(channels))
            self.bias = torch.nn.Parameter(torch.zeros(channels))
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))
            self.eps, self.momentum = 1e-5, 0.1

        def forward(self, x):
            mean, var = self.running_mean, self.running_var
            if self.training and (len(x) or self.empty):
                mean, var = x.mean(0), x.var(0, unbiased=False)
                with torch.no_grad():
                    self.running_mean += 0.1 * (mean - self.running_mean)
                    self.running_var += 0.1 * (x.var(0) - self.running_var)
            return self.weight * (x - mean) / torch.sqrt(var + self.eps) + self.bias

        empty = False

    limited(Unbiased, "makes running_var NaN", p=2, ndim=2, dtype="float64")
    Unbiased.empty = True
    report = check(Unbiased, p=2, ndim=2, dtype="float64")
    assert report.ok and len(report.limits) == 2, report
    assert report.limits[0] == "an empty batch makes running_mean and running_var NaN for good"


def test_a_weight_of_zeros():
    def forward(v, g):
        size = np.sqrt((v * v).sum(tuple(range(1, v.ndim)), keepdims=True))
        return v / size * g.reshape(size.shape)

    limited(forward, "zeros gives NaN", layer="weight_norm", p=2, dtype="float64")


@needs_torch
@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
def test_both_of_torchs_weight_norms():
    new = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(5, 4))
    old = torch.nn.utils.weight_norm(torch.nn.Linear(5, 4))
    for candidate in (new, old):
        report = check(candidate, layer="weight_norm", p=2)
        assert report.ok and report.limits == ["a weight vector of zeros gives NaN"], str(report)


class Momentum:
    """w - lr b, b = momentum b + g, on parameters with .data and .grad."""

    def __init__(self, parameters, lr=0.1, momentum=0.9):
        self.parameters, self.lr, self.momentum = list(parameters), lr, momentum
        self.b = [0.0] * len(self.parameters)

    def gradient(self, parameter):
        return parameter.grad

    def step(self):
        for i, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                self.b[i] = self.momentum * self.b[i] + self.gradient(parameter)
                parameter.data = self.moved(parameter.data, i, parameter.grad)

    def moved(self, w, i, g):
        return w - self.lr * self.b[i]


class WantsAll(Momentum):
    def step(self):
        for i, parameter in enumerate(self.parameters):
            self.b[i] = self.momentum * self.b[i] + parameter.grad
            parameter.data = parameter.data - self.lr * self.b[i]


SGD = {"layer": "sgd", "lr": 0.1, "momentum": 0.9}


def test_an_optimizer_that_wants_every_gradient():
    limited(WantsAll, "wants a gradient for every parameter", **SGD)


# --- what is handed over --------------------------------------------------------------------------


@needs_torch
def test_parameters_by_their_last_name_at_any_depth():
    class Inner(torch.nn.Module):
        def __init__(self, n):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(n))  # registered first
            self.weight = torch.nn.Parameter(torch.ones(n))

        def forward(self, x):
            return torch.nn.functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, 1e-5)

    class Outer(torch.nn.Module):
        def __init__(self, n):
            super().__init__()
            self.norm = Inner(n)

        def forward(self, x):
            return self.norm(x)

    report = check(Outer, layer="layer_norm", p=2)
    assert report.ok and report.taken == ["gamma = norm.weight", "beta = norm.bias"], str(report)
    assert "Taken: gamma = norm.weight; beta = norm.bias" in str(report)


@needs_torch
def test_parameters_by_what_they_begin_as():
    class Named(torch.nn.BatchNorm1d):
        def __init__(self, n):
            super().__init__(n, affine=False)
            self.offset = torch.nn.Parameter(torch.zeros(n))
            self.factor = torch.nn.Parameter(torch.ones(n))

        def forward(self, x):
            return self.factor * super().forward(x) + self.offset

    report = check(Named, p=2, ndim=2)
    assert report.ok and report.taken == ["gamma = factor", "beta = offset"], str(report)


def test_an_attribute_is_no_global_name():
    space = {"np": np, "keep": keep, "back": back}
    if importlib.util.find_spec("torch") is not None:
        space["forward"] = torch.relu  # the file has a torch function with the attribute's name
    exec(
        "class Layer:\n"
        "    def forward(self, *arrays):\n"
        "        y, self.cache = keep(*arrays)\n"
        "        return y\n"
        "def mine(x, gamma, beta, eps):\n"
        "    layer = Layer()\n"
        "    return layer.forward(x, gamma, beta, eps), layer.cache\n",
        space,
    )
    report = check((space["mine"], back), **TWO)
    assert report.ok and report.candidate == "NumPy pair", str(report)


@needs_torch
def test_numpy_in_and_out_and_torch_inside():
    def through(x, gamma, beta, eps):
        arrays = [torch.from_numpy(np.array(a)) for a in (x, gamma, beta)]
        normal = torch.nn.functional.batch_norm
        return normal(arrays[0], None, None, *arrays[1:], True, 0.1, eps).numpy()

    report = check(through, **TWO)
    assert report.ok and report.candidate == "NumPy forward alone", str(report)


@needs_torch
@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_a_lazy_module(ndim):
    report = check(lambda channels: getattr(torch.nn, f"LazyBatchNorm{ndim}d")(), p=2)
    assert report.ok and report.taken == ["gamma = weight", "beta = bias"], str(report)


def test_a_class_that_wants_arguments_could_not_run():
    class Wants:
        def __init__(self, gamma, beta): ...

        forward = backward = None

    assert check(Wants, p=2).verdict == "could not run"


@pytest.mark.parametrize("layer, name, value", [
    ("weight_norm", "eps", 1.0), ("weight_norm", "ndim", 7), ("weight_norm", "running", "variance"),
    ("bounded_weight_norm", "constant", None), ("weight_norm", "momentum", "new"),
    ("sgd", "axis", 1), ("sgd", "backend", "torch"), ("sgd", "eps", 0.1),
])  # fmt: skip
def test_no_argument_is_dropped_in_silence(layer, name, value):
    with pytest.raises(TypeError, match=f"^{name} is no argument for {layer}"):
        check(Momentum, layer, **{name: value})


def test_a_rate_in_an_attribute():
    assert check(Momentum, **SGD).verdict == "correct"


def test_a_rate_that_cannot_be_set_is_not_tried():
    class Hidden(Momentum):
        def __init__(self, parameters):
            super().__init__(parameters)
            self._rate = self.__dict__.pop("lr")

        def moved(self, w, i, g):
            return w - self._rate * self.b[i]

    report = check(Hidden, **SGD)
    found = [c for c in report.checks if c.check.startswith("the learning rate changes")]
    assert report.verdict == "correct" and all(c.status == "skipped" for c in found), str(report)
    assert "not tried: it has neither param_groups nor an attribute lr" in found[0].detail


def test_a_step_upwards():
    class Up(Momentum):
        def gradient(self, parameter):
            return -parameter.grad

    assert check(Up, maximize=True, **SGD).verdict == "correct"
    assert check(Up, **SGD).diagnoses == ["the step is added to w"]


# --- measured -------------------------------------------------------------------------------------


class Stale(Momentum):
    def moved(self, w, i, g):
        old = (self.b[i] - g) / self.momentum
        return w - self.lr * old


class Look(Momentum):
    def moved(self, w, i, g):
        return w - self.lr * (g + 0.5 * self.b[i])


@pytest.mark.parametrize("candidate, words", [
    (Stale, ["the gradient counts 0 times", "of the step before counts 1 times in a step, 0 is"]),
    (Look, ["the gradient counts 1.5 times", "of the step before counts -0.9 times"]),
])  # fmt: skip
def test_a_step_is_measured(candidate, words):
    report = check(candidate, **SGD)
    assert report.verdict == "wrong" and len(report.diagnoses) == 1, str(report)
    assert all(each in report.diagnoses[0] for each in words), report.diagnoses


def l1(constant, eps=None):
    def forward(x, gamma, beta):
        d = x - x.mean(-1, keepdims=True)
        own = x.dtype.type(1e-5 if eps is None else eps)
        s = x.dtype.type(constant) * abs(d).mean(-1, keepdims=True) + own
        return gamma * d / s + beta

    return forward


LAYER = {"layer": "layer_norm", "p": 1, "dtype": "float64"}


@pytest.mark.parametrize("constant", [1.2533, 1.25331, np.sqrt(3.1416 / 2)])
def test_a_constant_of_few_digits_is_a_convention(constant):
    report = check(l1(constant), **LAYER)
    assert report.ok and f"the constant is {constant:.8g}" in report.verdict, str(report)
    asked = check(l1(constant), constant="paper", **LAYER)
    assert asked.diagnoses == [f"the constant is {constant:.8g}, 1.2533141 is right"]


def test_no_constant_was_asked_for():
    report = check(l1(1.0005), constant=None, **LAYER)
    assert report.diagnoses == ["the constant is 1.0005, 1 is right"]
    assert not check(l1(1.2533), constant=None, **LAYER).ok


def test_another_constant_is_wrong():
    assert check(l1(1.25), **LAYER).diagnoses == ["the constant is 1.25, 1.2533141 is right"]


@pytest.mark.parametrize("eps", [1e-3, 1e-6, 1e-8, 1e-10, 1e-12])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_small_eps_of_its_own_is_seen(eps, dtype):
    report = check(l1(np.sqrt(np.pi / 2), eps), **{**LAYER, "dtype": dtype})
    assert report.ok and f"eps is {eps:g}" in report.verdict, str(report)


def test_gamma_of_zero():
    def inverted(dy, cache):
        y, beta, h, s, gamma = cache
        dx, _, dbeta = back(dy, (h, s, gamma))
        return dx, (dy * ((y - beta) / gamma)).sum(0), dbeta

    def forward(x, gamma, beta, eps):
        y, cache = keep(x, gamma, beta, eps)
        return y, (y, beta, *cache)

    report = check((forward, inverted), **TWO)
    assert {c.check for c in report.failures} == {"gamma with zeros, float64"}, str(report)


def test_many_values():
    def capped(x, gamma, beta, eps):
        d = x - x[:5000].mean(0)
        return gamma * d / np.sqrt(x.var(0) + eps) + beta

    report = check(capped, **TWO)
    assert "only in large groups" in report.diagnoses[0], str(report)


@needs_torch
def test_the_gradient_in_evaluation():
    class Fixed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, mean, s):
            ctx.save_for_backward((x - mean) / s, s)
            return (x - mean) / s

        @staticmethod
        def backward(ctx, g):
            h, s = ctx.saved_tensors
            return (g - g.mean(0) - h * (g * h).mean(0)) / s, None, None

    class Module(torch.nn.BatchNorm1d):
        def forward(self, x):
            if self.training:
                return super().forward(x)
            h = Fixed.apply(x, self.running_mean, torch.sqrt(self.running_var + self.eps))
            return self.weight * h + self.bias

    assert check(torch.nn.BatchNorm1d, p=2, ndim=2).ok
    report = check(Module, p=2, ndim=2)
    assert [c.check for c in report.failures] == ["gradient in evaluation"], str(report)


@needs_torch
def test_no_gradient_in_evaluation():
    class Detached(torch.nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x) if self.training else super().forward(x).detach()

    limited(Detached, "there is no gradient in evaluation mode", p=2, ndim=2)


@needs_torch
def test_statistics_that_are_plain_attributes():
    class Attributes(torch.nn.BatchNorm1d):
        def __init__(self, channels):
            super().__init__(channels, track_running_stats=False)
            self.mean, self.var = torch.zeros(channels), torch.ones(channels)

        def forward(self, x):
            if self.training:
                self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
                self.var = 0.9 * self.var + 0.1 * x.detach().var(0, unbiased=False)
                return super().forward(x)
            s = torch.sqrt(self.var + self.eps)
            return self.weight * (x - self.mean) / s + self.bias

    report = check(Attributes, p=2, ndim=2, dtype="float32")
    assert report.ok and "mean and var: no buffer" in report.limits[0], str(report)
