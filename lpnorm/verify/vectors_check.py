"""Judge what a program wrote into a vectors folder (`lpnorm.verify.vectors`).

The inputs are known, so the outputs go the way of every other candidate: conventions recognised,
values against the oracle within derived bounds, ties by membership, mistakes named by the
catalogue. What needs new calls (laws, running statistics) is not asked. One report for each layer
and norm, since conventions belong to these.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lpnorm.verify import kinks, vectors
from lpnorm.verify.candidates.common import CannotRun
from lpnorm.verify.cases import Case, Layout, Outcome
from lpnorm.verify.norm import undefined_constant
from lpnorm.verify.recognise import WORDS, Recognised, best
from lpnorm.verify.reference import Conventions, default_place, places
from lpnorm.verify.report import COLOURS, Check, Report, wrap
from lpnorm.verify.trials import Trial
from lpnorm.verify.values import Values
from lpnorm.verify.vectors import NORMS, Vector
from lpnorm.verify.weight_checks import weight_kinks

Array = np.ndarray
Outputs = dict[str, Array]
OTHER_EPS = (1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 2.0**-10, 1e-3, 1e-2)


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
        judge(pairs, report)
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
        layout, settings = None, entry["settings"]
        if layer in ("batch_norm", "layer_norm"):
            chosen = axis[0] if layer == "batch_norm" else tuple(axis)
            layout, settings = Layout(layer, arrays["x"].ndim, chosen), {"eps": entry["eps"]}
        norm = None if p is None or layout is not None else NORMS[p]
        flags = frozenset(entry["flags"]) | _own_flags().get(entry["name"], frozenset())
        name, why = entry["name"], entry["shows"]
        case = Case(name, why, layer, arrays, settings, norm, layout, flags)
        return Vector(entry["id"], p, case)
    except (KeyError, TypeError, IndexError, AttributeError) as problem:
        raise CannotRun(f"the manifest's case {entry['id']} is damaged ({problem})") from problem


@functools.cache
def _own_flags() -> dict[str, frozenset[str]]:
    """The judge's own flags, which a manifest has not, by the names of the cases."""
    return {v.case.name: v.case.flags for v in vectors.plan()}


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


# ---- judging ----------------------------------------------------------------------------------


class _Files(Values):
    """The value checks of outputs that are there already, all of one layer and norm."""

    def __init__(self, pairs: Sequence[tuple[Vector, Outputs]], report: Report) -> None:
        first = pairs[0][0]
        self.p, self.layer = NORMS.get(str(first.p)), first.layer
        self.trials = [(v, Trial(v.case, Outcome(**outputs))) for v, outputs in pairs]
        used = {v.case.dtype for v, _ in pairs}
        self.dtypes = [dtype for dtype in reversed(vectors.DTYPES) if dtype in used]
        self.rules: set[str] = set()
        usual = Conventions(self.p, default_place(self.p))
        normalizer = first.case.layout is not None
        self.recognised = self._recognise() if normalizer else Recognised(usual, True)
        fits = self.recognised.fits and self.recognised.tightly
        super().__init__(self.recognised.conventions, report, fits)
        self.ids = {id(v.case): v.id for v, _ in self.trials}

    def _of(self, dtype: str) -> list[tuple[Vector, Trial]]:
        return [(v, trial) for v, trial in self.trials if v.case.dtype == dtype]

    def name(self, case: Case) -> str:
        return self.ids[id(case)]

    def checks(self) -> Iterator[Check]:
        used = self.recognised.eps_used
        if used is not None:
            how = f"with eps = {used:g}" if used else "without eps"
            words = f"the cases name their eps, but y is computed {how} in all of them"
            why = "eps must be the one asked for"
            yield Check("eps", "failed", why, words, words, forward=True)
        self.report.conventions += self.recognised.said
        for dtype in self.dtypes:
            pairs = self._of(dtype)
            self._overflows(pairs)
            yield from self.values([trial for _, trial in pairs if trial.got], self.name)
        trials = [trial for _, trial in self.trials]
        if trials[0].case.layout is None:
            yield from weight_kinks(self, trials, self.name)
        elif self.recognised.fits:
            yield from self._kinks(trials)
        self.report.conventions += kinks.said_of(self.rules)

    def undefined(self, trial: Trial) -> bool:
        return undefined_constant(self, trial)

    def _recognise(self) -> Recognised:
        """The place of eps, from the cases of the widest dtype that show it."""
        usual = Conventions(self.p, default_place(self.p))
        probing = []
        for vector, trial in self._of(self.dtypes[0]):
            case, y = vector.case, trial.got and trial.got.get("y")
            shows = {"telling"} & case.flags and "small-n" not in case.flags
            if y is not None and y.shape == case.x.shape and shows:
                probing.append((case, y.astype("float64")))
        if not probing:
            return Recognised(usual, all("y" not in (t.got or ()) for _, t in self.trials))
        listed = [place for place in places(self.p, "paper") if place != "none"]
        found = best(probing, [Conventions(self.p, place) for place in listed])
        if found is not None:
            place = found[0].place
            said = [WORDS[place]] if place != default_place(self.p) else []
            return Recognised(found[0], True, None, said, found[1])
        for eps in OTHER_EPS:
            for place in listed:
                tried = Conventions(self.p, place, eps=eps)
                if (found := best(probing, [tried])) and found[1]:
                    return Recognised(tried, True, eps)
        without = Conventions(self.p, "none", eps=0.0)
        if (found := best(probing, [without])) and found[1]:
            return Recognised(without, True, 0.0)
        return Recognised(usual, False)

    def _overflows(self, pairs: list[tuple[Vector, Trial]]) -> None:
        """The formula taken literally, |d|^p infinite in float16, is a convention: y = beta."""
        if self.p not in (2, 3):
            return
        for vector, trial in pairs:
            case, got = vector.case, trial.got
            if "float16-overflow" not in case.flags or got is None or got.y is None:
                continue
            beta = np.broadcast_to(case.layout.wide(case.beta, case.x.shape), case.x.shape)
            if got.y.shape == beta.shape and np.all(np.isnan(got.y) | (got.y == beta)):
                for name in ("y", "dx", "dgamma"):
                    got.pop(name, None)
                self.report.conventions.append(
                    f"in float16 |d|^{self.p:g} overflows for |d| of some hundreds: y is beta there"
                )

    def _kinks(self, trials: list[Trial]) -> Iterator[Check]:
        wrong = {c.check for c in self.report.failures}
        plain = {t.case.dtype: self.name(t.case) for t in trials if "telling" in t.case.flags}
        for trial in trials:
            case, dx = trial.case, trial.got and trial.got.get("dx")
            if "ties" in case.flags and dx is not None and dx.shape == case.x.shape:
                name = f"{self.name(case)}, membership"
                if plain.get(case.dtype) in wrong:
                    yield Check(name, "skipped", kinks.WHY, "the gradient itself is wrong")
                    continue
                check, chosen = kinks.membership(self, trial, name)
                self.rules |= chosen if case.dtype == self.dtypes[0] else set()
                yield check


def judge(pairs: Sequence[tuple[Vector, Outputs]], report: Report) -> None:
    """Add to the report what is found of outputs of one layer and norm."""
    with np.errstate(all="ignore"):
        for check in _Files(pairs, report).checks():
            report.checks.append(check)
