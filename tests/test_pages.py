"""The exercises' checks against their solutions; the site in a headless browser, from disk."""

import importlib.util
import inspect
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parent.parent / "tutorials"
sys.path.insert(0, str(TUTORIALS))

import exercises  # noqa: E402
import solutions  # noqa: E402

RIGHT = re.compile(r": (correct|3 of 3 correct|the verdict is)")
NUMBERS = sorted(name[6:] for name in vars(exercises) if name.startswith("check_"))
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
NEEDED = [m for m in ("pdoc", "latex2mathml", "playwright") if not importlib.util.find_spec(m)]
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
QUIET += ("--disable-background-networking", "--disable-component-update", "--disable-sync")


@pytest.mark.parametrize("number", NUMBERS)
def test_the_solution_is_correct_and_nothing_is_not_answered(number):
    check = getattr(exercises, f"check_{number}")
    solution = getattr(solutions, f"solution_{number}")()
    said = check(solution)
    assert RIGHT.search(said), said
    assert check(None).endswith("not answered yet.")
    if inspect.isfunction(solution):
        assert check(lambda *_: None).endswith("not answered yet.")


WRONG = {
    "00_1": lambda w, b, *_: (w, b),
    "00_2": (10, 100),
    "00_3": (0.65, -0.65),
    "01_1": (1.0, 1.0),
    "01_2": lambda rng, shape: rng.standard_normal(shape),
    "01_3": 1.0,
    "02_1": lambda d: d,
    "02_2": {"A": "mean of g", "B": "mean of g", "C": "division by s"},
    "02_3": lambda g, x, p: g,
    "03_1": (0.5, -1),
    "03_2": ("eps", 3.0),
    "03_3": (True, True),
    "04_1": "(4)",
    "04_2": lambda lr, decay, momentum, g2: (lr * g2 / decay / (2 - lr * decay)) ** 0.25,
    "04_3": ["0.weight"],
    "05_1": 1,
    "05_2": lambda factors, steps: [sum(factors)] * steps,
    "05_3": [[0] * 16] * 20,
    "06_1": (2.0**-11, 65504, 2.0**-14, 2048),
    "06_2": lambda row: row.sum(dtype="float16") * 0,
    "06_3": True,
    "07_1": lambda dw, v, g: dw,
    "07_2": (2, 1),
    "07_3": (True, True),
    "08_1": (solutions._l1(), [[1.0, 2.0]]),
    "08_2": solutions._l1(),
    "08_3": solutions._l1(),
}


@pytest.mark.parametrize("number", NUMBERS)
def test_a_wrong_answer_is_told_so(number):
    said = getattr(exercises, f"check_{number}")(WRONG[number])
    assert said.startswith("Exercise") and not RIGHT.search(said), said


def test_what_an_answer_raises_is_one_line():
    assert exercises.check_06_2(lambda row: 1 / 0) == (
        "Exercise 2: your answer raised ZeroDivisionError: division by zero"
    )


def test_every_exercise_has_a_check_in_its_notebook():
    for source in sorted(TUTORIALS.glob("0*.py")):
        text, k = source.read_text(encoding="utf-8"), source.name[:2]
        for i in (1, 2, 3):
            assert f"exercises.check_{k}_{i}(" in text, (source.name, i)
        exercise = text[text.index("## Exercises") :]
        assert exercise.count("<details><summary>Hint</summary>") == 3, source.name
    assert len(NUMBERS) == 3 * len(list(TUTORIALS.glob("0*.py")))


DRAWS = re.compile(r"\b(ax|axes|fig|left|right|row|panels?|plt|bars)\b[.\[(,)]|\.set\(|\.plot\(")


@pytest.mark.parametrize("source", sorted(TUTORIALS.glob("0*.py")), ids=lambda path: path.stem)
def test_a_drawing_cell_is_short(source):
    """No more than eight lines that draw between two thoughts: the others are in figures.py."""
    text = source.read_text(encoding="utf-8")
    for cell in re.split(r"^# %%(?! \[markdown\]).*$", text, flags=re.MULTILINE)[1:]:
        lines = [line for line in cell.splitlines() if line[:1] != "#" and DRAWS.search(line)]
        assert len(lines) <= 8, "\n".join(lines)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if NEEDED or BROWSER is None:
        reason = f"the site needs {', '.join(NEEDED) or 'a headless Chromium'}"
        if os.environ.get("LPNORM_SITE") == "must":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("site")
    runpy.run_path(str(TUTORIALS / "pages.py"))["write"](
        folder, sorted(TUTORIALS.glob("[0-9][0-9]_*.py"))
    )
    return folder


@pytest.mark.slow
def test_every_page_opens_from_disk_and_its_sliders_move(site):
    """Nothing is fetched; every picture is drawn; a moved slider shows another frame."""
    from playwright.sync_api import sync_playwright

    moved = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=list(QUIET))
        redirect = site / "reference" / "index.html"
        for path in sorted(set(site.rglob("*.html")) - {redirect}):
            page, asked, errors = browser.new_page(), [], []
            page.on("request", lambda r, to=asked: to.append(r.url))
            page.on("pageerror", lambda e, to=errors: to.append(str(e)))
            page.goto(path.as_uri())
            outside = [url for url in asked if not url.startswith(("file:", "data:"))]
            assert not outside and not errors, (path.name, outside, errors)
            sizes = page.evaluate("[...document.images].map(i => i.naturalWidth)")
            assert all(sizes), path.name
            assert "$$" not in page.inner_text("body"), path.name
            for slider in page.query_selector_all(".frames input"):
                frames = "input.closest('.frames').querySelectorAll('.frame')"
                shown = f"input => [...{frames}].findIndex(f => !f.hidden)"
                before, text = (
                    slider.evaluate(shown),
                    slider.evaluate("input => input.nextElementSibling.textContent"),
                )
                slider.evaluate(
                    "i => { i.value = i.value === i.max ? 0 : i.max;"
                    " i.dispatchEvent(new Event('input')); }"
                )
                assert slider.evaluate(shown) != before, path.name
                assert slider.evaluate("i => i.nextElementSibling.textContent") != text
                moved.append(path.stem)
            page.close()
        browser.close()
    assert {f"0{k}" for k in range(1, 9)} <= {stem[:2] for stem in moved}


@pytest.mark.slow
def test_the_reference_has_every_public_name_and_links_hold(site):
    import lpnorm
    from lpnorm import decay, nn, verify

    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    reference = "".join(t for p, t in pages.items() if "reference" in p.parts)
    for room in (lpnorm, nn, verify):
        for name in room.__all__:
            assert f'id="{name}"' in reference or inspect.ismodule(getattr(room, name)), name
    for name, value in vars(decay).items():
        if name[0] != "_" and getattr(value, "__module__", "") == decay.__name__:
            assert f'id="{name}"' in reference, name
    for path, text in pages.items():
        for link in re.findall(r'<a [^>]*href="([^"#:]+\.html)(?:#[^"]*)?"', text):
            assert (path.parent / link).is_file(), (path.name, link)
