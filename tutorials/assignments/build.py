"""Run the solution notebooks and store them with their outputs, which otter-grader compares with.

    python tutorials/assignments/build.py        # all of them
    python tutorials/assignments/build.py 01     # those whose names start with 01

As for the tutorials, NAME.py is the source that is edited and NAME.ipynb is made from it here.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import nbformat

HERE = Path(__file__).parent
TUTORIALS = runpy.run_path(str(HERE.parent / "build.py"))


def sources(names: list[str] | None = None) -> list[Path]:
    """The .py file of every assignment, or of those whose names start with one of `names`."""
    found = sorted(HERE.glob("[0-9][0-9]_*.py"))
    return [path for path in found if not names or path.name.startswith(tuple(names))]


def main() -> None:
    for source in sources(sys.argv[1:]):
        notebook = TUTORIALS["execute"](source)
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(source.stem, flush=True)


if __name__ == "__main__":
    main()
