"""A stored training is good as long as nothing that it imports has changed, and no longer."""

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lpnorm
from lpnorm.experiments import claims, runs
from lpnorm.experiments.sources import digest, sources

PACKAGE = Path(lpnorm.__file__).parent
TASKS = {  # a small one of every kind, by its file
    "runs": [
        "Run(epochs=1, width=2, batch=512)",
        "Run(epochs=1, width=2, batch=512, method='bounded')",
    ],
    "weight_decay": ["Study(epochs=1, width=2, batch=512)"],
    "equilibrium": ["OnDigits(epochs=1, width=2, batch=256)", "RandomGradients(steps=20)"],
    "half_precision": ["HalfRun(epochs=1, width=2, batch=512)"],
    "scale_invariance": ["Laws()"],
    "exact_step": ["Comparison()"],
    "constant": ["Change()", "Deviations(sizes=(64,))"],
    "half_range": ["Cells(largest_size=3)", "Predictions(largest_size=3)"],
}
NOT_IMPORTED = ("grading", "verify", "bench", "cli.py", "__main__.py")


@pytest.fixture
def copied(tmp_path):
    """A copy of the package, to change files in."""
    copy = tmp_path / "lpnorm"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def starts(package, module):
    return package / "experiments" / "runs.py", package / "experiments" / f"{module}.py"


def change(path):
    path.write_bytes(path.read_bytes() + b"\n# changed\n")


def within(package, names):
    paths = [path for name in names for path in (package / name, *(package / name).rglob("*.py"))]
    return [path for path in paths if path.is_file()]


def run(script, package=PACKAGE):
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        cwd=package.parent,  # Python looks there first
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def kinds(task=runs.Task):
    return {task} | {kind for each in task.__subclasses__() for kind in kinds(each)}


def test_every_kind_of_task_is_looked_at():
    assert claims.CLAIMS  # their files are imported
    ours = {kind for kind in kinds() if kind.__module__.startswith("lpnorm.")}
    found = {(kind.__module__.rpartition(".")[2], kind.__name__) for kind in ours}
    named = {(file, text.partition("(")[0]) for file, texts in TASKS.items() for text in texts}
    assert found - named == {("runs", "Task"), ("runs", "Training")} and named <= found


@pytest.mark.parametrize("module", TASKS)
def test_what_a_task_has_imported_when_it_is_done_is_in_its_sources(tmp_path, module):
    script = f"from pathlib import Path; from lpnorm.experiments.{module} import *\n"
    script += "import sys\n"
    for i, task in enumerate(TASKS[module]):
        script += f"{task}.train(Path({str(tmp_path / f'{i}.npz')!r}))\n"
    script += (
        "found = [m for name, m in sys.modules.items() if name.split('.')[0] == 'lpnorm']\n"
        "print(*(m.__file__ for m in found), sep='\\n')"
    )
    loaded = {Path(line) for line in run(script)}
    assert PACKAGE / "experiments" / f"{module}.py" in loaded
    assert PACKAGE / "training.py" in loaded
    assert loaded <= set(sources(PACKAGE, *starts(PACKAGE, module)))


@pytest.mark.parametrize("module", TASKS)
def test_every_task_needs_the_library_and_its_data_and_neither_judge_nor_course(module):
    found = set(sources(PACKAGE, *starts(PACKAGE, module)))
    names = ["arrays", "norms.py", "batchnorm.py", "weightnorm.py", "decay.py", "fast", "nn"]
    names += ["models.py", "data", "checkpoint.py", "training.py", "experiments/workers.py"]
    needed = within(PACKAGE, names)
    assert len(needed) > 25 and set(needed) <= found
    assert PACKAGE / "data" / "digits.npz" in found
    assert not found & set(within(PACKAGE, NOT_IMPORTED))
    others = {claim for claim in TASKS if claim not in ("runs", module)}
    assert not found & {PACKAGE / "experiments" / f"{claim}.py" for claim in others}


def test_a_change_of_any_source_changes_the_digest(copied):
    files = starts(copied, "runs")
    before = {digest(copied, *files)}
    for name in ("nn/norm.py", "fast/loops.py", "data/digits.npz", "__init__.py", "training.py"):
        change(copied / name)
        before.add(digest(copied, *files))
    assert len(before) == 6
    (copied / "nn" / "more.py").write_text("")
    assert digest(copied, *files) in before  # until it is imported
    change(copied / "data" / "digits.LICENSE.md")
    assert digest(copied, *files) in before
    (copied / "fast" / "kernel.cu").write_text("")
    assert digest(copied, *files) not in before


def test_keys_change_with_what_is_imported_and_with_nothing_else(copied):
    """The keys themselves, of every kind of task, each time in a new process."""
    script = "from lpnorm.experiments import " + ", ".join(TASKS) + "\n"
    tasks = [f"{file}.{text}" for file, texts in TASKS.items() for text in texts]
    script += f"print(*(task.key() for task in ({', '.join(tasks)})), sep='\\n')"
    first = run(script, copied)
    assert len(set(first)) == len(tasks)
    for path in within(copied, NOT_IMPORTED):
        change(path)
    assert run(script, copied) == first
    change(copied / "experiments" / "exact_step.py")
    second = run(script, copied)
    changed = [task for task, a, b in zip(tasks, first, second, strict=True) if a != b]
    assert changed == ["exact_step.Comparison()"]
    change(copied / "nn" / "linear.py")
    assert not set(run(script, copied)) & set(first + second)


def test_imports_are_found_wherever_they_stand(tmp_path):
    package = tmp_path / "p"
    files = {
        "__init__.py": "from p.shared import name\n\ndef __getattr__(name): ...",
        "shared.py": "import os, p.twice.deep as d",
        "twice/__init__.py": "import numpy",
        "twice/deep.py": "from p import name, start, alone",
        "twice/unused.py": "from p import more",
        "start.py": "def f():\n    from p import lazy\nif 0:\n    import p.folder.module",
        "lazy.py": "from . import beside\nfrom .folder import starred\nfrom p.folder import *",
        "beside.py": "import q.unused, pp",
        "alone.py": "class A:\n    try:\n        from p.folder.sub.leaf import B\n    finally: ...",
        "folder/__init__.py": "",
        "folder/module.py": "from ..up import anything",
        "folder/starred.py": "",
        "folder/sub/__init__.py": "",
        "folder/sub/leaf.py": "",
        "folder/data.bin": "",
        "folder/.hidden": "",
        "folder/notes.md": "",
        "up.py": "",
        "unused.py": "import p.more",
        "more.py": "",
        "unused.bin/data": "",
        "elsewhere/data.bin": "",
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    unused = {"twice/unused.py", "folder/.hidden", "folder/notes.md", "unused.py", "more.py"}
    unused |= {"unused.bin/data", "elsewhere/data.bin"}
    found = sources(package, package / "start.py")
    assert {p.relative_to(package).as_posix() for p in found} == set(files) - unused
    outside = tmp_path / "mine.py"  # a user's own task
    outside.write_text("import p.folder.sub.leaf")
    found = sources(package, outside)
    assert outside in found and package / "folder" / "sub" / "leaf.py" in found
    before = digest(package, outside)
    outside.write_text("import p.folder.sub")
    assert digest(package, outside) != before


def test_a_key_is_of_the_file_its_class_is_in():
    files = {inspect.getfile(kind) for kind in kinds() if kind.__module__.startswith("lpnorm.")}
    assert {Path(file).stem for file in files} == set(TASKS)
