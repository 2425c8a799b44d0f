"""What a check found: every check with its reason, the verdict, as text of 80 columns and JSON."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any

WIDTH = 80
COLOURS = {"passed": "32", "failed": "31", "limited": "33", "skipped": "33"}
WORDS = {"passed": "ok", "failed": "WRONG", "limited": "LIMIT", "skipped": "-"}


@dataclass(frozen=True)
class Diagnosis:
    """In words, with the line to compare with.

    known: what the outputs were found to be, as (their names, mistakes, conventions).
    """

    words: str
    compare: str = ""
    known: tuple[tuple[tuple[str, ...], tuple[Any, ...], Any], ...] = ()
    lost: bool = False  # it says no more than that numbers are not finite


@dataclass(frozen=True)
class Check:
    """One check. tried: what was done and why it matters; detail: what came out.

    status: "passed", "failed", "limited" (the values are right, but not everywhere, or they come in
    another way: the diagnosis is what an engineer has to know) or "skipped". diagnosis and compare
    (a line of mathematics) are there for failures.
    """

    check: str
    status: str
    tried: str
    detail: str = ""
    diagnosis: str = ""
    compare: str = ""
    general: bool = False  # a law that many mistakes break: it says that, not what is wrong
    forward: bool = False  # the first of causes: what the others may follow from


@dataclass
class Report:
    """ok, verdict, failures, limits, conventions; str() for people, to_json() for programs.

    verdict: "correct", "correct, with limits: ...", "correct under these conventions: ..." (or
    both), "wrong", or "could not run" (then there is one failure, which says why). taken: what of
    the candidate was taken for what. notes: what was seen that is none of these. strict: with
    limits it is not ok.
    """

    layer: str
    p: Any
    candidate: str
    checks: list[Check] = field(default_factory=list)
    conventions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    ran: bool = True
    strict: bool = False

    @property
    def ok(self) -> bool:
        return self.ran and not self.failures and not (self.strict and self.limits)

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if check.status == "failed"]

    @property
    def limits(self) -> list[str]:
        """Where right values end, each once."""
        return list(dict.fromkeys(c.diagnosis for c in self.checks if c.status == "limited"))

    @property
    def verdict(self) -> str:
        if not self.ran:
            return "could not run"
        if self.failures:
            return "wrong"
        said = []
        if self.limits:
            said.append(", with limits: " + "; ".join(self.limits))
        if self.conventions:
            said.append(" under these conventions: " + "; ".join(self.conventions))
        return "correct" + ";".join(said)

    @property
    def diagnoses(self) -> list[str]:
        """The different diagnoses, those of the forward first, then the most often given; those of
        laws only if there is no other.

        A law that many mistakes break ("dx does not sum to 0") follows from what is wrong.
        """
        named = [check for check in self.failures if check.diagnosis]
        specific = [check for check in named if not check.general]
        given = [check.diagnosis for check in specific or named]
        first = {check.diagnosis for check in named if check.forward}
        return sorted(dict.fromkeys(given), key=lambda d: (d not in first, -given.count(d)))

    def _causes(self) -> list[tuple[Check, list[Check]]]:
        """The failing checks, those with one diagnosis together: the first, and the others.

        What has no diagnosis of its own, and the laws, follow from the first cause.
        """
        causes: dict[str, list[Check]] = {}
        left: list[Check] = []
        for check in self.failures:
            named = check.diagnosis and not check.general
            (causes.setdefault(check.diagnosis, []) if named else left).append(check)
        found = [(checks[0], checks[1:]) for checks in causes.values()]
        if not found:
            return [(left[0], left[1:])] if left else []
        found[0][1].extend(left)
        return found

    def to_json(self) -> str:
        """The report as a JSON object, keys sorted."""
        content = {
            "layer": self.layer,
            "p": str(self.p),
            "candidate": self.candidate,
            "ok": self.ok,
            "verdict": self.verdict,
            "taken": self.taken,
            "limits": self.limits,
            "conventions": self.conventions,
            "notes": self.notes,
            "checks": [asdict(check) for check in self.checks],
        }
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)

    def __str__(self) -> str:
        return self.text()

    def text(self, colour: bool = False) -> str:
        """The report in 80 columns; colour: with terminal colours."""

        def painted(word: str, status: str) -> str:
            return f"\033[{COLOURS[status]}m{word}\033[0m" if colour else word

        norm = "" if self.p is None else f", p = {self.p}"
        lines = wrap(f"{self.layer}{norm}: {self.candidate}", 0)
        lines += wrap("Taken: " + "; ".join(self.taken), 0, 7) if self.taken else []
        status = "passed" if self.ok else "failed"
        lines += [painted(line, status) for line in wrap("Verdict: " + self.verdict, 0, 9)]
        for diagnosis in self.diagnoses:
            lines += wrap("- " + diagnosis, 2, 4)
        for limit in self.limits if self.failures else ():
            lines += wrap("Limit: " + limit, 0, 7)
        if self.failures and self.conventions:
            lines += wrap("Conventions: " + "; ".join(self.conventions), 0, 13)
        for note in self.notes:
            lines += wrap("Note: " + note, 0, 6)
        for first, others in self._causes():
            lines += ["", *(painted(line, "failed") for line in wrap(f"WRONG  {first.check}", 0))]
            lines += wrap("tried: " + first.tried, 2, 9)
            lines += wrap("found: " + first.detail, 2, 9)
            if first.diagnosis and first.diagnosis != first.detail:
                lines += wrap("means: " + first.diagnosis, 2, 9)
            if not first.diagnosis:
                lines += wrap("means: no known mistake gives these numbers", 2, 9)
            if first.compare:
                lines += wrap("right: " + first.compare, 2, 9)
            if others:
                lines += wrap(f"also wrong in {_count(others)}: {_names(others)}", 2, 4)
        rest = [check for check in self.checks if check.status != "failed"]
        if rest and self.failures:
            lines += ["", "What passed:"]
        elif rest:
            lines.append("")
        for check in rest:
            words = wrap(f"{WORDS[check.status]:5}  {check.check}: {check.detail or 'holds'}", 0, 7)
            lines += [words[0].replace("ok", painted("ok", "passed"), 1), *words[1:]]
        return "\n".join(lines)


def _count(checks: list[Check]) -> str:
    return f"{len(checks)} other check{'s' if len(checks) > 1 else ''}"


def _names(checks: list[Check], most: int = 8) -> str:
    """The names of checks, each kind once: without dtype and what else follows a comma."""
    names = [check.check for check in checks]
    kinds = list(dict.fromkeys(q if q.startswith("<") else q.split(", ")[0] for q in names))
    more = f" and {len(kinds) - most} of other kinds" if len(kinds) > most else ""
    return ", ".join(kinds[:most]) + more


def wrap(text: str, indent: int, hanging: int | None = None) -> list[str]:
    """Text in lines of at most 80 columns, the first indented, the others by `hanging`."""
    later = " " * (indent if hanging is None else hanging)
    return textwrap.wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=later) or [""]
