"""The layout: who may import whom, how long the book is, and what `import lpnorm` loads."""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import lpnorm

PACKAGE = Path(lpnorm.__file__).parent
ROOMS = [  # a room imports only rooms listed above it
    "files",
    "arrays",
    "threads",
    "gaussian",
    "norms",
    "dispatch",
    "batchnorm",
    "weightnorm",
    "decay",
    "plain",
    "fast",
    "nn",
    "models",
    "data",
    "checkpoint",
    "training",
    "experiments",
    "verify",
    "grading",
    "bench",
    "cli",
]
BOOK = ["norms", "batchnorm", "weightnorm", "decay"]
PUBLIC = {  # names that `from lpnorm import ...` takes from the package itself, and their rooms
    "batch_norm": "batchnorm",
    "TopK": "norms",
    "Range": "norms",
    "gaussian_constant": "norms",
    "__version__": "files",
}


def sources():
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "lpnorm":
                    yield [*alias.name.split("."), "(the whole package)"][1]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lpnorm":
            assert node.level == 0, f"{path}: a relative import"
            parts = node.module.split(".")
            if len(parts) > 1:
                yield parts[1]
            else:
                yield from (PUBLIC.get(alias.name, alias.name) for alias in node.names)


def test_every_file_is_in_a_room():
    assert {room(path) for path in sources()} <= set(ROOMS) | {"__main__"}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_above_it(path):
    own = ROOMS.index(room(path)) if room(path) in ROOMS else len(ROOMS)
    for other in imported_rooms(path):
        assert other in ROOMS, f"{path.name} imports {other}, which is no room"
        assert ROOMS.index(other) <= own, f"{path.name} imports {other}, a room below its own"


def test_layers_do_not_know_who_computes_and_who_computes_no_layers():
    nn, fast = (
        {other for path in sources() if room(path) == own for other in imported_rooms(path)}
        for own in ("nn", "fast")
    )
    assert "fast" not in nn and "nn" not in fast and {"plain"} <= nn & fast


JUDGE = sorted((PACKAGE / "verify").rglob("*.py"))


def test_the_oracle_imports_nothing_but_itself():
    for path in (PACKAGE / "verify" / "oracle").glob("*.py"):
        tree = ast.walk(ast.parse(path.read_text()))
        modules = [node.module for node in tree if isinstance(node, ast.ImportFrom)]
        ours = [module for module in modules if module and module.startswith("lpnorm")]
        assert all(module.startswith("lpnorm.verify.oracle") for module in ours), (path, ours)


def test_the_judge_has_no_circle_and_no_long_file():
    """Its modules can be put in an order in which each imports only those before it."""
    names = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in JUDGE
    }
    needs = {}
    for path in JUDGE:
        own = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lpnorm.verify"):
                each = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name if name in names else node.module for name in each}
        needs[own.removesuffix(".__init__")] = found
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
    while ready := [name for name, found in needs.items() if not found & needs.keys()]:
        for name in ready:
            del needs[name]
    assert not needs, f"these import each other: {needs}"


def code_lines(path):
    """Lines that hold code: no blanks, comments or docstrings."""
    text = path.read_text()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skip and token.string.strip():
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def test_the_book_is_read_in_one_sitting():
    sizes = {name: code_lines(PACKAGE / f"{name}.py") for name in BOOK}
    print(sizes)
    assert 100 < sum(sizes.values()) <= 700, sizes


def test_importing_loads_numpy_alone():
    """No CuPy, no matplotlib, no tqdm: only NumPy and the standard library."""
    script = (
        "import sys, numpy; before = set(sys.modules); import lpnorm\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names) - {'lpnorm'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_public_names_have_docstrings():
    for name in lpnorm.__all__:
        assert getattr(lpnorm, name).__doc__, name
