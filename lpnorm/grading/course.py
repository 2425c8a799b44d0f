"""The assignments by number, and what a student's notebook calls: `tell` and `show`."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lpnorm.grading.child import run_cells
from lpnorm.grading.functions import Functions, Local
from lpnorm.grading.rubric import Assignment, mark
from lpnorm.grading.submissions import read

NUMBERS = (1, 2, 3, 4, 5, 6)


@lru_cache
def assignment(number: int) -> Assignment:
    """The assignment of that number. Raises ValueError."""
    if number not in NUMBERS:
        raise ValueError(f"assignment must be one of {NUMBERS}, got {number!r}")
    found: Assignment = importlib.import_module(f"lpnorm.grading.assignment{number}").ASSIGNMENT
    return found


def words(number: int, question: str, item: str, functions: Functions) -> str:
    """What is wrong with one item of an answer; "" if nothing is."""
    marks = mark(assignment(number).question(question), functions)
    return next(each.words for each in marks if each.item.name == item)


def tell(number: int, question: str, item: str, namespace: Mapping[str, Any]) -> None:
    """Print "right", or what is wrong. namespace: globals() of the notebook with the answer."""
    print(words(number, question, item, Local(namespace)) or "right")


def show(number: int, question: str, namespace: Mapping[str, Any]) -> None:
    """Print what a student may see of a question's marks, item by item."""
    for each in mark(assignment(number).question(question), Local(namespace)):
        worth = f"{each.item.points} point" + ("s" if each.item.points != 1 else "")
        said = "seen when it is graded" if each.item.hidden else each.words or "right"
        print(f"{question}, {each.item.name} ({worth}): {said}")


def find_own(folder: Path, number: int) -> Path:
    """The notebook, or else the module, of an assignment in a student's folder.

    Raises FileNotFoundError.
    """
    stem = assignment(number).stem
    for path in (folder / f"{stem}.ipynb", folder / f"{stem}.py"):
        if path.exists():
            return path
    raise FileNotFoundError(f"there is no {stem}.ipynb in {folder}: name a file by --submission")


def load(path: Path) -> Local:
    """The functions of a notebook or module, run here and now: for a student's own computer only.

    Statements that fail are noted and passed over, as when it is graded. Raises Unreadable.
    """
    namespace: dict[str, Any] = {"__name__": "submission"}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Local(namespace, run_cells(read(path), namespace))
