"""Bad calls: each gives one clear error that names the argument, before any work."""

import math

import numpy as np
import pytest

import lpnorm
from lpnorm import TopK, nn
from lpnorm.decay import SGD, StepSchedule

X = np.zeros((4, 3))
G = np.ones(3)
F16 = np.zeros((4, 3), "float16")
LABELS = np.zeros(4, int)


def norm(x=X, gamma=G, beta=G, **arguments):
    return lambda: lpnorm.batch_norm(x, gamma, beta, **arguments)


def parameter(value=1.0):
    return nn.Parameter(np.array([value]), "w")


def backward(dy):
    return lambda: lpnorm.batch_norm_backward(dy, lpnorm.batch_norm(X + np.arange(3), G, G)[1])


def stepped(grad=None, step_scale=None):
    def call():
        one = parameter()
        one.grad = np.ones(1) if grad is None else grad
        SGD([one], lr=0.1, step_scale=step_scale).step()

    return call


BAD_CALLS = [  # call, exception, words its message must contain
    # p
    (norm(p=0.5), ValueError, "p must"),
    (norm(p=-1), ValueError, "p must"),
    (norm(p=math.nan), ValueError, "p must"),
    (norm(p="2"), TypeError, "p must"),
    (norm(p=None), TypeError, "p must"),
    (norm(p=True), TypeError, "p must"),
    (norm(p=2j), TypeError, "p must"),
    (norm(p=TopK), TypeError, "p must"),
    (norm(p=10**400), ValueError, "p must"),
    (norm(p=TopK(5)), ValueError, "TopK(5)", "4"),
    (lambda: TopK(0), ValueError, "TopK", "at least 1"),
    (lambda: TopK(2.5), TypeError, "TopK", "integer"),
    (lambda: TopK(True), TypeError, "TopK", "integer"),
    # axis
    (norm(axis=2), ValueError, "axis", "2"),
    (norm(axis=-3), ValueError, "axis", "-3"),
    (norm(axis=1.0), TypeError, "axis", "1.0"),
    (norm(axis=(0,)), TypeError, "axis"),
    (norm(axis=True), TypeError, "axis"),
    (lambda: lpnorm.layer_norm(X, None, None, axis=()), ValueError, "axis"),
    (lambda: lpnorm.layer_norm(X, None, None, axis=(1, -1)), ValueError, "axis", "twice"),
    (lambda: lpnorm.layer_norm(X, None, None, axis=[1]), TypeError, "axis"),
    # shapes
    (norm(x=np.zeros(3)), ValueError, "x must", "2 axes", "(3,)"),
    (norm(x=np.zeros((0, 3))), ValueError, "x must", "empty"),
    (norm(x=np.zeros((2, 3, 0))), ValueError, "x must", "empty"),
    (norm(gamma=np.ones(4)), ValueError, "gamma", "(3,)", "(4,)"),
    (norm(beta=np.ones((3, 1))), ValueError, "beta", "(3,)", "(3, 1)"),
    (lambda: lpnorm.layer_norm(X, np.ones(4), None), ValueError, "gamma", "(3,)", "(4,)"),
    (backward(np.ones((3, 4))), ValueError, "dy", "(4, 3)", "(3, 4)"),
    # dtypes and kinds of array
    (norm(x=X.astype(int)), TypeError, "x must", "int64"),
    (norm(x=X.astype(object)), TypeError, "x must", "object"),
    (norm(x=X.astype(complex)), TypeError, "x must", "complex128"),
    (norm(x=X.tolist()), TypeError, "x must", "list"),
    (norm(x=None), TypeError, "x must", "NoneType"),
    (norm(gamma=[1, 1, 1]), TypeError, "gamma must", "list"),
    (norm(gamma=G.astype("float32")), TypeError, "gamma", "float64", "float32"),
    (norm(x=F16, gamma=G, beta=None), TypeError, "gamma", "float16", "float64"),
    (backward(np.ones((4, 3), "float32")), TypeError, "dy", "float64", "float32"),
    (backward(None), TypeError, "dy must", "NoneType"),
    # eps, constant, accumulate, n
    (norm(eps=-1e-5), ValueError, "eps", "-1e-05"),
    (norm(eps=math.nan), ValueError, "eps", "nan"),
    (norm(eps=math.inf), ValueError, "eps", "inf"),
    (norm(eps="small"), TypeError, "eps", "small"),
    (norm(constant="Paper"), ValueError, "constant", "Paper"),
    (norm(constant=1.0), ValueError, "constant", "1.0"),
    (norm(constant=np.array(["paper", "exact"])), ValueError, "constant"),
    (norm(accumulate="float32"), ValueError, "accumulate", "float64", "float32"),
    (norm(accumulate="int64"), TypeError, "accumulate", "int64"),
    (norm(accumulate="nothing"), TypeError, "accumulate", "nothing"),
    (lambda: lpnorm.gaussian_constant(2, 0), ValueError, "n must", "0"),
    (lambda: lpnorm.gaussian_constant(2, 2.0), TypeError, "n must", "2.0"),
    # inference
    (lambda: lpnorm.batch_norm_inference(X, G, G, G, None), TypeError, "mean and scale"),
    (lambda: lpnorm.batch_norm_inference(X, G, G, G, np.ones(2)), ValueError, "scale", "(3,)"),
    (lambda: lpnorm.batch_norm_inference(X[:0], G, G, G, G), ValueError, "x must", "empty"),
    # weight norm
    (lambda: lpnorm.weight_norm(X, np.ones(4)), ValueError, "v has norm 0", "0, 1, 2, 3"),
    (lambda: lpnorm.weight_norm(X + 1, np.ones(3)), ValueError, "g must", "(4,)", "(3,)"),
    (lambda: lpnorm.weight_norm(X + 1, None), TypeError, "g must"),
    (lambda: lpnorm.weight_norm(X + 1, np.ones(4), p=TopK(2)), ValueError, "p of a weight norm"),
    (lambda: lpnorm.weight_norm(X + 1, np.ones(4), p=lpnorm.Range()), ValueError, "p of a weight"),
    (lambda: lpnorm.weight_norm(np.ones(3), np.ones(3)), ValueError, "v must", "(3,)"),
    (lambda: lpnorm.weight_norm(X + 1, np.ones(4), axis=5), ValueError, "axis", "5"),
    (lambda: lpnorm.bounded_weight_norm(X + 1, 0.0), ValueError, "rho", "0"),
    (lambda: lpnorm.bounded_weight_norm(X + 1, -1.0), ValueError, "rho", "-1"),
    (lambda: lpnorm.bounded_norm(np.zeros((0, 3))), ValueError, "v must", "empty"),
    # SGD
    (lambda: SGD([], lr=0.1), ValueError, "parameters", "empty"),
    (lambda: SGD([np.ones(3)], lr=0.1), TypeError, "parameters", "ndarray"),
    (lambda: SGD([parameter()], lr=-1), ValueError, "lr", "-1"),
    (lambda: SGD([parameter()], lr="0.1"), TypeError, "lr", "0.1"),
    (lambda: SGD([parameter()], lr=0.1, nesterov=True), ValueError, "nesterov", "momentum"),
    (lambda: SGD([parameter()], lr=0.1, weight_decay=math.nan), ValueError, "weight_decay"),
    (lambda: SGD([parameter()], lr=0.1, step_scale=2.0), TypeError, "step_scale"),
    (lambda: SGD([parameter()] * 2, lr=0.1), ValueError, "parameters", "twice"),
    (lambda: SGD([{"params": [parameter()], "rate": 1}], lr=0.1), ValueError, "'rate'"),
    (lambda: SGD(parameter(), lr=0.1), TypeError, "parameters must be a list", "Parameter"),
    (stepped(grad=np.ones(2)), ValueError, "w:", "(2,)", "(1,)"),
    (stepped(grad=np.ones(1, "float32")), TypeError, "w:", "float32", "float64"),
    (stepped(step_scale=lambda p: None), TypeError, "step_scale", "None"),
    (stepped(step_scale=lambda p: np.ones(3)), ValueError, "step_scale", "(3,)", "(1,)"),
    (lambda: StepSchedule([3, 2]), ValueError, "milestones", "[3, 2]"),
    # the engine
    (lambda: nn.Linear(0, 3), ValueError, "inputs", "0"),
    (lambda: nn.Linear(2, 3, init="xavier"), ValueError, "init", "xavier"),
    (lambda: nn.Linear(2, 3)(X.astype("float32")), ValueError, "Linear", "(any, 2)", "(4, 3)"),
    (lambda: nn.Linear(3, 2)(X), TypeError, "Linear", "float64", "float32"),
    (lambda: nn.Conv2d(1, 2, kernel=(3,)), ValueError, "kernel", "(3,)"),
    (lambda: nn.Conv2d(1, 2, stride=0), ValueError, "stride", "0"),
    (lambda: nn.Conv2d(1, 2)(np.zeros((1, 1, 2, 2), "float32")), ValueError, "kernel", "(3, 3)"),
    (lambda: nn.MaxPool2d(2, padding=2), ValueError, "padding", "2"),
    (lambda: nn.BatchNorm(3, constant="foo"), ValueError, "constant", "foo"),
    (lambda: nn.BatchNorm(3, axis="x"), TypeError, "axis", "x"),
    (lambda: nn.BatchNorm(3, momentum=1.5), ValueError, "momentum", "1.5"),
    (lambda: nn.BatchNorm(4)(X.astype("float32")), ValueError, "BatchNorm", "4", "(4, 3)"),
    (lambda: nn.Sequential(nn.ReLU(), max), TypeError, "Sequential", "argument 1"),
    (lambda: nn.ReLU().to(dtype="int32"), TypeError, "dtype", "int32"),
    (lambda: nn.ReLU().to(device="tpu"), ValueError, "device", "tpu"),
    (lambda: nn.softmax_cross_entropy(X, LABELS + 3), ValueError, "labels", "0 to 2"),
    (lambda: nn.softmax_cross_entropy(X, LABELS[:3]), ValueError, "labels", "(4,)", "(3,)"),
    (lambda: nn.softmax_cross_entropy(X, X[:, 0]), TypeError, "labels", "integer"),
]


@pytest.mark.parametrize("call", BAD_CALLS, ids=lambda call: " ".join(call[2:]))
def test_bad_call(call):
    bad, kind, *words = call
    with pytest.raises((ValueError, TypeError)) as caught:
        bad()
    assert type(caught.value) is kind, caught.value
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_there_are_at_least_forty():
    assert len(BAD_CALLS) >= 40


@pytest.mark.parametrize("xp", ["cupy"], indirect=True)
def test_mixed_libraries(xp):
    for call, one, other in (
        (lambda: lpnorm.batch_norm(xp(X), G, None), "x is a CuPy array", "gamma is a NumPy"),
        (lambda: lpnorm.batch_norm(X, None, xp(G)), "x is a NumPy array", "beta is a CuPy"),
        (lambda: lpnorm.weight_norm(xp(X), G), "v is a CuPy array", "g is a NumPy"),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert one in str(caught.value) and other in str(caught.value)
