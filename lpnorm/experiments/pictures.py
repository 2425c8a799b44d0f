"""How things look: one colour and one marker for each norm and arm, here and in the tutorials.

The colours are those of Okabe and Ito, which readers with any colour vision tell apart. This file
needs matplotlib only where something is drawn.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lpnorm.experiments.runs import at_the_end
from lpnorm.files import atomic

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, YELLOW, BLACK = "#E69F00", "#56B4E9", "#F0E442", "#000000"
GREY = "#8C8C8C"  # for what is beside the point

NORM_LOOKS = {
    "L1": (BLUE, "o"),
    "L2": (VERMILLION, "s"),
    "L∞": (PURPLE, "^"),
    "Top-k": (ORANGE, "D"),
    "Range": (SKY, "P"),
    "L3": (GREEN, "v"),  # and any other p above 2
    "L1.5": (BLACK, "X"),  # and any other p below 2
    "none": (GREY, "*"),
}
ARM_LOOKS = {  # of the studies of weight decay
    "decay": (BLUE, "o"),
    "no decay": (VERMILLION, "s"),
    "corrected": (GREEN, "v"),
    "norm schedule": (PURPLE, "^"),
    "equation (4)": (SKY, "D"),
    "exact": (GREEN, "v"),
    "growing": (PURPLE, "^"),
}
DASHES = {"corrected": "--", "exact": "--", "norm schedule": ":", "growing": ":"}


def look(name: str) -> dict[str, str]:
    """{"color", "marker"} of a norm ("L2", "L∞", "Top-10", "2", "inf", "top10") or of an arm."""
    if name in ARM_LOOKS:
        color, marker = ARM_LOOKS[name]
    else:
        color, marker = NORM_LOOKS[_family(title(name))]
    return {"color": color, "marker": marker}


def title(name: str) -> str:
    """How a norm is written: "2" is "L2", "inf" is "L∞", "top10" is "Top-10"."""
    if name[:3].lower() == "top":
        return "Top-" + name[3:].lstrip("-")
    special = {"inf": "L∞", "range": "Range"}
    return special.get(name, name if name[:1] in "LRn" else f"L{name}")


def _family(name: str) -> str:
    if name in NORM_LOOKS:
        return name
    if name.startswith("Top-"):
        return "Top-k"
    try:
        return "L1.5" if float(name[1:]) < 2 else "L3"
    except ValueError:
        raise ValueError(f"name must be that of a norm or an arm, got {name!r}") from None


def render(draw: Callable[[Any, Any], None], figures: Any, path: Path) -> None:
    """Draw on a new figure, in the common style, and write it as PNG, all of it or nothing."""
    with new_figure() as figure, atomic(path) as temporary:
        draw(figure, figures)
        figure.savefig(temporary, dpi=130, format="png")


@contextlib.contextmanager
def new_figure() -> Iterator[Any]:
    """A matplotlib figure; in the block everything has the common style."""
    import matplotlib

    style: dict[Any, Any] = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "legend.fontsize": 9,
    }
    with matplotlib.rc_context(style):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def error_curves(axes: Any, arms: dict[str, Any], looks: dict[str, dict[str, Any]]) -> None:
    """Test error after each epoch, mean over the seeds that finished: a labelled line an arm."""
    ends: dict[str, tuple[float, float, str]] = {}
    for name, arm in arms.items():
        length = max(len(curve) for curve in arm["test_accuracy"])
        finished = [curve for curve in arm["test_accuracy"] if len(curve) == length]
        if length:
            error = 100 * (1 - np.mean(finished, axis=0))
            axes.plot(range(1, length + 1), error, **looks[name], ms=4, lw=1.2, clip_on=False)
            ends[name] = (length, float(error[-1]), looks[name]["color"])
    error_axis(axes, "y")
    whole_epochs(axes)
    axes.set(title=f"test error after each epoch:\n{_mean_over(arms)}")
    label_ends(axes, ends)


def error_dots(axes: Any, arms: dict[str, Any], looks: dict[str, dict[str, Any]]) -> None:
    """One row an arm: the seeds' final test errors as dots, their mean and standard deviation."""
    for i, (name, arm) in enumerate(arms.items()):
        error = 100 - np.array(arm["final_percent"], dtype=float)
        mean, spread, color = 100 - arm["mean"], arm["spread"], looks[name]["color"]
        axes.plot(error, np.full(error.size, i), "o", color=color, ms=3.5, alpha=0.5, clip_on=False)
        bar = [[min(spread, mean)], [min(spread, 100 - mean)]] if error.size > 1 else None
        axes.errorbar(mean, i, xerr=bar, capsize=3, ms=7, clip_on=False, **looks[name])
    error_axis(axes, "x")
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_title(what_dots_show(arms))


def what_dots_show(arms: dict[str, Any]) -> str:
    """For the title of `error_dots`: over which epochs, how many seeds, which spread."""
    epochs = at_the_end(max((c for arm in arms.values() for c in arm["test_accuracy"]), key=len))
    seeds = len(next(iter(arms.values()))["final_percent"])
    over = f"mean of the last {epochs} epochs" if epochs > 1 else "after the last epoch"
    words = f"{seeds} seeds (dots), mean ± standard deviation" if seeds > 1 else "one seed"
    return f"{over}:\n{words}"


def error_axis(axes: Any, which: str) -> None:
    """Make an axis ("x" or "y") one of errors in percent: fitted, and with a place for 0.

    Linear near 0 and logarithmic beyond about 1 %. Call it when everything is drawn.
    """
    getattr(axes, f"set_{which}scale")("asinh", linear_width=0.5)
    getattr(axes, f"set_{which}label")("test error (%)")
    axis = getattr(axes, f"{which}axis")
    axes.autoscale_view()
    low, high = getattr(axes, f"get_{which}lim")()
    low, high = max(low, 0.0), min(high, 100.0)
    getattr(axes, f"set_{which}lim")(low, high)
    wide = math.asinh(high / 0.5) - math.asinh(low / 0.5) > 3
    ticks = [0, 0.5, 1, 2, 5, 10, 20, 50, 100] if wide else [0, 0.1, 0.2, 0.5, 1, 2, 5, 10]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) >= 3:
        fixed_ticks(axis, ticks)
    else:
        plain_ticks(axis, low, high)


def log_axis(axis: Any) -> None:
    """Ticks of a logarithmic axis as plain numbers. Call it when everything is drawn."""
    plain_ticks(axis, *sorted(axis.get_view_interval()))


def plain_ticks(axis: Any, low: float, high: float) -> None:
    """Powers of ten and, where these are few, multiples of them; where all are few, even steps."""
    from matplotlib.ticker import MaxNLocator

    decades = range(math.floor(math.log10(low)) if low else 0, math.ceil(math.log10(high)) + 1)
    for multiples in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [m * 10.0**e for e in decades for m in multiples]
        ticks = [t for t in ticks if 0.999 * low <= t <= 1.001 * high]
        if len(ticks) >= 3:
            break
    else:
        ticks = list(MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high))
    fixed_ticks(axis, ticks)


def number(x: float) -> str:
    """A tick: 0.02, 1, 500, 10⁻⁵; a power of ten where the digits would be many."""
    if x == 0 or 1e-3 <= abs(x) < 1e4:
        return f"{x:g}"
    digits, exponent = f"{x:.0e}".split("e")
    power = f"10{str(int(exponent)).translate(RAISED)}"
    return power if digits == "1" else f"{digits}·{power}"


RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def fixed_ticks(axis: Any, ticks: Any) -> None:
    """These ticks and no others, written by `number`."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(FixedLocator([]))
    axis.set_major_formatter(FuncFormatter(lambda x, _: number(x)))


def whole_epochs(axes: Any) -> None:
    """Whole numbers on the epoch axis."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))


def label_ends(axes: Any, ends: dict[str, tuple[float, float, str]]) -> None:
    """The name of every line beside its end (x, y, color), moved apart where they would overlap.

    Call it when everything is drawn.
    """
    if not ends:
        return
    axes.get_xlim(), axes.get_ylim()  # matplotlib finds the limits when it is asked for them
    height = 72 * axes.figure.get_size_inches()[1] * 0.75  # of the axes, in points, about
    gap = 11 / height
    to_axes = axes.transData + axes.transAxes.inverted()
    places = {n: float(to_axes.transform((x, y))[1]) for n, (x, y, _) in ends.items()}
    order = sorted(places, key=lambda n: places[n])
    heights = [places[n] for n in order]
    for _ in range(200):  # push neighbours apart, a little each time, until none is too near
        moved = False
        for i in range(len(heights) - 1):
            lack = gap - (heights[i + 1] - heights[i])
            if lack > 1e-6:
                heights[i] -= lack / 2
                heights[i + 1] += lack / 2
                moved = True
        heights = [h + max(0.0, -heights[0]) for h in heights]  # not below the axis
        if not moved:
            break
    for name, place in zip(order, heights, strict=True):
        x, y, color = ends[name]
        axes.annotate(
            name,
            (x, y),
            (1.06, place),
            textcoords="axes fraction",
            color=color,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.6, "shrinkA": 1, "shrinkB": 3},
        )


def _mean_over(arms: dict[str, Any]) -> str:
    seeds = max(len(arm["test_accuracy"]) for arm in arms.values())
    return f"mean over {seeds} seeds" if seeds > 1 else "one seed"
