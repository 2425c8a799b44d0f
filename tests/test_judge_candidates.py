"""Is the judge right? Correct implementations by other hands, wrong ones, and the authors' own.

The first half does not use the judge: it shows that the correct candidates (tests/candidates/)
agree with the oracle and with finite differences, and that the wrong ones differ. The second half
judges them all, and holds every word of the verdicts against candidates/reports.json, so that what
a change of the judge does to them is a diff to review. `LPNORM_STORE=1 pytest -n 0 -m "slow or not
slow" tests/test_judge_candidates.py` writes it anew.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from candidates import strangers
from candidates.case import Case

from lpnorm import verify
from lpnorm.verify import oracle

CHANNELS = 4
STORED = Path(__file__).parent / "candidates" / "reports.json"
REPORTS = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}


def cases_of(module: str, name: str = "cases") -> list[Any]:
    """A list of cases in tests/candidates/, or of a function there; without its library, one
    skipped test."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cases = getattr(importlib.import_module(f"candidates.{module}"), name)
            return [
                pytest.param(case, id=case.name)
                for case in (cases if isinstance(cases, list) else cases())
            ]
    except ImportError as error:
        reason = f"{module} needs {error.name}"
        return [pytest.param(None, id=module, marks=pytest.mark.skip(reason=reason))]


def slow(cases: list[Any]) -> list[Any]:
    """JAX compiles every shape anew. (tests/test_verify_torch.py has two that are not slow.)"""
    return [pytest.param(*c.values, id=c.id, marks=[*c.marks, pytest.mark.slow]) for c in cases]


def usual(cases: list[Any]) -> list[Any]:
    """The same candidate once more, built or in another dtype, or another mode of SGD, is slow."""
    more = (", built", ", float32", "foreach", "fused", "dampening and", "(4)")
    return [
        c for case in cases for c in (slow([case]) if any(m in case.id for m in more) else [case])
    ]


# ---- running a candidate, without the judge -----------------------------------------------------


def settings(case: Case) -> tuple[str, Any, float]:
    arguments = case.arguments
    return arguments.get("layer", "batch_norm"), arguments.get("p", 1), arguments.get("eps", 1e-5)


def inputs(layer: str, seed: int, shape: tuple[int, ...], ties: bool = False) -> list[np.ndarray]:
    """x, gamma, beta, dy; or v, g, dw; or v, dw. Exact in float16."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype("float16").astype("float64")

    x = np.round(2 * draw(*shape)) / 2 if ties else draw(*shape)
    if layer == "weight_norm":
        return [x, draw(shape[0]), draw(*shape)]
    if layer == "bounded_weight_norm":
        return [x, draw(*shape)]
    size = shape[1] if layer == "batch_norm" else shape[-1]
    return [x, draw(size), draw(size), draw(*shape)]


def expected(case: Case, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The oracle's values: the output, then the gradients."""
    layer, p, eps = settings(case)
    *given, upstream = arrays
    if layer == "weight_norm":
        w = oracle.weight_norm(*given, p)
        return [w, *oracle.weight_norm_backward(upstream, *given, p)]
    if layer == "bounded_weight_norm":
        w = oracle.bounded_weight_norm(given[0], 1.5, p)
        return [w, oracle.bounded_weight_norm_backward(upstream, given[0], 1.5, p)]
    forward = getattr(oracle, layer)
    backward = getattr(oracle, layer + "_backward")
    return [forward(*given, p, eps=eps).y, *backward(upstream, *given, p, eps=eps)]


def numpy_values(case: Case, arrays: list[np.ndarray]) -> list[np.ndarray]:
    layer, _, eps = settings(case)
    arrays = [a.astype(case.arguments.get("dtype", "float64")) for a in arrays]
    *given, upstream = arrays
    more = {"bounded_weight_norm": (1.5,), "weight_norm": ()}.get(layer, (eps,))
    if isinstance(case.candidate, tuple):
        forward, backward = case.candidate
    else:
        forward, backward = getattr(case.candidate, "forward", case.candidate), None
        backward = getattr(case.candidate, "backward", None)
    with np.errstate(all="ignore"):
        if backward is None:
            return [forward(*given, *more)]
        out, cache = forward(*given, *more)
        gradients = backward(upstream, cache)
    return [out, *(gradients if isinstance(gradients, tuple) else (gradients,))]


def torch_values(case: Case, arrays: list[np.ndarray]) -> list[np.ndarray]:
    import torch

    layer, _, eps = settings(case)
    dtype = getattr(torch, case.arguments.get("dtype", "float64"))
    *given, upstream = (torch.tensor(a, dtype=dtype) for a in arrays)
    candidate = case.candidate
    if isinstance(candidate, type) or (
        getattr(candidate, "__name__", "") == "<lambda>" and layer != "weight_norm"
    ):
        candidate = candidate(given[0].shape[1 if layer == "batch_norm" else -1])
    given = [a.requires_grad_() for a in given]
    if isinstance(candidate, torch.nn.Module):
        candidate = copy.deepcopy(candidate).to(dtype)
        with torch.no_grad():
            for name, value in (("weight", given[1]), ("bias", given[2])):
                if getattr(candidate, name, None) is not None:
                    getattr(candidate, name).copy_(value)
        candidate.zero_grad()
        out = candidate(given[0])
        out.backward(upstream)
        parameters = (getattr(candidate, name, None) for name in ("weight", "bias"))
        tensors = [given[0], *(p for p in parameters if p is not None)]
    else:
        more = {"bounded_weight_norm": (1.5,), "weight_norm": ()}.get(layer, (eps,))
        out = candidate(*given, *more)
        out.backward(upstream)
        tensors = given
    return [out.detach().numpy(), *(t.grad.numpy() for t in tensors)]


def jax_values(case: Case, arrays: list[np.ndarray]) -> list[np.ndarray]:
    import jax

    _, _, eps = settings(case)
    *given, upstream = (jax.numpy.asarray(a, dtype="float32") for a in arrays)
    more = () if case.arguments["layer"] == "weight_norm" else (eps,)
    out, pull = jax.vjp(lambda *a: case.candidate(*a, *more), *given)
    return [np.asarray(a) for a in (out, *pull(upstream))]


def error(got: list[np.ndarray], want: list[np.ndarray]) -> float:
    """The largest error relative to the largest entry; infinite for NaN or wrong shapes."""
    worst = 0.0
    for a, b in zip(got, want, strict=False):
        if a.shape != b.shape or not np.isfinite(a).all():
            return math.inf
        worst = max(worst, float(abs(a - b).max() / (abs(b).max() + 1e-300)))
    return worst


def shapes_for(case: Case) -> list[tuple[int, ...]]:
    """Shapes that the candidate takes: modules of torch fix the number of axes."""
    for rank, name in ((2, "BatchNorm1d"), (4, "2d"), (5, "3d"), (4, "GroupNorm")):
        if name in case.name:
            return [(8, CHANNELS, 3, 2, 2)[:rank]]
    if "built" in case.name:
        return [(6, 3), (4, 3, 3, 2)]
    if "LayerNorm(6)" in case.name:
        return [(5, 6), (2, 3, 6)]
    return [(12, CHANNELS), (4, CHANNELS, 3, 2)]


def tolerance(case: Case) -> float:
    dtype = "float32" if case.name.startswith("jax") else case.arguments.get("dtype", "float64")
    return {"float64": 1e-10, "float32": 2e-4, "float16": 0.05}[dtype]


NUMPY, TORCH = cases_of("numpy_batch") + cases_of("numpy_rows"), cases_of("torch_layers")
JAX, ONNX = cases_of("jax_layers"), cases_of("onnx_layers")
SGD, SGD_WRONG = cases_of("torch_sgd"), cases_of("torch_sgd_wrong")


@pytest.mark.parametrize("case", [*NUMPY, *ONNX])
def test_numpy_candidates_are_right(case: Case) -> None:
    layer = settings(case)[0]
    for seed, shape in enumerate([*shapes_for(case), (3, CHANNELS, 1, 1)]):
        for ties in (False, True):
            if ties and case.arguments.get("dtype") == "float16":
                continue  # the rounded mean decides ties
            arrays = inputs(layer, seed, shape, ties)
            got, want = numpy_values(case, arrays), expected(case, arrays)
            assert error(got, want) < tolerance(case), (shape, ties)


@pytest.mark.parametrize("case", TORCH)
def test_torch_candidates_are_right(case: Case) -> None:
    if "weight norm," in case.name:
        pytest.skip("a parametrized layer of torch itself")
    for seed, shape in enumerate(shapes_for(case)):
        arrays = inputs(settings(case)[0], seed, shape)
        if "no affine" in case.name or "no bias" in case.name:
            arrays[2] = 0 * arrays[2]
        if "no affine" in case.name:
            arrays[1] = 0 * arrays[1] + 1
        got, want = torch_values(case, arrays), expected(case, arrays)
        assert error(got, want) < tolerance(case), shape


@pytest.mark.parametrize("case", slow(JAX))
def test_jax_candidates_are_right(case: Case) -> None:
    for seed, shape in enumerate(shapes_for(case)):
        arrays = inputs(settings(case)[0], seed, shape)
        assert error(jax_values(case, arrays), expected(case, arrays)) < tolerance(case), shape


@pytest.mark.parametrize("case", [c for c in NUMPY if "dtype" not in c.values[0].arguments])
def test_gradients_are_finite_differences(case: Case) -> None:
    """<v, dx> against a central difference of <dy, y>, in every argument."""
    layer = settings(case)[0]
    for shape in shapes_for(case):
        arrays = inputs(layer, 5, shape)
        *given, upstream = arrays
        gradients = numpy_values(case, arrays)[1:]
        for i, gradient in enumerate(gradients):
            v = np.random.default_rng(i).standard_normal(given[i].shape)

            def f(h: float, given=given, upstream=upstream, i=i, v=v) -> float:
                moved = [a + h * v if j == i else a for j, a in enumerate(given)]
                return float((numpy_values(case, [*moved, upstream])[0] * upstream).sum())

            difference = (f(1e-6) - f(-1e-6)) / 2e-6
            assert (gradient * v).sum() == pytest.approx(difference, rel=2e-6, abs=1e-6)


@pytest.mark.parametrize("case", [*SGD, *SGD_WRONG])
def test_optimizers(case: Case) -> None:
    """The right ones follow the oracle; those wrong on one plain parameter do not."""
    import torch

    arguments = {k: v for k, v in case.arguments.items() if k != "layer"}
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal((3, 2)), rng.standard_normal((6, 3, 2))
    want = oracle.sgd(start, gradients, **arguments)[-1]
    p = torch.nn.Parameter(torch.tensor(start))
    optimizer = case.candidate([p])
    for g in gradients:
        p.grad = torch.tensor(g)
        optimizer.step()
    right = np.allclose(p.detach().numpy(), want, rtol=1e-12, atol=1e-12)
    elsewhere = ("buffer", "vectors", "aliased", "place", "group", "rate", "none")
    assert right == (not case.why or any(word in case.name for word in elsewhere))


VARIED = ((1, 0, 0), (1, 0, 1), (300, 0, 0), (2**-12, 0, 0), (0, 1, 0), (1, 1e7, 0))
VALUES_WRONG = cases_of("numpy_batch_wrong", "WRONG") + cases_of("numpy_rows_wrong", "WRONG")


@pytest.mark.parametrize("case", VALUES_WRONG)
def test_wrong_candidates_are_wrong(case: Case) -> None:
    """Somewhere among plain, tied, shifted, tiny, huge and image-shaped inputs."""
    layer = settings(case)[0]
    bound = 10 * tolerance(case)
    if case.arguments.get("dtype") == "float64":
        bound = 1e-9
    for shape in [(12, CHANNELS), (4, CHANNELS, 3, 2), (1, CHANNELS), (3, 5, 4), (4096, 2)]:
        for factor, shift, ties in (
            (1, 0, 0),
            (1, 0, 1),
            (300, 0, 0),
            (2**-12, 0, 0),
            (0, 1, 0),
            (1, 1e7, 0),
        ):
            arrays = inputs(layer, 1, shape, bool(ties))
            arrays[0] = arrays[0] * factor + shift
            if case.name == "hides NaN":
                arrays[0][0, 0] = math.nan
            if case.name == "memory order":
                arrays[0] = arrays[0].copy(order="F")
            if case.arguments.get("dtype") == "float16" and abs(shift) > 1e4:
                continue
            try:
                got = numpy_values(case, arrays)
            except Exception:
                return
            if hasattr(settings(case)[1], "k") and math.prod(shape) // shape[1] < 3:
                continue
            want = expected(case, arrays)
            if case.name == "hides NaN":
                assert np.isfinite(got[0]).all() and not np.isfinite(want[0]).all()
                return
            with np.errstate(all="ignore"):
                if error(got, want) > bound:
                    return
    pytest.fail("agrees with the oracle everywhere")


# ---- the judge ---------------------------------------------------------------------------------


def judge(case: Case) -> Any:
    """The report, whose words are the stored ones."""
    report = verify.check(case.candidate, **{"layer": "batch_norm", "p": 1, **case.arguments})
    words = {"verdict": report.verdict, "limits": report.limits, "diagnoses": report.diagnoses}
    words = json.loads(json.dumps({key: value for key, value in words.items() if value}))
    if os.environ.get("LPNORM_STORE"):
        REPORTS[case.name] = words
        text = json.dumps(REPORTS, indent=1, sort_keys=True, ensure_ascii=False)
        STORED.write_text(text + "\n", encoding="utf-8")
    assert words == REPORTS.get(case.name)
    return report


@pytest.mark.parametrize("case", [*NUMPY, *usual(TORCH), *slow(JAX), *ONNX, *usual(SGD)])
def test_no_false_alarm(case: Case) -> None:
    report = judge(case)
    assert report.ok, str(report)
    assert report.verdict.startswith("correct"), report.verdict


@pytest.mark.parametrize(
    "case",
    [
        *VALUES_WRONG,
        *cases_of("numpy_batch_rude", "WRONG"),
        *cases_of("torch_wrong"),
        *SGD_WRONG,
    ],
)
def test_wrong_candidates_are_judged_wrong(case: Case) -> None:
    """And where the case has a word on it, the report says what is wrong and little else."""
    report = judge(case)
    assert not report.ok, f"{case.why}\n{report}"
    assert report.verdict.startswith("wrong")
    assert report.failures
    if case.said:
        assert case.said in report.diagnoses[0], str(report)
        assert len(report.diagnoses) <= 2, str(report)
        assert " is 1 times" not in str(report)


@pytest.mark.parametrize(
    "case", cases_of("numpy_conventions", "RIGHT") + cases_of("torch_conventions")
)
def test_conventions_are_named(case: Case) -> None:
    report = judge(case)
    assert report.ok, str(report)
    assert case.why in report.verdict, report.verdict


@pytest.mark.parametrize("case", cases_of("numpy_conventions", "CONTRADICTING"))
def test_a_convention_that_contradicts_an_argument_is_wrong(case: Case) -> None:
    assert judge(case).verdict == "wrong", case.why


@pytest.mark.parametrize(
    "case", cases_of("strangers", "RIGHT") + cases_of("strangers", "torch_cases")
)
def test_right_strangers(case: Case) -> None:
    report = judge(case)
    assert report.ok, str(report)
    assert case.said in "; ".join([*report.taken, report.verdict])


@pytest.mark.parametrize("case", cases_of("strangers", "WRONG"))
def test_wrong_strangers(case: Case) -> None:
    report = judge(case)
    assert not report.ok
    assert case.said in report.diagnoses[0], str(report)


@pytest.mark.parametrize("p", [1, 2, math.inf])
@pytest.mark.parametrize("how", ["order", "transposed", "flat", "y", "None"])
def test_outputs_of_other_shapes_are_told_so(how: str, p: float) -> None:
    """Never an error of the judge."""
    forward, backward = strangers.forgotten_forward, strangers.staged_backward
    changed = {
        "order": lambda dx, dgamma, dbeta: (dgamma, dbeta, dx),
        "transposed": lambda dx, *more: (dx.T, *more),
        "flat": lambda dx, *more: (dx.ravel(), *more),
        "y": lambda *given: given,
        "None": lambda *given: None,
    }[how]

    def turned(*given: Any) -> Any:
        y, cache = forward(*given)
        return (y.T if how == "y" else y), cache

    report = verify.check((turned, lambda dy, c: changed(*backward(dy, c))), p=p)
    assert not report.ok
    told = "it gave None" if how == "None" else "has shape"
    assert any(told in words for words in report.diagnoses)


def test_what_a_stranger_is_told() -> None:
    """The attempt that got furthest; for which arrays it is right."""
    report = verify.check(lambda x, gamma, beta, eps: x.tolist(), p=2)
    assert report.diagnoses == ["TypeError: expected an array, got list"]
    notes = verify.check(strangers.without_parameters, p=2).notes
    assert "it is right for arrays of 2 axes: if it is for these alone, say ndim=2" in notes


@pytest.mark.parametrize("case", cases_of("authors"))
def test_the_authors_departures_are_named(case: Case) -> None:
    """Momentum as the fraction kept, the reciprocal (or the scale) kept, and the lack of eps."""
    text = str(judge(case)).lower()
    assert "momentum" in text
    assert ("reciprocal" if "reciprocal" in case.why else "eps") in text
