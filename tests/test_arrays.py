"""Which arrays are taken, what is not copied, and what a constant channel needs to come out."""

import math
import sys
import types
import warnings
from importlib.resources import files

import numpy as np
import pytest

import lpnorm
from lpnorm import arrays, nn
from lpnorm.arrays import libraries

X = np.random.default_rng(0).standard_normal((6, 5, 4)).astype("float32")
DY = np.random.default_rng(1).standard_normal((6, 5, 4)).astype("float32")
G = np.linspace(0.5, 1.5, 5, dtype="float32")


def computed(x, dy, g):
    """What every kind of function makes of these arrays."""
    for p in (1, 2, 2.5, math.inf):
        y, cache = lpnorm.batch_norm(x, g, g, p=p)
        yield from (y, cache.mean, cache.scale, *lpnorm.batch_norm_backward(dy, cache))
        yield lpnorm.batch_norm_inference(x, g, g, cache.mean, cache.scale)
        y, cache = lpnorm.layer_norm(x, None, None, p=p, axis=(1, 2))
        yield from (y, lpnorm.layer_norm_backward(dy, cache)[0])
        w, cache = lpnorm.weight_norm(x, g, p=p, axis=1)
        yield from (w, *lpnorm.weight_norm_backward(dy, cache))
    for layer in (nn.ReLU(), nn.BatchNorm(5), nn.MeanOnlyBatchNorm(5), nn.Sequential(nn.Flatten())):
        y, backward = layer(x)
        yield from (y, backward(dy.reshape(y.shape)))


def read_only(a, folder):
    a = a.copy()
    a.setflags(write=False)
    return a


def mapped(a, folder):
    path = folder / f"{a.size}-{a.flat[0]}"
    a.tofile(path)
    return np.memmap(path, a.dtype, "r", shape=a.shape)


@pytest.mark.parametrize("kind", [read_only, mapped])
def test_read_only_and_memory_mapped_arrays_give_the_same_bits(kind, tmp_path):
    others = (kind(a, tmp_path) for a in (X, DY, G))
    for want, got in zip(computed(X, DY, G), computed(*others), strict=True):
        assert want.dtype == got.dtype and want.tobytes() == got.tobytes()


def test_every_check_of_an_array_has_the_same_answer():
    """`is_array`, `namespace` and `library_of` take and refuse the same."""
    swapped = X.astype(X.dtype.newbyteorder())
    refused = [X.tolist(), None, 1.0, X[0].view(np.matrix), swapped]
    refused += [np.ma.array(X), np.float32(1), X.view(type("Own", (np.ndarray,), {}))]
    for value in refused:
        assert not arrays.is_array(value) and arrays.not_taken("x", value)
        for function in (lambda v: arrays.namespace(x=v), arrays.library_of):
            with pytest.raises(TypeError, match="x must be a NumPy or CuPy array, got "):
                function(value)
    for value in (X, X.T, X[::-1], X[:0], np.array(1.0), X.astype("=f4")):
        assert arrays.is_array(value) and arrays.namespace(x=value) is np


def test_float16_is_known_as_float16_whatever_made_its_dtype():
    for dtype in (
        "float16",
        "f2",
        np.float16,
        np.dtype("<f2" if sys.byteorder == "little" else ">f2"),
    ):
        assert arrays.accumulator(X.astype(dtype).dtype).dtype == np.float32


def test_a_run_time_compiler_that_gives_no_version_is_missing(monkeypatch):
    """Also under `python -O`, which removes every assert."""
    cupy = types.ModuleType("cupy")
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 1)
    nvrtc = types.SimpleNamespace(getVersion=lambda: None)
    cupy.cuda = types.SimpleNamespace(runtime=runtime, nvrtc=nvrtc)
    cupy.ndarray = type("ndarray", (), {})
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(RuntimeError, match="NVRTC"):
        arrays.gpu_library()
    for name in ("checks", "libraries", "sums", "views"):
        text = (files("lpnorm.arrays") / f"{name}.py").read_text()
        assert "    assert " not in text, name
    nvrtc.getVersion = lambda: (13, 0)
    assert libraries.gpu_library() is cupy


def test_types_are_published():
    assert (files("lpnorm") / "py.typed").is_file()


# --- what is not copied (and so must not be changed in place) ----------------------------------


def test_caches_hold_the_callers_arrays():
    """No copy of x is made; the docstrings say what follows from that."""
    _, cache = lpnorm.batch_norm(X, G, G)
    assert cache.x is X and cache.gamma is G and cache.beta is G
    v = X[0]
    _, cache = lpnorm.weight_norm(v, G)
    assert np.shares_memory(cache.v, v) and np.shares_memory(cache.factor, G)
    _, cache = lpnorm.bounded_weight_norm(v, 1.0)
    assert np.shares_memory(cache.v, v)
    for function in (lpnorm.batch_norm, lpnorm.weight_norm, lpnorm.bounded_weight_norm):
        words = " ".join(function.__doc__.split())
        assert "the cache refers to" in words and "only by new arrays before the backward" in words


def test_a_batch_norm_with_fixed_statistics_holds_x():
    x, layer = X.copy(), nn.BatchNorm(5)
    _, backward = layer(x, train=False)
    backward(DY)
    before, layer.gamma.grad = layer.gamma.grad, None
    x += 1
    backward(DY)
    assert abs(layer.gamma.grad - before).max() > 0.1  # as the docstring says
    assert "with train=False too: change none in place" in " ".join(nn.BatchNorm.__doc__.split())


# --- one value a channel, and constant channels ------------------------------------------------


@pytest.mark.parametrize("layer", [nn.BatchNorm, nn.MeanOnlyBatchNorm])
@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_a_channel_warns_once(layer, shape):
    x, layer = np.ones(shape, "float32"), layer(3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            y, backward = layer(x + 1)
            assert not y.any() and not backward(x).any()
        layer(x, train=False)
    assert len(caught) == 1 and caught[0].category is UserWarning
    words = str(caught[0].message)
    assert "one value a channel" in words and "train=False" in words


def test_two_values_a_channel_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shape in ((2, 3), (1, 3, 1, 2)):
            nn.BatchNorm(3)(np.ones(shape, "float32"))
            nn.MeanOnlyBatchNorm(3)(np.ones(shape, "float32"))


@pytest.mark.parametrize("p, least", [(1, 0.7), (math.inf, 1.0)])
def test_a_constant_float32_channel_needs_a_float64_accumulator(p, least):
    """An ulp of the mean, divided by eps, is as large as any other value of y: until it is 0."""
    x = np.repeat(np.float32([[7322.016, 5481.887, 6328.171]]), 72, axis=0)
    for n in (9, 10, 72):
        narrow, _ = lpnorm.batch_norm(x[:n], None, None, p=p)
        assert least < abs(narrow).max() < 2
        wide, cache = lpnorm.batch_norm(x[:n], None, None, p=p, accumulate="float64")
        assert not wide.any() and cache.mean.tolist() == x[0].tolist()
        layer = nn.BatchNorm(3, p=p, accumulate="float64")
        assert not layer(x[:n])[0].any()
    assert 'accumulate="float64"' in lpnorm.batch_norm.__doc__
