"""Submissions as files: Python modules, notebooks, zip archives, or folders with one of these.

They come from strangers: only regular files are read, no link is followed, and no more than so many
bytes. Every entry of the folder is a submission, if only one with a reason why it cannot be read.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import stat
import tokenize
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

LARGEST = 64 * 2**20  # bytes of a file; a notebook may hold pictures
MOST_CODE = 2**20  # characters of code in it
MOST_FILES = 1000  # looked at in one folder or archive
KINDS = (".py", ".ipynb")
OURS = ("conftest.py", "test_assignments.py")  # of the handout
TIMED = ("time", "timeit", "capture", "prun")  # magics around code that counts


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
    stems = [_stem(p.name) for p in entries]
    found = []
    for path, stem in zip(entries, stems, strict=True):
        name = harmless(stem if stems.count(stem) == 1 else path.name)
        try:
            cells = _of_folder(path) if path.is_dir() and not path.is_symlink() else read(path)
            found.append(Submission(name, tuple(cells)))
        except Unreadable as error:
            found.append(Submission(name, error=str(error)))
        except Exception as error:  # a fault of ours costs this one its marks, and no other
            found.append(Submission(name, error=f"it cannot be read ({type(error).__name__})"))
    return found


def harmless(name: str) -> str:
    """A name as one line of printable characters; what is none, or was no UTF-8, is �."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    shown = "".join("�" if unicodedata.category(c)[0] == "C" else c for c in text).strip()
    return shown or "(a name of spaces)"


def read(path: Path) -> list[str]:
    """The code cells of a notebook, a module's text as the only cell, or those of the only such
    file in an archive. Raises Unreadable."""
    if path.is_symlink():
        raise Unreadable("it is a link")
    kind = _kind(path.name)
    if kind == "":
        raise Unreadable("it is no .py, no .ipynb and no .zip file")
    data = _bytes(path)
    return _of_archive(data) if kind == ".zip" else _cells(data, kind)


def source(cell: dict[str, Any]) -> str:
    """A cell's text, which a notebook may hold in one piece or in lines."""
    return "".join(cell["source"])


# ---- names and bytes ----------------------------------------------------------------------------


def _kind(name: str) -> str:
    """What a name says it is: ".py", ".ipynb" or ".zip", in any case and with what editors and
    browsers put behind it; else ""."""
    name = name.lower()
    for suffix in (".txt", ".json"):
        if name.endswith(tuple(kind + suffix for kind in KINDS)):
            name = name.removesuffix(suffix)
    return next((kind for kind in (*KINDS, ".zip") if name.endswith(kind)), "")


def _stem(name: str) -> str:
    kind = _kind(name)
    return name[: name.lower().rindex(kind)] if kind else name


def _bytes(path: Path) -> bytes:
    """All of a regular file: not a link, nothing that waits (a FIFO) or never ends (a device)."""
    try:
        file = os.open(
            path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        )
    except OSError as error:
        raise Unreadable(f"it cannot be read ({error.strerror})") from None
    with open(file, "rb") as opened:
        about = os.fstat(opened.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise Unreadable("it is no ordinary file")
        if about.st_size > LARGEST:
            raise Unreadable(f"it has more than {LARGEST // 2**20} MiB")
        try:
            return opened.read(LARGEST)
        except OSError as error:
            raise Unreadable(f"it cannot be read ({error.strerror})") from None


def _one_of(files: list[Any]) -> Any:
    if len(files) != 1:
        what = f"{len(files)} Python files or notebooks" if files else "no Python file or notebook"
        raise Unreadable(f"it holds {what}: it must be one")
    return files[0]


def _counts(parts: tuple[str, ...]) -> bool:
    """Is it a student's file, and not one of an editor or of the handout?"""
    hidden = any(part.startswith((".", "__")) for part in parts)
    return _kind(parts[-1]) in KINDS and not hidden and parts[-1] not in OURS


def _of_folder(folder: Path) -> list[str]:
    found = []
    for count, (where, folders, files) in enumerate(os.walk(folder)):  # follows no links
        folders.sort()
        if count > MOST_FILES or len(files) > MOST_FILES:
            raise Unreadable(f"it holds more than {MOST_FILES:,} files or folders")
        paths = (Path(where) / name for name in sorted(files))
        found += [p for p in paths if _counts(p.relative_to(folder).parts)]
    return read(_one_of(found))


def _of_archive(data: bytes) -> list[str]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if len(archive.infolist()) > MOST_FILES:
                raise Unreadable(f"it holds more than {MOST_FILES:,} files")
            members = [m for m in archive.infolist() if not m.is_dir()]
            one = _one_of([m for m in members if _counts(PurePosixPath(m.filename).parts)])
            with archive.open(one) as file:
                content = file.read(LARGEST + 1)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError):
        raise Unreadable("it is no zip archive that can be read") from None
    if len(content) > LARGEST:
        raise Unreadable(f"its file has more than {LARGEST // 2**20} MiB")
    return _cells(content, _kind(one.filename))


# ---- text and cells -----------------------------------------------------------------------------


def _cells(data: bytes, kind: str) -> list[str]:
    try:
        encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        if kind == ".py" and encoding != "utf-16":  # it may name its own
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (UnicodeDecodeError, SyntaxError):
        raise Unreadable("it is not text in UTF-8") from None
    cells = [text] if kind == ".py" else _code(text)
    if sum(map(len, cells)) > MOST_CODE:
        raise Unreadable("it has more than a million characters of code")
    return cells if kind == ".py" else [_python(each) for each in cells]


def _code(text: str) -> list[str]:
    try:
        return [source(c) for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError, MemoryError):
        raise Unreadable("it is not a notebook of format 4") from None


def _python(cell: str) -> str:
    """The cell as Python: what only IPython understands is transformed as Jupyter does, then left
    out, but for the code under %%time and the like."""
    if not re.search(r"[%!?]", cell) or _parses(cell):
        return cell
    if len(re.findall(r"^[^\n#]*[%!?]", cell, flags=re.MULTILINE)) > 200:
        return cell  # each is a pass over the cell: no notebook has so many, and it says so itself
    try:
        from IPython.core.inputtransformer2 import TransformerManager

        body = ast.parse(TransformerManager().transform_cell(cell)).body
        return ast.unparse(ast.Module(list(_without_magics(body)), []))
    except (ImportError, SyntaxError, ValueError, RecursionError, MemoryError, RuntimeError):
        return cell  # what is wrong in it is told where it is run


def _parses(cell: str) -> bool:
    try:
        ast.parse(cell)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _without_magics(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements, the code of timing magics in their place, calls of IPython as None."""
    for statement in body:
        call = getattr(statement, "value", None)
        given = call.args if isinstance(call, ast.Call) else ()
        words = [a.value for a in given if isinstance(a, ast.Constant)]
        if _of_ipython(call) and len(words) > 1 and words[0] in TIMED:
            yield from ast.parse(str(words[-1])).body
        else:
            yield ast.fix_missing_locations(_AsNone().visit(statement))


def _of_ipython(node: Any) -> bool:
    """Is it get_ipython().something(...)?"""
    of = getattr(getattr(getattr(node, "func", None), "value", None), "func", None)
    return isinstance(of, ast.Name) and of.id == "get_ipython"


class _AsNone(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.AST:
        return ast.Constant(None) if _of_ipython(node) else self.generic_visit(node)
