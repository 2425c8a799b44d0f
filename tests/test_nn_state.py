"""Moving, converting, saving and loading models."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
from draws import normal, seeds
from hypothesis import given
from hypothesis import strategies as st

from lpnorm import files, nn, plain
from lpnorm.arrays import to_device


def on(xp, model, dtype="float32"):
    return model.to("cpu" if xp.module is np else "gpu", dtype)


def small_model(seed=0):
    """Every kind of array a state holds, none of them at its first value."""
    body = nn.Sequential(nn.Linear(3, 3, bias=False, rng=seed), nn.BatchNorm(3, p=1))
    model = nn.Sequential(nn.Residual(body), nn.LayerNorm(3), nn.Linear(3, 2, rng=seed + 1))
    for i, parameter in enumerate(model.parameters()):
        parameter.data = normal(seed + i, parameter.data.shape, "float32")
    model(normal(seed, (4, 3), "float32"))
    return model


NAMES = [
    "0.body.0.weight",
    "0.body.1.gamma",
    "0.body.1.beta",
    "1.gamma",
    "1.beta",
    "2.weight",
    "2.bias",
    "0.body.1.running_mean",
    "0.body.1.running_scale",
]


def contents(model):
    """The state as bytes, to compare bit for bit."""
    state = {name: to_device(a, "cpu") for name, a in model.state().items()}
    return {name: (a.dtype.name, a.shape, a.tobytes()) for name, a in state.items()}


# --- to -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_to_converts_parameters_gradients_and_statistics(xp, dtype):
    model = on(xp, small_model())
    y, backward = model(xp(normal(1, (4, 3)), "float32"))
    backward(y)
    before = {name: xp.numpy(a) for name, a in model.state().items()}
    assert model.to(dtype=dtype) is model
    for parameter in model.parameters():
        assert parameter.data.dtype == parameter.grad.dtype == dtype
    wide = "float32" if dtype == "float16" else dtype
    for name, a in model.state().items():
        assert a.dtype == (wide if "running" in name else dtype)
        assert (xp.numpy(a) == before[name].astype(a.dtype)).all()
    assert model(xp(normal(1, (4, 3)), dtype))[0].dtype == dtype


def test_to_the_other_device_and_back_keeps_every_bit(xp):
    model = small_model()
    before = contents(model)
    on(xp, model, None)
    assert all(isinstance(a, xp.module.ndarray) for a in model.state().values())
    assert contents(model) == before
    model.to(device="cpu")
    assert all(isinstance(a, np.ndarray) for a in model.state().values())
    assert contents(model) == before


def test_to_keeps_shared_parameters_shared():
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.weight = one.weight
    model = nn.Sequential(one, other).to(dtype="float16")
    assert one.weight is other.weight and one.weight.data.dtype == "float16"
    assert len(model.parameters()) == 3


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"device": "tpu"}, ValueError, "device must be .* got 'tpu'"),
        ({"dtype": "int32"}, TypeError, "dtype must be .* got 'int32'"),
        ({"dtype": "complex64"}, TypeError, "dtype must be .* got 'complex64'"),
        ({"dtype": "half-ish"}, TypeError, "dtype must be .* got 'half-ish'"),
    ],
)
def test_to_refuses_what_it_does_not_know(arguments, error, words):
    model = small_model()
    before = contents(model)
    with pytest.raises(error, match=words):
        model.to(**arguments)
    assert contents(model) == before


def test_to_converts_everything_or_nothing():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm(2, accumulate="float32"))
    before = contents(model)
    with pytest.raises(ValueError, match="accumulate"):
        model.to(dtype="float64")
    assert contents(model) == before


def broken_cupy(count, compiler):
    """A package CuPy whose driver and compiler answer as they are told."""

    def answer(value):
        if isinstance(value, Exception):
            raise value
        return value

    cupy = types.ModuleType("cupy")
    cupy.cuda = types.SimpleNamespace(
        runtime=types.SimpleNamespace(getDeviceCount=lambda: answer(count)),
        nvrtc=types.SimpleNamespace(getVersion=lambda: answer(compiler)),
    )
    return cupy


NO_GPU = {
    "package": None,
    "driver": broken_cupy(RuntimeError("\ncudaErrorInsufficientDriver: too old\nand more"), 13),
    "device": broken_cupy(RuntimeError("cudaErrorNoDevice: no CUDA-capable device"), 13),
    "no device": broken_cupy(0, 13),
    "NVRTC": broken_cupy(1, ImportError("libnvrtc.so.13")),
}


@pytest.mark.parametrize("missing", NO_GPU)
def test_without_a_gpu_one_line_says_what_is_missing(monkeypatch, missing):
    if NO_GPU[missing] is None:
        monkeypatch.delitem(sys.modules, "cupy", raising=False)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    else:
        monkeypatch.setitem(sys.modules, "cupy", NO_GPU[missing])
    model = small_model()
    before = contents(model)
    with pytest.raises(RuntimeError, match=missing) as caught:
        model.to(device="gpu", dtype="float16")
    assert str(caught.value).startswith("no GPU: ") and "\n" not in str(caught.value)
    assert "()" not in str(caught.value)  # what CUDA says, if it says it behind an empty line
    assert contents(model) == before


# --- state ----------------------------------------------------------------------------------------


def test_the_state_is_a_copy_of_parameters_and_statistics(xp):
    model = on(xp, small_model())
    before, state = contents(model), model.state()
    assert list(state) == NAMES
    for a in state.values():
        a[...] = 7
    assert contents(model) == before


def test_load_state_puts_back_every_bit(xp):
    model, other = on(xp, small_model(0)), on(xp, small_model(1))
    state = model.state()
    assert contents(other) != contents(model)
    other.load_state(state)
    assert contents(other) == contents(model)
    for a in state.values():
        a[...] = 7
    assert contents(other) == contents(model)
    assert all(isinstance(a, xp.module.ndarray) for a in other.state().values())


def test_load_state_accepts_the_other_device(xp):
    model, other = on(xp, small_model(0)), small_model(1)
    other.load_state(model.state())
    assert contents(other) == contents(model)
    assert all(isinstance(a, np.ndarray) for a in other.state().values())
    model.load_state(small_model(2).state())
    assert contents(model) == contents(small_model(2))
    assert all(isinstance(a, xp.module.ndarray) for a in model.state().values())


DAMAGE = {  # what is done to one entry of a state, and what the message says beside its name
    "missing": (lambda state, name: state.pop(name), "no entry"),
    "unknown": (lambda state, name: state.update({"3.weight": state[name]}), "3.weight"),
    "shape": (lambda state, name: state.update({name: state[name][None]}), "shape"),
    "dtype": (lambda state, name: state.update({name: state[name].astype("float64")}), "dtype"),
    "a list": (lambda state, name: state.update({name: state[name].tolist()}), "list"),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", [NAMES[0], NAMES[-1]])
def test_load_state_refuses_another_state_and_changes_nothing(xp, kind, name):
    model, state = on(xp, small_model(0)), on(xp, small_model(1)).state()
    before = contents(model)
    damage, words = DAMAGE[kind]
    damage(state, name)
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        model.load_state(state)
    assert kind == "unknown" or name in str(caught.value)
    assert contents(model) == before


# --- save and load --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_load_brings_back_the_saved_bits(xp, tmp_path, dtype):
    model, other = on(xp, small_model(0), dtype), on(xp, small_model(1), dtype)
    model[2].bias.data[0], model[2].bias.data[1] = np.nan, -0.0
    path = tmp_path / "new folder" / "model.npz"
    nn.save(model, path)
    nn.load(other, str(path))
    assert contents(other) == contents(model)
    assert all(isinstance(a, xp.module.ndarray) for a in other.state().values())
    assert [p.name for p in path.parent.iterdir()] == ["model.npz"]


def test_a_file_saved_on_one_device_loads_on_the_other(xp, tmp_path):
    model, other = on(xp, small_model(0)), small_model(1)
    nn.save(model, tmp_path / "model.npz")
    nn.load(other, tmp_path / "model.npz")
    assert contents(other) == contents(model)


def test_the_file_is_plain_arrays(xp, tmp_path):
    nn.save(on(xp, small_model()), tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as archive:
        assert archive.files == NAMES  # and the seal is in the zip comment
        assert {archive[name].dtype.kind for name in archive.files} == {"f"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_save_leaves_the_old_file(monkeypatch, tmp_path, error):
    path = tmp_path / "model.npz"
    nn.save(small_model(0), path)
    before = path.read_bytes()

    def half(temporary, body, end):
        temporary.write_bytes(before[: len(before) // 2])
        raise error("in the middle")

    monkeypatch.setattr(files, "_write", half)
    with pytest.raises(error):
        nn.save(small_model(1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def assert_refused(path, *words):
    """load raises ValueError naming the file and these words, and changes nothing."""
    model = small_model(1)
    before = contents(model)
    with pytest.raises(ValueError) as caught:
        nn.load(model, path)
    assert [word for word in (str(path), *words) if word not in str(caught.value)] == []
    assert contents(model) == before


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(the bytes of a saved model, a path to write a damaged copy to)."""
    path = tmp_path_factory.mktemp("saved") / "model.npz"
    nn.save(small_model(0), path)
    return path.read_bytes(), path


@given(data=st.data())
def test_a_truncated_file_is_refused(saved, data):
    whole, path = saved
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert_refused(path)


def test_a_flipped_bit_in_an_entry_is_refused_by_name(saved):
    whole, path = saved
    weight = small_model(0)[2].weight.data.tobytes()
    flipped = bytearray(whole)
    flipped[whole.index(weight) + 5] ^= 1
    path.write_bytes(flipped)
    assert_refused(path, "2.weight")


def load_damaged(whole, path, place, mask):
    """Either refused like any damaged file, or the damage is in bytes that do not matter."""
    flipped = bytearray(whole)
    flipped[place] ^= mask
    path.write_bytes(flipped)
    model = small_model(0)
    before = contents(model)
    try:
        nn.load(model, path)
    except ValueError as error:
        assert str(path) in str(error)
    assert contents(model) == before


@given(data=st.data())
def test_a_flipped_byte_anywhere_never_gives_another_model(saved, data):
    whole, path = saved
    place = data.draw(st.integers(0, len(whole) - 1))
    load_damaged(whole, path, place, data.draw(st.integers(1, 255)))


@pytest.mark.parametrize("offset", range(46))
def test_a_flipped_byte_in_the_directory_never_gives_another_model(saved, offset):
    """The zip directory's first record: version, encryption, compression, sizes, ..."""
    whole, path = saved
    for mask in (1, 128, 255):
        load_damaged(whole, path, whole.index(b"PK\1\2") + offset, mask)


def single_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def zip_of_text(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in NAMES:
            archive.writestr(name, "text")


NOT_A_MODEL = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a zip file"),
    "a folder": lambda path: path.mkdir(),
    "a single array": single_array,
    "a zip of text": zip_of_text,
}


@pytest.mark.parametrize("kind", NOT_A_MODEL)
def test_what_is_no_npz_file_is_refused(tmp_path, kind):
    path = tmp_path / "model.npz"
    NOT_A_MODEL[kind](path)
    assert_refused(path)


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "a list"])
def test_a_file_of_another_model_is_refused(tmp_path, kind):
    state, (damage, words) = small_model(0).state(), DAMAGE[kind]
    damage(state, NAMES[0])
    files.save_arrays(tmp_path / "model.npz", "model", state)
    assert_refused(tmp_path / "model.npz", words, *([] if kind == "unknown" else [NAMES[0]]))


class Harmful:
    """Something that does harm when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return self.path.mkdir, ()


def test_a_pickled_object_is_refused_before_it_runs(tmp_path, monkeypatch):
    """Also where somebody has sealed it."""
    state, harm = small_model(0).state(), tmp_path / "harm"
    state[NAMES[3]] = np.array([Harmful(harm)], dtype=object)
    write = np.lib.format.write_array
    pickling = lambda file, array, allow_pickle: write(file, array, allow_pickle=True)  # noqa: E731
    monkeypatch.setattr(np.lib.format, "write_array", pickling)
    files.save_arrays(tmp_path / "model.npz", "model", state)
    assert_refused(tmp_path / "model.npz", NAMES[3])
    assert not harm.exists()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.npz"):
        nn.load(small_model(), tmp_path / "model.npz")


@given(seed=seeds)
def test_a_loaded_model_computes_the_same(saved, seed):
    _, path = saved
    model, other = small_model(seed % 1000), small_model(1)
    nn.save(model, path)
    nn.load(other, path)
    x = normal(seed, (2, 3), "float32")
    for train in (True, False):
        assert (model(x, train)[0] == other(x, train)[0]).all()


# --- who computes ---------------------------------------------------------------------------------


def fast():
    return pytest.importorskip("lpnorm.fast", exc_type=ImportError)


def every_layer():
    """A model with every layer that computes."""
    body = nn.Sequential(
        nn.WeightNorm(nn.Conv2d(2, 3, 3, padding=1)), nn.MeanOnlyBatchNorm(3), nn.ReLU()
    )
    block = nn.Residual(body, nn.BoundedWeightNorm(nn.Conv2d(2, 3, 1)))
    pools = [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.GlobalAvgPool2d(), nn.Flatten()]
    return nn.Sequential(block, nn.BatchNorm(3), *pools, nn.LayerNorm(3), nn.Linear(3, 2))


def who(model):
    return [layer.impl for _, layer in model.layers() if layer.functions]


def test_the_model_above_has_every_layer():
    classes = {v for v in vars(nn).values() if isinstance(v, type) and issubclass(v, nn.Layer)}
    there = {type(layer) for _, layer in every_layer().layers()}
    assert {c for c in classes if c.functions} <= there


def test_to_changes_who_computes_in_every_layer():
    model, x = every_layer(), normal(0, (4, 2, 8, 8), "float32")
    assert set(who(model)) == {plain}
    want = model(x)[0].tobytes()
    model.load_state(every_layer().state())
    assert model.to(impl=fast()) is model and set(who(model)) == {fast()}
    assert model(x)[0].tobytes() == want
    model.to(dtype="float32")  # None changes nothing
    assert set(who(model)) == {fast()}
    assert set(who(model.to(impl=plain))) == {plain}


@pytest.mark.parametrize("lacks", plain.__all__)
def test_an_impl_that_lacks_a_function_is_refused_before_anything_is_changed(lacks):
    names = [name for name in plain.__all__ if name != lacks]
    impl = types.SimpleNamespace(**{name: getattr(plain, name) for name in names})
    model = every_layer().to(dtype="float64")
    needed = {name for _, layer in model.layers() for name in layer.functions}
    if lacks not in needed:
        assert set(map(id, who(model.to(impl=impl)))) == {id(impl)}
        return
    with pytest.raises(TypeError, match=rf"^impl must be .*\b{lacks}, got "):
        model.to(dtype="float32", impl=impl)
    assert set(who(model)) == {plain}
    assert {array.dtype.name for array in model.state().values()} == {"float64"}


@pytest.mark.parametrize("wrong", [3, "lpnorm.plain", np, object()], ids=lambda v: type(v).__name__)
def test_an_impl_must_have_the_functions(wrong):
    model = every_layer()
    with pytest.raises(TypeError, match=r"^impl must be "):
        model.to(impl=wrong)
    with pytest.raises(TypeError, match=r"^impl must be "):
        nn.softmax_cross_entropy(np.zeros((1, 2)), np.zeros(1, int), impl=wrong)
    assert set(who(model)) == {plain}


@pytest.mark.parametrize("wrong", [{"dtype": "int8"}, {"device": "tpu"}])
def test_who_computes_stays_if_anything_else_is_refused(wrong):
    model = every_layer()
    with pytest.raises((TypeError, ValueError)):
        model.to(impl=fast(), **wrong)
    assert set(who(model)) == {plain}


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_copies_keep_who_computes(copied):
    for impl in (plain, fast()):
        model = every_layer().to(impl=impl)
        again = copied(model)
        assert set(who(again)) == set(who(model)) == {impl}
        x = normal(0, (4, 2, 8, 8), "float32")
        (y, backward), (z, other) = (m.to(impl=impl)(x, train=False) for m in (model, again))
        assert y.tobytes() == z.tobytes() and backward(y).tobytes() == other(z).tobytes()


def test_the_loss_by_another():
    logits, labels = normal(0, (4, 3)), np.arange(4) % 3
    loss, dlogits = nn.softmax_cross_entropy(logits, labels, 2.0)
    for impl in (plain, fast()):
        found = nn.softmax_cross_entropy(logits, labels, 2.0, impl=impl)
        assert found[0] == loss and found[1].tobytes() == dlogits.tobytes()
    given = types.SimpleNamespace(softmax_cross_entropy=lambda *arguments: arguments)
    assert nn.softmax_cross_entropy(logits, labels, impl=given) == (logits, labels, 1.0)
