"""Run the tutorials and store them with their outputs.

    python tutorials/build.py           # all of them
    python tutorials/build.py 03 05     # those whose names start with 03 or 05
    python tutorials/build.py --html DIR    # the stored notebooks and the reference as a site

Every tutorial is a pair. NAME.py (jupytext's percent format) is the source, which you edit and
review; NAME.ipynb is that source with its outputs, and this file is what writes it. If you have
edited a notebook in Jupyter, `jupytext --sync tutorials/NAME.ipynb` brings the edits into NAME.py.

A notebook is stored as a reader without a kernel should find it: no timestamps, each cell's output
in one piece, and sliders that move without one (`pictures.frames`). Its metadata hold a digest of
the code that gave the outputs, so that outputs of other code are noticed
(`tests/test_tutorials.py`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

import lpnorm

HERE = Path(__file__).parent


def sources(names: list[str] | None = None) -> list[Path]:
    """The .py file of every tutorial, or of those whose names start with one of `names`."""
    found = sorted(HERE.glob("[0-9][0-9]_*.py"))
    return [p for p in found if not names or p.name.startswith(tuple(names))]


def code_digest(notebook: nbformat.NotebookNode) -> str:
    """A digest of all code cells, in order: outputs belong to exactly this code."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()


def execute(source: Path) -> nbformat.NotebookNode:
    """The notebook of a .py file, run from a clean kernel with the lpnorm that is imported here.

    Raises CellExecutionError (nbclient) if a cell fails.
    """
    notebook = jupytext.read(source)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel})
    ids: set[str] = set()
    for cell in notebook.cells:
        cell.metadata, name = nbformat.from_dict({}), hashlib.sha256(cell.source.encode())
        while name.hexdigest()[:8] in ids:  # the same source twice
            name.update(b"again")
        cell["id"] = name.hexdigest()[:8]
        ids.add(cell["id"])
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    digest = code_digest(notebook)

    inline = "module://matplotlib_inline.backend_inline"
    environment = {**os.environ, "PYTHONPATH": str(Path(lpnorm.__file__).parents[1])}
    environment["OPENBLAS_NUM_THREADS"] = "1"  # the same bits for any number of cores
    client = NotebookClient(
        notebook, timeout=180, kernel_name="python3", coalesce_streams=True, record_timing=False
    )
    client.execute(cwd=str(HERE), env={**environment, "MPLBACKEND": inline})

    notebook.metadata["language_info"] = {"name": "python"}  # and not the version of this machine
    notebook.metadata["lpnorm"] = {"code": digest}
    return notebook


def main() -> None:
    if sys.argv[1:2] == ["--html"]:
        if len(sys.argv) != 3:
            sys.exit("usage: python tutorials/build.py --html DIR")
        import pages  # needs latex2mathml and pdoc: pip install ".[site]"

        return pages.write(Path(sys.argv[2]), sources())
    for source in sources(sys.argv[1:]):
        if "# needs torch" in source.read_text("utf-8") and not importlib.util.find_spec("torch"):
            sys.exit(f"{source.stem} shows what PyTorch does: pip install torch before storing it")
        start = time.perf_counter()
        notebook = execute(source)
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(f"{source.stem}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
