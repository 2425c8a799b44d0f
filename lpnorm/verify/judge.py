"""`check`: judge a candidate; `assert_correct`: the same for a test."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lpnorm.arrays import FLOATS, check_number
from lpnorm.norms import as_norm
from lpnorm.verify import descent
from lpnorm.verify.candidates import LIBRARIES, CannotRun, Raised, adapt, line
from lpnorm.verify.candidates.optimizers import DEFAULTS, maker
from lpnorm.verify.candidates.weights import adapt_weights
from lpnorm.verify.layers import LAYERS
from lpnorm.verify.norm import NormChecks
from lpnorm.verify.report import Check, Report
from lpnorm.verify.takes import Settings
from lpnorm.verify.trials import call
from lpnorm.verify.weight_checks import WeightChecks
from lpnorm.verify.weights import weight_cases

NORMALIZERS = ("batch_norm", "layer_norm")
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

    candidate: see `lpnorm.verify.candidates` and, there, `weights` and `optimizers` for the last
    three layers.
    layer: "batch_norm", "layer_norm", "weight_norm", "bounded_weight_norm" or "sgd"; p as in
    `lpnorm.batch_norm`. constant ("paper", "exact" or None) and eps (a number) are demanded if
    given; if not, they are recognised: a candidate that takes eps as an argument must use the one
    it gets, a module is held to its attribute `eps`, and what has neither may have its own.
    dtype: "float16", "float32", "float64" or several, which it must then take; None tries all
    three and notes those that are refused. axis: the channel axis of batch norm (1) and of weight
    norm (0; () for one norm of all of v), or the axes layer norm reduces (-1). ndim: how many axes
    x may have; None tries several. momentum: "new" or "kept", running: "scale", "variance" or
    "reciprocal": demand what momentum means and what the running statistic holds; None recognises
    them.
    backend: "numpy", "cupy", "torch" or "jax" for a function whose library its code does not name.
    first_failure: stop there (for testing many). strict: right values with limits are not ok.
    For "sgd" settings are lr, momentum, dampening, nesterov, weight_decay, decoupled and maximize,
    those of the optimizer itself where they are not given.

    Returns a Report; str() of it is for people. A candidate that cannot be run at all gives
    verdict "could not run". Raises ValueError or TypeError for wrong arguments of its own, also for
    one that has no part in the layer; JudgeError, which is none of these, for a fault of the judge.
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
    sgd = layer == "sgd"
    if layer not in NORMALIZERS:
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
        if layer.endswith("weight_norm") and not isinstance(p, (int, float)):
            raise ValueError(f"p of a weight norm must be a number or inf, got {p!r}")
        if sgd and momentum is not None:
            settings["momentum"] = check_number("momentum", momentum)
    for name in settings:
        ours = name in ("lr", *DEFAULTS)
        if sgd and not ours:
            raise TypeError(f"sgd has no setting {name!r}; sgd has lr, {', '.join(DEFAULTS)}")
        if ours and not sgd:
            raise TypeError(f"{name} is a setting of sgd, not of {layer}")
        if not ours:
            known = "p, dtype, axis and backend"
            if layer in NORMALIZERS:
                known = "p, constant, eps, dtype, axis, ndim, momentum, running and backend"
            raise TypeError(f"{name} is no argument for {layer}: there are {known}")
    report = Report(layer, None if sgd else p, type(candidate).__name__, strict=strict)
    dtypes = _dtypes(dtype)
    if sgd:
        found = _sgd(candidate, settings, dtypes, report)
    elif layer in NORMALIZERS:
        asked = Settings(
            layer,
            p,
            axis,
            None if eps is ANY else eps,
            "any" if constant is ANY else constant,
            dtypes,
            (ndim,) if isinstance(ndim, int) else ndim,
            momentum,
            running,
        )
        found = _norm(candidate, asked, backend, report)
    else:
        found = _weights(candidate, layer, p, dtypes, 0 if axis is None else axis, backend, report)
    with warnings.catch_warnings(), np.errstate(all="ignore"), _one_thread():
        warnings.simplefilter("ignore")
        try:
            for each in found:
                report.checks.append(each)
                if first_failure and each.status == "failed":
                    break
        except CannotRun as error:
            report.ran = False
            why = "a candidate must import, take these arrays and give arrays back"
            report.checks.append(Check("runs", "failed", why, str(error), str(error)))
        except Exception as error:
            raise JudgeError(line(error)) from error
    report.conventions = list(dict.fromkeys(report.conventions))
    report.notes = list(dict.fromkeys(report.notes))
    return report


class JudgeError(Exception):
    """An error of the judge itself, not of the candidate: what that raises is `Raised`."""


def _norm(candidate: Any, asked: Settings, backend: str | None, report: Report) -> Iterator[Check]:
    """Every check of a normalizer."""
    passed: dict[str, Any] = {"p": asked.p, "axis": asked.layout(4).axis}
    if asked.constant != "any":
        passed["constant"] = asked.constant

    def attempt(library: str | None) -> NormChecks:
        first: CannotRun | None = None
        for probe in asked.probes():  # a layer may be for so many axes alone
            try:
                return NormChecks(adapt(candidate, passed, library, probe), asked, report)
            except CannotRun as error:
                first = first or error
        raise first or CannotRun("no shape fits axis")

    judge = _first(attempt, backend)
    report.candidate = judge.candidate.kind
    report.taken += judge.candidate.taken
    yield from judge.checks()


def _weights(
    candidate: Any,
    layer: str,
    p: Any,
    dtypes: tuple[str, ...] | None,
    axis: int | tuple[()],
    backend: str | None,
    report: Report,
) -> Iterator[Check]:
    """Every check of a weight norm."""

    def attempt(library: str | None) -> Any:
        adapted = adapt_weights(candidate, layer, p, axis, library)
        probe = next(weight_cases(layer, p, dtypes[0] if dtypes else "float64"))
        trial = None if adapted.shape is not None else call(adapted, probe)
        if trial is not None and trial.got is None:
            raise Raised(trial.raised)
        return adapted

    adapted = _first(attempt, backend)
    report.candidate = adapted.kind
    yield from WeightChecks(adapted, layer, p, dtypes, report).checks()


def _sgd(
    candidate: Any, settings: dict[str, Any], dtypes: tuple[str, ...] | None, report: Report
) -> Iterator[Check]:
    """Every check of an optimizer."""
    make = maker(candidate, settings)
    report.candidate = f"{make.kind} optimizer"
    yield from descent.checks(make, settings, dtypes, report)


def _first(attempt: Callable[[str | None], Any], backend: str | None) -> Any:
    """The first attempt that works. A function that does not take NumPy arrays may take tensors of
    what is loaded: x.abs().mean(0) names no library."""
    first: CannotRun | None = None
    loaded = [name for name in ("torch", "jax") if name in sys.modules and backend is None]
    last = ["numpy"] if backend is None else []  # it may name a library and take NumPy's arrays
    for library in (backend, *loaded, *last):
        try:
            return attempt(library)
        except CannotRun as error:
            first = first or error
    assert first is not None
    raise first


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
