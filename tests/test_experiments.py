"""`lpnorm reproduce`: what it writes, what it says, that it never trains twice, and its errors."""

import importlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace

import numpy as np
import pytest
from conftest import GPU_MISSING
from test_sources import TASKS

import lpnorm
from lpnorm import cli, experiments, models, nn
from lpnorm.data import Dataset, digits
from lpnorm.decay import SGD
from lpnorm.experiments import (
    bounded_weight_norm,
    constant,
    equilibrium,
    exact_step,
    half_precision,
    half_range,
    norms,
    pictures,
    runs,
    scale_invariance,
    weight_decay,
    workers,
)
from lpnorm.experiments.runs import Run, final_accuracy, norm_named, train_all

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

    monkeypatch.setattr(workers, "at_work", no_pool)
    assert train_all([TINY, TINY], tmp_path, jobs=1, progress=False) == first
    with pytest.raises(AssertionError, match="trained again"):
        train_all([replace(TINY, lr=0.2)], tmp_path, jobs=1, progress=False)
    next(tmp_path.glob("*.json")).write_text("{ damaged")
    with pytest.raises(AssertionError, match="trained again"):
        train_all([TINY], tmp_path, jobs=1, progress=False)


def test_the_constants_factor_is_the_factor():
    """¼C divides by a quarter: x_hat four times as large."""
    layers = [Run(norm="1", factor=factor).normalization()(3) for factor in (1.0, 0.25)]
    x = np.random.default_rng(0).standard_normal((16, 3)).astype("float32") * 100
    plain, quarter = (layer(x)[0] for layer in layers)
    np.testing.assert_allclose(quarter, 4 * plain, rtol=1e-5)


def test_a_run_lowers_its_learning_rate_twice(tmp_path):
    history = replace(TINY, epochs=4).train(tmp_path / "run.npz")
    sizes, norms_ = (np.array(history[key]["0.weight"]) for key in ("step_sizes", "norms"))
    rates = sizes * norms_**2
    np.testing.assert_allclose([rate[0] for rate in rates], [0.1, 0.1, 0.01, 0.001], rtol=1e-9)


def test_a_factor_needs_a_constant():
    with pytest.raises(ValueError, match="factor"):
        Run(norm="2", factor=0.25).normalization()


def test_an_output_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    given = ["reproduce", "scale-invariance", "--seeds", "1", "--out", str(tmp_path / "file" / "x")]
    assert cli.main(given) == 2
    assert "cannot write to --out" in capsys.readouterr().err


def test_the_end_of_a_training_is_after_its_middle():
    """Three epochs, but not the last three of three."""
    assert final_accuracy({"diverged": {"step": 3}, "test_accuracy": []}) == 10.0
    for curve, want in (
        ([0.1] * 9 + [0.5, 0.7, 0.9], 70),
        ([0, 0.5, 0.7, 0.9], 80),
        ([0.1, 0.5, 0.9], 90),
        ([0.4], 40),
    ):
        assert final_accuracy({"diverged": None, "test_accuracy": curve}) == pytest.approx(want)


def test_scale_invariance_is_measured(tmp_path):
    options = experiments.Options(out=tmp_path, seeds=2, progress=False)
    result = scale_invariance.measure(options)
    assert {finding.shows for finding in result.findings} == {"yes"}
    assert set(result.figures["norms"]) == set(scale_invariance.NORMS)
    for figures in result.figures["norms"].values():
        assert figures["slope"] == pytest.approx(2, abs=0.05)
        norms_ = np.array(figures["gradient_norms"]) * scale_invariance.SCALES
        np.testing.assert_allclose(norms_, norms_[0], rtol=1e-10)


def in_process(self, tasks):
    """In place of Options.train: no workers, and nothing is kept."""
    return {task: task.train(None) for task in tasks}


def small(self, kind=Run, **settings):
    """In place of Options.trainings: narrow networks and few steps."""
    common = {"epochs": self.epochs, "device": self.device, "width": 2, "batch": 256}
    return [kind(seed=seed, **(common | settings)) for seed in range(self.seeds)]


@pytest.mark.slow
def test_the_whole_command(tmp_path, capsys, monkeypatch):
    """Every claim, one seed and one epoch: files, table, and nothing but NaN-free JSON."""
    monkeypatch.setattr(experiments.Options, "trainings", small)
    monkeypatch.setattr(constant, "SIZES", [64, 4096])
    monkeypatch.setattr(exact_step, "NORMS", ["1", "2", "inf"])
    monkeypatch.setattr(exact_step, "STEPS", 20)
    monkeypatch.setattr(equilibrium, "STEPS", 100)
    monkeypatch.setattr(scale_invariance, "NORMS", ["2", "inf"])  # all of them in the test above
    given = ["reproduce", "--seeds", "1", "--epochs", "1", "--jobs", "1", "--no-progress"]
    assert cli.main([*given, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for name in [name for name, claim in experiments.CLAIMS.items() if claim.by_default]:
        assert name in out
        record = json.loads((tmp_path / f"{name}.json").read_text())
        assert record["command"].startswith("lpnorm reproduce --seeds 1")
        assert record["versions"]["numpy"] == np.__version__ and record["seeds"] == [0]
        assert record["figures"] and record["configuration"] and record["findings"]
        assert {f["shows"] for f in record["findings"]} == {"cannot say"}  # one seed
        assert record["how_to_read"] == experiments.RULE
        assert record["configuration"]["impl"] == models.implementation().__name__
        look_at(experiments.CLAIMS[name], record["figures"])
        picture = (tmp_path / f"{name}.png").read_bytes()
        assert picture[:4] == b"\x89PNG" and len(picture) > 20_000
    assert not list(tmp_path.glob(".*")), "temporary files left"
    assert " ".join(experiments.RULE.split()) in " ".join(out.split())
    assert set(json.loads((tmp_path / "norms.json").read_text())["figures"]["arms"]) == set(
        norms.ARMS
    )


def look_at(claim, figures):
    """What holds of every picture: no legend on the data, plain ticks, no crowd without labels."""
    with pictures.new_figure() as figure:
        claim.draw(figure, figures)
        figure.canvas.draw()
        for axes in figure.axes:
            assert axes.get_legend() is None, "a legend may cover the data"
            both = (*axes.xaxis.get_ticklabels(), *axes.yaxis.get_ticklabels())
            ticks = [text.get_text() for text in both]
            assert any(ticks) and not any("times" in text or "$" in text for text in ticks), ticks
            solid = [line for line in axes.lines if line.get_linestyle() == "-"]
            curves = [line for line in solid if len(line.get_xdata()) > 2]
            assert len(curves) <= 4 or len(axes.texts) >= len(curves), "unlabelled lines"
        box = figure.get_tightbbox(figure.canvas.get_renderer())
        width, height = figure.get_size_inches()
        over = (-box.x0, box.x1 - width, -box.y0, box.y1 - height)
        assert max(over) < 0.05, "something hangs over the edge"


def test_laws_are_kept_as_trainings_are_and_done_by_jobs(tmp_path, monkeypatch):
    """Claims that train nothing: a worker each, progress, and nothing a second time."""
    monkeypatch.setattr(scale_invariance, "NORMS", ["1", "2"])
    monkeypatch.setattr(exact_step, "NORMS", ["2"])
    monkeypatch.setattr(equilibrium, "SETTINGS", equilibrium.SETTINGS[:1])
    monkeypatch.setattr(equilibrium, "ON_DIGITS", [])
    monkeypatch.setattr(equilibrium, "STEPS", 20)
    asked, original = [], workers.at_work

    def counted(calls, jobs):
        asked.append((len(calls), jobs))
        return original(calls, jobs)

    monkeypatch.setattr(workers, "at_work", counted)
    options = experiments.Options(out=tmp_path, seeds=2, progress=False)
    for claim in (scale_invariance, exact_step):
        first = claim.measure(options)
        assert repr(claim.measure(options)) == repr(first)
    assert asked == [(4, 2), (2, 2)]
    assert len(list((tmp_path / "runs").glob("*.json"))) == 6


@pytest.mark.slow
def test_the_verdict_on_equation_4_does_not_depend_on_quick(tmp_path, monkeypatch):
    """It was "no" with two seeds and "yes" with five."""
    monkeypatch.setattr(exact_step, "NORMS", ["inf"])
    for seeds in (2, 5):
        options = experiments.Options(out=tmp_path, seeds=seeds, progress=False)
        assert {finding.shows for finding in exact_step.measure(options).findings} == {"yes"}


@pytest.mark.parametrize(
    "norm",
    [
        norm if norm in ("1", "2", "inf") else pytest.param(norm, marks=pytest.mark.slow)
        for norm in exact_step.NORMS
    ],
)
def test_the_exact_factor_is_exact(norm):
    """Float64, no momentum, eps = 0, only the scale-invariant weight decayed; 200 steps."""
    errors = exact_step.compare_arms(norm, seed=3, device="cpu")
    assert len(errors["exact"]) == 200
    assert max(errors["exact"]) < 1e-12
    assert max(errors["growing"]) < 1e-10
    # equation (4) alone leaves lr * decay of every step, about lr decay times the angle turned
    assert 1e-6 < errors["equation (4)"][9] < 1e-2 < errors["no decay"][-1]
    assert max(errors["equation (4)"]) < 0.2 * max(errors["no decay"])


@pytest.mark.parametrize("setting", equilibrium.SETTINGS)
def test_equilibrium_norm_and_angle_within_three_percent(setting):
    measured = equilibrium.random_gradients(*setting, seed=1)
    assert measured["norm"] == pytest.approx(measured["predicted_norm"], rel=0.03)
    assert measured["angle"] == pytest.approx(measured["predicted_angle"], rel=0.03)


def test_before_step_comes_before_each_step_and_after_each_evaluation():
    model, seen = TINY.model(), []
    first = model.parameters()[0]
    sgd = SGD(model.parameters(), 0.1)

    def before(step, epoch):
        seen.append(("before", step, epoch, first.data.sum()))

    def after(step, epoch):
        seen.append(("after", step, epoch, first.data.sum()))

    two = replace(TINY, epochs=2)
    two.fit(model, sgd, None, before_step=before, after_step=after)
    steps = 1437 // TINY.batch
    places = [(when, s, s // steps) for s in range(2 * steps) for when in ("before", "after")]
    assert [each[:3] for each in seen] == places
    assert seen[0][3] != seen[1][3] and seen[1][3] == seen[2][3]


def test_the_four_arms_of_weight_decay(tmp_path):
    """One short study: the corrected and the scheduled arm have the step sizes of decay."""
    study = weight_decay.Study(epochs=4, weight_decay=0.05, width=4, batch=128)
    arms = study.train(tmp_path / "study.npz")
    sizes = {arm: np.array(arms[arm]["step_size"]) for arm in weight_decay.ARMS}
    np.testing.assert_allclose(sizes["corrected"], sizes["decay"], rtol=1e-12)
    np.testing.assert_allclose(sizes["norm schedule"], sizes["decay"], rtol=0.02)
    assert sizes["decay"][-1] > 1.5 * sizes["no decay"][-1]
    norms = {arm: np.array(arms[arm]["norm"]) for arm in weight_decay.ARMS}
    assert norms["decay"][-1] < 0.8 * norms["no decay"][-1]
    # the schedule drops after epochs 2 and 3: norms a factor sqrt(10) and 10 above the record
    ratio = norms["norm schedule"] / norms["decay"]
    np.testing.assert_allclose(ratio[[1, 2, 3]], [1, 10**0.5, 10], rtol=0.02)
    # the end of epoch 2 is evaluated at the norm of its steps, and not at that of epoch 3
    ends = {arm: np.array(arms[arm]["norms"]["0.weight"]) for arm in ("decay", "norm schedule")}
    np.testing.assert_allclose(ends["norm schedule"][1] / ends["decay"][1], 1, rtol=0.1)
    assert not list(tmp_path.glob("*.tmp")) and len(list(tmp_path.glob("study-*.npz"))) == 4


@pytest.mark.parametrize(
    ("task", "watcher", "calls"),
    [
        # in the second epoch of the first arm, which goes on with its second; and of the fourth
        (weight_decay.Study(epochs=2, width=2, batch=256), weight_decay.Turns, (7, 7 + 32)),
        (equilibrium.OnDigits(epochs=4, width=2, batch=256), equilibrium.Watch, (17,)),
    ],
)
def test_what_a_study_measures_survives_interruptions(tmp_path, monkeypatch, task, watcher, calls):
    whole = task.train(tmp_path / "whole.npz")
    original, seen = watcher.__call__, []

    def interrupted(self, step, epoch):
        seen.append(step)
        if len(seen) in calls:
            raise KeyboardInterrupt
        original(self, step, epoch)

    monkeypatch.setattr(watcher, "__call__", interrupted)
    for left in range(len(calls), 0, -1):
        with pytest.raises(KeyboardInterrupt):
            task.train(tmp_path / "broken.npz")
        assert len(list(tmp_path.glob("broken*.npz"))) == (4 if left == 1 < len(calls) else 1)
    assert task.train(tmp_path / "broken.npz") == whole


@pytest.mark.parametrize("module", TASKS)
@pytest.mark.filterwarnings("error")
def test_every_task_computes_with_lpnorm_fast_and_gives_what_the_plain_code_gives(
    tmp_path, monkeypatch, module
):
    fast, plain = pytest.importorskip("lpnorm.fast", exc_type=ImportError), nn.BatchNorm(3).impl
    there = vars(importlib.import_module(f"lpnorm.experiments.{module}"))

    def results(impl, other):
        """Of every small task, where nothing may call the other implementation."""

        def refused(*_, **__):
            raise AssertionError(f"{other.__name__} was called")

        with monkeypatch.context() as patched:
            patched.setattr(models, "implementation", lambda: impl)
            for name in fast.__all__:
                if getattr(impl, name) is not getattr(other, name):  # the loss is one for both
                    patched.setattr(other, name, refused)
            paths = (tmp_path / f"{impl.__name__}{i}.npz" for i in itertools.count())
            return [eval(text, there).train(next(paths)) for text in TASKS[module]]

    assert models.implementation() is fast
    assert repr(results(fast, plain)) == repr(results(plain, fast))


def test_a_key_is_of_an_implementation_too(monkeypatch):
    key = TINY.key()
    other = types.ModuleType("lpnorm.other")
    monkeypatch.setattr(models, "implementation", lambda: other)
    assert TINY.key() != key


def watched(layers, steps):
    """A Watch of this many weights of different shapes, after this many steps."""
    rng = np.random.default_rng(0)
    weights = [nn.Parameter(rng.standard_normal((2, 3 + i)), f"{i}") for i in range(layers)]
    watch = equilibrium.Watch([(weight, 0) for weight in weights], first=1)
    for step in range(steps):
        for weight in weights:
            weight.grad = rng.standard_normal(weight.data.shape)
            weight.data = weight.data - 0.1 * weight.grad
        watch(step, 0)
    return watch


@pytest.mark.parametrize("steps", [0, 1, 2, 4])  # nothing is measured in the first
def test_a_watch_of_many_weights_goes_on_as_if_nothing_had_happened(steps):
    """As strings "10" comes before "2"."""
    whole, again = watched(12, steps), watched(12, 3)
    again.parameters = whole.parameters
    again.load_state(whole.state())
    for parameter in whole.parameters:
        parameter.grad = np.ones(parameter.data.shape)
        parameter.data = 2 * parameter.data + 1
    for watch in (whole, again):
        watch(9, 0)
    one, other = whole.state(), again.state()
    assert list(one) == list(other) and len(one) == 4 + 12
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_a_watchers_state_is_whole_or_refused():
    model = TINY.model()
    for watcher in (
        watched(2, 3),
        weight_decay.Turns(nn.scale_invariant(model)),
        half_precision.FirstBroken(model),
    ):
        state = watcher.state()
        watcher.load_state(state)
        for name in state:
            less = {other: array for other, array in state.items() if other != name}
            with pytest.raises(ValueError, match=f"state has no entry '{name}'"):
                watcher.load_state(less)
        with pytest.raises(ValueError, match="unknown entry 'more'"):
            watcher.load_state(state | {"more": np.zeros(1)})


@pytest.mark.parametrize("arm", list(bounded_weight_norm.ARMS))
def test_every_arm_of_bounded_weight_norm_trains(tmp_path, arm):
    run = replace(TINY, epochs=2, width=8, batch=64, **bounded_weight_norm.ARMS[arm])
    history = run.train(tmp_path / "run.npz")
    assert history["diverged"] is None and history["test_accuracy"][-1] > 0.3
    assert history["loss"][-1] < history["loss"][0]


def test_only_the_last_layer_is_decayed():
    model = TINY.model()
    groups = runs.last_layer_decayed(model, 0.5)
    names = {p.name: group.get("weight_decay", 0) for group in groups for p in group["params"]}
    last = len(model) - 1
    assert {n for n, decay in names.items() if decay} == {f"{last}.weight", f"{last}.bias"}
    assert len(names) == len(model.parameters())


@pytest.mark.slow
def test_a_killed_reproduce_goes_on_and_a_second_call_trains_nothing(tmp_path, monkeypatch):
    command = [sys.executable, "-m", "lpnorm.cli", "reproduce", "norms", "--out", str(tmp_path)]
    command += ["--seeds", "1", "--epochs", "3", "--jobs", "2", "--no-progress"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "runs").glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)  # it alone: its workers must notice
    process.communicate(timeout=30)  # ends when nobody holds its standard error any more
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.json")}
    assert kept and not (tmp_path / "norms.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(finished) == len(norms.ARMS)  # one file each, and no checkpoint left
    assert all(finished[path] == when for path, when in kept.items())
    figures = json.loads((tmp_path / "norms.json").read_text())["figures"]
    monkeypatch.setattr(workers, "ProcessPoolExecutor", None)
    assert cli.main(command[3:]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()} == finished
    assert json.loads((tmp_path / "norms.json").read_text())["figures"] == figures


def test_a_log_and_an_ascii_terminal_can_be_read(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "60"}
    command = ["-m", "lpnorm.cli", "reproduce", "bounded-weight-norm", "--seeds", "1"]
    command += ["--epochs", "1", "--jobs", "1"]
    done = run(*command, "--out", str(tmp_path), env=environment)
    assert done.returncode == 0, done.stderr
    assert "\r" not in done.stderr and "run" in done.stderr
    assert max(len(line) for line in done.stdout.splitlines()[:-1]) <= 60


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


@pytest.mark.skipif(not GPU_MISSING, reason="there is a GPU here")
def test_device_gpu_without_one_is_one_line(tmp_path):
    """In a process of its own, where no stand-in is loaded."""
    done = run("-m", "lpnorm.cli", "reproduce", "--device", "gpu", "--out", str(tmp_path / "x"))
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
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["runs", "scale-invariance.json"]


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_keep_what_is_finished(tmp_path, way):
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
    os.killpg(process.pid, way)  # what a terminal or a job scheduler does: the whole group
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in error
    assert "Traceback" not in error and "leaked" not in error, error
    assert list((tmp_path / "runs").glob("*.json"))
    assert not list(tmp_path.glob("*.json"))


# --- half precision -------------------------------------------------------------------------------


def test_the_prediction_knows_the_limits_of_float16():
    """Borders one can work out by hand, on both sides; exponents of the scale and of n."""
    tolerance, predicted = half_range.TOLERANCE, half_range.predicted_error

    def holds(name, dtype, order, exponent, size):
        return predicted(name, dtype, order, exponent, size) <= tolerance

    for dtype in ("float32", "float16"):  # the squares, whatever the accumulator: 256^2 > 65,504
        assert holds("L2", dtype, "pairwise_mean", 6, 10)
        assert not holds("L2", dtype, "pairwise_mean", 8, 10)
        assert not holds("L2", dtype, "pairwise_mean", -13, 10)
        assert holds("L1", dtype, "pairwise_mean", 14, 10)
    # 100,352 |N(0, 1)| (NUMERICS.md) overflow a float16 sum: between 2^16 and 2^17 at scale 1
    assert holds("L1", "float16", "pairwise", 0, 16) and not holds(
        "L1", "float16", "pairwise", 0, 17
    )
    assert holds("L1", "float32", "pairwise", 0, 17)
    # one after another: 8,192 values give about 4,500 of the 6,570 they should (untruncated)
    assert not holds("L1", "float16", "sequential", 0, 13)
    gaussian = np.abs(np.random.default_rng(0).standard_normal(10**5))
    assert half_range._one_after_another(gaussian, 8192) == pytest.approx(4500, rel=0.03)
    assert holds("L∞", "float16", "sequential", 0, 20)
    assert holds("Range", "float32", "pairwise", 14, 6)  # max - min is twice the largest |d|
    assert not holds("Range", "float16", "pairwise_mean", 15, 6)
    assert holds("Top-10", "float16", "pairwise", 10, 6)  # ten terms, so ten times the largest
    assert not holds("Top-10", "float16", "pairwise", 13, 6)


def test_the_stall_is_predicted_as_it_is_measured():
    from lpnorm import Accumulate

    x = np.abs(np.random.default_rng(1).standard_normal((4, 2**15))).astype("float16")
    terms = np.abs(np.random.default_rng(2).standard_normal(10**5))
    for n in (2**10, 2**12, 2**14, 2**15):
        measured = Accumulate("float16", "sequential").total(x[:, :n]).mean()
        assert half_range._one_after_another(terms, n) == pytest.approx(measured, rel=0.02)


@pytest.mark.slow
def test_half_range(tmp_path, monkeypatch):
    """All of the quick look, of some accumulators."""
    monkeypatch.setattr(half_range, "ACCUMULATORS", [("float32", "pairwise_mean"), *HALVES])
    given = [
        "reproduce",
        "half-range",
        "--quick",
        "--seeds",
        "1",
        "--out",
        str(tmp_path),
        "--no-progress",
    ]
    assert cli.main(given) == 0
    record = json.loads((tmp_path / "half-range.json").read_text())
    assert (tmp_path / "half-range.png").stat().st_size > 20_000
    for cell in record["figures"]["cells"].values():
        (wrong,) = cell["disagreements"]
        cells = wrong.pop("cells")
        assert cells > 55 and sum(wrong.values()) < 0.035 * cells
    span = record["figures"]["cells"]
    assert len(span["L2, float32, pairwise_mean"]["holds_at"]) < 20
    assert len(span["L1, float16, pairwise_mean"]["holds_at"]) > 28


HALVES = [("float16", "pairwise"), ("float16", "sequential"), ("float16", "pairwise_mean")]


def few(self):
    return Dataset(*(part[:640] for part in vars(digits(self.dtype)).values()))


def test_half_precision(tmp_path, monkeypatch):
    """One seed and ten steps of the setting in which L2 fails at once."""
    monkeypatch.setattr(half_precision, "SETTINGS", ("decay",))
    monkeypatch.setattr(experiments.Options, "train", in_process)
    monkeypatch.setattr(runs.Training, "digits", few)
    given = ["reproduce", "half-precision", "--epochs", "1", "--seeds", "1", "--no-progress"]
    assert cli.main([*given, "--out", str(tmp_path)]) == 0
    arms = json.loads((tmp_path / "half-precision.json").read_text())["figures"]["decay"]
    assert len(arms) == 9
    for name, arm in arms.items():
        (diverged,) = arm["diverged"]
        if name.startswith("L2 float16"):
            assert diverged["step"] < 2  # in the first norm, or the weights before it
            assert any(w in diverged["where"] for w in ("layer 1 (BatchNorm)", "0.weight"))
        else:
            assert diverged is None and arm["loss"][0][0] < 3.0


def test_an_infinite_scale_is_noticed_with_its_layer():
    """Raw pixels: d^2 overflows, x_hat is 0, and no loss is ever infinite."""
    run = half_precision.HalfRun(setting="pixels", epochs=1, width=2, batch=512)
    found = run.train(None)
    assert found["diverged"] is None
    assert found["broken"]["step"] == 0 and "layer 1 (BatchNorm)" in found["broken"]["where"]
    l1 = replace(run, norm="1", accumulate="float16").train(None)
    assert l1["broken"] is None and l1["diverged"] is None


def test_a_quarter_of_the_constant_before_another_norm_changes_no_convolution():
    """¼ is a power of two: not one bit; in the last norm nearly everything changes."""
    kept, last = (constant.Change(factor=f).train(None) for f in constant.PLACES.values())
    assert kept == {"loss": 0, "convolutions": 0, "last": 0}
    assert min(last.values()) > 0.1
