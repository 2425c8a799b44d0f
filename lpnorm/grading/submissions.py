"""Submissions as files: Python modules, notebooks, or folders with one of these in them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST = 20 * 2**20  # bytes of a file; a notebook may hold pictures
MOST_CODE = 2**20  # characters of code in it


class Unreadable(Exception):
    """A file that is no submission; the text says why, in one line."""


@dataclass(frozen=True)
class Submission:
    """name: of the file or folder. cells: its code. error: why there is none, "" if there is."""

    name: str
    cells: tuple[str, ...] = ()
    error: str = ""


def find(folder: Path) -> list[Submission]:
    """Every submission in a folder, by name. Raises OSError."""
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith((".", "__")))
    stems = [p.stem for p in entries]
    found = []
    for path in entries:
        if path.is_dir():
            found.append(_of_folder(path))
        elif path.suffix in (".py", ".ipynb"):
            name = path.stem if stems.count(path.stem) == 1 else path.name
            found.append(_of_file(path, name))
    return found


def _of_folder(folder: Path) -> Submission:
    files = [p for p in sorted(folder.rglob("*")) if p.suffix in (".py", ".ipynb")]
    files = [
        p
        for p in files
        if p.is_file()
        and not any(part.startswith((".", "__")) for part in p.relative_to(folder).parts)
        and p.name not in ("conftest.py", "test_assignments.py")
    ]
    if len(files) != 1:
        what = f"{len(files)} Python files or notebooks" if files else "no Python file or notebook"
        return Submission(folder.name, error=f"it holds {what}: it must be one")
    return _of_file(files[0], folder.name)


def _of_file(path: Path, name: str) -> Submission:
    try:
        return Submission(name, tuple(read(path)))
    except Unreadable as error:
        return Submission(name, error=str(error))


def read(path: Path) -> list[str]:
    """The code cells of a notebook, or a module's text as the only cell. Raises Unreadable."""
    try:
        if path.stat().st_size > LARGEST:
            raise Unreadable(f"it has more than {LARGEST // 2**20} MiB")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Unreadable("it is not text in UTF-8") from None
    except OSError as error:
        raise Unreadable(f"it cannot be read ({error.strerror})") from None
    cells = [text] if path.suffix == ".py" else [_python(each) for each in _code(text)]
    if sum(map(len, cells)) > MOST_CODE:
        raise Unreadable("it has more than a million characters of code")
    return cells


def _code(text: str) -> list[str]:
    try:
        return [source(c) for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Unreadable("it is not a notebook of format 4") from None


def source(cell: dict[str, Any]) -> str:
    """A cell's text, which a notebook may hold in one piece or in lines."""
    return "".join(cell["source"])


def _python(cell: str) -> str:
    """The cell without what only IPython understands: %magics, !commands, help?"""
    if cell.lstrip().startswith("%%"):
        return ""
    return re.sub(r"^(\s*)([%!].*|[\w.]+\?+)$", r"\1pass", cell, flags=re.MULTILINE)
