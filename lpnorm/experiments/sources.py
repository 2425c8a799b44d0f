"""Which files a stored training depends on: what its module imports, followed through the package.

Imports are read (`ast`), not run, and wherever they stand: also those in a function or behind a
condition. As Python runs the `__init__.py` of every folder on the way to a module, these belong to
it, with what they import in turn: that is why those of `lpnorm` and `lpnorm.experiments` load what
no training needs (the judge, the other claims) only when it is asked for, by a computed name, which
is not followed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path


def digest(package: Path, *starts: Path) -> str:
    """A hash of the names and contents of all `sources` of these files."""
    total = hashlib.sha256()
    for path in sources(package, *starts):
        name = path.relative_to(package).as_posix() if path.is_relative_to(package) else path.name
        total.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def sources(package: Path, *starts: Path) -> list[Path]:
    """The files in the folder of a package that these files need, and these files, sorted.

    Of a folder whose `__init__.py` is needed, that is also the data in it (the digits): whatever is
    neither Python, nor text for readers (.md), nor hidden.
    """
    found: set[Path] = set()
    waiting = list(starts)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(package, path)
    folders = [path.parent for path in found if path.name == "__init__.py"]
    data = {path for folder in folders for path in folder.glob("[!.]*") if path.is_file()}
    return sorted(found | {path for path in data if path.suffix not in (".py", ".md")})


def _imported(package: Path, path: Path) -> Iterator[Path]:
    """What this file imports from the package, and the folders it is in."""
    home: tuple[str, ...] = ()
    if path.is_relative_to(package):
        home = path.parent.relative_to(package.parent).parts
        yield from _on_the_way(package, home)
    for dots, name in _imports(path.read_bytes()):
        above = home[: len(home) + 1 - dots] if dots else ()
        yield from _on_the_way(package, (*above, *name.split(".")))


@functools.cache
def _imports(text: bytes) -> list[tuple[int, str]]:
    """(leading dots, dotted name) of everything that a source imports."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):  # each name may be a module, or a name in one
            module = f"{node.module}." if node.module else ""
            found += [(node.level, module + alias.name) for alias in node.names]
    return found


def _on_the_way(package: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """The files that are run to import package.a.b: as far as the names are folders and modules."""
    for i in range(1, len(names) + 1 if names[:1] == (package.name,) else 1):
        place = package.parent.joinpath(*names[:i])
        for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if path.is_file():
                yield path
