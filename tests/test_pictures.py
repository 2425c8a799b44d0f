"""How pictures look: one colour and marker a norm, axes that fit, a place for a zero error."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from lpnorm.experiments import norms, pictures
from lpnorm.experiments.pictures import look, number

TUTORIALS = sorted((Path(__file__).parent.parent / "tutorials").glob("[0-9][0-9]_*.py"))
OKABE_ITO = {
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
}  # fmt: skip


def figure():
    pytest.importorskip("matplotlib")
    with pictures.new_figure() as made:
        return made, made.subplots()


def test_every_norm_has_a_colour_and_a_marker_of_its_own():
    looks = [look(name) for name in norms.ARMS]
    for key in ("color", "marker"):
        assert len({one[key] for one in looks}) == len(looks)
    colors = {one["color"] for one in looks} - {pictures.GREY}
    assert colors <= OKABE_ITO
    assert {color for color, _ in pictures.ARM_LOOKS.values()} <= OKABE_ITO


def test_a_norm_looks_the_same_under_all_its_names():
    for names in (("L2", "2"), ("L∞", "inf"), ("Top-10", "top10", "Top-3"), ("Range", "range")):
        assert len({str(look(name)) for name in names}) == 1
    assert look("L4") == look("3") and look("1.25") == look("L1.5")
    with pytest.raises(ValueError, match="name must be"):
        look("nonsense")


def test_the_tutorials_take_their_colours_from_there():
    drawers = [TUTORIALS[0].parent / name for name in ("figures.py", "pictures.py")]
    for path in (*TUTORIALS, *drawers):
        text = path.read_text(encoding="utf-8")
        own = set(re.findall(r"#[0-9A-Fa-f]{6}\b", text))
        assert not {color.upper() for color in own} & OKABE_ITO, path.name
        assert path not in drawers or "\nfrom lpnorm.experiments.pictures import " in text


@pytest.mark.parametrize("which", ["x", "y"])
def test_an_error_of_zero_has_a_place(which):
    made, axes = figure()
    errors, others = np.array([0.0, 0.3, 1.2, 55.0]), np.arange(4)
    axes.plot(*((errors, others) if which == "x" else (others, errors)), "o")
    pictures.error_axis(axes, which)
    made.canvas.draw()
    low, high = getattr(axes, f"get_{which}lim")()
    assert low == 0 and 55 < high < 80
    (line,) = axes.lines
    places = axes.transData.transform(line.get_xydata())[:, "xy".index(which)]
    assert np.isfinite(places).all() and (np.diff(places) > 10).all()


@pytest.mark.parametrize(("low", "high"), [(0.5, 2.1), (8.0, 13.0), (88.0, 91.5), (0.3, 90.0)])
def test_error_axes_fit_and_have_ticks(low, high):
    made, axes = figure()
    axes.plot([low, high], [0, 1], "o")
    pictures.error_axis(axes, "x")
    made.canvas.draw()
    left, right = axes.get_xlim()
    assert left <= low and high <= right
    places = axes.transAxes.inverted().transform(axes.transData.transform([[low, 0], [high, 1]]))
    assert places[1, 0] - places[0, 0] > 0.85, "much empty space"
    inside = [tick for tick in axes.get_xticks() if left <= tick <= right]
    assert 3 <= len(inside) <= 9


@pytest.mark.parametrize(("low", "high"), [(1.4, 6.0), (0.9, 16.0), (1e-5, 0.6), (2e-4, 5e-2)])
def test_logarithmic_ticks_are_plain_numbers(low, high):
    made, axes = figure()
    axes.semilogy([0, 1], [low, high])
    pictures.log_axis(axes.yaxis)
    made.canvas.draw()
    labels = [tick.get_text() for tick in axes.yaxis.get_ticklabels(which="both")]
    assert len([text for text in labels if text]) >= 3
    assert not any("$" in text or "×" in text or "e-" in text for text in labels), labels


def test_numbers():
    found = [number(x) for x in (0, 6, 0.02, 500, 1e-5, 5e-4, 1e12)]
    assert found == ["0", "6", "0.02", "500", "10⁻⁵", "5·10⁻⁴", "10¹²"]


def test_labels_at_the_ends_do_not_overlap():
    made, axes = figure()
    ends = {f"line {i}": (1.0, 1 + 0.001 * i, "k") for i in range(8)} | {"far": (1.0, 9.0, "k")}
    for _, y, _ in ends.values():
        axes.plot([0, 1], [y, y])
    pictures.label_ends(axes, ends)
    made.canvas.draw()
    from matplotlib.text import Text

    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the lines to them
    assert len(boxes) == 9
    order = sorted(boxes, key=lambda box: box.y0)
    gaps = [above.y0 - below.y1 for below, above in itertools.pairwise(order)]
    assert min(gaps) > -2 and order[0].y0 > 0


def test_the_dots_say_which_spread():
    arm = {"test_accuracy": [[0.5, 0.9, 1.0]] * 2, "final_percent": [100.0, 98.0]}
    arm |= {"mean": 99.0, "spread": 1.4}
    made, axes = figure()
    pictures.error_dots(axes, {"L2": arm}, {"L2": look("L2")})
    made.canvas.draw()
    assert axes.get_title(loc="left") or axes.get_title()
    assert "2 seeds (dots), mean ± standard deviation" in pictures.what_dots_show({"L2": arm})
    assert "after the last epoch" in pictures.what_dots_show({"L2": arm})  # not three of three


def test_eight_curves_have_names_and_markers():
    curve = [[0.5, 0.8, 0.9], [0.4, 0.85, 0.95]]
    arms = {name: {"test_accuracy": curve} for name in norms.ARMS}
    made, axes = figure()
    pictures.error_curves(axes, arms, {name: look(name) for name in arms})
    made.canvas.draw()
    assert [text.get_text() for text in axes.texts] and axes.get_legend() is None
    assert {text.get_text() for text in axes.texts} == set(norms.ARMS)
    assert len({line.get_marker() for line in axes.lines}) == len({*norms.ARMS}) == 8
