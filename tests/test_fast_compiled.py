"""What `lpnorm.fast` compiles: when, where it is kept, what is said, how many versions."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import lpnorm
from lpnorm import batchnorm

pytest.importorskip("lpnorm.fast", exc_type=ImportError)

from test_fast import PAIRS, cut, finished, python

import lpnorm.fast
from lpnorm.fast import compiled, loops

DTYPES = ("float16", "float32")  # with every accumulator: most of a minute to compile


def twice(x):
    return x + x


def negative(x):
    return -x


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path


def files():
    folder = compiled.folder()
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


# --- one function, compiled and kept --------------------------------------------------------------


def test_said_once_and_kept(capsys, own_cache):
    """The first process that needs a version says so and keeps it; the next ones read it."""
    first = compiled.entry(twice)
    assert first("whole numbers", 4) == 8
    said = capsys.readouterr().err
    assert "compiling twice for whole numbers" in said and str(own_cache) in said
    assert len(said.splitlines()) == 1
    assert first("whole numbers", 5) == 10
    assert first("floats", 1.5) == 3.0
    assert "compiling twice for floats" in capsys.readouterr().err
    again = compiled.entry(twice)  # as in another process
    assert again("whole numbers", 4) == 8 and again("floats", 1.5) == 3.0
    assert capsys.readouterr().err == ""
    assert compiled.kept() == ["twice for floats", "twice for whole numbers"]
    assert len(files()) == 4, "a version has files of its own"
    other = compiled.entry(negative)
    assert other("floats", 1.5) == -1.5
    assert "compiling negative" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage", [b"", b"\x80\x04rubbish", None], ids=["empty", "rubbish", "gone"]
)
@pytest.mark.parametrize("which", ["*.nbi", "*.nbc"])
def test_a_damaged_file(which, damage):
    assert compiled.entry(twice)("floats", 1.5) == 3.0
    for path in compiled.folder().glob(which):
        path.unlink() if damage is None else path.write_bytes(damage)
    assert compiled.entry(twice)("floats", 1.5) == 3.0


def test_a_folder_that_cannot_be(tmp_path, monkeypatch):
    """Nothing can be kept, and everything works."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "folder"))
    assert compiled.entry(twice)("floats", 1.5) == 3.0
    assert compiled.kept() == []
    compiled.clear()
    assert (tmp_path / "file").exists()


def test_a_full_disk(monkeypatch):
    """What was compiled and cannot be written serves all the same, compiled once."""
    said = []
    monkeypatch.setattr(compiled._Word, "on_start", lambda self, event: said.append(self.version))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_data", full)
    assert compiled.entry(twice)("floats", 1.5) == 3.0
    assert said == ["floats"]
    monkeypatch.undo()


def test_an_error_in_a_function_is_an_error():
    def wrong(x):
        return x.nothing

    with pytest.raises(Exception, match="nothing"):
        compiled.entry(wrong)("floats", 1.5)


def test_clear(own_cache, capsys):
    other = own_cache / "lpnorm" / "fast-0123456789abcdef"
    stranger = own_cache / "fast-not-ours"
    for folder in (other, stranger):
        folder.mkdir(parents=True)
    compiled.entry(twice)("floats", 1.5)
    compiled.clear()
    assert compiled.kept() == [] and not other.exists() and stranger.exists()
    capsys.readouterr()
    assert compiled.entry(twice)("floats", 1.5) == 3.0
    assert "compiling" in capsys.readouterr().err


def test_where_it_is_kept(monkeypatch, tmp_path):
    assert compiled.folder().parent == tmp_path / "lpnorm"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    assert compiled.folder().parent.name == "lpnorm" and tmp_path not in compiled.folder().parents
    assert compiled.folder().name == f"fast-{compiled.SOURCE}"


def test_a_change_anywhere_is_another_folder(tmp_path, monkeypatch):
    """Of any file of lpnorm/fast, of Numba, of its settings."""
    home = Path(lpnorm.fast.__file__).parent
    assert set(compiled.SOURCES) == set(home.glob("*.py"))
    assert compiled.key(compiled.SOURCES) == compiled.SOURCE
    copied = sorted(Path(shutil.copy(path, tmp_path)) for path in compiled.SOURCES)
    assert compiled.key(copied) == compiled.SOURCE
    keys = {compiled.SOURCE}
    for path in copied:
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        keys.add(compiled.key(copied))
        path.write_bytes(before)
    assert len(keys) == 1 + len(copied)
    for target, name in ((compiled.numba, "__version__"), (compiled.config, "OPT")):
        with monkeypatch.context() as changed:
            changed.setattr(target, name, "0.0")
            keys.add(compiled.key(copied))
    assert len(keys) == 3 + len(copied)
    assert compiled.key(copied) == compiled.SOURCE


# --- the loops ------------------------------------------------------------------------------------

ENTRIES = [each for each in vars(loops).values() if isinstance(each, compiled.entry)]

ONCE = """
import numpy as np, lpnorm.fast
x, one = np.arange(12, dtype="float32").reshape(4, 3), np.ones(3, "float32")
y = lpnorm.fast.batch_norm_inference(x, one, one, one, one)
print(y.tobytes().hex())
"""


@pytest.mark.slow
def test_processes_that_start_at_once(own_cache):
    """Two that find nothing compiled: both are right, and leave one version behind."""
    one, x = np.ones(3, "float32"), np.arange(12, dtype="float32").reshape(4, 3)
    want = batchnorm.batch_norm_inference(x, one, one, one, one).tobytes().hex() + "\n"
    both = [python(ONCE) for _ in range(2)]
    ends = [finished(process) for process in both]
    assert [out for out, _ in ends] == [want] * 2
    assert any("lpnorm.fast: compiling inference for float32" in err for _, err in ends)
    assert compiled.kept() == ["inference for float32 summed in float32"] and len(files()) == 2
    assert finished(python(ONCE)) == (want, ""), "the third reads it and says nothing"


def test_there_are_few_versions():
    """Every function for every pair of dtypes is at most 40."""
    assert len(ENTRIES) >= 4 and len(ENTRIES) * len(PAIRS) <= 40


def every_version(x):
    """Call every function in the version of x's dtype and every accumulator, in all kinds."""
    for dtype, wide in PAIRS:
        if dtype != x.dtype:
            continue
        gamma = np.ones(x.shape[1], dtype)
        for parameter in (gamma, None):
            for p in (1, 2, lpnorm.TopK(1), lpnorm.TopK(2), lpnorm.Range()):
                for function in ("batch_norm", "layer_norm"):
                    forward = getattr(lpnorm.fast, function)
                    _, cache = forward(x, parameter, parameter, p=p, accumulate=wide)
                    getattr(lpnorm.fast, f"{function}_backward")(x, cache)
            fixed = parameter, parameter, gamma, gamma.astype(wide)
            lpnorm.fast.batch_norm_inference(x, *fixed)
            lpnorm.fast.batch_norm_inference_backward(x, x, *fixed)


@pytest.fixture
def users_cache(monkeypatch):
    """What the other tests compiled, too."""
    monkeypatch.delenv("NUMBA_CACHE_DIR")


@pytest.mark.parametrize(
    "dtype", ["float64", *(pytest.param(each, marks=pytest.mark.slow) for each in DTYPES)]
)
def test_a_version_is_one(users_cache, dtype):
    """Whatever the layout, the norm, the parameters: the dtypes alone make a version."""
    x = np.random.default_rng(0).standard_normal((6, 5)).astype(dtype)
    for each in (x, np.asfortranarray(x), x[::-1], read_only(x)):
        with cut(2, 1, 1):
            every_version(each)
    for function in ENTRIES:
        assert function.versions
        for name, version in function.versions.items():
            assert len(version.signatures) == 1, (function.name, name)


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def unaligned(x):
    room = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    room[...] = x
    return room


@pytest.mark.parametrize("odd", [read_only, unaligned], ids=lambda f: f.__name__)
def test_a_version_is_one_for_any_gamma(users_cache, odd):
    x, gamma = np.ones((6, 5), "float32"), np.ones(5, "float32")
    lpnorm.fast.batch_norm_inference(x, gamma, gamma, gamma, gamma)
    lpnorm.fast.batch_norm_inference(x, odd(gamma), odd(gamma), odd(gamma), odd(gamma))
    for function in ENTRIES:
        for name, version in function.versions.items():
            assert len(version.signatures) == 1, (function.name, name)


ALL = """
import time, numpy as np, test_fast_compiled
start = time.perf_counter()
for dtype in ("float16", "float32", "float64"):
    test_fast_compiled.every_version(np.random.default_rng(0).standard_normal((6, 5)).astype(dtype))
print(f"{time.perf_counter() - start:.0f} s, of the processor {time.process_time():.0f} s")
"""


@pytest.mark.slow
def test_all_versions_cold():
    """How long a machine takes that has nothing compiled: printed, not asserted."""
    out, err = finished(python(ALL))
    print(f"all versions, from nothing: {out}")
    made = [line for line in err.splitlines() if "compiling" in line]
    assert len(made) == len(set(made)) == len(compiled.kept()) <= 40
    assert len(made) >= len(PAIRS) * (len(ENTRIES) - 1)
    start = time.perf_counter()
    assert finished(python(ALL))[1] == ""
    print(f"read again by another process: {time.perf_counter() - start:.1f} s")
    assert {name.split()[0] for name in compiled.kept()} == {each.name for each in ENTRIES}
