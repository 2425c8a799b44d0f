"""The assignments: sources, student versions, and typical wrong answers with their points."""

import ast
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

from lpnorm.grading import NUMBERS, assignment
from lpnorm.grading.course import load
from lpnorm.grading.functions import Local
from lpnorm.grading.handout import student, without_solution, write
from lpnorm.grading.rubric import mark
from lpnorm.grading.submissions import read, source

FOLDER = Path(__file__).parent.parent / "tutorials" / "assignments"
WRONG = Path(__file__).parent / "assignments"
EXPECTED = json.loads((WRONG / "expected.json").read_text(encoding="utf-8"))
BUILD = runpy.run_path(str(FOLDER / "build.py"))
NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?%?")
SEED = 5  # of the cases that the table of expected points and words was written for


def marked(number):
    return getattr(pytest.mark, f"assignment{number}")


each_assignment = pytest.mark.parametrize(
    "number", [pytest.param(n, marks=marked(n)) for n in NUMBERS]
)


def path_of(number, suffix=".ipynb"):
    return FOLDER / (assignment(number).stem + suffix)


def committed(number):
    return json.loads(path_of(number).read_text(encoding="utf-8"))


def marks_of(number, functions, seed=SEED):
    return [m for q in assignment(number).questions for m in mark(q, functions, seed)]


def points_of(marks):
    return sum(m.points for m in marks)


def plain(words):
    """Without numbers, which depend on the machine, and without line numbers."""
    return NUMBER.sub("#", re.sub(r" \(line \d+\)", "", words))


# ---- the sources ------------------------------------------------------------------------------


def test_six_assignments_each_with_its_pair():
    assert NUMBERS == (1, 2, 3, 4, 5, 6)
    stems = {assignment(n).stem for n in NUMBERS}
    assert (
        stems == {p.stem for p in FOLDER.glob("0*.ipynb")} == {p.stem for p in BUILD["sources"]()}
    )
    assert [assignment(n).number for n in NUMBERS] == list(NUMBERS)
    assert {Path(p).name for p in (WRONG.iterdir())} == {*map(str, NUMBERS), "expected.json"}


@each_assignment
def test_the_pair_says_the_same_and_its_outputs_belong_to_its_code(number):
    notebook = nbformat.read(path_of(number), as_version=4)
    texts = [
        [(cell.cell_type, cell.source.strip()) for cell in each.cells]
        for each in (jupytext.read(path_of(number, ".py")), notebook)
    ]
    assert texts[0] == texts[1], "edit the .py and run tutorials/assignments/build.py"
    assert notebook.metadata.lpnorm.code == BUILD["TUTORIALS"]["code_digest"](notebook), "stale"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    told = [o for cell in code for o in cell.outputs]
    assert told and all(o.output_type == "stream" and o.text == "right\n" for o in told)


@each_assignment
def test_questions_and_points_are_the_rubric_s(number):
    """Every item has a test cell with its points, hidden or not, and the text says the total."""
    asked, cells = assignment(number), committed(number)["cells"]
    names = [source(c).split("name: ")[1].strip() for c in cells if "BEGIN QUESTION" in source(c)]
    assert names == [q.name for q in asked.questions]
    found = []
    for cell in cells:
        if "BEGIN TEST CONFIG" in source(cell):
            told = re.search(r"tell\((\d), \"(.+?)\", \"(.+?)\", globals\(\)\)", source(cell))
            points = int(re.search(r"points: (\d+)", source(cell))[1])
            found.append((*told.groups(), points, "hidden: true" in source(cell)))
    items = [(q, item) for q in asked.questions for item in q.items]
    assert found == [(str(number), q.name, i.name, i.points, i.hidden) for q, i in items]
    assert f"{asked.points} points" in source(cells[1])
    for needed in ("**What you need.**", "**What to read first.**", "**How it is marked.**"):
        assert needed in source(cells[1])


@each_assignment
def test_every_function_asked_for_has_a_contract_of_one_line(number):
    text = "\n".join(source(c) for c in committed(number)["cells"] if c["cell_type"] == "code")
    tree = ast.parse(text)
    functions = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    for question in assignment(number).questions:
        contract = ast.get_docstring(functions[question.name])
        assert contract and "\n" not in contract
        arguments = [a.arg for a in functions[question.name].args.args]
        assert question.contract.startswith(f"{question.name}({', '.join(arguments)}) ->")


@each_assignment
@pytest.mark.parametrize("seed", [0, 1])
def test_the_solution_gets_all(number, seed):
    marks = marks_of(number, load(path_of(number)), seed)
    assert [m for m in marks if m.words] == []
    assert points_of(marks) == assignment(number).points


@pytest.mark.slow
@each_assignment
def test_the_solution_gets_all_under_many_seeds(number):
    functions = load(path_of(number))
    for seed in range(100, 103 if number == 6 else 160):
        assert [m for m in marks_of(number, functions, seed) if m.words] == [], seed


# ---- the student version ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    write(FOLDER, folder)
    return folder


def solution_lines(number):
    """Every line of the solutions that says something."""
    found = []
    for cell in committed(number)["cells"]:
        lines = source(cell).splitlines() if cell["cell_type"] == "code" else []
        kept = [line.strip() for line in without_solution(lines)]
        inside = [line.strip() for line in lines if line.strip() not in kept]
        found += [line for line in inside if len(line) > 12 and "PROMPT" not in line]
    return [line for line in found if not line.startswith(("#", '"""', "tell(", "from lpnorm"))]


@each_assignment
def test_the_student_version_has_no_solution_text(number, handed_out):
    text = (handed_out / path_of(number).name).read_text(encoding="utf-8")
    notebook = json.loads(text)
    plain_text = "\n".join(source(cell) for cell in notebook["cells"])
    lines = solution_lines(number)
    assert len(lines) > 5
    assert [line for line in lines if line in plain_text] == []
    assert not re.search("SOLUTION|PROMPT|BEGIN|TESTS|hidden: true|right.n", text)
    assert all(c["outputs"] == [] for c in notebook["cells"] if c["cell_type"] == "code")
    nbformat.validate(nbformat.reads(text, as_version=4))


@each_assignment
def test_the_student_version_fails_every_item_with_a_hint(number, handed_out):
    functions = load(handed_out / path_of(number).name)
    marks = marks_of(number, functions)
    assert points_of(marks) == 0
    for each in marks:
        assert each.words.startswith("not written yet: "), each
        assert any(f"{q.name}: " in each.words for q in assignment(number).questions), each


def run_pytest(folder, *arguments):
    line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts="]
    line += arguments
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def public(number):
    return [i for q in assignment(number).questions for i in q.items if not i.hidden]


def test_pytest_alone_in_the_student_s_folder(handed_out):
    """All public tests of all assignments fail with words and without a traceback."""
    code, text = run_pytest(handed_out)
    count = sum(len(public(number)) for number in NUMBERS)
    assert code == 1 and f"{count} failed" in text and "passed" not in text
    assert text.count("not written yet: ") >= count and "Traceback" not in text
    assert "Error" not in text.replace("NotImplementedError", "")


@pytest.mark.slow
@each_assignment
def test_a_right_file_passes_pytest_alone(number, handed_out):
    """And the marker chooses the tests of one assignment."""
    answer = str(path_of(number, ".py"))
    code, text = run_pytest(handed_out, "-m", f"assignment{number}", "--submission", answer)
    assert code == 0 and f"{len(public(number))} passed" in text, text


def test_pytest_says_what_is_wrong(handed_out, tmp_path):
    wrong = (WRONG / "1" / "no_constant.py").read_text(encoding="utf-8")
    answer = tmp_path / "answer.py"
    answer.write_text("\n\n".join([*read(path_of(1)), wrong]), encoding="utf-8")
    code, text = run_pytest(handed_out, "-m", "assignment1", f"--submission={answer}")
    assert code == 1 and "1 failed, 6 passed" in text
    assert "the Gaussian constant C is missing from the scale" in text and "Traceback" not in text


def test_markers_that_do_not_match_are_refused():
    for lines in (["# BEGIN SOLUTION"], ["# END SOLUTION"], ["# BEGIN SOLUTION"] * 2):
        with pytest.raises(ValueError, match="SOLUTION"):
            without_solution(lines)


def test_a_solution_outside_of_a_question_is_refused():
    """otter assign would leave it in."""
    cell = {"cell_type": "code", "source": "# BEGIN SOLUTION\nx = 1\n# END SOLUTION"}
    with pytest.raises(ValueError, match="outside"):
        student({"cells": [cell], "metadata": {}}, 1)


def test_handing_out_overwrites_nothing(handed_out):
    with pytest.raises(FileExistsError, match="empty folder"):
        write(FOLDER, handed_out)
    with pytest.raises(FileNotFoundError, match="no solution notebook"):
        write(WRONG, handed_out)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@each_assignment
def test_solution_and_student_version_run_from_top_to_bottom(number, handed_out):
    nbclient = pytest.importorskip("nbclient")
    fresh = BUILD["TUTORIALS"]["execute"](path_of(number, ".py"))
    told = [o.text for c in fresh.cells for o in c.get("outputs", [])]
    assert told and set(told) == {"right\n"}
    notebook = nbformat.read(handed_out / path_of(number).name, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120).execute()
    told = "".join(o.text for c in notebook.cells for o in c.get("outputs", []))
    assert told.count("not written yet") == sum(
        not i.hidden for q in assignment(number).questions for i in q.items
    )


@pytest.mark.slow
@each_assignment
def test_otter_assign_works_as_it_is(number, handed_out, tmp_path):
    """Its student version has the same cells as ours, and it marks solution and stubs."""
    pytest.importorskip("otter")
    otter = [str(Path(sys.executable).with_name("otter"))]
    out = tmp_path / "dist"
    done = subprocess.run(
        [*otter, "assign", str(path_of(number)), str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads((out / "student" / path_of(number).name).read_text(encoding="utf-8"))
    ours = json.loads((handed_out / path_of(number).name).read_text(encoding="utf-8"))

    def cells(notebook):
        texts = [re.sub(r"\n\n_Points:_ .*", "", source(c)).strip() for c in notebook["cells"]]
        ignored = ("# Initialize Otter", "grader.", "# what is right", "---")
        return [t for t in texts if t and not t.startswith(ignored)]

    assert cells(theirs) == cells(ours)
    (archive,) = (out / "autograder").glob("*.zip")
    total = assignment(number).points
    for path, points in ((path_of(number), total), (handed_out / path_of(number).name, 0)):
        copy = tmp_path / f"submission{points}.ipynb"
        copy.write_bytes(path.read_bytes())
        line = [*otter, "run", str(copy), "-a", str(archive), "-o", str(tmp_path)]
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["tests"]
        assert sum(t.get("score", 0) for t in results) == points
        assert sum(t.get("max_score", 0) for t in results) == total


# ---- typical wrong answers --------------------------------------------------------------------


def test_there_are_enough_wrong_answers():
    for number in NUMBERS:
        files = {p.stem for p in (WRONG / str(number)).glob("*.py")}
        assert files == set(EXPECTED[str(number)]) and len(files) >= 8


def wrong_answers():
    for number in NUMBERS:
        for name in EXPECTED[str(number)]:
            yield pytest.param(number, name, marks=marked(number), id=f"{number}-{name}")


@pytest.mark.parametrize(("number", "name"), list(wrong_answers()))
def test_a_typical_wrong_answer_gets_the_right_words_and_points(number, name):
    """expected.json: the points in all, and for each wrong item words that must be said of it."""
    path, expected = WRONG / str(number) / f"{name}.py", EXPECTED[str(number)][name]
    assert path.read_text(encoding="utf-8").startswith("# "), "say what is wrong in it"
    namespace = {}
    for cell in [*read(path_of(number)), *read(path)]:
        if "tell(" not in cell:
            exec(cell, namespace)
    marks = marks_of(number, Local(namespace))
    wrong = {f"{m.question}, {m.item.name}": plain(m.words) for m in marks if m.words}
    assert set(wrong) == set(expected["wrong"])
    for item, words in expected["wrong"].items():
        assert words in wrong[item], item
    assert points_of(marks) == expected["points"] < assignment(number).points


def test_student_makes_a_check_cell_for_every_question():
    made = student(committed(1), 1)
    checks = [source(c) for c in made["cells"] if "show(1, " in source(c)]
    assert len(checks) == len(assignment(1).questions)
