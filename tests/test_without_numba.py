"""Without Numba: one line says what to install, and everything of ours runs the plain code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lpnorm
from lpnorm import models, plain

MISSING = """raise ModuleNotFoundError("No module named {0!r}", name={0!r})"""
TOO_OLD = """raise ImportError("Numba needs NumPy 2.3 or less. Got NumPy 9.9.")"""


@pytest.fixture
def without(tmp_path):
    """Run a script where a package is missing, or broken, for its child processes, too."""

    def run(package, script, content=MISSING):
        broken = tmp_path / package
        broken.mkdir()
        (broken / f"{package}.py").write_text(content.format(package))
        path = os.pathsep.join([str(broken), str(Path(lpnorm.__file__).parents[1])])
        return subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
        )

    return run


@pytest.mark.parametrize("script", ["import lpnorm.fast", "from lpnorm import fast"])
@pytest.mark.parametrize("package", ["numba", "platformdirs", "llvmlite"])
def test_what_to_install(without, package, script):
    if package != "numba":
        pytest.importorskip("numba")  # else that is what is missing first
    done = without(package, script)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    if package == "llvmlite":  # Numba says in its own words what is wrong
        assert last.startswith("ImportError: lpnorm.fast ")
    else:
        assert last.startswith(f"ImportError: lpnorm.fast needs {package}: ")
    assert 'pip install "lpnorm[fast]"' in last


def test_a_numba_that_does_not_load(without):
    done = without("numba", "import lpnorm.fast", TOO_OLD)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and done.stderr.count("Traceback") == 1, done.stderr
    assert "Numba needs NumPy 2.3 or less" in last and 'pip install "lpnorm[fast]"' in last


def test_a_mistake_of_our_own_is_not_taken_for_it(without, tmp_path):
    script = """
import sys
from types import ModuleType
sys.modules["lpnorm.fast.cpu"] = ModuleType("lpnorm.fast.cpu")
import lpnorm.fast
"""
    done = without("nothing", script)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "cannot import name 'LOOPS'" in last and "pip" not in last


@pytest.mark.parametrize("content", [MISSING, TOO_OLD], ids=["missing", "broken"])
def test_the_implementation_is_the_plain_one_and_says_so(without, content):
    script = """
from lpnorm import models, plain
assert models.implementation() is models.implementation() is plain
"""
    done = without("numba", script, content)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "lpnorm.fast" in done.stderr and "the plain code" in done.stderr


def test_the_implementation_is_the_fast_one(capsys):
    pytest.importorskip("lpnorm.fast", exc_type=ImportError)
    models.implementation.cache_clear()
    assert models.implementation() is lpnorm.fast
    assert capsys.readouterr().err == ""


HALF = """
import json
from pathlib import Path
from lpnorm import experiments
from lpnorm.experiments import half_precision
if __name__ == "__main__":
    half_precision.SETTINGS, half_precision.NAMES = ("natural",), ("L1",)
    half_precision._findings = lambda figures: []
    options = experiments.Options(Path("out"), seeds=1, epochs=1, jobs=2, progress=False)
    experiments.reproduce(half_precision.CLAIM, options, "")
    record = json.loads(Path("out", "half-precision.json").read_text())
    print(record["configuration"]["impl"], len(record["figures"]["natural"]))
    print(record["figures"]["natural"]["L1 float16, float16 sums"]["loss"])
"""


@pytest.mark.slow
def test_an_experiment_says_which_it_used(without):
    """On stderr once, not once a worker, and in its JSON; the figures are the same."""
    slow = without("numba", HALF)
    assert slow.returncode == 0, slow.stderr
    assert slow.stderr.count("the plain code") == 1, slow.stderr
    used, loss = slow.stdout.splitlines()
    assert used == "lpnorm.plain 3"
    pytest.importorskip("lpnorm.fast", exc_type=ImportError)
    fast = without("nothing", HALF)  # in the same folder: what is stored is not taken for it
    assert fast.returncode == 0, fast.stderr
    assert fast.stdout.splitlines() == ["lpnorm.fast 3", loss]
    assert "the plain code" not in fast.stderr


def test_plain_is_plain():
    """What `impl=None` means in a layer is what is fallen back to."""
    assert lpnorm.nn.BatchNorm(3).impl is plain
