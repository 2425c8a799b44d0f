"""`lpnorm grade`: a folder of submissions in, a table, a CSV and the common mistakes out.

This process and its helpers only judge. Every question of every submission is computed in a process
of its own (`sandbox`), with as many seconds as the assignment gives it.
"""

from __future__ import annotations

import csv
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from lpnorm.files import atomic
from lpnorm.grading.course import assignment
from lpnorm.grading.rubric import NOT_JUDGED, Mark, Question, mark
from lpnorm.grading.sandbox import CannotStart, Limits, Sandbox
from lpnorm.grading.submissions import Submission

ABSENT = r"^(\w+: )?(there is no function|not written yet|it took longer|its process)"


@dataclass(frozen=True)
class Result:
    """The marks of one submission; error: why it could not be run at all."""

    name: str
    marks: tuple[Mark, ...]
    error: str = ""

    @property
    def points(self) -> int:
        return sum(each.points for each in self.marks)

    def of(self, question: Question) -> int:
        return sum(each.points for each in self.marks if each.question == question.name)

    @property
    def words(self) -> list[str]:
        """What is wrong, each thing once, in the order of the questions."""
        if self.error:
            return [self.error]
        told = [m for m in self.marks if m.words and not m.words.startswith(NOT_JUDGED)]
        return list(dict.fromkeys(f"{each.question}: {each.words}" for each in told))


@dataclass(frozen=True)
class Plan:
    """How submissions are graded: seed draws the cases, jailed says whether in namespaces."""

    number: int
    seed: int
    limits: Limits
    jailed: bool = True


def fresh_seed() -> int:
    """A seed nobody can know beforehand."""
    return secrets.randbits(48)


def grade(submission: Submission, plan: Plan, place: int = 0) -> Result:
    """The marks of one submission. Raises CannotStart if no process can be had."""
    marks: list[Mark] = []
    error = submission.error
    for question in assignment(plan.number).questions:
        if error:
            marks += [Mark(question.name, item, error) for item in question.items]
            continue
        with Sandbox(submission.cells, plan.limits, plan.jailed, place) as functions:
            if not functions.loaded:  # its code does not run to its end: nor will it next time
                error = functions.stopped
                marks += [Mark(question.name, item, error) for item in question.items]
            else:
                marks += mark(question, functions, plan.seed)
    return Result(submission.name, tuple(marks), error)


def _grade(work: tuple[Submission, Plan, int]) -> Result:
    return grade(*work)


def grade_all(submissions: Sequence[Submission], plan: Plan, jobs: int = 1) -> Iterator[Result]:
    """A result for each, in order, `jobs` at a time. Raises CannotStart."""
    work = [(submission, plan, place) for place, submission in enumerate(submissions)]
    if jobs == 1:
        yield from map(_grade, work)
        return
    # spawned, not forked: helpers start clean and hold no pipe of another's submission
    with ProcessPoolExecutor(min(jobs, len(work)), get_context("spawn")) as pool:
        yield from pool.map(_grade, work)


def rows(results: Sequence[Result], number: int) -> tuple[list[str], list[list[object]]]:
    """The table: a header, and a line for each submission."""
    asked = assignment(number)
    header = ["submission"]
    header += [f"{q.name} ({q.points})" for q in asked.questions]
    header += [f"total ({asked.points})", "what is wrong"]
    lines: list[list[object]] = []
    for result in results:
        points: list[object] = [result.of(q) for q in asked.questions]
        lines.append([result.name, *points, result.points, "; ".join(result.words)])
    return header, lines


def write_csv(path: Path, results: Sequence[Result], number: int) -> None:
    """The table as a CSV file. Raises OSError."""
    header, lines = rows(results, number)
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([[_harmless(cell) for cell in line] for line in lines])


def _harmless(cell: object) -> object:
    """Text that a spreadsheet does not take for a formula: some of it comes from submissions."""
    return "'" + cell if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@")) else cell


def common_mistakes(results: Sequence[Result], most: int = 5) -> list[tuple[str, int]]:
    """What is wrong most often, and in how many submissions; not what is only not there."""
    counts = Counter(
        words for result in results for words in result.words if not re.search(ABSENT, words)
    )
    return [(words, n) for words, n in counts.most_common(most) if n > 1]


__all__ = [
    "CannotStart",
    "Plan",
    "Result",
    "common_mistakes",
    "fresh_seed",
    "grade",
    "grade_all",
    "rows",
    "write_csv",
]
