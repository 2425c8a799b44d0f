"""The pictures of `lpnorm bench`, from the record that is written as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lpnorm.bench.contestants import TORCH_L1
from lpnorm.bench.report import COLUMNS, PARTS, PLAIN_OR_TORCH, about, find, norms_of
from lpnorm.files import atomic

COLOURS = {  # Okabe and Ito's, told apart by the colour-blind too
    "reused": "#0072B2",
    "fast": "#56B4E9",
    "plain": "#E69F00",
    "naive": "#CC79A7",
    "torch": "#000000",
    "torch L1": "#009E73",
    "copy": "#999999",
}
MARKS = {"reused": "o", "fast": "s", "plain": "D", "naive": "v", "torch L1": "^"}
WORDS = {
    "reused": "fast, outputs reused",
    "fast": "fast, fresh outputs",
    "plain": "plain",
    "naive": "naive NumPy",
    "torch L1": "an L1 layer written in PyTorch",
}


def draw(record: dict[str, Any], path: Path) -> None:
    """The picture of a record (also of one read back from its JSON file): table, sweep or step."""
    paint = {"table": _draw_table, "sweep": _draw_sweep, "step": _draw_step}
    _save(paint[record["what"]], record, path)


def _save(paint: Callable[[Any, dict[str, Any]], None], record: Any, path: Path) -> None:
    import matplotlib

    style: dict[Any, Any] = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
    }
    with matplotlib.rc_context(style):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure, record)
        lines = [*about(record).splitlines(), *record["warnings"]]
        wide = int(17 * figure.get_figwidth())
        foot = "\n".join(textwrap.fill(line, wide) for line in lines)
        figure.supxlabel(foot, fontsize=7, color="#a00000" if record["warnings"] else "#555555")
        with atomic(path) as temporary:
            figure.savefig(temporary, dpi=130, format="png")


def _draw_table(figure: Any, record: dict[str, Any]) -> None:
    """A panel a case, a row a norm: dots at the medians, lines from lowest to highest."""
    cases = record["cases"]
    columns = min(4, len(cases))
    rows = -(-len(cases) // columns)
    figure.set_size_inches(2.6 + 3 * columns, 1.3 + 2.5 * rows)
    panels = np.ravel(figure.subplots(rows, columns, sharex=True, squeeze=False))
    handles: dict[str, Any] = {}
    for axes, each in zip(panels, cases, strict=False):
        norms = norms_of(each)
        for result in each["results"]:
            who, norm = result["who"], result["norm"]
            name = "torch L1" if (who, norm) == TORCH_L1 else who
            if name not in WORDS or name == each["reference"] or not result["over_reference"]:
                continue
            middle, low, high = result["over_reference"].values()
            where = norms.index(norm) + 0.13 * (list(WORDS).index(name) - 2)
            style = {"color": COLOURS[name], "marker": MARKS[name], "ms": 5, "lw": 1.5}
            bars = axes.errorbar(middle, where, xerr=[[middle - low], [high - middle]], **style)
            handles.setdefault(WORDS[name], bars)
        axes.axvline(1, color=COLOURS["torch"], lw=1)
        axes.grid(axis="x")
        shape = "(" + ", ".join(map(str, each["shape"])) + ")"
        title = f"{each['layer'].replace('_', ' ')} {shape}"
        if each["dtype"] != "float32":
            title += f"\n{each['dtype']}, sums in {each['accumulate']}"
        axes.set(title=title, xscale="log", ylim=(len(norms) - 0.5, -0.5))
        axes.set_yticks(range(len(norms)), norms)
        axes.tick_params(axis="y", length=0)
    for axes in panels[len(cases) :]:
        axes.remove()
    _plain_ticks(panels[0].xaxis)
    for axes in panels[: len(cases)]:
        axes.tick_params(axis="x", labelbottom=True)
    words = [each for each in WORDS.values() if each in handles]
    figure.legend([handles[each] for each in words], words, loc="outside right upper")
    over = PLAIN_OR_TORCH[cases[0]["reference"]]  # the same in all of a record
    figure.suptitle(
        f"Forward + backward: time over {over}; left of the line is faster", fontsize=11
    )


def _draw_sweep(figure: Any, record: dict[str, Any]) -> None:
    """A column an axis: time per element above, copies of x below."""
    cases = record["cases"]
    along = list(dict.fromkeys(c["along"] for c in cases))
    figure.set_size_inches(2 + 3.6 * len(along), 6.4)
    grid = figure.subplots(2, len(along), sharey="row", squeeze=False)
    lines = list(dict.fromkeys((r["who"], r["norm"]) for c in cases for r in c["results"]))
    dashes = dict(
        zip(
            dict.fromkeys(n for _, n in lines if n),
            ["-", "--", ":", "-.", (0, (5, 1, 1, 1))],
            strict=False,
        )
    )
    for column, axis in enumerate(along):
        chosen = [c for c in cases if c["along"] == axis]
        for who, norm in lines:
            found = [(c["at"], r) for c in chosen if (r := find(c, who, norm)) is not None]
            name = "torch L1" if (who, norm) == TORCH_L1 else who
            style = {
                "color": COLOURS[name],
                "ls": dashes.get(norm, "-"),
                "marker": ".",
                "label": {
                    "torch": "PyTorch L2",
                    "torch L1": "L1 written in PyTorch",
                    "copy": "copy of x",
                }.get(name, f"{COLUMNS.get(who, who)} {norm}"),
            }
            at = [a for a, _ in found]
            grid[0][column].plot(at, [r["ns_per_element"] for _, r in found], **style)
            copies = [(a, r["copies_of_x"]["median"]) for a, r in found if r["copies_of_x"]]
            if who != "copy":
                grid[1][column].plot(*zip(*copies, strict=True), **style)
        for axes, label in ((grid[0][column], "ns per element"), (grid[1][column], "copies of x")):
            axes.set(xscale="log", yscale="log", xlabel=axis)
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.grid()
            if column == 0:
                axes.set_ylabel(label)
        grid[0][column].set_title(f"over {axis}, with {chosen[0]['fixed']}")
    for row in grid:
        _plain_ticks(row[0].yaxis)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    figure.suptitle("Forward + backward of batch norm: time over size", fontsize=11)


def _draw_step(figure: Any, record: dict[str, Any]) -> None:
    """A panel a network, a row a kind of layer: bars to the medians, lines lowest to highest."""
    cases, who = record["cases"], list(record["contestants"])
    figure.set_size_inches(2.2 + 4.2 * len(cases), 1.6 + 1.1 * len(who) + 2.4)
    panels = np.ravel(figure.subplots(1, len(cases), squeeze=False))
    names = {"torch": "PyTorch", "fast": "lpnorm.fast", "plain": "plain"}
    thick = 0.8 / len(who)
    for axes, case in zip(panels, cases, strict=True):
        results = [result for result in case["results"] if result["kind"] != PARTS]
        kinds = list(dict.fromkeys(result["kind"] for result in results))
        for i, each in enumerate(who):
            own = [1e3 * np.array(r["seconds"]) for r in results if r["who"] == each]
            middle = [float(np.median(v)) for v in own]
            ends = [[m - v.min() for m, v in zip(middle, own, strict=True)],
                    [v.max() - m for m, v in zip(middle, own, strict=True)]]  # fmt: skip
            where = [row + thick * (i - (len(who) - 1) / 2) for row in range(len(kinds))]
            bars = {"height": thick, "color": COLOURS[each], "label": names[each]}
            axes.barh(where, middle, xerr=ends, error_kw={"lw": 0.8, "ecolor": "#777777"}, **bars)
        axes.set_yticks(range(len(kinds)), kinds)
        axes.set(title=case["problem"], xlabel="ms in a step", ylim=(len(kinds) - 0.5, -0.5))
        axes.set_xlim(left=0)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    figure.suptitle("A training step: forward and backward by kind of layer", fontsize=11)


def _plain_ticks(axis: Any) -> None:
    """0.1, 0.2, 0.5, 1, 2, 5, ... on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if high / low < 500 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axis.set_minor_locator(NullLocator())
