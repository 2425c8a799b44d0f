"""Files: exactly where they were asked for, whole or not at all, and never read when damaged."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from lpnorm import nn, training
from lpnorm.data import Dataset
from lpnorm.decay import SGD, NormTrace
from lpnorm.experiments import runs
from lpnorm.files import atomic, check_writable, load_arrays, load_json, save_arrays, save_json

# --- one small file of each kind: write, and read back what must be equal -------------------------


def tiny_model(seed=0):
    return nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False, rng=seed), nn.BatchNorm(2))


def tiny_run(path, epochs=1, **settings):
    model = tiny_model()
    sgd = SGD(model.parameters(), 0.1, momentum=0.9)
    trace = NormTrace(nn.scale_invariant(model), sgd)
    x, y = np.random.default_rng(0).standard_normal((4, 2)).astype("float32"), np.arange(4) % 2
    settings = {"batch": 2, "trace": trace, "checkpoint": path, "progress": False} | settings
    history = training.train(model, Dataset(x, y, x, y), sgd, epochs, **settings)
    return model.state() | sgd.state() | trace.state(), history.to_dict()


def read_model(path):
    model = tiny_model(1)
    nn.load(model, path)
    return model.state()


def write_trace(path):
    trace = NormTrace()
    trace.load_state({"norms/w": np.ones((1, 2)), "rates/w": np.ones(1), "decays/w": np.zeros(1)})
    trace.save(path)


TASK = runs.Run(epochs=1)


def write_run(path):
    result = {"loss": [0.25, math.nan], "diverged": None}
    save_json(path, "run", {"key": TASK.key(), "task": vars(TASK), "result": result})


KINDS = {  # kind -> (write a file, read it)
    "model": (lambda path: nn.save(tiny_model(), path), read_model),
    "trace": (write_trace, lambda path: NormTrace.load(path).state()),
    "checkpoint": (lambda path: tiny_run(path), lambda path: tiny_run(path)),
    "run": (write_run, lambda path: load_json(path, "run")),
}
KIND = pytest.mark.parametrize("kind", KINDS)


def flips(kind, path, read, every):
    """Every so many-th single bit flipped: each is refused, naming the file, in one line."""
    KINDS[kind][0](path)
    whole = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for bit in range(0, 8 * len(whole), every):
            place, mask = bit // 8, 1 << bit % 8
            os.pwrite(file.fileno(), bytes([whole[place] ^ mask]), place)
            with pytest.raises(ValueError, match="small") as caught:
                read(path)
            assert "\n" not in str(caught.value)
            os.pwrite(file.fileno(), whole[place : place + 1], place)
    read(path)


@KIND
def test_a_flipped_bit_is_refused(kind, tmp_path):
    flips(kind, tmp_path / "small", KINDS[kind][1], 997 if kind == "checkpoint" else 41)


@pytest.mark.slow
@KIND
def test_every_flipped_bit_is_refused(kind, tmp_path):
    """A checkpoint without the training around it, which does nothing before it has been read."""
    read = (lambda path: load_arrays(path, kind)) if kind == "checkpoint" else KINDS[kind][1]
    flips(kind, tmp_path / "small", read, 1)


@KIND
def test_a_file_cut_anywhere_or_longer_is_refused(kind, tmp_path):
    write, read = KINDS[kind]
    path = tmp_path / "small"
    write(path)
    whole = path.read_bytes()
    for end in [*range(0, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="small"):
            read(path)
    for more in (b"\0", b"}", whole):
        path.write_bytes(whole + more)
        with pytest.raises(ValueError, match="small"):
            read(path)


@KIND
def test_a_file_of_another_kind_is_refused_by_name(kind, tmp_path):
    for other in set(KINDS) - {kind}:
        KINDS[other][0](tmp_path / other)
        with pytest.raises(ValueError, match=f"{other}: is a {other} of lpnorm, not a {kind}"):
            KINDS[kind][1](tmp_path / other)


@KIND
def test_a_file_of_version_0_1_0_is_refused_with_a_word(kind, tmp_path):
    path = tmp_path / "old.npz"
    if kind == "run":
        path.write_text(json.dumps({"task": vars(TASK), "result": {}}))
    else:
        np.savez(path, **tiny_model().state())
    with pytest.raises(ValueError, match=r"old\.npz.*lpnorm 0\.1\.0.*numpy\.load") as caught:
        KINDS[kind][1](path)
    assert "\n" not in str(caught.value)


@KIND
def test_a_file_of_a_later_format_is_refused(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("lpnorm.files._FORMAT", 2)
    KINDS[kind][0](tmp_path / "new")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="new: has format 2, this lpnorm reads 1"):
        KINDS[kind][1](tmp_path / "new")


def test_a_stored_run_that_is_damaged_or_of_another_task_is_not_used(tmp_path):
    path = tmp_path / f"{TASK.key()}.json"
    assert runs._stored(tmp_path, TASK) is None
    write_run(path)
    assert runs._stored(tmp_path, TASK)["loss"][0] == 0.25
    other = runs.Run(epochs=2)
    path.rename(tmp_path / f"{other.key()}.json")
    assert runs._stored(tmp_path, other) is None
    write_run(path)
    path.write_text(path.read_text().replace("0.25", "0.26"))
    assert runs._stored(tmp_path, TASK) is None


# --- what is written is read ----------------------------------------------------------------------


def test_arrays_come_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    odd_nan = np.array([0x7FF0000000000001, 0xFFF8000000000123], "uint64").view("float64")
    arrays = {dtype: rng.standard_normal((2, 3)).astype(dtype) for dtype in ("f2", "f4", "f8")}
    arrays |= {"nan": odd_nan, "-0": np.array(-0.0), "empty": np.zeros((0, 3)), "u8": np.arange(9)}
    arrays |= {"file": np.ones(1), "allow_pickle": np.ones(2), "a/b.c": np.ones((2, 3)).T}
    arrays |= {"strided": np.arange(12.0)[::-3], "text": np.array("a word"), "é#1:x": np.ones(1)}
    save_arrays(tmp_path / "x", "test", arrays)
    found = load_arrays(tmp_path / "x", "test")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name
    with np.load(tmp_path / "x", allow_pickle=False) as archive:  # an ordinary .npz file
        assert archive.files == list(arrays) and archive["f4"].dtype == "float32"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_documents_come_back_to_the_last_bit(tmp_path):
    floats = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, math.inf, -math.inf, math.nan]
    document = {"floats": floats, "nothing": None, "words": 'é "seal": ""}', "deep": {"a": [1, {}]}}
    save_json(tmp_path / "x.json", "test", document)
    found = load_json(tmp_path / "x.json", "test")
    assert [x.hex() for x in found.pop("floats")] == [x.hex() for x in floats]
    document.pop("floats")
    assert found == document
    assert "sha256" in json.loads((tmp_path / "x.json").read_text())["seal"]
    save_json(tmp_path / "x.json", "test", {})
    assert load_json(tmp_path / "x.json", "test") == {}


def test_objects_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="Object arrays"):
        save_arrays(tmp_path / "x", "test", {"a": np.array([print])})
    with pytest.raises(TypeError, match="JSON"):
        save_json(tmp_path / "x", "test", {"a": print})
    assert list(tmp_path.iterdir()) == []


# --- any path, or none ----------------------------------------------------------------------------

NAMES = ["ck", "ck.dat", "ck.npz", ".ck", "ck.", "a b.ü.json", "x" * 250, "new folder/ck"]


@pytest.mark.parametrize("name", NAMES)
@KIND
def test_a_file_lies_exactly_at_the_path_named(kind, name, tmp_path):
    path = tmp_path / name
    write, read = KINDS[kind]
    for _ in range(2):  # new, and over an old one
        write(str(path))
        read(path)
        assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "model")
    nn.save(tiny_model(), tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "model").is_file()
    read_model(tmp_path / "link")


def impossible(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir(exist_ok=True)
    os.mkfifo(tmp_path / "pipe")
    names = ["file/ck", "folder", "pipe", "x" * 300, "a\0b"]
    return ["", "/dev/null", *(f"{tmp_path}/{name}" for name in names)]


@pytest.mark.parametrize("index", range(7))
def test_a_path_that_cannot_be_is_refused_before_any_work(index, tmp_path):
    path = impossible(tmp_path)[index]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"checkpoint .* cannot be written") as caught:
        check_writable("checkpoint", path)
    assert "\n" not in str(caught.value)
    for write, _ in KINDS.values():
        with pytest.raises((OSError, ValueError)):
            write(path)
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(TypeError, match="checkpoint must be a path, got 3"):
        check_writable("checkpoint", 3)


def test_asking_whether_a_path_can_be_written_writes_nothing(tmp_path):
    assert check_writable("checkpoint", str(tmp_path / "ck")) == tmp_path / "ck"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "ck").write_text("old")
    check_writable("checkpoint", tmp_path / "ck")
    assert (tmp_path / "ck").read_text() == "old"


# --- killed, interrupted, two at once -------------------------------------------------------------

DIE = "import sys, os; from lpnorm.files import atomic\n"
DIE += "with atomic(sys.argv[1]) as path: path.write_bytes(b'half'); os.kill(os.getpid(), 9)"


@pytest.mark.parametrize("then", ["write", "check_writable"])
def test_what_a_killed_writer_left_is_cleaned_up_and_nothing_else(then, tmp_path):
    others = {".model-abcd1234", "model.tmp", ".model.npz", ".other-lpnorm-12345678", "tmpx"}
    for name in others:
        (tmp_path / name).write_text("somebody's")
    nn.save(tiny_model(), tmp_path / "model")
    assert subprocess.run([sys.executable, "-c", DIE, tmp_path / "model"]).returncode == -9
    left = {p.name for p in tmp_path.iterdir()} - others - {"model"}
    assert len(left) == 1 and "lpnorm" in left.pop()
    read_model(tmp_path / "model")
    if then == "write":
        nn.save(tiny_model(), tmp_path / "model")
    else:
        check_writable("checkpoint", tmp_path / "model")
    assert {p.name for p in tmp_path.iterdir()} == others | {"model"}
    read_model(tmp_path / "model")


def test_killed_at_any_moment_the_file_is_whole(tmp_path):
    """A process that saves again and again, killed after some random time."""
    script = "import sys; sys.path.insert(0, sys.argv[2]); import test_files as t\n"
    script += "while True: t.nn.save(t.nn.Linear(300, 300), sys.argv[1])"
    path, rng = tmp_path / "model", np.random.default_rng(0)
    for _ in range(3):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", script, path, os.path.dirname(__file__)])
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05 * rng.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        nn.load(nn.Linear(300, 300), path)
    nn.save(nn.Linear(300, 300), path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_in_the_middle_leaves_the_old_file(error, tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(error), atomic(tmp_path / "x") as path:
        path.write_text("new")
        raise error
    assert (tmp_path / "x").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_second_writer_waits_until_the_first_has_finished(tmp_path):
    entered = threading.Event()

    def second():
        with atomic(tmp_path / "x") as path:
            entered.set()
            path.write_text("second")

    thread = threading.Thread(target=second)
    with atomic(tmp_path / "x") as path:
        path.write_text("first")
        thread.start()
        assert not entered.wait(0.2)
        assert path.read_text() == "first"
    thread.join(10)
    assert (tmp_path / "x").read_text() == "second" and len(list(tmp_path.iterdir())) == 1


def test_writers_of_two_files_do_not_meet(tmp_path):
    names = ["x" * 100 + end for end in "yz"]
    with atomic(tmp_path / names[0]) as one, atomic(tmp_path / names[1]) as two:
        one.write_text("one")
        two.write_text("two")
    assert [(tmp_path / name).read_text() for name in names] == ["one", "two"]


def test_two_writers_of_one_file_wait_for_each_other(tmp_path):
    def write(i):
        for _ in range(10):
            save_arrays(tmp_path / "x", "test", {"a": np.full(2000, i)})

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / "x").exists():
            assert len(set(load_arrays(tmp_path / "x", "test")["a"])) == 1
    for thread in threads:
        thread.join()
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]
