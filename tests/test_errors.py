"""Bad calls: each gives one clear error that names the argument, before any work."""

import functools
import importlib.util
import math
import re
from pathlib import Path

import numpy as np
import pytest

import lpnorm
import lpnorm.verify.vectors
from lpnorm import TopK, data, decay, models, nn, plain, training, verify
from lpnorm.decay import (
    SGD,
    CosineSchedule,
    GrowingSchedule,
    NormSchedule,
    NormTrace,
    StepSchedule,
    StepSizeCorrection,
    Warmup,
    channel_norms,
)

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


NORMS = [lpnorm]
if importlib.util.find_spec("numba"):
    NORMS.append(importlib.import_module("lpnorm.fast"))
F32 = X.astype("float32")
IMAGES = np.ones((2, 4, 4, 3), "float32")  # channels last
FAR = X + np.arange(3.0)


class Tensor:  # what such objects are known by: the package their class is from
    __module__ = "torch"


class DataFrame:
    __module__ = "pandas.core.frame"


class Own(np.ndarray):
    pass


KINDS = [  # what is no array here, words on what it is, words on what to pass instead
    (FAR.tolist(), "list", "numpy.asarray({})"),
    (tuple(FAR.tolist()), "tuple", "numpy.asarray({})"),
    (np.float64(1), "float64", "numpy.asarray({})"),
    (Tensor(), "a torch Tensor", "{}.detach().cpu().numpy()"),
    (DataFrame(), "a pandas DataFrame", "{}.to_numpy()"),
    (np.ma.masked_greater(FAR, 1), "a MaskedArray", "{}.filled(value)"),
    (FAR.view(np.matrix), "matrix", "numpy.asarray({})"),
    (FAR.view(Own), "Own", "numpy.asarray({})"),
    (nn.Parameter(FAR), "Parameter", "{}.data"),
    (FAR.astype(FAR.dtype.newbyteorder()), "float64 in another byte order", '{}.astype("float64")'),
    (F16.astype(F16.dtype.newbyteorder()), "float16 in another byte order", '{}.astype("float16")'),
    (FAR.astype("float32").astype("int64"), "int64", '{}.astype("float32")'),
    (FAR > 1, "bool", '{}.astype("float32")'),
    (FAR.astype("longdouble"), "dtype", '{}.astype("float32")'),
    ("x", "got str", ""),
    (lpnorm, "got module", ""),
]
PLACES = [  # the argument, and a call with a value in its place
    ("x", lambda a: lpnorm.batch_norm(a, None, None)),
    ("gamma", lambda a: lpnorm.batch_norm(FAR, a, None)),
    ("beta", lambda a: lpnorm.layer_norm(FAR, None, a)),
    ("dy", lambda a: lpnorm.batch_norm_backward(a, lpnorm.batch_norm(FAR, None, None)[1])),
    ("mean", lambda a: lpnorm.batch_norm_inference(FAR, None, None, a, G)),
    ("v", lambda a: lpnorm.weight_norm(a, G)),
    ("g", lambda a: lpnorm.weight_norm(FAR, a)),
    ("dw", lambda a: lpnorm.weight_norm_backward(a, lpnorm.weight_norm(FAR, np.ones(4))[1])),
    ("v", lambda a: lpnorm.bounded_norm(a)),
    ("w", lambda a: channel_norms(a)),
    ("x", lambda a: nn.Linear(3, 2)(a)),
    ("dy", lambda a: nn.ReLU()(FAR)[1](a)),
    ("logits", lambda a: nn.softmax_cross_entropy(a, LABELS)),
    ("data", lambda a: nn.Parameter(a)),
    ("x", lambda a: data.shift(a, np.random.default_rng(0))),
]


def kinds():
    for value, got, instead in KINDS:
        for name, call in PLACES:
            yield pytest.param(value, name, got, instead.format(name), call, id=f"{name} {got}")


@pytest.mark.parametrize("value, name, got, instead, call", list(kinds()))
def test_what_is_no_plain_array_is_refused_with_what_to_do(value, name, got, instead, call):
    with pytest.raises(TypeError) as caught:
        call(value)
    message = str(caught.value)
    assert "\n" not in message and f"{name} must" in message, message
    assert got in message and instead in message, message


def wrong_cache(function, cache):
    return lambda: function(FAR, cache)


def digits_run(**arguments):
    def call():
        model = models.digits_net(width=1)
        given = {"model": model, "data": DIGITS, "optimizer": SGD(model.parameters(), 0.1)}
        training.train(**{**given, "epochs": 1, "batch": 8, "progress": False, **arguments})

    return call


def imposed(target, factor=1.0, t=0, weight=None):
    def call():
        model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm(2))
        model[0].weight.data = model[0].weight.data if weight is None else weight
        NormSchedule(nn.scale_invariant(model), target).apply(t, factor)

    return call


def as_layer(layer, x, train=True):
    return lambda: layer()(x, train)


DIGITS = data.Dataset(*(a[:40] for a in vars(data.digits()).values()))
Y_CACHE = lpnorm.batch_norm(FAR, G, G)
W_CACHE = lpnorm.weight_norm(FAR, np.ones(4))[1]
RHO_CACHE = lpnorm.bounded_weight_norm(FAR, 1.0)[1]

for room in NORMS:  # both, for they are told apart only by who computes
    BAD_CALLS += [
        (wrong_cache(room.batch_norm_backward, FAR), TypeError, "cache", "y, cache", "ndarray"),
        (wrong_cache(room.batch_norm_backward, Y_CACHE), TypeError, "cache", "tuple"),
        (wrong_cache(room.batch_norm_backward, None), TypeError, "cache", "NoneType"),
        (wrong_cache(room.batch_norm_backward, {}), TypeError, "cache", "dict"),
        (wrong_cache(room.layer_norm_backward, W_CACHE), TypeError, "cache", "layer_norm(x, ...)"),
        (lambda r=room: r.batch_norm_backward(Y_CACHE[1], FAR), TypeError, "cache", "after dy"),
        (lambda r=room: r.batch_norm(IMAGES, G.astype("f4"), None), ValueError, "gamma", "axis=-1"),
        (lambda r=room: r.batch_norm(IMAGES.transpose(0, 3, 1, 2), None, G, axis=-1),
         ValueError, "beta", "(4,)", "axis=1"),
        (lambda r=room: r.batch_norm(F32, G, None), TypeError, "gamma", "float32 x", ".astype"),
        (lambda r=room: r.batch_norm(FAR, G, G, p=1e306), ValueError, "p must", "65504", "1e+306"),
        (lambda r=room: r.batch_norm(FAR, G, G, p=10**5000), ValueError, "p must", "got int"),
        (lambda r=room: r.layer_norm(FAR, G, G, eps=10**400), ValueError, "eps", "1000"),
        (lambda r=room: r.layer_norm(FAR, G, G, accumulate=","), TypeError, "accumulate", "','"),
        (lambda r=room: r.layer_norm(FAR, G, G, accumulate=">f8"), TypeError, "accumulate", ">f8"),
        (lambda r=room: r.batch_norm_inference(FAR, G, G, G, G[:2]), ValueError, "scale", "(2,)"),
        (lambda r=room: r.batch_norm_inference_backward(FAR[:2], FAR, G, G, G, G),
         ValueError, "dy", "(4, 3)", "(2, 3)"),
        (lambda r=room: r.batch_norm_inference_backward(FAR, FAR, G, G, None, G),
         TypeError, "mean and scale"),
    ]  # fmt: skip

BAD_CALLS += [
    # numbers and orders
    (lambda: lpnorm.Accumulate(","), TypeError, "dtype of Accumulate", "','"),
    (lambda: lpnorm.Accumulate("f4", "backwards"), ValueError, "order", "pairwise", "backwards"),
    (lambda: lpnorm.Accumulate(None), TypeError, "dtype of Accumulate", "None"),
    (norm(p=lpnorm.Range), TypeError, "p must", "Range"),
    (norm(p=65505), ValueError, "p must", "math.inf", "65505"),
    (norm(p="L1"), TypeError, "p must", "'L1'"),
    (norm(p=-math.inf), ValueError, "p must", "-inf"),
    (lambda: lpnorm.gaussian_constant(TopK(3), 2), ValueError, "TopK(3)", "2"),
    (lambda: lpnorm.gaussian_constant(1e306, 2), ValueError, "p must", "1e+306"),
    (lambda: lpnorm.gaussian_constant(2, 10**400, "best"), ValueError, "constant", "best"),
    # weight norms
    (wrong_cache(lpnorm.weight_norm_backward, FAR), TypeError, "cache", "w, cache", "ndarray"),
    (wrong_cache(lpnorm.weight_norm_backward, Y_CACHE[1]), TypeError, "cache", "weight_norm(v"),
    (wrong_cache(lpnorm.weight_norm_backward, RHO_CACHE), TypeError, "cache", "the other weight"),
    (wrong_cache(lpnorm.bounded_weight_norm_backward, W_CACHE), TypeError, "cache", "bounded"),
    (wrong_cache(lpnorm.bounded_weight_norm_backward, None), TypeError, "cache", "bounded"),
    (lambda: lpnorm.weight_norm_backward(FAR[:2], W_CACHE), ValueError, "dw", "(4, 3)", "(2, 3)"),
    (lambda: lpnorm.weight_norm_backward(F32, W_CACHE), TypeError, "dw", '.astype("float64")'),
    (lambda: lpnorm.weight_norm(FAR, np.ones(4, "f4")), TypeError, "g must", "float64", "float32"),
    (lambda: lpnorm.weight_norm(FAR, np.ones(4), axis=(0,)), TypeError, "axis", "(0,)"),
    (lambda: lpnorm.bounded_weight_norm(FAR, 10**400), ValueError, "rho", "finite"),
    (lambda: lpnorm.bounded_weight_norm(FAR, "1"), TypeError, "rho", "'1'"),
    (lambda: lpnorm.bounded_norm(FAR, p=0), ValueError, "p must", "0"),
    # layers: what they are made with
    (lambda: nn.Parameter("anything"), TypeError, "data must", "str"),
    (lambda: nn.Parameter(None), TypeError, "data must", "NoneType"),
    (lambda: nn.Parameter(G, 3), TypeError, "name must", "3"),
    (lambda: nn.BatchNorm(3, impl=max), TypeError, "impl must", "batch_norm", "max"),
    (lambda: nn.BatchNorm(3, impl="fast"), TypeError, "impl must", "'fast'"),
    (lambda: nn.BatchNorm(3, axis=(1,)), TypeError, "axis", "(1,)"),
    (lambda: nn.BatchNorm(3, axis=True), TypeError, "axis", "True"),
    (lambda: nn.BatchNorm(3, axis=1.0), TypeError, "axis", "1.0"),
    (lambda: nn.BatchNorm(3, accumulate="int8"), TypeError, "accumulate", "int8"),
    (lambda: nn.BatchNorm(3, accumulate="float16"), ValueError, "accumulate", "float32"),
    (lambda: nn.BatchNorm(3, eps=None), TypeError, "eps", "None"),
    (lambda: nn.BatchNorm("3"), TypeError, "channels", "'3'"),
    (lambda: nn.BatchNorm(3, p="L1"), TypeError, "p must", "'L1'"),
    (lambda: nn.BatchNorm(3, dtype=">f4"), TypeError, "dtype", ">f4"),
    (lambda: nn.LayerNorm(3, axis="x"), TypeError, "axis", "'x'"),
    (lambda: nn.LayerNorm(3, axis=1.0), TypeError, "axis", "1.0"),
    (lambda: nn.LayerNorm(3, axis=(1, 2)), ValueError, "axis", "(3,)", "(1, 2)"),
    (lambda: nn.LayerNorm((3, 4), axis=(1, 1)), ValueError, "axis", "(1, 1)"),
    (lambda: nn.LayerNorm(()), ValueError, "shape"),
    (lambda: nn.LayerNorm(0), ValueError, "shape", "0"),
    (lambda: nn.LayerNorm(3, accumulate=","), TypeError, "accumulate", "','"),
    (lambda: nn.LayerNorm(3, accumulate="float16"), ValueError, "accumulate", "float32"),
    (lambda: nn.LayerNorm(3, impl=3), TypeError, "impl must", "3"),
    (lambda: nn.MeanOnlyBatchNorm(3, axis="x"), TypeError, "axis", "'x'"),
    (lambda: nn.MeanOnlyBatchNorm(3, axis=(1,)), TypeError, "axis", "(1,)"),
    (lambda: nn.MeanOnlyBatchNorm(3, momentum=2), ValueError, "momentum", "2"),
    (lambda: nn.WeightNorm(nn.Linear(3, 2), weights=()), ValueError, "weights", "()"),
    (lambda: nn.WeightNorm(nn.Linear(3, 2), weights="weight"), TypeError, "weights", "'weight'"),
    (lambda: nn.WeightNorm(nn.Linear(3, 2), weights=("w",)), ValueError, "'w'", "weight, bias"),
    (lambda: nn.WeightNorm(nn.Linear(3, 2), weights=("weight",) * 2), ValueError, "weights"),
    (lambda: nn.WeightNorm(nn.Linear(3, 2), axis=2), ValueError, "axis", "2"),
    (lambda: nn.WeightNorm(nn.Linear(3, 2), p=0), ValueError, "p must", "0"),
    (lambda: nn.WeightNorm(3), TypeError, "WeightNorm: layer", "3"),
    (lambda: nn.BoundedWeightNorm(nn.ReLU()), ValueError, "ReLU", "'weight'", "none"),
    (lambda: nn.BoundedWeightNorm(FAR), TypeError, "BoundedWeightNorm: layer"),
    (lambda: nn.Linear(3, 2, init=["he"]), ValueError, "init", "['he']"),
    (lambda: nn.Linear(3, 2, rng="seed"), TypeError, "rng", "'seed'"),
    (lambda: nn.Linear(3, 2, rng=-1), TypeError, "rng", "-1"),
    (lambda: nn.Linear(3, 2, rng=None), TypeError, "rng", "None"),
    (lambda: nn.Linear(3, 2, dtype="int8"), TypeError, "dtype", "int8"),
    (lambda: nn.Conv2d(1, 2, kernel=2.5), TypeError, "kernel", "2.5"),
    (lambda: nn.Conv2d(1, 2, padding=-1), ValueError, "padding", "-1"),
    (lambda: nn.AvgPool2d(0), ValueError, "kernel", "0"),
    (lambda: nn.AvgPool2d(2, stride="2"), TypeError, "stride", "'2'"),
    (lambda: nn.Residual(None), TypeError, "Residual: body", "None"),
    (lambda: nn.Residual(nn.ReLU(), max), TypeError, "Residual: shortcut", "max"),
    (lambda: nn.initialize(3), TypeError, "model must", "3"),
    (lambda: nn.initialize(nn.ReLU(), rng="x"), TypeError, "rng", "'x'"),
    (lambda: nn.scale_invariant([nn.ReLU()]), TypeError, "model must", "ReLU"),
    (lambda: nn.save(FAR, "never.npz"), TypeError, "layer must"),
    (lambda: nn.load("never.npz", nn.ReLU()), TypeError, "layer must", "never.npz"),
    (lambda: nn.watch(3).__enter__(), TypeError, "watcher", "3"),
    (lambda: nn.ReLU().load_state([1]), TypeError, "state", "[1]"),
    (lambda: nn.Linear(3, 2).load_state({}), ValueError, "no entry 'weight'"),
    (lambda: nn.Linear(3, 2).load_state({"weight": [1], "bias": [2]}), ValueError,
     "state['weight']", "list"),
    # layers: what they are called with
    (as_layer(lambda: nn.Linear(3, 2), FAR), TypeError, "Linear: x has", 'x.astype("float32")',
     'layer.to(dtype="float64")'),
    (as_layer(lambda: nn.BatchNorm(3), FAR), TypeError, "BatchNorm: x has", 'x.astype("float32")',
     'layer.to(dtype="float64")'),
    (as_layer(lambda: nn.BatchNorm(3), FAR, False), TypeError, "BatchNorm: x has dtype float64"),
    (as_layer(lambda: nn.BatchNorm(3, dtype="float64"), F16), TypeError, "BatchNorm: x has",
     'x.astype("float64")', 'layer.to(dtype="float16")'),
    (as_layer(lambda: nn.LayerNorm(3), FAR), TypeError, "LayerNorm: x has", 'x.astype("float32")'),
    (as_layer(lambda: nn.MeanOnlyBatchNorm(3), FAR), TypeError, "MeanOnlyBatchNorm: x has",
     'x.astype("float32")'),
    (as_layer(lambda: nn.WeightNorm(nn.Linear(3, 2)), FAR), TypeError, "Linear: x has"),
    (as_layer(lambda: nn.BatchNorm(3), IMAGES), ValueError, "BatchNorm: x", "axis=-1"),
    (as_layer(lambda: nn.MeanOnlyBatchNorm(3), IMAGES), ValueError, "BatchNorm: x", "axis=-1"),
    (as_layer(lambda: nn.BatchNorm(4, axis=-1), IMAGES), ValueError, "4 channels", "axis=1"),
    (as_layer(lambda: nn.BatchNorm(3), F32[:, 0]), ValueError, "BatchNorm: x", "2 axes", "(4,)"),
    (as_layer(lambda: nn.BatchNorm(3, axis=2), F32), ValueError, "axis 2", "(4, 3)"),
    (as_layer(lambda: nn.MeanOnlyBatchNorm(3), F32[0]), ValueError, "2 axes", "(3,)"),
    (as_layer(lambda: nn.Conv2d(3, 2), IMAGES), ValueError, "Conv2d: x", "x.transpose(0, 3, 1, 2)"),
    (as_layer(lambda: nn.Linear(48, 2), IMAGES), ValueError, "Linear: x", "nn.Flatten()"),
    (as_layer(lambda: nn.LayerNorm((4, 3)), F32[0]), ValueError, "LayerNorm: x", "(-2, -1)"),
    (as_layer(lambda: nn.LayerNorm(4), F32), ValueError, "LayerNorm: x", "(4,)", "(3,)", "(4, 3)"),
    (as_layer(nn.Flatten, np.array(1.0)), ValueError, "Flatten: x", "1 axis", "()"),
    (as_layer(nn.ReLU, F32[:0]), ValueError, "ReLU: x", "empty", "(0, 3)"),
    (as_layer(nn.ReLU, "x"), TypeError, "ReLU: x", "str"),
    (as_layer(nn.GlobalAvgPool2d, F32), ValueError, "GlobalAvgPool2d: x", "(N, C, H, W)", "(4, 3)"),
    (as_layer(lambda: nn.MaxPool2d(2), F32), ValueError, "MaxPool2d: x", "(4, 3)"),
    (as_layer(lambda: nn.AvgPool2d(5), IMAGES), ValueError, "AvgPool2d: x", "(5, 5)"),
    (as_layer(lambda: nn.Residual(nn.Linear(3, 2)), F32), ValueError, "Residual", "(4, 2)"),
    (as_layer(lambda: nn.Sequential(nn.Linear(2, 2)), F32), ValueError, "Linear: x", "(any, 2)"),
    (lambda: nn.Linear(3, 2)(F32)[1](F32), ValueError, "Linear: dy", "(4, 2)", "(4, 3)"),
    (lambda: nn.ReLU()(F32)[1](FAR), TypeError, "ReLU: dy", 'dy.astype("float32")'),
    (lambda: nn.softmax_cross_entropy(FAR, [0, 1, 2, 0]), TypeError, "labels", "numpy.asarray"),
    (lambda: nn.softmax_cross_entropy(FAR, LABELS - 1), ValueError, "labels", "0 to 2", "-1 to -1"),
    (lambda: nn.softmax_cross_entropy(FAR[0], LABELS), ValueError, "logits", "(3,)"),
    (lambda: nn.softmax_cross_entropy(FAR, LABELS, scale=-1), ValueError, "scale", "-1"),
    (lambda: nn.softmax_cross_entropy(FAR, np.ma.array(LABELS)), TypeError, "labels", "Masked"),
    # decay
    (lambda: SGD([parameter()], lr=0.1, master="int8"), TypeError, "master", "int8"),
    (lambda: SGD([parameter()], lr=0.1, master="float16"), ValueError, "master", "'w'", "float64"),
    (lambda: SGD([parameter()], lr=math.inf), ValueError, "lr", "inf"),
    (lambda: SGD([parameter()], lr=0.1, momentum=[0.9]), TypeError, "momentum", "[0.9]"),
    (lambda: SGD("w", lr=0.1), TypeError, "parameters", "str"),
    (lambda: SGD([parameter()], lr=0.1).load_state({"b": G}, 1), ValueError, "'b'"),
    (lambda: SGD([parameter()], lr=0.1).load_state({}, -1), ValueError, "t must", "-1"),
    (lambda: SGD([parameter()], lr=0.1).rate(parameter()), ValueError, "'w'", "not in this"),
    (lambda: SGD([{"params": 3}], lr=0.1), TypeError, "params of a group", "3"),
    (lambda: SGD([parameter()], lr=0.1).load_state({"w": [1.0]}, 1), TypeError, "'w'", "list"),
    (stepped(grad=[1.0]), TypeError, "w: the gradient", "list"),
    (lambda: StepSchedule(3), TypeError, "milestones", "3"),
    (lambda: StepSchedule([1.5]), TypeError, "milestones", "1.5"),
    (lambda: StepSchedule([1], factor=-1), ValueError, "factor", "-1"),
    (lambda: CosineSchedule(0), ValueError, "total", "0"),
    (lambda: CosineSchedule(5, floor=2), ValueError, "floor", "2"),
    (lambda: Warmup(0), ValueError, "steps", "0"),
    (lambda: Warmup(5, schedule=3), TypeError, "schedule", "3"),
    (lambda: GrowingSchedule(1, 1), ValueError, "lr * weight_decay", "1"),
    (lambda: GrowingSchedule("1", 1), TypeError, "lr", "'1'"),
    (lambda: channel_norms(FAR, axis=2), ValueError, "axis", "2"),
    (lambda: channel_norms(FAR, axis=(0,)), TypeError, "axis", "(0,)"),
    (lambda: NormTrace(3), TypeError, "parameters", "scale_invariant", "3"),
    (lambda: NormTrace([parameter()]), TypeError, "parameters", "scale_invariant", "'w'"),
    (lambda: NormTrace([(parameter(), 0)]), ValueError, "'w'", "scale-invariant"),
    (lambda: NormTrace([], optimizer=0.1), TypeError, "optimizer", "0.1"),
    (lambda: NormTrace().record(), TypeError, "optimizer", "None"),
    (lambda: StepSizeCorrection({}, []), TypeError, "trace", "{}"),
    (lambda: StepSizeCorrection(NormTrace(), [], on="weights"), ValueError, "on must", "weights"),
    (lambda: NormSchedule([], 1.0), TypeError, "target", "1.0"),
    (imposed({}), ValueError, "'0.weight'", "target"),
    (imposed({"0.weight": [1.0, math.nan]}), ValueError, "target['0.weight']", "nan"),
    (imposed({"0.weight": [0.0, 1.0]}), ValueError, "target['0.weight']", "above 0", "0.0"),
    (imposed({"0.weight": [1.0, -2.0]}), ValueError, "target['0.weight']", "-2.0"),
    (imposed({"0.weight": [1.0, math.inf]}), ValueError, "target['0.weight']", "inf"),
    (imposed({"0.weight": np.ones(3)}), ValueError, "target['0.weight']", "(2,)", "(3,)"),
    (imposed({"0.weight": "long"}), TypeError, "target['0.weight']", "'long'"),
    (imposed({"0.weight": 1.0}, factor=0), ValueError, "factor", "0.0"),
    (imposed({"0.weight": 1.0}, factor=math.nan), ValueError, "factor", "nan"),
    (imposed({"0.weight": 1.0}, t=-1), ValueError, "t must", "-1"),
    (imposed({"0.weight": 1.0}, weight=np.zeros((2, 3), "f4")), ValueError, "'0.weight'", "norm 0"),
    # data, models, training
    (lambda: data.digits("int8"), TypeError, "dtype", "int8"),
    (lambda: data.digits(device="tpu"), ValueError, "device", "tpu"),
    (lambda: data.shift(FAR, np.random.default_rng(0)), ValueError, "x must", "(4, 3)"),
    (lambda: data.shift(IMAGES, 0), TypeError, "rng", "0"),
    (lambda: data.shift(IMAGES, np.random.default_rng(0), 9), ValueError, "pixels", "9"),
    (lambda: models.digits_net(normalize=2), TypeError, "normalize", "2"),
    (lambda: models.digits_net(wrap="WeightNorm"), TypeError, "wrap", "WeightNorm"),
    (lambda: models.digits_net(width=0), ValueError, "width", "0"),
    (lambda: models.digits_net(rng="x"), TypeError, "rng", "'x'"),
    (lambda: models.vgg11(width=0), ValueError, "width", "0"),
    (lambda: models.vgg11(classes=0), ValueError, "classes", "0"),
    (lambda: models.vgg11(normalize=2), TypeError, "normalize", "2"),
    (lambda: models.vgg11(rng="x"), TypeError, "rng", "'x'"),
    (lambda: models.resnet(18), ValueError, "depth must be 6 n + 2", "18"),
    (lambda: models.resnet(2), ValueError, "depth must be 6 n + 2", "2"),
    (lambda: models.resnet(20.0), TypeError, "depth", "20.0"),
    (lambda: models.resnet(wrap="WeightNorm"), TypeError, "wrap", "WeightNorm"),
    (lambda: models.resnet(width=2.5), TypeError, "width", "2.5"),
    (lambda: models.resnet(classes="ten"), TypeError, "classes", "'ten'"),
    (lambda: models.exact_net(p=0), ValueError, "p must", "0"),
    (lambda: training.train(DIGITS, models.exact_net(2), None, 1), TypeError, "model must",
     "Dataset", "train(model, data, optimizer, epochs)"),
    (digits_run(data=FAR), TypeError, "data must", "ndarray", "train(model, data"),
    (digits_run(optimizer=0.1), TypeError, "optimizer must", "float"),
    (digits_run(epochs=1.5), TypeError, "epochs", "1.5"),
    (digits_run(epochs=-1), ValueError, "epochs", "-1"),
    (digits_run(batch=0), ValueError, "batch", "0"),
    (digits_run(batch=41), ValueError, "batch", "40", "41"),
    (digits_run(seed="0"), TypeError, "seed", "'0'"),
    (digits_run(schedule=0.1), TypeError, "schedule", "0.1"),
    (digits_run(schedule=lambda epoch: None), TypeError, "schedule", "None"),
    (digits_run(augment=True), TypeError, "augment", "True"),
    (digits_run(clip=-1), ValueError, "clip", "-1"),
    (digits_run(loss_scale=1024), TypeError, "loss_scale", "1024"),
    (digits_run(trace={}), TypeError, "trace", "{}"),
    (digits_run(before_step=1), TypeError, "before_step", "1"),
    (digits_run(after_step=1), TypeError, "after_step", "1"),
    (digits_run(checkpoint=3), TypeError, "checkpoint", "3"),
    (digits_run(if_diverged="stop"), ValueError, "if_diverged", "stop"),
    (lambda: nn.ReLU().to(impl=np), TypeError, "impl must be", "relu", "numpy"),
    (lambda: nn.softmax_cross_entropy(X, LABELS, impl=np), TypeError, "impl must be", "numpy"),
    (lambda: plain.Windows("it", 0, 1, 0), ValueError, "kernel", "0"),
    (lambda: plain.Windows("it", (1, 2, 3), 1, 0), ValueError, "kernel", "(1, 2, 3)"),
    (lambda: plain.Windows("it", 1, 1.5, 0), TypeError, "stride", "1.5"),
    (lambda: plain.Windows("it", 1, 1, -1), ValueError, "padding", "-1"),
    (lambda: training.LossScale(0), ValueError, "scale", "0"),
    (lambda: training.LossScale(growth=0), ValueError, "growth", "0"),
    (lambda: training.clip_gradient_norm([], "1"), TypeError, "largest", "'1'"),
    (lambda: training.clip_gradient_norm([], -1), ValueError, "largest", "-1"),
    (lambda: training.accuracy(DIGITS, FAR, LABELS), TypeError, "model must"),
    (lambda: training.accuracy(nn.ReLU(), FAR, LABELS[:3]), ValueError, "y must", "(4,)", "(3,)"),
    (lambda: training.accuracy(nn.ReLU(), FAR.tolist(), LABELS), TypeError, "x must", "list"),
    (lambda: training.accuracy(nn.ReLU(), FAR[:0], LABELS[:0]), ValueError, "x must", "empty"),
    (lambda: training.accuracy(nn.ReLU(), FAR, LABELS, batch=0), ValueError, "batch", "0"),
    (lambda: training.first_not_finite(3, FAR), TypeError, "model must", "3"),
    (lambda: training.first_not_finite(nn.ReLU(), [1.0]), TypeError, "x must", "list"),
    (lambda: training.record_norms(training.History(), FAR, None), TypeError, "model must"),
    # the judge
    (lambda: verify.check(max, p="L1"), TypeError, "p must", "'L1'"),
    (lambda: verify.check(max, layer="bn"), ValueError, "layer", "batch_norm", "'bn'"),
    (lambda: verify.check(max, constant="best"), ValueError, "constant", "'best'"),
    (lambda: verify.check(max, eps=-1), ValueError, "eps", "-1"),
    (lambda: verify.check(max, dtype="int8"), TypeError, "dtype", "int8"),
    (lambda: verify.check(max, dtype=","), TypeError, "dtype", "','"),
    (lambda: verify.check(max, momentum=0.1), ValueError, "momentum", "new", "0.1"),
    (lambda: verify.check(max, running="std"), ValueError, "running", "'std'"),
    (lambda: verify.check(max, backend="mxnet"), ValueError, "backend", "'mxnet'"),
    (lambda: verify.check(max, learning_rate=1), TypeError, "learning_rate", "batch_norm"),
    (lambda: verify.check(max, "sgd", beta=1), TypeError, "'beta'", "weight_decay"),
    (lambda: verify.assert_correct(max, "sdg"), ValueError, "layer", "'sdg'"),
    (lambda: verify.assert_correct(max, p=0.5), ValueError, "p must", "0.5"),
    (lambda: verify.vectors.write("never", ["bn"]), ValueError, "layer", "'bn'"),
    (lambda: verify.vectors.write("never", None, ["L1"]), ValueError, "p must", "'L1'"),
    (lambda: verify.vectors.write("never", None, None, ["f2"]), ValueError, "dtype", "'f2'"),
]  # fmt: skip


LAYERS = [v for v in vars(nn).values() if isinstance(v, type) and issubclass(v, nn.Layer)]
NEEDS = {  # arguments of layers that compute
    nn.AvgPool2d: (2,),
    nn.BatchNorm: (3,),
    nn.BoundedWeightNorm: (nn.Linear(3, 2),),
    nn.Conv2d: (3, 2),
    nn.GlobalAvgPool2d: (),
    nn.LayerNorm: (3,),
    nn.Linear: (3, 2),
    nn.MaxPool2d: (2,),
    nn.MeanOnlyBatchNorm: (3,),
    nn.ReLU: (),
    nn.Residual: (nn.ReLU(),),
    nn.WeightNorm: (nn.Linear(3, 2),),
}
for cls, needs in NEEDS.items():
    for wrong, word in ((3, "3"), ("lpnorm.fast", "lpnorm.fast"), (math, "math")):
        make = functools.partial(cls, *needs, impl=wrong)
        BAD_CALLS.append((make, TypeError, "impl must be", cls.functions[0], word))


def test_every_layer_that_computes_takes_an_impl():
    assert {layer for layer in LAYERS if layer.functions} == set(NEEDS)


HANDED_IN = {name: value for name, value in globals().items() if isinstance(value, np.ndarray)}
BEFORE = {name: value.copy() for name, value in HANDED_IN.items()}


@pytest.mark.parametrize("call", BAD_CALLS, ids=lambda call: " ".join(call[2:]))
def test_bad_call(call):
    bad, kind, *words = call
    with pytest.raises((ValueError, TypeError)) as caught:
        bad()
    assert type(caught.value) is kind, caught.value
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message
    for name, value in HANDED_IN.items():
        assert np.array_equal(value, BEFORE[name]), name


def test_every_public_name_is_called_badly():
    """Or has nothing that could be wrong: no arguments, or only results in it."""
    public = {*lpnorm.__all__, *nn.__all__, *NORMS[-1].__all__, *verify.__all__}
    for room in (decay, training, data, models):
        own = (getattr(room, name) for name in vars(room) if name[0] != "_")
        public |= {o.__name__ for o in own if getattr(o, "__module__", "") == room.__name__}
    text = Path(__file__).read_text()
    harmless = {"decay", "nn", "Layer", "ReLU", "Check", "Report", "Dataset", "History", "Diverged"}
    harmless |= {"progress_bar", "Range", "Flatten", "implementation", "JudgeError"}
    harmless |= {name for layer in LAYERS for name in layer.functions if "norm" not in name}
    missing = {n for n in public - harmless if not re.search(rf"\b{n}(\(|, \w+\))", text)}
    assert not missing, missing


def test_there_are_at_least_two_hundred():
    assert len(BAD_CALLS) >= 200


def test_no_file_was_left():
    assert not list(Path().glob("never*"))


def test_a_weight_norm_that_is_refused_leaves_the_layer_as_it_was():
    layer = nn.Linear(3, 2)
    weight, bias = layer.weight, layer.bias
    for weights in (("weight", "missing"), ("weight", "bias")):  # a bias has one axis
        with pytest.raises(ValueError):
            nn.WeightNorm(layer, weights=weights)
        assert layer.weight is weight and layer.bias is bias


def test_an_axis_may_be_of_any_integer_type():
    for axis in (np.int64(1), np.int8(-1), 1):
        model = nn.Sequential(
            nn.Linear(3, 3), nn.BatchNorm(3, axis=axis), nn.LayerNorm(3, axis=axis)
        )
        y, backward = model(FAR.astype("float32"))
        assert backward(y).shape == y.shape
        assert len(nn.scale_invariant(model)) == 1
        nn.MeanOnlyBatchNorm(3, axis=axis)(y)


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
