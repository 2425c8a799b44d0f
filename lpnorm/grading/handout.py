"""The student version of an assignment, made from its solution notebook.

    python -m lpnorm.grading.handout tutorials/assignments DIR

The markers are otter-grader's (`otter assign` works on the same notebooks): what is between
`# BEGIN SOLUTION` and `# END SOLUTION` goes, a prompt between `# BEGIN PROMPT` and `# END PROMPT`
comes in its place, and so go the cells between `# BEGIN TESTS` and `# END TESTS`, for which the
student gets one cell a question that shows the public marks. Beside the notebooks go the files that
make `pytest -m assignment1` work there.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from lpnorm.files import atomic
from lpnorm.grading.submissions import source

BESIDE = ("conftest.py", "test_assignments.py", "STUDENTS.md")


def student(notebook: dict[str, Any], number: int) -> dict[str, Any]:
    """The student's notebook (nbformat 4, as parsed JSON) from the solution's.

    Raises ValueError for markers that do not match.
    """
    cells: list[dict[str, Any]] = []
    question, solution, tests = "", False, False
    for cell in notebook["cells"]:
        text = source(cell)
        if cell["cell_type"] == "raw":
            lines = text.splitlines()
            marker = lines[0].strip() if lines else ""
            if marker == "# BEGIN QUESTION":
                question = next(ln.split(":")[1].strip() for ln in lines if ln.startswith("name:"))
            elif marker in ("# BEGIN TESTS", "# END TESTS"):
                tests = marker == "# BEGIN TESTS"
            elif marker in ("# BEGIN SOLUTION", "# END SOLUTION"):
                solution = marker == "# BEGIN SOLUTION"
            elif marker == "# END QUESTION":
                cells.append(_code(_check(number, question)))
            continue
        if tests:
            continue
        if cell["cell_type"] == "code":
            if "# BEGIN SOLUTION" in text and not solution:
                raise ValueError("a solution stands outside the cells of a question's solution")
            cells.append(_code("\n".join(without_solution(text.splitlines()))))
        else:
            cells.append({"cell_type": "markdown", "metadata": {}, "source": text})
    for place, cell in enumerate(cells):
        cell["id"] = f"cell-{place:02d}"
    metadata = {k: v for k, v in notebook["metadata"].items() if k != "lpnorm"}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def without_solution(lines: list[str]) -> list[str]:
    """Code lines without what is marked as solution, and with the prompts. Raises ValueError."""
    kept, solution = [], False
    for line in lines:
        text = line.rstrip()
        if text.endswith(("# BEGIN PROMPT", "# END PROMPT")):
            continue
        if text.endswith(("# BEGIN SOLUTION", "# BEGIN SOLUTION NO PROMPT")):
            if solution:
                raise ValueError("BEGIN SOLUTION inside a solution")
            solution = True
        elif text.endswith("# END SOLUTION"):
            if not solution:
                raise ValueError("END SOLUTION without BEGIN SOLUTION")
            solution = False
        elif not solution:
            kept.append(line)
    if solution:
        raise ValueError("BEGIN SOLUTION without END SOLUTION")
    return kept


def _check(number: int, question: str) -> str:
    return (
        "# what is right and what is wrong so far\n"
        "from lpnorm.grading import show\n\n"
        f'show({number}, "{question}", globals())'
    )


def _code(text: str) -> dict[str, Any]:
    empty: dict[str, Any] = {"execution_count": None, "metadata": {}, "outputs": []}
    return {"cell_type": "code", **empty, "source": text}


def write(sources: Path, folder: Path) -> list[Path]:
    """Every student notebook of the solution notebooks in `sources`, into `folder`; the paths.

    Raises FileNotFoundError if there is none, FileExistsError rather than overwrite a notebook.
    """
    notebooks = sorted(sources.glob("0[1-9]_*.ipynb"))
    if not notebooks:
        raise FileNotFoundError(f"there is no solution notebook (01_*.ipynb) in {sources}")
    for path in notebooks:
        if (folder / path.name).exists():
            raise FileExistsError(f"{folder / path.name} is there already: take an empty folder")
    made = []
    for path in notebooks:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        with atomic(folder / path.name) as file:
            text = json.dumps(student(notebook, int(path.name[:2])), indent=1, ensure_ascii=False)
            file.write_text(text + "\n", encoding="utf-8")
        made.append(folder / path.name)
    for name in BESIDE:
        if (sources / name).exists():
            shutil.copyfile(sources / name, folder / name)
    return made


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m lpnorm.grading.handout SOLUTIONS DIR", file=sys.stderr)
        return 2
    try:
        for path in write(Path(arguments[0]), Path(arguments[1])):
            print(path)
    except (OSError, ValueError) as error:
        print(f"lpnorm: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
