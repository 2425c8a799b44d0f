"""Judge what a program wrote into a vectors folder (`lpnorm.verify.vectors`).

The inputs are known, so the outputs go the way of every other candidate: conventions recognised,
values against the oracle within derived bounds, ties by membership, mistakes named by the
catalogue. What needs new calls (laws, running statistics) is not asked. One report for each layer
and norm, since conventions belong to these.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lpnorm.verify import ties, vectors, weights
from lpnorm.verify.candidates import Candidate, CannotRun, Outcome
from lpnorm.verify.cases import Case, Layout
from lpnorm.verify.norm_checks import NormChecks, Settings
from lpnorm.verify.recognise import WORDS, Recognised, _best
from lpnorm.verify.reference import Arithmetic, Conventions, default_place, places
from lpnorm.verify.report import COLOURS, Check, Report, wrap
from lpnorm.verify.trials import Error, Trial, error
from lpnorm.verify.vectors import NORMS, Vector
from lpnorm.verify.weights import WeightCase

Array = np.ndarray
Outputs = dict[str, Array]
OTHER_EPS = (1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 2.0**-10, 1e-3, 1e-2)
FLOAT16_SUMS = "statistics and sums are kept in float16"


@dataclass
class Judged:
    """The reports of a folder, one for each layer and norm that has outputs; `Report`'s names.

    not_tried: ids of cases without any output.
    """

    folder: str
    reports: list[Report]
    not_tried: list[str]
    count: int
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(report.ok for report in self.reports)

    @property
    def failures(self) -> list[Check]:
        return [check for report in self.reports for check in report.failures]

    @property
    def conventions(self) -> list[str]:
        return list(dict.fromkeys(words for report in self.reports for words in report.conventions))

    @property
    def verdict(self) -> str:
        if not self.ok:
            return "wrong"
        said = "; ".join(self.conventions)
        return f"correct under these conventions: {said}" if said else "correct"

    def to_json(self) -> str:
        """All reports as a JSON object, keys sorted."""
        content = {
            "target": self.folder,
            "ok": self.ok,
            "verdict": self.verdict,
            "notes": self.notes,
            "not_tried": self.not_tried,
            "reports": [json.loads(report.to_json()) for report in self.reports],
        }
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)

    def __str__(self) -> str:
        return self.text()

    def text(self, colour: bool = False) -> str:
        """Every report, the wrong ones last, in 80 columns; colour: with terminal colours."""
        ordered = sorted(self.reports, key=lambda report: not report.ok)
        parts = [report.text(colour) for report in ordered]
        lines = [line for note in self.notes for line in wrap("Note: " + note, 0, 6)]
        tried = self.count - len(self.not_tried)
        counted = f"{tried} of {self.count} cases have outputs"
        if len(self.reports) > 1:
            wrong = [f"{r.layer}, p = {r.p}" for r in ordered if not r.ok]
            verdict = f"Verdict: {self.verdict}" + (f" ({'; '.join(wrong)})" if wrong else "")
            paint = COLOURS["passed" if self.ok else "failed"]
            lines += [
                f"\033[{paint}m{line}\033[0m" if colour else line for line in wrap(verdict, 0, 9)
            ]
        lines += wrap(counted + ("" if tried == self.count else "; the others were not tried"), 0)
        return "\n\n".join([*parts, "\n".join(lines)])


def check_vectors(
    folder: str | os.PathLike[str],
    layers: Sequence[str] | None = None,
    norms: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
) -> Judged:
    """Judge the `*.out.npy` files in a folder that `lpnorm.verify.vectors.write` made.

    layers, norms, dtypes: judge only cases of these (names as in the manifest). Raises CannotRun,
    in one line, where there is nothing to judge: no manifest, no output, a file that is damaged.
    """
    folder = Path(folder)
    entries = [
        entry
        for entry in _manifest(folder)
        if (layers is None or entry["layer"] in layers)
        and (norms is None or entry["p"] in norms)
        and (dtypes is None or entry["dtype"] in dtypes)
    ]
    if not entries:
        asked = [*(layers or ()), *(f"p = {p}" for p in norms or ()), *(dtypes or ())]
        raise CannotRun(f"its manifest has no case of {', '.join(asked) or 'any kind'}")
    wrote = {str(path.relative_to(folder).as_posix()) for path in folder.rglob("*.out.npy")}
    groups: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
    tried, not_tried = {}, []
    for entry in entries:
        given = [o for o, files in entry["outputs"].items() if files["out"] in wrote]
        if given:
            tried[entry["id"]] = given
            groups.setdefault((entry["layer"], entry["p"]), []).append(entry)
        else:
            not_tried.append(entry["id"])
    if not tried:
        example = next(iter(entries[0]["outputs"].values()))["out"]
        raise CannotRun(
            f"none of its {len(entries)} cases has an output: write {example} and the like"
        )
    reports = []
    for (layer, p), chosen in groups.items():
        report = Report(layer, p if p is not None else "-", f"vectors in {folder}")
        pairs = [(_vector(folder, e), _outputs(folder, e, tried[e["id"]])) for e in chosen]
        judge = _judge_steps if p is None or layer.endswith("weight_norm") else _judge_norm
        with np.errstate(all="ignore"):
            report.checks += judge(pairs, report)
        report.checks += _missing(pairs, [e for e in entries if e["id"] in not_tried], report)
        report.conventions = list(dict.fromkeys(report.conventions))
        report.notes = list(dict.fromkeys(report.notes))
        reports.append(report)
    judged = Judged(str(folder), reports, not_tried, len(entries))
    known = {files["out"] for entry in _manifest(folder) for files in entry["outputs"].values()}
    stray = sorted(wrote - known)
    if stray:
        judged.notes.append(f"{len(stray)} outputs belong to no case, such as {stray[0]}")
    return judged


# ---- reading ----------------------------------------------------------------------------------


def _manifest(folder: Path) -> list[dict[str, Any]]:
    """The cases of the manifest. Raises CannotRun."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise CannotRun("it has no manifest.json: `lpnorm vectors DIR` writes such a folder")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != 1:
            raise CannotRun(f"its manifest has format {content['format']}, this version reads 1")
        entries: list[dict[str, Any]] = content["cases"]
        for entry in entries:
            _ = entry["id"], entry["layer"], entry["p"], entry["dtype"], entry["outputs"].items()
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as problem:
        raise CannotRun(f"its manifest.json is damaged ({type(problem).__name__})") from problem
    return entries


def _read(path: Path, name: str) -> Array:
    """A .npy file of real numbers, in this machine's byte order. Raises CannotRun."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as problem:
        why = str(problem).splitlines()[0][:80] if str(problem) else type(problem).__name__
        raise CannotRun(f"{name} cannot be read as a .npy file ({why})") from problem
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise CannotRun(f"{name} has dtype {getattr(array, 'dtype', '?')}, not a float dtype")
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))).reshape(array.shape)


def _vector(folder: Path, entry: dict[str, Any]) -> Vector:
    """A case as `vectors.plan` made it, from its files. Raises CannotRun if they were changed."""
    try:
        files = {name: str(each["file"]) for name, each in entry["inputs"].items()}
        arrays = {name: _read(folder / file, file) for name, file in files.items()}
        digest = hashlib.sha256(b"".join(vectors.npy(a) for a in arrays.values())).hexdigest()
        if digest != entry["sha256"]:
            raise CannotRun(f"the inputs of {entry['id']} are not what was written: write it anew")
        layer, p, axis = entry["layer"], entry["p"], entry["axis"]
        case: Case | WeightCase
        if layer in ("batch_norm", "layer_norm"):
            chosen = axis[0] if layer == "batch_norm" else tuple(axis)
            layout = Layout(layer, arrays["x"].ndim, chosen)
            case = Case(entry["name"], entry["shows"], **arrays, eps=entry["eps"], layout=layout)
        else:
            norm = None if p is None else NORMS[p]
            case = WeightCase(entry["name"], entry["shows"], layer, norm, arrays, entry["settings"])
        return Vector(entry["id"], p, tuple(entry["flags"]), case)
    except (KeyError, TypeError, IndexError, AttributeError) as problem:
        raise CannotRun(f"the manifest's case {entry['id']} is damaged ({problem})") from problem


def _outputs(folder: Path, entry: dict[str, Any], given: list[str]) -> Outputs:
    names = {output: entry["outputs"][output]["out"] for output in given}
    return {output: _read(folder / file, file) for output, file in names.items()}


def _missing(
    pairs: list[tuple[Vector, Outputs]], untried: list[dict[str, Any]], report: Report
) -> list[Check]:
    """What was not given: whole outputs and dtypes in a note, single ones as skipped checks."""
    asked = {name for vector, _ in pairs for name in vector.outputs}
    given = {name for _, outputs in pairs for name in outputs}
    never = [name for name in pairs[0][0].outputs if name in asked - given]
    if never:
        report.notes.append(f"{', '.join(never)} is given in no case, so it was not judged")
    found = []
    for vector, outputs in pairs:
        lacks = [name for name in vector.outputs if name in given and name not in outputs]
        if lacks:
            why = f"not tried: no {', '.join(lacks)}"
            found.append(Check(vector.id, "skipped", vector.case.why, why))
    dtypes = {vector.case.dtype for vector, _ in pairs}
    own = [e for e in untried if (e["layer"], e["p"]) == (pairs[0][0].layer, pairs[0][0].p)]
    for dtype in sorted({e["dtype"] for e in own} - dtypes):
        report.notes.append(f"{dtype} was not tried: none of its cases has an output")
    return found + [
        Check(e["id"], "skipped", e["shows"], "not tried: no output")
        for e in own
        if e["dtype"] in dtypes
    ]


# ---- batch norm and layer norm ----------------------------------------------------------------


class _Recorded(Candidate):
    """A candidate that gives for each case's x what a program wrote."""

    kind, has_backward = "vectors", True

    def __init__(self, outcomes: dict[int, Outcome]) -> None:
        self.outcomes = outcomes

    def run(self, x: Array, gamma: Array, beta: Array, eps: float, dy: Array | None) -> Outcome:
        return self.outcomes[id(x)]


class _Checks(NormChecks):
    """`NormChecks` of cases and outputs that are there already."""

    def __init__(self, pairs: list[tuple[Vector, Outputs]], report: Report) -> None:
        first = pairs[0][0]
        self.pairs, self.report = pairs, report
        self.p, self.layer = NORMS[str(first.p)], first.layer
        self.dtypes = [d for d in reversed(vectors.DTYPES) if any(self._of(d))]
        self.dtype = self.dtypes[0]
        self.groups = 3
        self.wrong: set[str] = set()  # names of the value checks that failed
        axis = 1 if self.layer == "batch_norm" else -1
        self.settings = Settings(self.layer, self.p, axis, None, "paper", None, None)
        self.outcomes = {
            id(_case(v).x): Outcome(**{"y": None, **outputs})  # type: ignore[arg-type]
            for v, outputs in pairs
        }
        self.candidate, self.refused, self.layouts = _Recorded(self.outcomes), {}, []
        self.recognised = self._recognise()
        self.conventions = self.recognised.conventions

    def _of(self, dtype: str) -> Iterator[Vector]:
        return (vector for vector, _ in self.pairs if vector.case.dtype == dtype)

    def value_cases(self, dtype: str) -> Iterator[Case]:
        for vector in self._of(dtype):
            if any(a is not None for a in vars(self.outcomes[id(_case(vector).x)]).values()):
                yield _case(vector)

    def _undefined_constant(self, trial: Trial) -> bool:
        return getattr(trial.got, "y", None) is not None and super()._undefined_constant(trial)

    def _recognise(self) -> Recognised:
        """The place of eps, from the cases of the widest dtype that show it."""
        usual = Conventions(self.p, default_place(self.p))
        names = ("random values", "large eps", "small magnitude")
        probing = []
        for vector in self._of(self.dtype):
            case, y = _case(vector), self.outcomes[id(_case(vector).x)].y
            if y is not None and y.shape == case.x.shape and case.name in names:
                probing.append((case, y.astype("float64")))
        if not probing:
            return Recognised(usual, all(o.y is None for o in self.outcomes.values()))
        listed = [place for place in places(self.p, "paper") if place != "none"]
        found = _best(probing, [Conventions(self.p, place) for place in listed])
        if found is not None:
            place = found[0].place
            said = [WORDS[place]] if place != default_place(self.p) else []
            return Recognised(found[0], True, None, said, found[1])
        for eps in OTHER_EPS:
            for place in listed:
                tried = Conventions(self.p, place, eps=eps)
                if (found := _best(probing, [tried])) and found[1]:
                    return Recognised(tried, True, eps)
        without = Conventions(self.p, "none", eps=0.0)
        if (found := _best(probing, [without])) and found[1]:
            return Recognised(without, True, 0.0)
        return Recognised(usual, False)

    def checks(self) -> Iterator[Check]:
        used = self.recognised.eps_used
        if used is not None:
            how = f"with eps = {used:g}" if used else "without eps"
            words = f"the cases name their eps, but y is computed {how} in all of them"
            why = "eps must be the one asked for"
            yield Check("eps", "failed", why, words, words)
        self.report.conventions += self.recognised.said
        ids = {(v.case.name, v.case.dtype): v.id for v, _ in self.pairs}
        for dtype in self.dtypes:
            self._overflows(dtype)
            named = {f"{name}, {d}": i for (name, d), i in ids.items() if d == dtype}
            for check in self.values(dtype):
                if check.status == "failed":
                    self.wrong.add(check.check)
                yield Check(**{**vars(check), "check": named.get(check.check, check.check)})
        yield from self._ties()

    def _overflows(self, dtype: str) -> None:
        """The formula taken literally, |d|^p infinite in float16, is a convention: y = beta."""
        if self.p not in (2, 3):
            return
        for vector in self._of(dtype):
            case, got = _case(vector), self.outcomes[id(_case(vector).x)]
            if "float16-overflow" not in vector.flags or got.y is None:
                continue
            beta = np.broadcast_to(case.layout.wide(case.beta, case.x.shape), case.x.shape)
            if got.y.shape == beta.shape and np.all(np.isnan(got.y) | (got.y == beta)):
                self.outcomes[id(case.x)] = Outcome(None, dbeta=got.dbeta)  # type: ignore[arg-type]
                self.report.conventions.append(
                    f"in float16 |d|^{self.p:g} overflows for |d| of some hundreds: y is beta there"
                )

    def _ties(self) -> Iterator[Check]:
        if not self.recognised.fits:
            return
        rules: set[str] = set()
        for vector, _ in self.pairs:
            case = _case(vector)
            got = self.outcomes[id(case.x)]
            if "ties" in vector.flags and got.dx is not None and got.dx.shape == case.x.shape:
                name = f"{vector.id}, membership"
                if f"random values, {case.dtype}" in self.wrong:
                    yield Check(name, "skipped", ties.WHY, "the gradient itself is wrong")
                    continue
                check, chosen = ties.membership(self, Trial(case, got), name)
                rules |= chosen if case.dtype == self.dtype else set()
                yield check
        self.report.conventions += ties.conventions(rules)


def _case(vector: Vector) -> Case:
    assert isinstance(vector.case, Case)
    return vector.case


def _judge_norm(pairs: list[tuple[Vector, Outputs]], report: Report) -> list[Check]:
    return list(_Checks(pairs, report).checks())


# ---- weight norm, bounded weight norm, SGD ----------------------------------------------------


def _judge_steps(pairs: list[tuple[Vector, Outputs]], report: Report) -> list[Check]:
    found: list[Check] = []
    for dtype in reversed(vectors.DTYPES):
        found += _judge_weights([(v, o) for v, o in pairs if v.case.dtype == dtype], dtype, report)
    rules: set[str] = set()
    for vector, outputs in pairs:
        if "ties" in vector.flags and isinstance(vector.case, WeightCase) and "dv" in outputs:
            ok, words = weights.membership(vector.case, outputs)
            name, why = f"{vector.id}, membership", ties.WHY
            if not ok:
                right = weights.text(weights.WEIGHT, "h")
                found.append(Check(name, "failed", why, words, words, right))
            else:
                rules |= {words} if words else set()
                found.append(Check(name, "passed", why, words or "one gradient"))
    report.conventions += ties.conventions(rules)
    return found


def _judge_weights(
    pairs: list[tuple[Vector, Outputs]], dtype: str, report: Report
) -> Iterator[Check]:
    """The values of the cases of one dtype, with float16 sums only where they are needed."""
    usual = Arithmetic(vectors.accumulator(dtype), sequential=True)
    judged = [(v, o, _errors(v, o, usual)) for v, o in pairs]
    failing = [(v, o) for v, o, errors in judged if _wrong(errors)]
    if failing and dtype == "float16":
        half = [(v, o, _errors(v, o, Arithmetic("float16", sequential=True))) for v, o in pairs]
        known = weights.diagnose([(_weight(v), o) for v, o in failing])
        if known is None and not any(_wrong(errors) for _, _, errors in half):
            report.conventions.append(FLOAT16_SUMS)
            judged, failing = half, []
    common = weights.diagnose([(_weight(v), o) for v, o in failing])
    for vector, outputs, errors in judged:
        wrong = _wrong(errors)
        if not wrong:
            top = max(errors, key=lambda e: e.fraction)
            yield Check(vector.id, "passed", vector.case.why, str(top))
            continue
        bad = {e.name: outputs[e.name] for e in wrong}
        said = common or weights.diagnose([(_weight(vector), bad)])
        detail = "; ".join(map(str, wrong))
        words, compare = (said.words, said.compare) if said else ("", "")
        yield Check(vector.id, "failed", vector.case.why, detail, words, compare)


def _weight(vector: Vector) -> WeightCase:
    assert isinstance(vector.case, WeightCase)
    return vector.case


def _wrong(errors: list[Error]) -> list[Error]:
    return [e for e in errors if not e.fraction <= 1]


def _errors(vector: Vector, outputs: Outputs, arithmetic: Arithmetic) -> list[Error]:
    case = _weight(vector)
    want, limits = weights.expected(case), weights.allowed(case, arithmetic)
    found = []
    for name, got in outputs.items():
        limit = np.broadcast_to(limits[name], want[name].shape)
        one = error(name, got.astype("float64"), want[name], limit, case.dtype)
        found += [one] if one is not None else []
    return found
