"""`lpnorm bench`: contestants compute the same, figures add up, errors are clear. No time judged.

What needs Numba or PyTorch is left out where they are not installed, as the command itself does.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import types

import numpy as np
import pytest

from lpnorm import models, nn
from lpnorm.bench import clock, command, machine, memory, picture, report, steps
from lpnorm.bench.contestants import (
    COPY,
    TORCH,
    TORCH_L1,
    WHO,
    Entry,
    Problem,
    installed,
    lineup,
    norm_name,
    prepare,
)
from lpnorm.cli import main
from lpnorm.decay import SGD
from lpnorm.experiments.report import have_matplotlib
from lpnorm.norms import Range, TopK

FAST = not isinstance(installed("lpnorm.fast"), str)
PYTORCH = not isinstance(installed("torch"), str)
MISSING = ([] if FAST else ["fast", "reused"]) + ([] if PYTORCH else ["torch"])
PRESENT = [who for who in WHO if who not in MISSING]
NORMS = [1, 2, math.inf, Range(), TopK(3)]
PNG = b"\x89PNG\r\n"


@pytest.fixture(autouse=True)
def quick_and_alone(monkeypatch):
    """No pauses, and the numbers of threads are afterwards what they were."""
    monkeypatch.setattr(clock, "PAUSE", 0)
    monkeypatch.setattr(machine, "others_during_a_pause", lambda: 0.0)
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        if not os.environ[name]:
            monkeypatch.delenv(name)
    torch, threads = installed("torch"), installed("lpnorm.threads")
    before = torch.get_num_threads() if PYTORCH else 1
    yield
    if PYTORCH:
        torch.set_num_threads(before)
    if FAST:
        threads.use(None)


def bench(*arguments):
    return main(["bench", "--no-progress", *map(str, arguments)])


def numpy(results):
    return [np.asarray(v, dtype=np.float64) for v in results]


@pytest.mark.parametrize("norm", NORMS, ids=norm_name)
@pytest.mark.parametrize(
    ("shape", "layer"),
    [((6, 3, 4, 5), "batch_norm"), ((130, 5), "batch_norm"), ((7, 33), "layer_norm")],
)
def test_contestants_compute_the_same(shape, layer, norm):
    problem = Problem(shape, layer, "float64")
    entries = [e for e in lineup(problem, [norm], PRESENT) if e != COPY]
    results = {e: numpy(call()) for e, call in prepare(problem, [2, norm], entries).items()}
    want = results[Entry("plain", norm_name(norm))]
    for entry, got in results.items():
        if entry == TORCH and norm != 2:
            continue
        for name, a, b in zip(("y", "dx", "dgamma", "dbeta"), got, want, strict=True):
            assert a.shape == b.shape, (entry, name)
            if entry.who in ("fast", "reused"):
                assert np.array_equal(a, b), (entry, name)
            assert a == pytest.approx(b, rel=1e-9, abs=1e-9), (entry, name)
    assert {e.who for e in results} == set(PRESENT)
    assert (TORCH_L1 in results) == (norm == 1 and PYTORCH)


@pytest.mark.slow
def test_contestants_in_float16_compute_the_same():
    problem = Problem((6, 3, 4, 5), "batch_norm", "float16", "float16")
    entries = [e for e in lineup(problem, [1, 2], PRESENT) if e != COPY]
    assert not any(e.who == "naive" or e == TORCH_L1 for e in entries)
    results = {e: numpy(call()) for e, call in prepare(problem, [1, 2], entries).items()}
    for entry, got in results.items():
        for a, b in zip(got, results[Entry("plain", entry.norm)], strict=True):
            tolerance = 0 if entry.who in ("fast", "reused") else 0.05
            assert a == pytest.approx(b, rel=tolerance, abs=tolerance), entry


def test_outputs_are_reused_or_fresh():
    problem = Problem((40, 3, 16, 16))
    entries = [e for e in lineup(problem, [1], ["plain", *(["fast", "reused"] if FAST else [])])]
    for entry, call in prepare(problem, [1], entries).items():
        if entry != COPY:
            first, second = call(), call()
            for a, b in zip(first[:2], second[:2], strict=True):
                assert np.shares_memory(a, b) == (entry.who == "reused"), entry


def test_the_order_of_calls():
    """In turn, and before each timed call a pause and an untimed one."""
    log = []
    now = iter(range(1000))
    fake = types.SimpleNamespace(
        sleep=lambda s: log.append("pause"),
        perf_counter=lambda: log.append("clock") or next(now),
    )
    calls = {name: (lambda name=name: log.append(name)) for name in ("a", "b")}
    times, ticks = {}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "time", fake)
        clock.take_turns(calls, 2, times, lambda: ticks.append(1))
    one = [["pause", name, "clock", name, "clock"] for name in ("a", "b")]
    assert log == [*one[0], *one[1]] * 2
    assert times == {"a": [1, 1], "b": [1, 1]} and len(ticks) == 4


def test_ratios_are_those_of_a_round():
    problem = Problem((4, 2))
    times = {
        COPY: [1.0, 1.0, 2.0],
        TORCH: [10.0, 20.0, 40.0],
        TORCH_L1: [100.0, 100.0, 100.0],
        Entry("plain", "L1"): [40.0, 40.0, 40.0],
        Entry("fast", "L1"): [5.0, 5.0, 10.0],
    }
    case = report.case(problem, times)
    fast = report.find(case, "fast", "L1")
    assert fast["median_seconds"] == 5.0 and fast["ns_per_element"] == 5e9 / 8
    assert fast["over_reference"] == {"median": 0.25, "lowest": 0.25, "highest": 0.5}
    assert fast["over_torch_l1"] == {"median": 0.05, "lowest": 0.05, "highest": 0.1}
    assert fast["over_plain"]["median"] == 0.125 and fast["copies_of_x"]["median"] == 5.0
    assert "0.25 (0.25-0.50)" in report.table([case]) and "PyTorch" in report.table([case])
    without = report.case(problem, {k: v for k, v in times.items() if k not in (TORCH, TORCH_L1)})
    assert report.find(without, "fast", "L1")["over_reference"]["median"] == 0.125
    assert "over the plain code" in report.table([without])
    assert "1 (4e+04 ms)" in report.table([without]) and report.norms_of(case) == ["L1", "L2"]
    half = report.case(Problem((4, 2), dtype="float16"), times)
    assert report.find(half, "fast", "L1")["over_reference"]["median"] == 0.125


def test_table_json_and_picture(tmp_path, capsys):
    given = ["--shape", 8, 4, 4, 4, "--shape", 16, 8, "--norm", "1", "--norm", "top10"]
    assert bench(*given, "--rounds", 3, "--threads", 1, "--out", tmp_path) == 0
    record = json.loads((tmp_path / "bench_table_float32.json").read_text())
    assert [case["shape"] for case in record["cases"]] == [[8, 4, 4, 4], [16, 8]]
    assert record["threads"] == 1 and record["rounds"] == 3 and record["stopped"] is None
    assert record["command"].startswith("lpnorm bench --no-progress --shape 8 4 4 4")
    on = record["machine"]
    assert on["cpu"] and on["cores"] >= 1 and on["blas"]
    assert on["versions"]["numpy"] == np.__version__ and set(on["versions"]) >= {"numba", "torch"}
    expected = {("copy", "")} | {(w, n) for w in PRESENT if w != "torch" for n in ("L1", "Top-10")}
    expected |= {TORCH, TORCH_L1} if PYTORCH else set()
    for case in record["cases"]:
        assert {(r["who"], r["norm"]) for r in case["results"]} == expected
        for result in case["results"]:
            assert len(result["seconds"]) == 3 and min(result["seconds"]) > 0
            assert result["median_seconds"] == statistics.median(result["seconds"])
            if result["norm"] and case["reference"] == "torch":
                torch = report.find(case, *TORCH)["seconds"]
                ratios = [a / b for a, b in zip(result["seconds"], torch, strict=True)]
                assert result["over_reference"] == report.spread(ratios)
    text = capsys.readouterr().out
    assert "batch norm (8, 4, 4, 4) float32" in text and "Top-10" in text and on["cpu"] in text
    if have_matplotlib():
        assert (tmp_path / "bench_table_float32.png").read_bytes().startswith(PNG)


def test_sweep(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "SIZES", [1, 2])
    monkeypatch.setattr(command, "SIDES", [2, 4])
    assert bench("--sweep", "--rounds", 1, "--out", tmp_path) == 0
    record = json.loads((tmp_path / "bench_sweep_float32.json").read_text())
    assert [(c["along"], c["at"], c["shape"]) for c in record["cases"]] == [
        ("N", 1, [1, 64, 32, 32]),
        ("N", 2, [2, 64, 32, 32]),
        ("C", 1, [64, 1, 32, 32]),
        ("C", 2, [64, 2, 32, 32]),
        ("H W", 4, [64, 64, 2, 2]),
        ("H W", 16, [64, 64, 4, 4]),
    ]
    assert "ns per element" in capsys.readouterr().out
    if have_matplotlib():
        assert (tmp_path / "bench_sweep_float32.png").read_bytes().startswith(PNG)


def test_the_sweep_covers_three_decades():
    options = types.SimpleNamespace(quick=False)
    at = {axis: [] for axis in ("N", "C", "H W")}
    for _, _, about in command._sweep(options.quick):
        at[about["along"]].append(about["at"])
    assert all(max(values) >= 1000 * min(values) for values in at.values())


@pytest.mark.skipif(not have_matplotlib(), reason="matplotlib is not installed")
def test_a_picture_of_what_was_read_back(tmp_path):
    """One shape, one norm, nobody but the plain code: the smallest there is."""
    given = ["--shape", 4, 3, "--norm", "2", "--only", "plain", "--rounds", 1]
    assert bench(*given, "--out", tmp_path) == 0
    record = json.loads((tmp_path / "bench_table_float32.json").read_text())
    record["warnings"] = ["busy"]
    picture.draw(record, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes().startswith(PNG)


def test_ctrl_c_keeps_what_was_measured(tmp_path, capsys, monkeypatch):
    left = iter(range(8))

    def sleep(seconds):
        if next(left, None) is None:
            raise KeyboardInterrupt

    fake = types.SimpleNamespace(sleep=sleep, perf_counter=clock.time.perf_counter)
    monkeypatch.setattr(clock, "time", fake)
    given = ["--only", "plain", "--norm", "1", "--rounds", 3, "--out", tmp_path]
    assert bench("--shape", 4, 3, "--shape", 5, 3, "--shape", 6, 3, *given) == 130
    record = json.loads((tmp_path / "bench_table_float32.json").read_text())
    assert record["stopped"] == "interrupted"
    counts = [[len(r["seconds"]) for r in case["results"]] for case in record["cases"]]
    assert counts == [[3, 3], [1, 1]]
    assert "interrupted" in capsys.readouterr().err
    left = iter(range(0))
    assert bench("--shape", 4, 3, *given[:-1], tmp_path / "none") == 130
    assert list((tmp_path / "none").iterdir()) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--shape", 5], "shape must be two or more sizes of at least 1, got (5,)"),
        (["--shape", 2, 2, "--norm", "top10"], "batch norm (2, 2) float32: p = TopK(10) needs"),
        (["--norm", "0.5"], "p must be a number >= 1"),
        (["--shape", 10**6, 10**6], "GiB of memory"),
        (["--sweep", "--shape", 2, 2], "leave --shape out"),
        (["--sweep", "--layer", "layer_norm"], "leave --layer out"),
        (["--memory", "--norm", "1"], "leave --norm out"),
    ],
)
def test_errors_before_any_work(given, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 2**34)
    assert bench(*given, "--out", tmp_path / "new") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--layer", "group_norm"], "'batch_norm', 'layer_norm'"),
        (["--shape", 4, 0], "whole number of at least 1"),
        (["--only", "cupy"], "invalid choice: 'cupy'"),
        (["--dtype", "int8"], "float16"),
    ],
)
def test_errors_of_the_call(given, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        bench(*given)
    assert words in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert bench("--quick", "--out", tmp_path / "file" / "x") == 2
    assert "cannot write to --out" in capsys.readouterr().err


def test_problems_name_what_is_wrong():
    for given, words in (
        ({"shape": (4, 4), "layer": "group_norm"}, "batch_norm, layer_norm; got 'group_norm'"),
        ({"shape": (4, 4), "dtype": "int8"}, "got 'int8'"),
        ({"shape": (4, -4)}, "got \\(4, -4\\)"),
    ):
        with pytest.raises(ValueError, match=words):
            Problem(**given)


def test_without_torch(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    given = ["--shape", 4, 3, "--norm", "1", "--rounds", 1, "--out", tmp_path]
    assert bench(*given) == 0
    said = capsys.readouterr()
    assert "lpnorm: left out: torch is not installed\n" in said.err
    assert "over the plain code, same norm" in said.out
    record = json.loads((tmp_path / "bench_table_float32.json").read_text())
    assert "torch is not installed" in record["missing"]
    assert not any(r["who"] == "torch" for r in record["cases"][0]["results"])
    assert bench("--only", "torch", *given) == 2
    assert "nobody left" in capsys.readouterr().err


def test_without_numba(tmp_path, capsys, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[:2] == ["lpnorm", "fast"]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    given = ["--shape", 4, 3, "--norm", "1", "--rounds", 1, "--out", tmp_path]
    assert bench(*given) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "fast" in line]
    assert len(said) == 1 and "lpnorm.fast needs numba: pip install" in said[0]
    record = json.loads((tmp_path / "bench_table_float32.json").read_text())
    assert {r["who"] for r in record["cases"][0]["results"]} >= {"plain", "naive"}
    assert not any(r["who"] in ("fast", "reused") for r in record["cases"][0]["results"])
    for flag in ("--info", "--clear"):
        assert bench(flag) == 2
        assert "lpnorm.fast needs numba" in capsys.readouterr().err


@pytest.mark.skipif(not FAST, reason="lpnorm.fast needs Numba")
def test_info_and_clear(tmp_path, capsys, monkeypatch):
    from lpnorm.fast import compiled

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    folder = compiled.folder()
    for each in (folder, folder.parent / "not-ours", folder.parent / "fast-0123456789abcdef"):
        each.mkdir(parents=True)
        name = "loops.forward-float16_summed_in_float32.py311.1.nbc"
        (each / name).write_bytes(b"x" * 2**20)
    assert bench("--info") == 0
    said = capsys.readouterr().out
    assert str(folder) in said and "1 function" in said and "1.0 MiB" in said
    assert "lpnorm bench --clear" in said and "forward for float16 summed in float32" in said
    assert bench("--clear") == 0 and str(folder) in capsys.readouterr().out
    assert [path.name for path in folder.parent.iterdir()] == ["not-ours"]
    assert bench("--info") == 0 and "0 functions" in capsys.readouterr().out


def test_a_busy_machine_is_named():
    assert machine.warnings([9.0, 9.0, 9.0], 0.0, 0.05) == []  # the load lags behind
    assert machine.warnings(None, None, None) == []
    (line,) = machine.warnings([3.0, 0.0, 0.0], None, None)
    assert "BUSY" in line and "3.0" in line and "flatter lpnorm" in line
    (line,) = machine.warnings([0.0, 0.0, 0.0], 1.25, 0.5)
    assert "used 1.2 cores just before" in line and "0.5 cores while it was measured" in line


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="needs a Unix")
def test_what_others_used_leaves_out_our_own(tmp_path, monkeypatch):
    """All that is not idle or waiting for a disk, less what this process and its children used."""
    stat, now = tmp_path / "stat", [100.0]
    monkeypatch.setattr(machine, "STAT", stat)
    monkeypatch.setattr(machine, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    ticks = os.sysconf("SC_CLK_TCK")

    def state(own, *seconds):
        stat.write_text("cpu  " + " ".join(str(ticks * s) for s in seconds) + " 0 0\ncpu0 1 2\n")
        monkeypatch.setattr(machine.os, "times", lambda: (*own, 0.0))

    state((1, 1, 1, 1), 10, 10, 10, 500, 500, 10, 10, 10)
    others, now[0] = machine.Others(), 110.0
    state((2, 2, 2, 2), 12, 12, 12, 900, 900, 12, 11, 11)  # 10 seconds of work, 4 of them our own
    assert others.cores() == 0.6
    stat.unlink()
    assert others.cores() is None and machine.Others().cores() is None


def test_the_warning_is_in_everything(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "others_during_a_pause", lambda: 1.5)
    given = ["--shape", 4, 3, "--norm", "1", "--only", "plain", "--rounds", 1]
    assert bench(*given, "--out", tmp_path) == 0
    said = capsys.readouterr()
    assert "BUSY" in said.out and "BUSY" in said.err
    record = json.loads((tmp_path / "bench_table_float32.json").read_text())
    assert "1.5 cores just before" in record["warnings"][0]


PEAKS = """
import numpy as np
from lpnorm.bench import memory

def call():
    np.ones(64 * 2**20, np.uint8)  # and dropped again
    return [np.ones(16 * 2**20, np.uint8)]

print(*memory.peak(call), memory.peak(lambda: [])[0])
"""


@pytest.mark.skipif(not memory.possible(), reason="needs Linux's /proc")
def test_the_peak_of_a_call():
    """In a process of its own, as it is used: other libraries free memory when they like."""
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    taken, results, nothing = map(int, done.stdout.split())
    mib = 2**20
    assert results == 16 * mib and 60 * mib < taken < 80 * mib and nothing < mib


@pytest.mark.slow
@pytest.mark.skipif(not memory.possible(), reason="needs Linux's /proc")
def test_memory(tmp_path, capsys):
    """The plain code keeps whole arrays beyond its results, the compiled loops hardly a thing."""
    assert bench("--memory", "--shape", 64, 64, 32, 32, "--out", tmp_path) == 0
    record = json.loads((tmp_path / "bench_memory_float32.json").read_text())
    beyond = {case["who"]: case["beyond_results_copies_of_x"] for case in record["cases"]}
    assert set(beyond) == set(PRESENT) - {"reused"}
    assert beyond["plain"] > 2
    assert beyond.get("fast", 0) < 0.5
    assert "beyond, copies of x" in capsys.readouterr().out


# --- a training step ------------------------------------------------------------------------------

STEPPERS = [who for who in steps.WHO if who not in MISSING]
SMALL = {
    "resnet20": lambda: models.resnet(8, width=2),
    "vgg11": lambda: models.vgg11(width=2),
}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(steps, "MODELS", SMALL)


def step_record(folder, name="step"):
    return json.loads((folder / f"bench_{name}_float32.json").read_text())


def test_the_networks_of_a_step():
    assert list(steps.MODELS) == ["resnet20", "vgg11"]
    sizes = [sum(p.data.size for p in make().parameters()) for make in steps.MODELS.values()]
    assert sizes == [272_474, 579_098]


@pytest.mark.parametrize("model", SMALL)
@pytest.mark.skipif(not PYTORCH, reason="needs PyTorch")
def test_the_network_in_pytorch_learns_the_same(model):
    """In float64, where no rounding hides a mistake: logits, gradients, and the weights after three
    steps with momentum and decay."""
    torch = installed("torch")
    network = SMALL[model]().to(dtype="float64")
    theirs = steps.to_torch(network).double()  # the running statistics too
    images, labels = steps._images(4).astype("float64"), steps._labels(4)
    optimizer = SGD(network.parameters(), **steps.OPTIMIZER)
    step = steps._torch_step(theirs, images, labels)
    for _ in range(3):
        optimizer.zero_grad()
        logits, backward = network(images)
        loss, dlogits = nn.softmax_cross_entropy(logits, labels)
        backward(dlogits)
        assert step() == pytest.approx(loss, rel=1e-12)
        pairs = list(zip(network.parameters(), theirs.parameters(), strict=True))
        for ours, their in pairs:
            assert ours.grad == pytest.approx(their.grad.numpy(), rel=1e-9, abs=1e-12), ours.name
        optimizer.step()
    for ours, their in pairs:
        got = ours.data - SMALL[model]().state()[ours.name]
        want = their.detach().numpy() - SMALL[model]().state()[ours.name]
        assert got == pytest.approx(want, rel=1e-9, abs=1e-12), ours.name
    assert isinstance(theirs, torch.nn.Module)


def test_the_parts_of_a_step(small):
    """Counted by hand for a ResNet of depth 8; every layer that is equal is one part."""
    calls, counts = steps.Training("resnet20", 3).parts(["plain"])
    kinds = {}
    for part, count in counts.items():
        kinds[part.kind] = kinds.get(part.kind, 0) + count
    assert kinds == {"convolution 3x3": 7, "convolution 1x1": 2, "batch norm": 9, "ReLU": 7,
                     "residual add": 3, "global pool": 1, "linear": 1, "loss": 1,
                     "optimizer": 1}  # fmt: skip
    assert set(kinds) <= set(steps.ORDER) and len(calls) == len(counts)
    shape = (3, 2, 32, 32)
    kernel = ((2, 2, 3, 3),)
    assert counts[steps.Part("convolution 3x3", shape, shape, kernel)] == 2
    assert counts[steps.Part("ReLU", shape, shape)] == 3
    assert counts[steps.Part("batch norm", shape, shape, ((2,), (2,)))] == 3
    first = [part for part in counts if not part.needs_dx]
    assert first == [steps.Part("convolution 3x3", (3, 3, 32, 32), shape, ((2, 3, 3, 3),), False)]
    assert {part.kind for part in steps.Training("vgg11", 3).parts([])[1]} == set(steps.ORDER) - {
        "convolution 1x1", "residual add", "global pool"}  # fmt: skip


@pytest.mark.parametrize("model", SMALL)
@pytest.mark.skipif(not PYTORCH, reason="needs PyTorch")
def test_each_part_computes_the_same_in_pytorch(model, small):
    """What is timed by itself is what a step does: dx and the parameters' gradients."""
    torch, rng = installed("torch"), np.random.default_rng(0)
    network = SMALL[model]().to(dtype="float64")
    for part, layer in steps.layers(network, steps._images(3).astype("float64")):
        x, dy = rng.standard_normal(part.x), rng.standard_normal(part.y)
        theirs = steps._torch_layer(steps.to_torch(layer).double(), x, dy, part.needs_dx)()
        for parameter in layer.parameters():
            parameter.grad = None
        y, backward = layer(x)
        dx = backward(dy)
        ours = [*([dx] if part.needs_dx else []), *(p.grad for p in layer.parameters())]
        assert y.shape == part.y and len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert isinstance(b, torch.Tensor)
            assert a == pytest.approx(b.numpy(), rel=1e-9, abs=1e-9), part


@pytest.mark.parametrize("who", STEPPERS)
def test_a_step_is_a_step(who):
    """The losses are those of the whole optimizer, and calling it again goes on learning."""
    step = steps.Training("vgg11", 4).step(who)
    first, second, third = step(), step(), step()
    assert first > second > third > 0


def test_parts_may_be_called_again_and_leave_no_gradient(small):
    """Two calls, one behind the other, as the clock makes them."""
    calls, _ = steps.Training("vgg11", 3).parts(STEPPERS)
    for _ in range(2):
        for call in calls.values():
            call()
    assert {who for _, who in calls} == set(STEPPERS)


def test_step_table_json_and_picture(small, tmp_path, capsys):
    given = ["--batch", 4, "--rounds", 3, "--threads", 1]
    assert bench("step", *given, "--out", tmp_path) == 0
    record = step_record(tmp_path)
    assert [(c["model"], c["batch"]) for c in record["cases"]] == [("resnet20", 4), ("vgg11", 4)]
    assert record["what"] == "step" and record["threads"] == 1 and record["stopped"] is None
    assert record["contestants"] == {w: steps.WHO[w] for w in STEPPERS}
    for case in record["cases"]:
        assert case["reference"] == ("torch" if PYTORCH else "plain")
        assert set(case["losses"]) == set(STEPPERS)
        kinds = dict.fromkeys(result["kind"] for result in case["results"])
        assert list(kinds)[-2:] == [report.PARTS, steps.STEP]
        of = {(r["kind"], r["who"]): r for r in case["results"]}
        assert set(of) == {(kind, who) for kind in kinds for who in STEPPERS}
        for (kind, who), result in of.items():
            parts = [p for p in case["parts"] if p["kind"] == kind]
            if kind == report.PARTS:
                parts = [p for p in case["parts"] if p["kind"] != steps.STEP]
            sums = [sum(p["count"] * p["seconds"][who][i] for p in parts) for i in range(3)]
            assert result["seconds"] == pytest.approx(sums) and min(sums) > 0
            assert result["median_seconds"] == statistics.median(result["seconds"])
            reference = of[kind, case["reference"]]["seconds"]
            ratios = [a / b for a, b in zip(result["seconds"], reference, strict=True)]
            assert result["over_reference"] == report.spread(ratios)
    text = capsys.readouterr().out
    assert "resnet20, batch 4, float32" in text and "convolution 1x1" in text
    assert "whole step" in text and record["machine"]["cpu"] in text
    if have_matplotlib():
        assert (tmp_path / "bench_step_float32.png").read_bytes().startswith(PNG)


def test_losses_that_disagree_are_not_reported(tmp_path, capsys, monkeypatch):
    """The second network is another one every time it is made."""
    if len(STEPPERS) == 1:
        pytest.skip("one contestant cannot disagree")
    seeds = iter(range(100))
    networks = {**SMALL, "vgg11": lambda: models.vgg11(width=2, rng=next(seeds))}
    monkeypatch.setattr(steps, "MODELS", networks)
    given = ["--batch", 4, "--rounds", 1, "--out", tmp_path]
    assert bench("step", *given) == 2
    said = capsys.readouterr()
    assert "vgg11, batch 4, float32: the losses of the first 3 steps" in said.err
    assert "what was measured is kept" in said.err and "vgg11" not in said.out
    assert [case["model"] for case in step_record(tmp_path)["cases"]] == ["resnet20"]
    assert bench("step", "--model", "vgg11", *given[:-1], tmp_path / "none") == 2
    assert list((tmp_path / "none").iterdir()) == []


def test_a_loss_that_is_no_number_agrees_with_nothing(small, monkeypatch):
    training = steps.Training("vgg11", 4)
    assert list(training.losses([])) == ["plain"]
    monkeypatch.setattr(steps.Training, "step", lambda self, who: lambda: math.nan)
    with pytest.raises(steps.Disagree, match="are nan, nan, nan for plain"):
        training.losses(["plain"])


def test_a_step_without_torch(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    given = ["--batch", 2, "--rounds", 1, "--model", "resnet20", "--out", tmp_path]
    assert bench("step", *given) == 0
    said = capsys.readouterr()
    assert "lpnorm: left out: torch is not installed\n" in said.err
    assert "plain, ms" in said.out and "torch, ms" not in said.out
    record = step_record(tmp_path)
    assert record["missing"] == ["torch is not installed"]
    assert record["cases"][0]["reference"] == "plain"
    assert bench("step", "--only", "torch", *given) == 2
    assert "nobody left" in capsys.readouterr().err


def test_ctrl_c_keeps_whole_rounds(small, tmp_path, monkeypatch):
    _, counts = steps.Training("vgg11", 2).parts([])
    a_round = len(counts) + 1
    left = iter(range(2 * a_round + 3))

    def sleep(seconds):
        if next(left, None) is None:
            raise KeyboardInterrupt

    fake = types.SimpleNamespace(sleep=sleep, perf_counter=clock.time.perf_counter)
    monkeypatch.setattr(clock, "time", fake)
    given = ["--model", "vgg11", "--batch", 2, "--only", "plain", "--rounds", 5]
    assert bench("step", *given, "--out", tmp_path) == 130
    record = step_record(tmp_path)
    assert record["stopped"] == "interrupted"
    assert {len(r["seconds"]) for r in record["cases"][0]["results"]} == {2}
    left = iter(range(a_round - 1))
    assert bench("step", *given, "--out", tmp_path / "none") == 130
    assert list((tmp_path / "none").iterdir()) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["step", "--shape", 2, 2], "leave --shape out"),
        (["step", "--layer", "layer_norm"], "leave --layer out"),
        (["step", "--norm", "1"], "leave --norm out"),
        (["step", "--sweep"], "leave --sweep out"),
        (["step", "--accumulate", "float64"], "leave --accumulate out"),
        (["step", "--dtype", "float16"], "leave --dtype out"),
        (["step", "--only", "naive"], "plain, fast, torch for a step, got naive"),
        (["step", "--batch", 1], "--batch must be at least 2, got 1"),
        (["step", "--batch", 10**6], "GiB of memory"),
        (["--batch", 4], "--batch is for `lpnorm bench step`"),
        (["layers", "--model", "vgg11"], "--model is for `lpnorm bench step`"),
    ],
)
def test_errors_of_a_step_before_any_work(given, words, small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 2**34)
    assert bench(*given, "--out", tmp_path / "new") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_quick_step_takes_fewer_images():
    given = {"shape": None, "layer": None, "norm": None, "accumulate": None, "sweep": False}
    given |= {"dtype": "float32", "only": None, "model": ["vgg11"], "batch": None}
    for quick, batch in ((True, 32), (False, 128)):
        plan = command._trainings(types.SimpleNamespace(**given, quick=quick))
        assert plan == [(steps.Training("vgg11", batch), {})]


@pytest.mark.slow
@pytest.mark.skipif(not memory.possible(), reason="needs Linux's /proc")
def test_memory_of_steps(tmp_path, capsys):
    """More images take more; what the plan asks for is enough; the images at least are there."""
    peaks = []
    for batch in (8, 64):
        given = ["--memory", "--model", "vgg11", "--batch", batch]
        assert bench("step", *given, "--out", tmp_path) == 0
        cases = step_record(tmp_path, "step_memory")["cases"]
        assert [case["who"] for case in cases] == STEPPERS
        peaks.append([case["peak_bytes"] for case in cases])
    images = 64 * 3 * 32 * 32 * 4
    room = steps.Training("vgg11", 64).room
    assert all(a < b and images < b < room for a, b in zip(*peaks, strict=True))
    assert "peak, MiB" in capsys.readouterr().out
