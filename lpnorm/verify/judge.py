"""`check`: judge a candidate; `assert_correct`: the same for a test."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from lpnorm.arrays import FLOATS, check_number
from lpnorm.norms import as_norm
from lpnorm.verify import norm_checks, steps
from lpnorm.verify.candidates import LIBRARIES, CannotRun, adapt
from lpnorm.verify.report import Check, Report

LAYERS = ("batch_norm", "layer_norm", "weight_norm", "bounded_weight_norm", "sgd")
ANY: Any = type("ANY", (), {"__repr__": lambda self: "recognised"})()


def check(
    candidate: Any,
    layer: str = "batch_norm",
    p: Any = 1,
    constant: Any = ANY,
    eps: Any = ANY,
    dtype: Any = None,
    *,
    axis: Any = None,
    ndim: int | tuple[int, ...] | None = None,
    momentum: Any = None,
    running: str | None = None,
    backend: str | None = None,
    first_failure: bool = False,
    strict: bool = False,
    **settings: Any,
) -> Report:
    """Is this implementation right, and if not, what is wrong with it?

    candidate: see `lpnorm.verify.candidates` and, for the last three layers, `lpnorm.verify.steps`.
    layer: "batch_norm", "layer_norm", "weight_norm", "bounded_weight_norm" or "sgd"; p as in
    `lpnorm.batch_norm`. constant ("paper", "exact" or None) and eps (a number) are demanded if
    given; if not, they are recognised: a candidate that takes eps as an argument must use the one
    it gets, a module is held to its attribute `eps`, and what has neither may have its own.
    dtype: "float16", "float32", "float64" or several, which it must then take; None tries all
    three and notes those that are refused. axis: the channel axis of batch norm (1) and of weight
    norm (0), or the axes layer norm reduces (-1). ndim: how many axes x may have; None tries
    several. momentum: "new" or "kept", running: "scale", "variance" or "reciprocal": demand what
    momentum means and what the running statistic holds; None recognises them.
    backend: "numpy", "cupy", "torch" or "jax" for a function whose library its code does not name.
    first_failure: stop there (for testing many). strict: right values with limits are not ok.
    For "sgd" settings are lr, momentum, dampening, nesterov, weight_decay, decoupled and maximize,
    those of the optimizer itself where they are not given.

    Returns a Report; str() of it is for people. A candidate that cannot be run at all gives
    verdict "could not run". Raises ValueError or TypeError for wrong arguments of its own, also for
    one that has no part in the layer.
    """
    if layer not in LAYERS:
        raise ValueError(f"layer must be one of {', '.join(LAYERS)}, got {layer!r}")
    norm = as_norm(p)
    p = p if not isinstance(p, (int, float)) else (int(p) if float(p).is_integer() else float(p))
    assert norm
    if constant is not ANY and constant not in ("paper", "exact", None):
        raise ValueError(f'constant must be "paper", "exact" or None, got {constant!r}')
    if eps is not ANY:
        eps = check_number("eps", eps)
    for name, value, choices in (
        ("momentum", None if layer == "sgd" else momentum, ("new", "kept")),
        ("running", running, ("scale", "variance", "reciprocal")),
    ):
        if value is not None and value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)} or None, got {value!r}")
    if backend is not None and backend not in LIBRARIES:
        raise ValueError(f"backend must be one of {', '.join(LIBRARIES)}, got {backend!r}")
    if layer in LAYERS[2:]:
        sgd = layer == "sgd"
        given = {
            "constant": constant is not ANY,
            "eps": eps is not ANY,
            "axis": sgd and axis is not None,
            "ndim": ndim is not None,
            "momentum": not sgd and momentum is not None,
            "running": running is not None,
            "backend": sgd and backend is not None,
        }
        for name in (name for name, there in given.items() if there):
            raise TypeError(f"{name} is no argument for {layer}: it has no part in it")
        if sgd and momentum is not None:
            settings["momentum"] = check_number("momentum", momentum)
        report = Report(layer, None if sgd else p, type(candidate).__name__, strict=strict)
        return _steps(candidate, report, _dtypes(dtype), axis, backend, first_failure, settings)
    if settings:
        raise TypeError(f"{next(iter(settings))} is a setting of sgd, not of {layer}")
    if axis is None:
        axis = 1 if layer == "batch_norm" else -1
    asked = norm_checks.Settings(
        layer,
        p,
        axis,
        None if eps is ANY else eps,
        "any" if constant is ANY else constant,
        _dtypes(dtype),
        (ndim,) if isinstance(ndim, int) else ndim,
        momentum,
        running,
    )
    report = Report(layer, p, type(candidate).__name__, strict=strict)
    passed: dict[str, Any] = {"p": p, "axis": axis}
    if constant is not ANY:
        passed["constant"] = constant
    with warnings.catch_warnings(), np.errstate(all="ignore"), _one_thread():
        warnings.simplefilter("ignore")
        try:
            for found in _all_checks(candidate, asked, passed, backend, report):
                report.checks.append(found)
                if first_failure and found.status == "failed":
                    break
        except CannotRun as error:
            report.ran = False
            why = "a candidate must import, take these arrays and give arrays back"
            report.checks.append(Check("runs", "failed", why, str(error), str(error)))
    report.conventions = list(dict.fromkeys(report.conventions))
    report.notes = list(dict.fromkeys(report.notes))
    return report


def _steps(
    candidate: Any,
    report: Report,
    dtypes: tuple[str, ...] | None,
    axis: Any,
    backend: str | None,
    first_failure: bool,
    settings: dict[str, Any],
) -> Report:
    """Weight norms and SGD."""
    layer, p = report.layer, report.p
    unknown = set(settings) - {"lr", *steps.DEFAULTS}
    if unknown or (settings and layer != "sgd"):
        known = f"; sgd has lr, {', '.join(steps.DEFAULTS)}"
        raise TypeError(f"{layer} has no setting {sorted(unknown or settings)[0]!r}{known}")
    with warnings.catch_warnings(), np.errstate(all="ignore"), _one_thread():
        warnings.simplefilter("ignore")
        try:
            found = (
                steps.sgd_checks(candidate, settings, dtypes, report)
                if layer == "sgd"
                else steps.weight_checks(candidate, layer, p, dtypes, axis or 0, backend, report)
            )
            for check in found:
                report.checks.append(check)
                if first_failure and check.status == "failed":
                    break
        except steps.Changed as error:
            why = "a layer must leave the arrays it is given as they are"
            report.checks.append(Check("inputs unmodified", "failed", why, str(error), str(error)))
        except CannotRun as error:
            report.ran = False
            why = "a candidate must import, take these arrays and give arrays back"
            report.checks.append(Check("runs", "failed", why, str(error), str(error)))
    report.conventions = list(dict.fromkeys(report.conventions))
    report.notes = list(dict.fromkeys(report.notes))
    return report


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """torch on one thread: the probes are small, and waking threads takes longer than the work."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(threads)


def _all_checks(
    candidate: Any, settings: Any, passed: dict[str, Any], backend: str | None, report: Report
) -> Iterator[Check]:
    """Every check. A function that does not take NumPy arrays may take tensors of what is loaded:
    x.abs().mean(0) names no library."""
    first: CannotRun | None = None
    loaded = [name for name in ("torch", "jax") if name in sys.modules and backend is None]
    last = ["numpy"] if backend is None else []  # it may name a library and take NumPy's arrays
    for library in (backend, *loaded, *last):
        try:
            adapted = adapt(candidate, settings.layer, passed, library)
            judge = norm_checks.NormChecks(adapted, settings, report)
        except CannotRun as error:
            first = first or error
            continue
        report.candidate = adapted.kind
        report.taken += adapted.taken
        yield from judge.checks()
        return
    assert first is not None
    raise first


def _dtypes(dtype: Any) -> tuple[str, ...] | None:
    if dtype is None:
        return None
    several = dtype if isinstance(dtype, (tuple, list)) else [dtype]
    try:
        names = [np.dtype(each).name for each in several]
    except Exception:  # "," is a SyntaxError, for instance
        names = [str(dtype)]
    for name in names:
        if name not in FLOATS:
            raise TypeError(f"dtype must be one of {', '.join(FLOATS)} or several, got {dtype!r}")
    return tuple(name for name in ("float64", "float32", "float16") if name in names)


def assert_correct(candidate: Any, layer: str = "batch_norm", p: Any = 1, **arguments: Any) -> None:
    """AssertionError with the whole report unless `check` finds the candidate correct."""
    report = check(candidate, layer, p, **arguments)
    if not report.ok:
        raise AssertionError("\n" + str(report))
