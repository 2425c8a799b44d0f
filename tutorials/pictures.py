"""What the notebooks draw with, so that their cells can be about something else.

`frames` gives a picture sliders that need no kernel: every picture they can show is in the page.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.colors import ListedColormap
from PIL import Image

import lpnorm
from lpnorm.experiments.pictures import BLUE, GREY, SKY, VERMILLION, look

MOVED = """
const all = this.closest('.frames'), sliders = all.querySelectorAll('input');
for (const s of sliders) {
  if (s !== this) s.value = s.dataset.start;
  s.nextElementSibling.textContent = JSON.parse(s.dataset.values)[s.value];
}
const shown = JSON.parse(this.dataset.frames)[this.value];
all.querySelectorAll('.frame').forEach((frame, i) => { frame.hidden = i !== shown; });
"""


def style() -> None:
    """The look of every notebook's figures."""
    plt.rc("figure", dpi=100)
    plt.rc("figure.constrained_layout", use=True)
    plt.rc("axes", titlesize=11, axisbelow=True)
    plt.rc("axes.spines", top=False, right=False)
    plt.rc("legend", frameon=False)


def frames(
    draw: Callable[..., str | None], start: Mapping[str, Any], **values: Sequence[Any]
) -> HTML:
    """One slider for each of `values`; each moves alone, the others standing where they start.

    draw: called with one value of each name; draws a figure with pyplot, or returns a text. start:
    the value of each name that the page opens with; values: those that its slider goes through.
    """
    made: dict[tuple[Any, ...], str] = {}
    rows = []
    for name, stops in values.items():
        stops = sorted({*stops, start[name]}) if not isinstance(start[name], str) else list(stops)
        shown = []
        for stop in stops:
            at = {**start, name: stop}
            key = tuple(at.values())
            if key not in made:
                made[key] = _frame(draw, at)
            shown.append(list(made).index(key))
        first = stops.index(start[name])
        texts = [stop if isinstance(stop, str) else f"{stop:.4g}" for stop in stops]
        rows.append(
            f'<label style="display:block">{escape(name.replace("_", " "))} '
            f'<input type="range" min="0" max="{len(stops) - 1}" value="{first}" '
            f'data-start="{first}" data-values="{escape(json.dumps(texts))}" '
            f'data-frames="{json.dumps(shown)}" oninput="{escape(" ".join(MOVED.split()))}"> '
            f"<output>{escape(texts[first])}</output></label>"
        )
    first = list(made).index(tuple(start.values()))
    pictures = [
        f'<div class="frame"{"" if i == first else " hidden"}>{content}</div>'
        for i, content in enumerate(made.values())
    ]
    return HTML(f'<div class="frames">{"".join(pictures + rows)}</div>')


def _frame(draw: Callable[..., str | None], at: dict[str, Any]) -> str:
    """A text, or the figure as a small PNG."""
    text = draw(**at)
    if text is not None:
        return f"<pre>{escape(text)}</pre>"
    buffer, small = io.BytesIO(), io.BytesIO()
    plt.gcf().savefig(buffer, dpi=80)
    plt.close()
    with Image.open(buffer) as image:
        image.convert("RGB").quantize(48).save(small, "png", optimize=True)
    data = base64.b64encode(small.getvalue()).decode()
    words = ", ".join(f"{name.replace('_', ' ')} = {value}" for name, value in at.items())
    return f'<img alt="{escape(words)}" style="max-width:100%" src="data:image/png;base64,{data}">'


def color_of(name: str) -> str:
    """The colour of a norm by its name (the Okabe-Ito palette, which everybody can tell apart)."""
    return str(look(name)["color"])


def bars(
    ax: Any,
    values: Any,
    color: str = GREY,
    title: str = "",
    limit: float | None = None,
    constant: Any = None,
) -> None:
    """One bar per sample, numbered from 1, with a line at zero; constant: outlined ones behind."""
    numbers = np.arange(1, np.size(values) + 1)
    ax.bar(numbers, np.ravel(values), color=color, width=0.7)
    if constant is not None:
        outline = {"color": "none", "edgecolor": "black", "linewidth": 1.1}
        ax.bar(numbers, np.ravel(constant), width=0.7, **outline)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(numbers)
    if title:
        ax.set_title(title)
    if limit is not None:
        ax.set_ylim(-limit, limit)


def sizes(ax: Any, values: Mapping[str, float], title: str) -> None:
    """One horizontal bar a norm, with its number."""
    ax.barh(list(values), list(values.values()), color=[color_of(n) for n in values], height=0.7)
    for row, size in enumerate(values.values()):
        ax.text(size * 1.02, row, f"{size:.2f}", va="center")
    ax.invert_yaxis()
    ax.set(title=title, xlim=(0, 1.2 * max(values.values())))


def row_labels(axes: Any, labels: Sequence[str]) -> None:
    """One label a row of panels, and "sample" below the last."""
    for ax, label in zip(axes[:, 0], labels, strict=True):
        ax.set_ylabel(label)
    for ax in axes[-1]:
        ax.set_xlabel("sample")
    axes[0, 0].figure.align_ylabels()
    plt.show()


def unit_curves(norms: Mapping[str, Any], gradient: Any, statistic: Any) -> None:
    """For two numbers: the curve on which a statistic is 1, and its gradient at eight points."""
    angle = np.linspace(0, 2 * np.pi, 721)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    _, axes = plt.subplots(1, len(norms), figsize=(11, 3.1), sharex=True, sharey=True)
    for ax, (name, p) in zip(axes, norms.items(), strict=True):
        c = lpnorm.gaussian_constant(p, 2)
        curve = circle / (statistic(circle, p) / c)
        ax.plot(*curve.T, color=color_of(name), linewidth=2)
        for degrees in (25, 65, 115, 155, 205, 245, 295, 335):
            point = curve[2 * degrees : 2 * degrees + 1]
            to = (point + gradient(point, p) / c)[0]
            ax.annotate("", to, point[0], arrowprops={"arrowstyle": "->", "lw": 1.4})
            ax.plot(*point[0], "o", color="black", markersize=4)
        ax.set(title=name, xlabel="$d_1$", aspect="equal", xlim=(-2.6, 2.6), ylim=(-2.6, 2.6))
    axes[0].set_ylabel("$d_2$")


def half_map(ax: Any, holds: Any, scales: Sequence[int], title: str) -> None:
    """Where a norm holds in float16: n to the right, the scale of the input upwards."""
    sizes_ = len(holds)
    extent = (0.5, sizes_ + 0.5, scales[0] - 0.5, scales[-1] + 0.5)
    colors = ListedColormap(["#dddddd", VERMILLION, SKY])
    ax.imshow(
        np.transpose(holds),
        cmap=colors,
        vmin=-1,
        vmax=1,
        aspect="auto",
        origin="lower",
        extent=extent,
    )
    ax.set_title(title, fontsize=10)
    ax.set_yticks([-24, -14, -7, 0, 8, 15], ["2⁻²⁴", "2⁻¹⁴", "2⁻⁷", "1", "2⁸", "2¹⁵"])
    ax.set_xticks([1, 7, 13], ["2", "2⁷", "2¹³"])
    ax.set_xlabel("n, values in a group")


def kink(t: Any, loss: Any, slope: Any) -> None:
    """A loss over t with a kink at t = 0 (the middle of t), and its slope."""
    middle = len(t) // 2
    before, at, after = slope[middle - 1], slope[middle], slope[middle + 1]
    _, (left, right) = plt.subplots(1, 2, figsize=(10, 3.3))
    left.plot(t, loss, color=color_of("L∞"), linewidth=2.5, label="loss, L∞")
    near, dashed = np.array([-1.1, 1.1]), {"color": "black", "linewidth": 1, "linestyle": "--"}
    left.plot(near, loss[middle] + before * near, label="slopes before and after", **dashed)
    left.plot(near, loss[middle] + after * near, **dashed)
    left.plot(near, loss[middle] + at * near, ":", color=BLUE, linewidth=2, label="library")
    left.plot(0, loss[middle], "o", color="black")
    left.set(xlabel="t: how far sample 4 is moved", ylabel="loss", title="the loss has a kink")
    left.legend(loc="lower center")
    for side in (t < 0, t > 0):
        right.plot(t[side], slope[side], color=color_of("L∞"), linewidth=2.5)
    right.vlines(0, before, after, color=color_of("L∞"), linewidth=6, alpha=0.3)
    right.plot(0, at, "o", color=BLUE, markersize=8)
    right.text(0.15, at, "the library: shared", va="center", color=BLUE)
    right.text(-1.9, before - 0.06, "sample 6 is the largest")
    right.text(0.35, after - 0.06, "sample 4 is the largest")
    right.set(xlabel="t: how far sample 4 is moved", ylabel="dx of sample 4")
    right.set(ylim=(after - 0.1, None), title="its slope jumps; the pale bar is allowed")
    plt.show()
