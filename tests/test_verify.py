"""The judge: it names planted mistakes, recognises conventions, and leaves right code alone."""

import json
import math
import subprocess
import sys

import numpy as np
import planted
import pytest

import lpnorm
from lpnorm import Range, TopK, cli, verify
from lpnorm.verify import diagnosis, values
from lpnorm.verify.judge import JudgeError
from lpnorm.verify.mistakes import BACKWARD, CATALOGUE
from lpnorm.verify.report import WIDTH

NORMS = [1, 1.5, 2, 3, math.inf, TopK(3), Range()]
MISTAKES = CATALOGUE
C1 = math.sqrt(math.pi / 2)


def l1_forward(x, gamma, beta, eps):
    d = x - x.mean(axis=0)
    s = C1 * abs(d).mean(axis=0) + eps
    return gamma * d / s + beta, (d, s, gamma)


def l1_backward(dy, cache):
    d, s, gamma = cache
    x_hat, g = d / s, gamma * dy
    h = C1 * np.sign(d) / len(d)
    dx = (g - g.mean(axis=0) - (g * x_hat).sum(axis=0) * (h - h.mean(axis=0))) / s
    return dx.astype(dy.dtype), (dy * x_hat).sum(axis=0), dy.sum(axis=0)


# ---- every mistake of the catalogue, by its own name ------------------------------------------


def misnamed(layer, axis, p, mistake, dtype):
    """ "" if the planted mistake is judged wrong and named, else what was said of it."""
    candidate = planted.pair(mistake.lines, p, layer, axis)
    arguments = {"constant": "paper", "dtype": dtype, "first_failure": True}
    report = verify.check(candidate, layer, p, **arguments)
    if not report.ok and report.diagnoses and report.diagnoses[0] == mistake.diagnosis:
        return ""
    return f"{layer}, p = {p}, {dtype}, {mistake.name}: {report.verdict} {report.diagnoses}"


def scoreboard(layer, axis, p, dtype):
    applying = [m for m in MISTAKES if m.applies(layer, p)]
    said = [misnamed(layer, axis, p, mistake, dtype) for mistake in applying]
    right = said.count("")
    print(f"{layer}, p = {p}, {dtype}: {right} of {len(said)} mistakes named")
    return [words for words in said if words]


def test_the_catalogue_has_enough_entries_and_each_has_one_name():
    assert len(MISTAKES) >= 30
    assert len({m.name for m in MISTAKES}) == len({m.diagnosis for m in MISTAKES}) == len(MISTAKES)
    for mistake in MISTAKES:
        assert any(
            mistake.applies("batch_norm", p) or mistake.applies("layer_norm", p) for p in NORMS
        )
        assert mistake.compare


def test_every_mistake_is_named():
    assert scoreboard("batch_norm", 1, 1, "float64") == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("p", NORMS, ids=str)
@pytest.mark.parametrize(("layer", "axis"), [("batch_norm", 1), ("layer_norm", -1)])
def test_every_mistake_is_named_for_every_norm_and_dtype(layer, axis, p, dtype):
    assert scoreboard(layer, axis, p, dtype) == []


@pytest.mark.parametrize(
    "p", [1, *(pytest.param(p, marks=pytest.mark.slow) for p in NORMS[1:])], ids=str
)
def test_the_program_without_a_mistake_is_correct(p):
    """In the norms in which mistakes are planted into it, in the tests above."""
    report = verify.check(planted.pair({}, p), p=p)
    assert report.verdict == "correct", report


# ---- no false alarm ---------------------------------------------------------------------------


@pytest.mark.parametrize("p", [*NORMS, TopK(10)], ids=str)
@pytest.mark.parametrize("layer", ["batch_norm", "layer_norm"])
def test_the_library_is_correct(layer, p):
    pair = getattr(lpnorm, layer), getattr(lpnorm, layer + "_backward")
    report = verify.check(pair, layer, p)
    assert report.verdict == "correct", report
    assert not any("does not take" in note for note in report.notes)


@pytest.mark.parametrize("order", ["pairwise", "sequential", "pairwise_mean"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("p", [1, 2, math.inf], ids=str)
def test_the_library_is_correct_with_every_accumulator(p, dtype, order):
    def forward(x, gamma, beta, eps):
        accumulate = lpnorm.Accumulate(dtype, order)
        return lpnorm.batch_norm(x, gamma, beta, p, eps=eps, accumulate=accumulate)

    report = verify.check((forward, lpnorm.batch_norm_backward), p=p, dtype=dtype)
    assert report.ok, report


def test_constants_are_recognised_and_demanded():
    def forward(constant):
        return lambda x, gamma, beta, eps: lpnorm.batch_norm(
            x, gamma, beta, math.inf, eps=eps, constant=constant
        )

    for constant in ("exact", None):
        pair = forward(constant), lpnorm.batch_norm_backward
        assert verify.check(pair, p=math.inf, constant=constant).verdict == "correct" or constant
        report = verify.check(pair, p=math.inf)
        assert report.ok and "constant" in report.verdict, report
        report = verify.check(pair, p=math.inf, constant="paper")
        assert not report.ok, report
    assert any("Gaussian constant" in words for words in report.diagnoses)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (lambda phi, eps: np.sqrt((C1 * phi) ** 2 + eps), "inside the root"),
        (lambda phi, eps: C1 * (phi + eps), "before the constant"),
        (lambda phi, eps: np.maximum(C1 * phi, eps), "floor"),
    ],
)
def test_the_place_of_eps_is_recognised(place, words):
    def forward(x, gamma, beta, eps):
        d = x - x.mean(axis=0)
        return gamma * d / place(abs(d).mean(axis=0), eps) + beta

    report = verify.check(forward)
    assert report.ok and words in report.verdict, report


def test_an_eps_that_is_not_the_one_asked_for_is_a_failure():
    def forward(x, gamma, beta, eps):
        return l1_forward(x, gamma, beta, 1e-3)

    report = verify.check((forward, l1_backward))
    assert not report.ok and "eps = 0.001" in str(report), report
    assert "argument eps is ignored" in report.failures[0].diagnosis

    def without(x, gamma, beta):
        return l1_forward(x, gamma, beta, 1e-3)

    report = verify.check((without, l1_backward))
    assert report.ok and "eps is 0.001" in report.verdict, report
    report = verify.check((without, l1_backward), eps=1e-5)
    assert not report.ok and "1e-05 was asked for" in report.failures[0].diagnosis


def test_tie_rules_are_conventions_but_the_full_value_to_each_is_wrong():
    def candidate(rule):
        def forward(x, gamma, beta, eps):
            d = x - x.mean(axis=0)
            c = lpnorm.gaussian_constant(math.inf, len(x))
            s = c * abs(d).max(axis=0) + eps
            return gamma * d / s + beta, (d, s, gamma, c)

        def backward(dy, cache):
            d, s, gamma, c = cache
            x_hat, g = d / s, gamma * dy
            h = c * rule(abs(d)) * np.sign(d)
            dx = (g - g.mean(axis=0) - (g * x_hat).sum(axis=0) * (h - h.mean(axis=0))) / s
            return dx.astype(dy.dtype), (dy * x_hat).sum(axis=0), dy.sum(axis=0)

        return forward, backward

    def first(size):
        return np.arange(len(size))[:, None] == size.argmax(axis=0)

    def share(size):
        hit = size == size.max(axis=0)
        return hit / hit.sum(axis=0)

    def full(size):
        return (size == size.max(axis=0)) * 1.0

    # the rule gives float64, so float16 is left out
    dtypes = ("float64", "float32")
    report = verify.check(candidate(share), p=math.inf, dtype=dtypes, ndim=2)
    assert report.verdict == "correct", report
    report = verify.check(candidate(first), p=math.inf, dtype=dtypes)
    assert report.ok and "the first in the array" in report.verdict, report
    report = verify.check(candidate(full), p=math.inf, dtype=dtypes)
    assert not report.ok and any("gets the full gradient" in d for d in report.diagnoses), report


# ---- manners ----------------------------------------------------------------------------------


def test_manners():
    """Modified inputs, a cache that does not belong to its call, and randomness are failures."""
    assert verify.check((l1_forward, l1_backward)).ok

    def modifying(x, gamma, beta, eps):
        x -= x.mean(axis=0)
        return l1_forward(x, gamma, beta, eps)

    assert any("x is modified" in d for d in verify.check((modifying, l1_backward)).diagnoses)

    kept = {}

    def keeping(x, gamma, beta, eps):
        y, kept["cache"] = l1_forward(x, gamma, beta, eps)
        return y, None

    report = verify.check((keeping, lambda dy, cache: l1_backward(dy, kept["cache"])))
    assert [f.check for f in report.failures] == ["caches"], report

    rng = np.random.default_rng(0)

    def noisy(x, gamma, beta, eps):
        y, cache = l1_forward(x, gamma, beta, eps)
        return y * (1 + 3e-16 * rng.integers(0, 4)), cache

    report = verify.check((noisy, l1_backward), dtype="float64")
    assert [f.check for f in report.failures] == ["same bits twice"], report


def test_forward_alone_and_what_cannot_run():
    assert verify.check(lambda x, gamma, beta, eps: l1_forward(x, gamma, beta, eps)[0]).ok
    report = verify.check((lambda *a: 1 / 0, l1_backward))
    assert report.verdict == "could not run" and not report.ok
    assert "ZeroDivisionError" in report.failures[0].detail
    assert verify.check(3).verdict == "could not run"
    with pytest.raises(AssertionError, match="mean\\(g\\)"):
        verify.assert_correct(planted.pair(BACKWARD[0].lines, 1))
    verify.assert_correct((l1_forward, l1_backward), p=1, dtype="float64")


def test_a_refused_dtype_is_a_failure_only_if_asked_for():
    def forward(x, gamma, beta, eps):
        if x.dtype == np.float16:
            raise TypeError("float16 is not supported")
        return l1_forward(x, gamma, beta, eps)

    report = verify.check((forward, l1_backward))
    assert report.ok and any("does not take float16" in note for note in report.notes)
    assert not verify.check((forward, l1_backward), dtype=("float32", "float16")).ok


@pytest.mark.parametrize(
    "arguments",
    [{"layer": "group_norm"}, {"constant": "mine"}, {"dtype": "int8"}, {"eps": -1.0}, {"p": 0.5}],
)
def test_wrong_arguments_are_named(arguments):
    with pytest.raises((TypeError, ValueError), match=next(iter(arguments))):
        verify.check((l1_forward, l1_backward), **arguments)


# ---- whose error is it? -----------------------------------------------------------------------


def test_an_error_of_the_judge_is_not_blamed_on_the_candidate(monkeypatch, tmp_path):
    def broken(*_):
        raise NameError("name 'gap' is not defined")

    for module, name in ((diagnosis, "pattern"), (values, "errors"), (values, "judge")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, broken)
            with pytest.raises(JudgeError, match="NameError"):
                verify.check((l1_forward, lambda dy, cache: (dy**2, dy[0], dy[1])))

    def forward(x, gamma, beta, eps):
        raise NameError("mine")

    report = verify.check((forward, l1_backward))
    assert report.verdict == "could not run" and "NameError: mine" in str(report)

    from lpnorm.verify import __main__ as child

    file = tmp_path / "candidates.py"
    file.write_text(CANDIDATES)
    request, answer = tmp_path / "request.json", tmp_path / "answer.json"
    content = {"target": f"{file}:forward,wrong", "p": "1", "arguments": {}}
    request.write_text(json.dumps(content))
    monkeypatch.setattr(values, "errors", broken)
    child.main(str(request), str(answer))
    said = json.loads(answer.read_text())
    assert not said["ran"] and "an error of the judge, not of the candidate" in said["error"]


# ---- what an adversary found ------------------------------------------------------------------


def test_one_cause_is_told_once():
    """The first failing check in full, the others in one line; no law where a cause is known."""
    report = verify.check(planted.pair(BACKWARD[0].lines, 1))
    assert report.diagnoses == [BACKWARD[0].diagnosis], report
    assert len(report.failures) > 20
    assert str(report).count("WRONG") == 1 and "also wrong in" in str(report), report
    assert any(check.general for check in report.failures)

    def backward(dy, cache):
        dx, dgamma, dbeta = l1_backward(dy, cache)
        return dx + 1e-3 * dy**2, dgamma, dbeta

    report = verify.check((l1_forward, backward))
    assert "dx is no sum of g, mean(g), T h and T mean(h)" in report.diagnoses[0], report
    assert any("not the derivative" in check.diagnosis for check in report.failures), report


def test_a_factor_that_rounds_to_one_is_never_printed():
    def backward(dy, cache):
        dx, dgamma, dbeta = l1_backward(dy, cache)
        return dx * 1.0001, dgamma * 3, dbeta

    text = str(verify.check((l1_forward, backward), dtype="float64"))
    assert "dgamma is 3 times" in text and "dx is 1.0001 times" in text, text

    def closer(dy, cache):
        dx, dgamma, dbeta = l1_backward(dy, cache)
        return dx * (1 + 1e-7), dgamma, dbeta

    assert "1.0000001 times" in str(verify.check((l1_forward, closer), dtype="float64"))


def test_nan_must_not_be_hidden():
    def hiding(x, gamma, beta, eps):
        y, cache = l1_forward(x, gamma, beta, eps)
        return np.nan_to_num(y), cache

    report = verify.check((hiding, l1_backward))
    assert [f.check for f in report.failures] == ["NaN"], report


def test_a_reciprocal_of_an_eps_that_was_asked_for_must_fit():
    def forward(x, gamma, beta, eps):
        _, (d, s, gamma) = l1_forward(x, gamma, beta, eps)
        return gamma * (d * (1 / s)) + beta, (d, s, gamma)

    report = verify.check((forward, l1_backward), eps=1e-5, dtype="float16")
    (words,) = report.diagnoses
    assert words.startswith("y: NaN or infinity where a finite number belongs"), report
    assert verify.check((forward, l1_backward), dtype="float16").ok  # with an eps that fits


def test_only_a_forward_may_refuse_one_value():
    def refusing(f):
        def refuses(a, *more):
            if len(a) == 1:
                raise ValueError("one value")
            return f(a, *more)

        return refuses

    report = verify.check((refusing(l1_forward), l1_backward), ndim=2)
    assert report.ok and any("refuses n = 1" in note for note in report.notes), report
    report = verify.check((l1_forward, refusing(l1_backward)), ndim=2)
    assert [f.check for f in report.failures] == ["n = 1, float64"], report


def test_two_tied_values_are_judged():
    """L-infinity of two values: any share gives h - mean(h) = sign(d) / 2, so dx is one number."""

    def forward(x, gamma, beta, eps):
        d = x - x.mean(axis=0)
        s = lpnorm.gaussian_constant(math.inf, len(x)) * abs(d).max(axis=0) + eps
        return gamma * d / s + beta, (d, s, gamma)

    def backward(least):
        def of_two(dy, cache):
            d, s, gamma = cache
            c = lpnorm.gaussian_constant(math.inf, max(len(d), least))
            hit = abs(d) == abs(d).max(axis=0)
            h, g = c * np.sign(d) * hit / hit.sum(axis=0), gamma * dy
            dx = (g - g.mean(axis=0) - (g * d / s).sum(axis=0) * (h - h.mean(axis=0))) / s
            return dx.astype(dy.dtype), (dy * d / s).sum(axis=0), dy.sum(axis=0)

        return of_two

    asked = {"p": math.inf, "dtype": "float64"}
    assert verify.check((forward, backward(1)), **asked).ok
    report = verify.check((forward, backward(3)), **asked)
    assert [f.check for f in report.failures] == ["tiny groups, n = 2, float64"], report


def test_results_stay_and_what_is_random_is_called_so():
    kept = {}

    def workspace(x, gamma, beta, eps):
        y, cache = l1_forward(x, gamma, beta, eps)
        kept.setdefault((y.shape, y.dtype), np.empty_like(y))[...] = y
        return kept[y.shape, y.dtype], cache

    report = verify.check((workspace, l1_backward))
    assert [f.check for f in report.failures] == ["results stay"], report
    rng = np.random.default_rng(0)

    def random_order(x, gamma, beta, eps):
        return l1_forward(x + 0 * x[rng.permutation(len(x))].sum(axis=0), gamma, beta, eps)

    def atomics(x, gamma, beta, eps):
        x = x - np.add.accumulate(x[rng.permutation(len(x))], axis=0)[-1] / len(x)
        return l1_forward(x, gamma, beta, eps)

    assert verify.check((random_order, l1_backward)).ok
    report = verify.check((atomics, l1_backward))
    assert report.failures[0].check == "same bits twice" and len(report.diagnoses) == 1, report


def test_an_eps_rounded_to_float32_is_a_convention():
    def forward(x, gamma, beta, eps):
        return l1_forward(x, gamma, beta, float(np.float32(eps)))

    report = verify.check((forward, l1_backward))
    assert report.ok and "eps is rounded to float32" in report.verdict, report


def test_another_constant_than_the_one_asked_for_is_named():
    report = verify.check((l1_forward, l1_backward), constant=None)
    assert report.diagnoses == [
        "the paper's Gaussian constant is used; no Gaussian constant (C = 1) was asked for"
    ], report


def test_the_judge_is_loaded_on_first_use():
    script = (
        "import sys, lpnorm\n"
        "assert 'lpnorm.verify' not in sys.modules\n"
        "assert lpnorm.verify.check is not None and 'lpnorm.verify' in sys.modules\n"
        "try:\n    lpnorm.nothing\nexcept AttributeError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "module 'lpnorm' has no attribute 'nothing'", done.stderr


def test_the_report_as_text_and_json():
    report = verify.check(planted.pair(BACKWARD[0].lines, 1))
    text = str(report)
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert "Verdict: wrong" in text and BACKWARD[0].diagnosis.split(":")[0] in " ".join(
        text.split()
    )
    content = json.loads(report.to_json())
    assert content["ok"] is False and content["verdict"] == "wrong"
    assert {c["status"] for c in content["checks"]} <= {"passed", "failed", "skipped"}
    assert "\033" not in text and "\033" in report.text(colour=True)


# ---- the command ------------------------------------------------------------------------------

CANDIDATES = """
import math, os, time
import numpy as np

def forward(x, gamma, beta, eps):
    print("the candidate prints")
    d = x - x.mean(axis=0)
    s = math.sqrt(math.pi / 2) * abs(d).mean(axis=0) + eps
    return gamma * d / s + beta, (d, s, gamma)

def backward(dy, cache):
    d, s, gamma = cache
    x_hat, g = d / s, gamma * dy
    h = math.sqrt(math.pi / 2) * np.sign(d) / len(d)
    dx = (g - g.mean(axis=0) - (g * x_hat).sum(axis=0) * (h - h.mean(axis=0))) / s
    return dx.astype(dy.dtype), (dy * x_hat).sum(axis=0), dy.sum(axis=0)

def wrong(dy, cache):
    dx, dgamma, dbeta = backward(dy, cache)
    return dx * 2, dgamma, dbeta

def hangs(x, gamma, beta, eps):
    time.sleep(1000)

def leaves(x, gamma, beta, eps):
    os._exit(0)

def aborts(x, gamma, beta, eps):
    os.abort()
"""


@pytest.mark.parametrize(
    ("target", "more", "status", "says"),
    [
        ("{file}", [], 0, "Verdict: correct"),
        ("{file}:forward,backward", ["--dtype", "float32"], 0, "Verdict: correct"),
        ("{file}:forward,wrong", ["--p", "1"], 1, "dx is 2 times what it should be"),
        ("{file}:forward", ["--p", "inf"], 1, "Verdict: wrong"),
        ("{file}:hangs", ["--timeout", "1"], 2, "no answer within 1 s"),
        ("{file}:leaves", [], 2, "ended"),
        ("{file}:aborts", [], 2, "signal 6"),
        ("{file}:nothing", [], 2, "has no nothing"),
        ("no_such_package:name", [], 2, "does not import"),
        ("missing.py:name", [], 2, "there is no file missing.py"),
        ("{file}", ["--p", "0.5"], 2, "p must be"),
    ],
)
def test_command(tmp_path, capfd, target, more, status, says):
    """In this process; the candidate runs in one of its own."""
    file = tmp_path / "candidates.py"
    file.write_text(CANDIDATES)
    out = tmp_path / "report.json"
    command = ["check", target.format(file=file), "--json", str(out), *more]
    given, done = cli.main(command), capfd.readouterr()
    assert given == status, done
    if status == 2:
        assert says in done.err and not done.out and not out.exists()
        line = [each for each in done.err.splitlines() if each.startswith("lpnorm: ")]
        assert len(line) == 1, done.err
    else:
        assert says in done.out and "the candidate prints" not in done.out
        assert json.loads(out.read_text())["ok"] is (status == 0)


def test_torch_and_jax_are_not_imported_for_numpy_candidates():
    script = (
        "import sys, lpnorm\nfrom lpnorm import verify\n"
        "assert verify.check((lpnorm.batch_norm, lpnorm.batch_norm_backward)).ok\n"
        "print([name for name in ('torch', 'jax', 'cupy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# ---- mechanical mutants: a few that once survived ---------------------------------------------


def test_an_eps_argument_that_is_dropped_is_a_failure():
    def forward(x, gamma, beta, eps):
        d = x - x.mean(axis=0)
        return gamma * d / np.sqrt((d**2).mean(axis=0) + 0) + beta

    report = verify.check(forward, p=2)
    assert not report.ok and "without any eps" in report.failures[0].diagnosis, report
