"""`lpnorm grade`: what a submission's process may do, and marks for a folder of submissions."""

import contextlib
import csv
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hostile import EXPECTED as HOSTILE
from hostile import HONEST, TALKS

from lpnorm.cli import main
from lpnorm.grading import assignment, wire
from lpnorm.grading.child import run_cells
from lpnorm.grading.functions import Local, Missing, Raised, Stopped, Unwritten
from lpnorm.grading.grade import Plan, Result, common_mistakes, grade, write_csv
from lpnorm.grading.handout import write
from lpnorm.grading.rubric import compare, mark
from lpnorm.grading.sandbox import Limits, Sandbox, jail_works
from lpnorm.grading.submissions import Submission, Unreadable, find, read

FOLDER = Path(__file__).parent.parent / "tutorials" / "assignments"
SOLUTION = FOLDER / "01_lp_batch_norm.ipynb"
WRONG = Path(__file__).parent / "assignments"
NO_JAIL = jail_works()
jail_only = pytest.mark.skipif(bool(NO_JAIL), reason=f"no namespaces here: {NO_JAIL}")
both = pytest.mark.parametrize("jailed", [pytest.param(True, marks=jail_only), False])


def points(result):
    return tuple(result.of(question) for question in assignment(1).questions)


# ---- values as bytes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [None, True, -3, 2.5, float("inf"), "a word", (), (1, ("x", None)), wire.Handle(7)],
)
def test_plain_values_travel(value):
    assert wire.unpack(wire.pack(value)) == value


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "bool", "uint8"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 1, 4)])
def test_arrays_travel_with_dtype_and_shape(dtype, shape):
    a = np.arange(int(np.prod(shape)), dtype="float64").reshape(shape).astype(dtype)
    b = wire.unpack(wire.pack(a))
    assert b.dtype == a.dtype and b.shape == a.shape and np.array_equal(a, b)
    assert b.flags.writeable


def test_an_array_is_laid_out_as_it_was():
    """So that a mistake with views shows over there as it would here."""
    a = np.arange(24.0).reshape(2, 3, 4)
    locked = a.copy()
    locked.setflags(write=False)
    for each in (a.T, a[::-1], a[:, ::-1, ::-1], a.transpose(1, 0, 2), a[..., ::2], locked):
        b = wire.unpack(wire.pack(each))
        assert np.array_equal(each, b)
        assert b.flags.writeable == each.flags.writeable
        assert np.array_equal(np.sign(b.strides), np.sign(each.strides))
        assert b.flags.c_contiguous == each.flags.c_contiguous


@pytest.mark.parametrize(
    "value", [object(), {"a": 1}, np.array([None]), np.array(["x"]), 1j, 2**80, b"bytes"]
)
def test_nothing_else_travels(value):
    with pytest.raises(wire.BadMessage):
        wire.pack(value)


def test_what_is_no_message_is_refused_in_one_way():
    """Cut off, changed at random, or made up: BadMessage or a value, never anything else."""
    rng = random.Random(0)
    good = wire.pack((np.arange(6.0).reshape(2, 3), ("x", 1, np.float16([1, 2]))))
    for length in range(len(good)):
        with pytest.raises(wire.BadMessage):
            wire.unpack(good[:length])
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(wire.BadMessage):
            wire.unpack(bytes(data))


@pytest.mark.parametrize(
    "tree",
    [
        {"dtype": "object", "shape": [1]},
        {"dtype": "float64", "shape": [-1]},
        {"dtype": "float64", "shape": [10**9, 10**9]},
        {"dtype": "float64", "shape": [2.0]},
        {"dtype": "float64", "shape": "1"},
        {"dtype": "float64", "shape": [1], "order": [5], "step": 1, "back": [], "locked": False},
        {"handle": "x"},
        {},
        [[[[[[[[[[[1]]]]]]]]]]],
        list(range(2000)),
    ],
)
def test_impossible_messages_are_refused(tree):
    text = json.dumps(tree).encode()
    with pytest.raises(wire.BadMessage):
        wire.unpack(len(text).to_bytes(4, "little") + text + bytes(8))
    with pytest.raises(wire.BadMessage):
        wire.unpack((2**31).to_bytes(4, "little") + b"[" * 100_000)


# ---- one submission's process -----------------------------------------------------------------


@both
def test_functions_are_called_over_there(jailed):
    code = """
import numpy as np
def f(x, k):
    x += k
    return x * 2, {"kept": x}
def g(cache): return cache["kept"]
def stub(): raise NotImplementedError("think first")
def wrong(): raise KeyError("what")
def odd(): return {1: 2}
"""
    with Sandbox([code, "1 / 0", "def broken(:"], Limits(seconds=10), jailed) as there:
        x = np.ones((2, 3))
        y, cache = there.get("f", keep=(1,))(x, 1)
        assert np.array_equal(y, np.full((2, 3), 4.0)) and isinstance(cache, wire.Handle)
        assert np.array_equal(x, np.full((2, 3), 2.0)), "a change of the input is seen here"
        assert np.array_equal(there.get("g")(cache), x)
        with pytest.raises(Unwritten, match="think first"):
            there.get("stub")()
        with pytest.raises(Raised) as caught:
            there.get("wrong")()
        assert caught.value.words == "it raised KeyError: 'what' (line 8)"
        with pytest.raises(Raised, match="something else than asked for: a dict"):
            there.get("odd")()
        with pytest.raises(Missing, match=r"no function nothing.*SyntaxError.*ZeroDivisionError"):
            there.get("nothing")()


@both
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("while True: pass", "longer than 1 s"),
        ("import os; os._exit(0)", "ended on the way"),
        ("import ctypes; ctypes.string_at(0)", "crashed (SIGSEGV)"),
        ("import os; os.closerange(0, 64)", "closed its connection|ended on the way"),
        ("import os; [os.write(n, b'\\xff' * 999) for n in (3, 4) if n == FD]", "too large|sense"),
    ],
)
def test_a_process_that_goes_wrong_is_gone_for_good(jailed, body, words):
    code = (
        "import os\nFD = next((n for n in range(3, 9) if not os.isatty(n) and "
        f"os.fstat(n).st_mode and n == 4), 4)\ndef f(x):\n    {body}\n    return x\n"
        "def g(x): return x"
    )
    with Sandbox([code], Limits(seconds=1 if "1 s" in words else 5), jailed) as there:
        for name in ("f", "g"):
            with pytest.raises(Stopped) as caught:
                there.get(name)(1.0)
        assert any(part in caught.value.words for part in words.split("|")), caught.value.words
        assert there.stopped
    assert there.process.poll() is not None


@both
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return bytearray(10**10)", "needs more memory"),
        ("return np.zeros(10**8)", "too large"),
        ("return f(x)", "RecursionError"),
        ("sys.exit(1)", "SystemExit"),
        ("open('/tmp/lpnorm-test' if JAILED else 'x', 'wb').write(b'x' * 2 * 10**7)", "too large"),
        ("import lpnorm", "lpnorm"),
    ],
)
def test_limits(jailed, body, words, tmp_path):
    code = f"import sys, numpy as np\nJAILED = {jailed}\ndef f(x):\n    {body}\ndef g(x): return x"
    with Sandbox([code], Limits(seconds=5, files=10), jailed) as there:
        with pytest.raises(Raised) as caught:
            there.get("f")(1.0)
        assert words in caught.value.words
        assert there.get("g")(2.0) == 2.0, "and it goes on"
    assert not Path(there.root).exists()


@both
def test_printing_goes_nowhere_and_costs_nothing(jailed, capfd):
    body = "print('x' * 5 * 10**7)\n    os.write(2, b'y' * 10**6)\n    return x"
    code = f"import os\ndef f(x):\n    {body}"
    with Sandbox([code], Limits(seconds=10), jailed) as there:
        assert there.get("f")(3.0) == 3.0
    assert capfd.readouterr() == ("", "")


@jail_only
def test_a_jail_has_no_files_no_network_no_other_processes():
    code = """
import glob, os, socket, sys
def files(): return tuple(sorted(glob.glob("/*"))), tuple(os.listdir("/tmp"))
def sees(path): return os.path.exists(path)
def writes(path):
    try:
        open(path, "w").write("x")
    except OSError:
        return False
    return True
def packages(): return tuple(sorted(sum((os.listdir(p) for p in sys.path if "packages" in p), [])))
def me(): return os.getuid(), os.getpid(), tuple(socket.if_nameindex()[0])
def kills(number):
    try:
        os.kill(number, 9)
    except OSError:
        return False
    return True
def mounts():
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    mount = libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None)
    return mount, libc.umount2(b"/tmp", 2), libc.unshare(0x20000)
def forks():
    made = 0
    for _ in range(100):
        try:
            if os.fork() == 0:
                import time
                time.sleep(60)
        except OSError:
            break
        made += 1
    return made
"""
    with Sandbox([code], Limits(seconds=20), True) as there:
        root, tmp = there.get("files")()
        known = {"/dev", "/etc", "/lib", "/lib64", "/tmp", "/usr"}
        prefixes = {f"/{Path(p).parts[1]}" for p in (sys.base_prefix, np.__file__)}
        assert set(root) <= known | prefixes and (tmp == () or "/tmp" in prefixes)
        for path in (SOLUTION, __file__, np.__file__.replace("numpy", "pytest"), "/proc/self"):
            assert not there.get("sees")(str(path)), path
        import lpnorm

        assert not there.get("sees")(lpnorm.__file__)
        assert there.get("sees")(np.__file__)
        assert all(name.startswith("numpy") for name in there.get("packages")())
        assert there.get("writes")("/tmp/a")
        for path in ("/a", "/usr/lib/a", str(Path(np.__file__).with_name("a"))):
            assert not there.get("writes")(path), path
        uid, pid, interface = there.get("me")()
        assert uid != 0 or os.geteuid() != 0
        assert pid == 1 and interface == (1, "lo")
        assert not there.get("kills")(os.getpid()) and not there.get("kills")(there.process.pid)
        assert there.get("mounts")() == (-1, -1, -1)
        assert there.get("forks")() < Limits().processes
    assert there.process.poll() is not None


@jail_only
def test_a_jail_has_no_network():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    with server.accept()[0] as caller:
                        caller.sendall(b"hello")

        threading.Thread(target=serve, daemon=True).start()
        code = TALKS.replace("PORT", str(server.getsockname()[1]))
        for jailed, words in ((False, "a network: hello"), (True, "ConnectionRefused|unreachable")):
            with Sandbox([code], Limits(seconds=10), jailed) as there:
                with pytest.raises(Raised) as caught:
                    there.get("l1_forward")(np.ones((2, 2)), np.ones(2), np.ones(2), 0.1)
                assert any(word in caught.value.words for word in words.split("|"))


@jail_only
@pytest.mark.skipif(
    shutil.which("unshare") is None or not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="shows the way of an ordinary user when run by the superuser",
)
def test_a_jail_without_the_superuser_s_rights():
    """As in a rootless container: only one user is known, so a user namespace must do."""
    code = (
        "from lpnorm.grading.sandbox import Sandbox, Limits, jail_works\n"
        "assert jail_works() == '', jail_works()\n"
        "code = 'import os\\ndef f(): return tuple(os.listdir(\"/\")), os.getpid()'\n"
        "with Sandbox([code], Limits()) as there: print(there.get('f')())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent.parent)}
    line = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    if "unshare failed" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert "usr" in done.stdout and "proc" not in done.stdout and done.stdout.endswith(", 1)\n")


# ---- judging what comes back ------------------------------------------------------------------


def test_compare_says_what_is_wrong():
    want = np.array([1.0, 2.0])
    assert compare("y", want + 1e-12, want) == ""
    assert compare("y", 2 * want, want, {"it is doubled": 2 * want}) == "y: it is doubled"
    assert compare("y", want + 1, want) == "y is 2 instead of 1 at [0]"
    assert "shape (1, 2), (2,) expected" in compare("y", want[None], want)
    assert "nothing came back" in compare("y", None, want)
    assert "a tuple came back" in compare("y", (1, 2), want)
    assert "dtype object" in compare("y", wire.Handle(1), want)
    assert "nan where a finite number belongs" in compare("y", want * np.nan, want)
    infinite = np.array([np.inf, 1.0])
    assert compare("y", infinite, infinite) == "" and compare("y", -infinite, infinite)


class Odd:
    """Answers every call with the same thing."""

    stopped = ""

    def __init__(self, answer):
        self.answer = answer

    def get(self, name, keep=()):
        return lambda *arguments: self.answer


@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize(
    "answer",
    [
        None, "right", 1.0, (), (1,), (None, None), (1, 2, 3), wire.Handle(1),
        (wire.Handle(1),) * 2, (wire.Handle(1), 2),
        np.zeros((0,)), np.full((3, 3), np.nan), (np.zeros((1, 1, 1)), None), np.array(True),
        (np.zeros(3), np.zeros(3), np.zeros(3)), (float("nan"),) * 5, ((),) * 7, 2**62,
        (np.zeros((2, 64)),) * 7,
    ],
)  # fmt: skip
def test_whatever_comes_back_is_marked_and_earns_nothing(number, answer):
    for question in assignment(number).questions:
        for each in mark(question, Odd(answer)):
            allowed = each.item.name == "edges" and question.name == "sgd_step"
            assert each.words or allowed, (question.name, each.item.name)
            assert "\n" not in each.words


# ---- files ------------------------------------------------------------------------------------


def test_submissions_of_every_kind_are_found(tmp_path):
    (tmp_path / "ada.py").write_text("x = 1")
    (tmp_path / "bob.ipynb").write_text(
        json.dumps(
            {
                "cells": [
                    {"cell_type": "markdown", "source": "text"},
                    {"cell_type": "code", "source": ["%pip install x\n", "!ls\n", "y = 2\n", "y?"]},
                    {"cell_type": "code", "source": "%%bash\nls"},
                    {"cell_type": "code", "source": "z = 3 % 2"},
                ]
            }
        )
    )
    for name in ("bob.py", "broken.ipynb", "notes.txt", ".hidden.py"):
        (tmp_path / name).write_text("{")
    (tmp_path / "latin.py").write_bytes(b"x = '\xff'")
    for folder, files in (("cleo", ["a.py"]), ("dan", []), ("eve", ["a.py", "b.ipynb"])):
        (tmp_path / folder).mkdir()
        for name in files:
            (tmp_path / folder / name).write_text("w = 4")
    found = {s.name: s for s in find(tmp_path)}
    names = {"ada", "bob.ipynb", "bob.py", "broken", "latin", "cleo", "dan", "eve", "notes.txt"}
    assert set(found) == names
    assert found["ada"].cells == ("x = 1",) and found["cleo"].cells == ("w = 4",)
    namespace = {}
    for cell in found["bob.ipynb"].cells:
        exec(cell, namespace)
    assert (namespace["y"], namespace["z"]) == (2, 1)
    assert "not a notebook" in found["broken"].error and "UTF-8" in found["latin"].error
    assert "no Python file" in found["dan"].error and "2 Python files" in found["eve"].error


def _notebook(*cells):
    return json.dumps({"cells": [{"cell_type": "code", "source": c} for c in cells]})


EVERYDAY = {
    "crlf.py": b"x = 1\r\ny = 2\r\n",
    "bom.py": b"\xef\xbb\xbfx = 1",
    "bom.ipynb": b"\xef\xbb\xbf" + _notebook("x = 1").encode(),
    "utf16.py": "x = 1".encode("utf-16"),
    "cookie.py": b"# -*- coding: latin-1 -*-\nname = '\xdf'\nx = 1",
    "UPPER.PY": b"x = 1",
    "saved.ipynb.txt": _notebook("x = 1").encode(),
    "as_json.ipynb.json": _notebook("x = 1").encode(),
    "timed.ipynb": _notebook("%%time\nx = 1").encode(),
    "line_timed.ipynb": _notebook("%time x = 1").encode(),
    "magics.ipynb": _notebook("%matplotlib inline\n!ls\nfiles = !ls\nx = 1\n?x\nx?").encode(),
    "lambda.ipynb": _notebook("%pwd\nf = lambda a: a\nx = f(1)").encode(),
    "text.ipynb": _notebook('"""\n% no magic\n"""\nx = 1').encode(),
    "empty_lines.ipynb": _notebook("\n" * 100_000 + "%pwd\nx = 1").encode(),
}


@pytest.mark.parametrize("name", EVERYDAY)
def test_right_work_in_everyday_files(tmp_path, name):
    (tmp_path / name).write_bytes(EVERYDAY[name])
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as archive:
        archive.write(tmp_path / name, f"__MACOSX/{name}")
        archive.write(tmp_path / name, f"folder/{name}")
    for submission in find(tmp_path):
        assert not submission.error, submission
        namespace = {}
        for cell in submission.cells:
            exec(cell, namespace)
        assert namespace["x"] == 1


def test_hostile_entries_are_rows_that_say_why(tmp_path):
    (tmp_path / "ada.py").write_text("x = 1")
    for name, to in (("to_ada.py", "ada.py"), ("zero.py", "/dev/zero"), ("self.py", "self.py")):
        (tmp_path / name).symlink_to(to)
    (tmp_path / "folder").symlink_to(tmp_path)
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "mine.py").symlink_to("../ada.py")
    os.mkfifo(tmp_path / "fifo.py")
    with open(tmp_path / "sparse.ipynb", "wb") as file:
        file.truncate(500 * 2**20)
    (tmp_path / "deep.ipynb").write_text("[" * 1_000_000)
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 and no more")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.py", "#" * (65 * 2**20))
    (tmp_path / "a\nb\x1b[31m\u202e.py").write_text("x = 1")
    with open(os.fsencode(tmp_path) + b"/jos\xe9.py", "w") as file:
        file.write("x = 1")
    found = {s.name: s for s in find(tmp_path)}
    assert len(found) == 13
    fine = {"ada", "a�b�[31m�", "jos�"}
    assert {name for name, s in found.items() if not s.error} == fine
    assert all("link" in found[n].error for n in ("to_ada", "zero", "self", "folder", "inside"))
    assert "no ordinary file" in found["fifo"].error
    assert all("MiB" in found[name].error for name in ("sparse", "bomb"))
    assert "notebook" in found["deep"].error and "zip" in found["bad"].error
    assert not any("\n" in s.error for s in found.values())


def test_definitions_count_and_trials_end():
    """What works is what counts: a trial that runs for ever, a line that is no Python; in order."""
    namespace = {}
    cells = [
        "f = None\nwhile True: pass\nc = 2",
        "def f(x=c): return x\nimport math\ng = f() + (\n",
    ]
    notes = run_cells(cells, namespace, 0.2, 5)
    assert namespace["f"]() == 2 and "TimeoutError" in notes and "SyntaxError" in notes
    slow = ["import time", "time.sleep(9)\nx = 1", "def late(): return 3"]
    namespace = {}
    assert "it took so long" in run_cells(slow, namespace, 0.2, 0.1)
    assert namespace["late"]() == 3 and "x" not in namespace


def test_what_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.py"
    path.write_text("x = 1\n" * 200_000)
    with pytest.raises(Unreadable, match="a million characters"):
        read(path)


# ---- a whole folder ---------------------------------------------------------------------------


def test_a_jailed_and_a_local_mark_are_the_same():
    wrong = (WRONG / "1" / "scale_is_constant.py").read_text(encoding="utf-8")
    cells = (*read(SOLUTION), wrong)
    result = grade(Submission("one", cells), Plan(1, 3, Limits(), not NO_JAIL))
    namespace = {}
    for cell in cells:
        if "tell(" not in cell:
            exec(cell, namespace)
    here = [m for q in assignment(1).questions for m in mark(q, Local(namespace), 3)]
    assert list(result.marks) == here and result.points == 17


@pytest.fixture
def class_of_thirty(tmp_path):
    """Thirty submissions and what each must get: 8 hostile, 15 wrong, a solution, stubs."""
    folder, expected = tmp_path / "submissions", {}
    folder.mkdir()
    table = json.loads((WRONG / "expected.json").read_text(encoding="utf-8"))["1"]
    right = "\n\n".join(read(SOLUTION))
    for name, (code, each, words) in HOSTILE.items():
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
        expected[name] = (each, words)
    for name, told in table.items():
        wrong = (WRONG / "1" / f"{name}.py").read_text(encoding="utf-8")
        (folder / f"{name}.py").write_text(right + "\n\n" + wrong, encoding="utf-8")
        expected[name] = (told["points"], "")
    (folder / "solution").mkdir()
    shutil.copy(SOLUTION, folder / "solution" / "answer.ipynb")
    expected["solution"] = ((2, 5, 7, 3, 5), "")
    shutil.copy(folder / "no_constant.py", folder / "the_same.py")
    expected["the_same"] = expected["no_constant"]
    write(FOLDER, tmp_path / "student")
    for name in ("stub1", "stub2"):
        shutil.copy(tmp_path / "student" / SOLUTION.name, folder / f"{name}.ipynb")
        expected[name] = ((0,) * 5, "gaussian_constant: not written yet")
    (folder / "honest.py").write_text(HONEST, encoding="utf-8")
    expected["honest"] = ((2, 0, 0, 0, 0), "l1_forward: there is no function l1_forward")
    (folder / "empty.py").write_text("", encoding="utf-8")
    expected["empty"] = ((0,) * 5, "gaussian_constant: there is no function")
    (folder / "syntax.py").write_text("def f(:", encoding="utf-8")
    expected["syntax"] = ((0,) * 5, "gaussian_constant: there is no function gaussian_constant (S")
    (folder / "loops.py").write_text("while True: pass", encoding="utf-8")
    expected["loops"] = ((0,) * 5, "it took too long")
    assert len(expected) == 30
    return folder, expected


@pytest.mark.parametrize(
    "jailed", [pytest.param(True, marks=jail_only, id="jailed"), pytest.param(False, id="unsafe")]
)
@pytest.mark.slow
def test_thirty_submissions(class_of_thirty, jailed, tmp_path, capsys):
    """Eight of them hostile; the table has the points that were written down beforehand."""
    folder, expected = class_of_thirty
    if not jailed:  # it can read the solution then, which is why this is called unsafe
        (folder / "reads.py").unlink()
        del expected["reads"]
    line = ["grade", str(folder), "--assignment", "1", "--csv", str(tmp_path / "table.csv")]
    line += ["--jobs", "2", "--timeout", "4", "--seed", "5"]
    assert main([*line, *([] if jailed else ["--unsafe"])]) == 0
    printed = capsys.readouterr().out
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    assert header[-2:] == ["total (22)", "what is wrong"] and len(header) == 8
    found = {name: (tuple(map(int, each[:5])), int(each[5]), each[6]) for name, *each in lines}
    assert list(found) == sorted(expected)
    for name, (wanted, words) in expected.items():
        each, total, said = found[name]
        assert sum(each) == total
        assert (each if isinstance(wanted, tuple) else total) == wanted, (name, said)
        assert words in said, (name, said)
        assert name in printed
    assert "2 x  l1_forward: the Gaussian constant C is missing" in printed
    assert "--seed 5" in printed


def test_grade_refuses_without_a_jail(tmp_path, monkeypatch, capsys):
    """In one line, before anything is run; --unsafe runs it all the same."""
    (tmp_path / "ada.py").write_text(HONEST)
    monkeypatch.setattr("lpnorm.grading.sandbox.jail_works", lambda: "this is no Linux")
    assert main(["grade", str(tmp_path), "--assignment", "1"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "this is no Linux" in captured.err and "--unsafe" in captured.err
    assert main(["grade", str(tmp_path), "--assignment", "1", "--unsafe"]) == 0
    assert "ada" in capsys.readouterr().out


def test_bad_calls_say_so_in_one_line(tmp_path, capsys):
    for folder, words in ((tmp_path / "none", "cannot read"), (tmp_path, "there is no submission")):
        assert main(["grade", str(folder), "--assignment", "1"]) == 2
        assert words in capsys.readouterr().err
    for arguments in (["--assignment", "7"], ["--seed", "x", "--assignment", "1"], []):
        with pytest.raises(SystemExit) as stop:
            main(["grade", str(tmp_path), *arguments])
        assert stop.value.code == 2
    (tmp_path / "ada.py").write_text("")
    line = [
        "grade",
        str(tmp_path),
        "--assignment",
        "1",
        "--unsafe",
        "--csv",
        f"{tmp_path}/ada.py/x",
    ]
    assert main(line) == 2 and "cannot write --csv" in capsys.readouterr().err


def test_text_from_submissions_is_harmless(tmp_path):
    """No formula for a spreadsheet, no control characters for a terminal."""
    code = 'def gaussian_constant(p):\n    raise ValueError("\\x1b[31mred\\x00")'
    result = grade(Submission("=1+1", (code,)), Plan(1, 0, Limits(), False))
    assert "red" in result.words[0] and result.words[0].isprintable()
    write_csv(tmp_path / "t.csv", [result], 1)
    assert "\n'=1+1,0" in (tmp_path / "t.csv").read_text(encoding="utf-8").replace("\r\n", "\n")


def test_common_mistakes_are_counted_by_submission():
    asked = assignment(1).questions
    wrong = tuple(mark(asked[0], Local({"gaussian_constant": lambda p: 2.0})))
    absent = tuple(mark(asked[1], Local({})))
    results = [Result(name, wrong + absent) for name in "abc"]
    ((words, count),) = common_mistakes(results)
    assert count == 3 and words.startswith("gaussian_constant: C for p = 3 is 2 instead of")
