"""The tutorials run top to bottom, and what is committed is what running their sources gives."""

import importlib.util
import re
import runpy
from collections import Counter
from pathlib import Path

import jupytext
import nbformat
import pytest

TUTORIALS = Path(__file__).parent.parent / "tutorials"
BUILD = runpy.run_path(str(TUTORIALS / "build.py"))
SOURCES = BUILD["sources"]()
NOISE = 1e-7  # printed numbers below this are rounding errors, which differ between machines
DEPENDS = "they depend a little on the machine"  # a cell that says so: its values are not compared
COMPILING = "lpnorm.fast: compiling"  # said once on a machine
TORCH = "# needs torch"  # a cell that says so shows nothing without it
NUMBER = re.compile(r"[-+−]?\d[\d,]*\.?\d*(?:e[+-]?\d+)?")

each_tutorial = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def committed(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    """What a cell prints, without what may differ: object addresses, versions, what is compiled."""
    text = "".join(o.text for o in cell.outputs if o.get("name") == "stdout")
    return "" if "__version__" in cell.source else re.sub(r"0x[0-9a-f]+", "0x", text)


def pictures(cell):
    """How many outputs of each kind a cell shows."""
    return Counter(kind for o in cell.outputs for kind in o.get("data", {}))


def as_number(text):
    """(value, one unit in its last place), for a number as printed."""
    plain = text.replace(",", "").replace("−", "-")
    mantissa, _, exponent = plain.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return float(plain), 10.0 ** (int(exponent or 0) - decimals)


def same_figure(before, after, relative=0.04):
    """Equal up to what another machine may give: the last place, 4 %, or both are noise."""
    (a, unit_a), (b, unit_b) = as_number(before), as_number(after)
    apart = abs(a - b) <= relative * max(abs(a), abs(b)) + 1.001 * max(unit_a, unit_b)
    return apart or max(abs(a), abs(b)) < NOISE


def differences(before, after, values=True):
    """In words, where two printed texts differ by more than figures may (or in the text alone)."""
    if NUMBER.sub("#", before).split() != NUMBER.sub("#", after).split():
        return [f"committed:\n{before}\nnow:\n{after}"]
    if not values:
        return []
    pairs = zip(NUMBER.findall(before), NUMBER.findall(after), strict=True)
    return [f"{a} is now {b}" for a, b in pairs if not same_figure(a, b)]


def test_what_counts_as_the_same_output():
    assert not differences("error 1.2e-15, s = 3.133", "error  4.0e-16, s = 3.134")
    assert differences("s = 3.133", "s = 3.333") and differences("n = 16", "n = 20")
    assert differences("error 1.2e-15", "error 1.2e-05") and differences("passes", "fails")
    assert not differences("n = 802,816 −1.5", "n = 802,816 -1.5")
    assert not differences("98.1 %", "42.0 %", values=False)
    assert differences("98.1 %", "nan %", values=False)


def test_what_is_said_of_compiling_is_no_output():
    said = {"stderr": f"{COMPILING} turned for float16\n", "stdout": "93 %\n"}
    outputs = [nbformat.v4.new_output("stream", name=name, text=said[name]) for name in said]
    assert printed(nbformat.v4.new_code_cell("train()", outputs=outputs)) == "93 %\n"


def test_there_are_tutorials():
    assert SOURCES
    notebooks = {path.stem for path in TUTORIALS.glob("*.ipynb")}
    assert notebooks == {source.stem for source in SOURCES}, "every notebook is one of a pair"


@each_tutorial
def test_the_pair_says_the_same(source):
    """The .py and the .ipynb hold the same cells: edit the .py and run tutorials/build.py."""
    texts = [
        [(cell.cell_type, cell.source.strip()) for cell in notebook.cells]
        for notebook in (jupytext.read(source), committed(source))
    ]
    assert texts[0] == texts[1]


@each_tutorial
def test_the_outputs_belong_to_the_code(source):
    """Executed in order, from exactly this code, no errors, no warnings, no paths of a machine."""
    notebook, path = committed(source), source.with_suffix(".ipynb")
    assert notebook.metadata.lpnorm.code == BUILD["code_digest"](notebook), "stale outputs"
    code = code_cells(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = [(o.output_type, o.get("name")) for cell in code for o in cell.outputs]
    assert ("stream", "stderr") not in kinds and all(kind != "error" for kind, _ in kinds)
    text = path.read_text(encoding="utf-8")
    assert "/work/" not in text and "/home/" not in text and "/tmp/" not in text
    assert "widgets" not in notebook.metadata
    assert path.stat().st_size < 1_000_000
    assert path.name in (TUTORIALS / "README.md").read_text(encoding="utf-8")


@each_tutorial
def test_what_every_tutorial_has(source):
    """For whom and how long at its start, an install line, three exercises at its end."""
    cells = committed(source).cells
    opening = cells[0].source
    assert "**For whom.**" in opening and "**How long.**" in opening
    assert any(cell.source.startswith('# %pip install -q "..[tutorials]"') for cell in cells)
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert re.findall(r"^### Exercise (\d)", text, re.MULTILINE) == ["1", "2", "3"]
    figures = [int(number) for number in re.findall(r"^\*\*Figure (\d+)\.", text, re.MULTILINE)]
    assert figures == list(range(1, len(figures) + 1)) and figures


@each_tutorial
def test_an_equation_in_the_code_stands_in_the_text(source):
    """A number such as (3) or (5.2) in a code cell is the \\tag of an equation in this notebook."""
    cells = committed(source).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    marked = set(re.findall(r"# .*?\(((?:\d\.)?\d+)\)", code))
    tagged = set(re.findall(r"\\tag\{((?:\d\.)?\d+)\}", text))
    assert marked, "no line of code carries an equation's number"
    assert marked <= tagged, f"{marked - tagged} in the code, but not typeset"


@pytest.mark.slow
@each_tutorial
@pytest.mark.filterwarnings("default")
def test_running_the_source_gives_the_outputs(source):
    """From a clean kernel; every slider is moved to both of its ends. What is printed agrees."""
    fresh = BUILD["execute"](source)
    without_torch = importlib.util.find_spec("torch") is None
    left_out = 0
    for before, after in zip(code_cells(committed(source)), code_cells(fresh), strict=True):
        assert all(o.output_type != "error" for o in after.outputs)
        said = "".join(o.text for o in after.outputs if o.get("name") == "stderr")
        assert all(line.startswith(COMPILING) for line in said.splitlines()), said
        if without_torch and after.source.startswith(TORCH):
            left_out += 1
            continue
        values = DEPENDS not in after.source
        assert not differences(printed(before), printed(after), values), after.source
        assert pictures(before) == pictures(after), after.source
    if left_out:
        pytest.skip(f"all agree but {left_out} cells that need torch, which is not installed")
