"""`lpnorm reproduce`: what it writes, what it says, that it never trains twice, and its errors."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

import lpnorm
from lpnorm import cli, experiments
from lpnorm.experiments import constant, norms, report, runs, scale_invariance
from lpnorm.experiments.runs import Run, difference, final_accuracy, norm_named, train_all

TINY = Run(epochs=1, width=2, batch=256)


def test_norm_names():
    named = [norm_named(name) for name in ("1", "2", "1.5", "inf", "top10", "range")]
    assert named == [1, 2, 1.5, math.inf, lpnorm.TopK(10), lpnorm.Range()]
    for wrong in ("0.5", "top", "top0", "l2", "nan"):
        with pytest.raises(ValueError, match="p must"):
            norm_named(wrong)


def test_a_run_is_the_same_every_time_and_for_any_number_of_jobs(tmp_path):
    trainings = [replace(TINY, seed=seed) for seed in (0, 1)]
    one = train_all(trainings, tmp_path / "a", jobs=1, progress=False)
    two = train_all(trainings, tmp_path / "b", jobs=2, progress=False)
    assert one == two
    assert one[trainings[0]] != one[trainings[1]]


def test_finished_runs_are_not_trained_again(tmp_path, monkeypatch):
    first = train_all([TINY], tmp_path, jobs=1, progress=False)

    def no_pool(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(runs, "ProcessPoolExecutor", no_pool)
    assert train_all([TINY, TINY], tmp_path, jobs=1, progress=False) == first
    with pytest.raises(AssertionError, match="trained again"):
        train_all([replace(TINY, lr=0.2)], tmp_path, jobs=1, progress=False)
    next(tmp_path.glob("*.json")).write_text("{ damaged")
    with pytest.raises(AssertionError, match="trained again"):
        train_all([TINY], tmp_path, jobs=1, progress=False)


def test_the_constants_factor_is_the_factor():
    """¼C divides by a quarter: x_hat four times as large."""
    layers = [runs._normalization(Run(norm="1", factor=factor))(3) for factor in (1.0, 0.25)]
    x = np.random.default_rng(0).standard_normal((16, 3)).astype("float32") * 100
    plain, quarter = (layer(x)[0] for layer in layers)
    np.testing.assert_allclose(quarter, 4 * plain, rtol=1e-5)


def test_differences_and_verdicts():
    mean, half = difference([3.0, 4.0, 5.0], [1.0, 3.0, 2.0])
    assert mean == pytest.approx(2) and half == pytest.approx(4.30 / math.sqrt(3), rel=1e-3)
    assert difference([1.0], [0.0])[1] == math.inf
    assert [report.compare(*d) for d in ((1, 0.5), (-1, 0.5), (1, 2))] == [
        "yes",
        "no",
        "within noise",
    ]
    assert final_accuracy({"diverged": {"step": 3}, "test_accuracy": []}) == 10.0
    assert final_accuracy({"diverged": None, "test_accuracy": [0, 0.5, 0.7, 0.9]}) == (
        pytest.approx(70)
    )


def test_scale_invariance_is_measured():
    result = scale_invariance.measure(experiments.Options(out=None, seeds=1))
    assert {finding.shows for finding in result.findings} == {"yes"}
    assert set(result.figures["norms"]) == set(scale_invariance.NORMS)
    for figures in result.figures["norms"].values():
        assert figures["slope"] == pytest.approx(2, abs=0.05)
        norms_ = np.array(figures["gradient_norms"]) * scale_invariance.SCALES
        np.testing.assert_allclose(norms_, norms_[0], rtol=1e-10)


def test_the_whole_command(tmp_path, capsys, monkeypatch):
    """Every claim, one seed and one epoch: files, table, and nothing but NaN-free JSON."""
    monkeypatch.setattr(constant, "SIZES", [64, 4096])
    given = ["reproduce", "--seeds", "1", "--epochs", "1", "--out", str(tmp_path), "--no-progress"]
    assert cli.main(given) == 0
    out = capsys.readouterr().out
    for name in experiments.CLAIMS:
        assert name in out
        record = json.loads((tmp_path / f"{name}.json").read_text())
        assert record["command"].startswith("lpnorm reproduce --seeds 1")
        assert record["versions"]["numpy"] == np.__version__ and record["seeds"] == [0]
        assert record["figures"] and record["configuration"] and record["findings"]
        assert {f["shows"] for f in record["findings"]} <= {"yes", "no", "within noise"}
        picture = (tmp_path / f"{name}.png").read_bytes()
        assert picture[:4] == b"\x89PNG" and len(picture) > 20_000
    assert not list(tmp_path.glob(".*")), "temporary files left"
    assert set(json.loads((tmp_path / "norms.json").read_text())["figures"]["arms"]) == set(
        norms.ARMS
    )


def test_list_help_and_bad_calls(capsys):
    assert cli.main(["reproduce", "--list"]) == 0
    assert capsys.readouterr().out.count("\n") == len(experiments.CLAIMS)
    assert cli.main(["reproduce", "nonsense"]) == 2
    error = capsys.readouterr().err
    assert "nonsense" in error and "scale-invariance" in error and error.count("\n") == 1
    for bad in (["--seeds", "0"], ["--epochs", "x"], ["--jobs", "-1"], ["--device", "tpu"]):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["reproduce", *bad])
        assert exit_.value.code == 2 and bad[0] in capsys.readouterr().err


def run(*command, **settings):
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, **settings
    )


def test_device_gpu_without_one_is_one_line(tmp_path):
    """In a process of its own, where no stand-in is loaded."""
    done = run("-m", "lpnorm.cli", "reproduce", "--device", "gpu", "--out", str(tmp_path / "x"))
    if done.returncode == 0:
        pytest.skip("there is a GPU here")
    assert done.returncode == 2 and not (tmp_path / "x").exists()
    assert done.stderr.startswith("lpnorm: no GPU: ") and done.stderr.count("\n") == 1
    assert any(what in done.stderr for what in ("package", "driver", "device", "NVRTC"))


def test_without_matplotlib_there_is_data_and_a_word(tmp_path):
    script = (
        "import sys, importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'matplotlib' else real(name, *a)\n"
        "from lpnorm import cli\n"
        "names = ['reproduce', 'scale-invariance', '--seeds', '1', '--out', sys.argv[1]]\n"
        "sys.exit(cli.main(names))"
    )
    done = run("-c", script, str(tmp_path))
    assert done.returncode == 0 and "matplotlib is not installed" in done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["scale-invariance.json"]


def test_ctrl_c_keeps_what_is_finished(tmp_path):
    command = [sys.executable, "-m", "lpnorm.cli", "reproduce", "norms", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--seeds", "1", "--epochs", "2", "--jobs", "1", "--no-progress"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "runs").glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the whole group
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in error
    assert "Traceback" not in error, error
    assert list((tmp_path / "runs").glob("*.json"))
    assert not list(tmp_path.glob("*.json"))
