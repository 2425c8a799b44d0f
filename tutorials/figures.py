"""The figures of the notebooks by number: `figure_05_4` is Figure 4 of tutorial 05.

Each takes what its notebook has computed, or how to compute it, and draws what its caption says.
"""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

import lpnorm
from lpnorm.decay import channel_norms
from lpnorm.experiments.exact_step import compare_arms
from lpnorm.experiments.pictures import BLUE, DASHES, GREEN, GREY, ORANGE, PURPLE, VERMILLION, look


def figure_00_1(curves):
    _, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), sharey=True)
    for (c, normalize), found in curves.items():
        (right if normalize else left).semilogy(
            range(1, 21), found, "o-", markersize=3, label=f"c = {c}"
        )
    for ax, title in ((left, "without batch norm"), (right, "with batch norm")):
        ax.set(title=title, xlabel="layer", xticks=range(5, 21, 5))
    left.set_ylabel("size (root mean square)")
    left.legend()
    plt.show()


def figure_01_1(COLOR, NORMS, d, measure, x):
    _fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3), width_ratios=[3, 2])
    numbers = np.arange(1, 9)
    left.bar(numbers, d[0], color=GREY, width=0.7)
    left.axhline(0, color="black", linewidth=0.8)
    for name in ("L1", "L2", "L4", "L∞"):
        left.axhline(measure(x, NORMS[name], None).item(), color=COLOR[name], linewidth=1.5)
        left.text(9.1, measure(x, NORMS[name], None).item(), name, color=COLOR[name], va="center")
    left.set(
        title="deviations d, and four statistics as heights",
        xlabel="sample",
        xticks=numbers,
        xlim=(0.3, 9),
    )
    share = np.abs(d[0])[:, None] ** np.array([1, 2, 4, 16])
    share /= share.sum(axis=0)
    bottom = np.zeros(4)
    for i in range(8):
        color = COLOR["Range"] if i == 5 else "white"
        right.bar(range(4), share[i], bottom=bottom, color=color, edgecolor="black", width=0.7)
        bottom += share[i]
    right.set_xticks(range(4), ["p = 1", "p = 2", "p = 4", "p = 16"])
    right.set(title="whose say is it? share of $|d_i|^p$ in the sum", yticks=[0, 0.5, 1])
    right.text(3, 0.5, "sample\n6", ha="center", va="center")
    plt.show()


def figure_01_2():
    _fig, ax = plt.subplots(figsize=(9, 3))
    t = np.linspace(0, 6, 601)
    density = np.exp(-(t**2) / 2)
    ax.fill_between(
        t, density / np.trapezoid(density, t), color="#eeeeee", label="the density itself"
    )
    for p, style in ((1, "-"), (2, "-"), (4, "-"), (8, "--")):
        color = look(f"L{p}")["color"]
        product = t**p * density
        ax.plot(
            t,
            product / np.trapezoid(product, t),
            color=color,
            linestyle=style,
            linewidth=2,
            label=f"p = {p}",
        )
        ax.plot(math.sqrt(p), 0, "^", color=color, clip_on=False, markersize=8)
    ax.set(xlabel="|z|", ylabel="weight", xlim=(0, 6), ylim=(0, None))
    ax.legend()
    plt.show()


def figure_01_3(measure):
    _fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
    rng = np.random.default_rng(1)
    for n, shade in ((16, "#f2c6de"), (256, "#dc8fbc"), (4096, "#a34a83")):
        largest = measure(rng.standard_normal((2000, n)), math.inf, constant=None)
        left.hist(largest, np.linspace(0.8, 5.5, 60), density=True, color=shade, label=f"n = {n:,}")
    left.set(title="the largest |d| of n Gaussian values", xlabel="max |d|", yticks=[])
    left.legend(title="2,000 batches each")
    sizes = 2 ** np.arange(4, 21, 2)
    for name, p in {
        "L1": 1,
        "L∞": math.inf,
        "Top-10": lpnorm.TopK(10),
        "Range": lpnorm.Range(),
    }.items():
        ratio = [
            lpnorm.gaussian_constant(p, int(n)) / lpnorm.gaussian_constant(p, int(n), "exact")
            for n in sizes
        ]
        right.plot(sizes, ratio, markersize=4, **look(name))
        right.text(sizes[-1] * 1.5, ratio[-1], name, color=look(name)["color"], va="center")
    right.axhline(1, color="black", linestyle=":", linewidth=1)
    right.set(
        xscale="log",
        xlabel="n",
        ylim=(0, 2),
        title="s for Gaussian values with deviation 1, paper's constants",
    )
    plt.show()


def figure_01_4(sizes, spread):
    _fig, ax = plt.subplots(figsize=(8, 3.2))
    for name, values in spread.items():
        ax.loglog(sizes, values, label=name, markersize=5, **look(name))
    ax.loglog(sizes, 1 / np.sqrt(2 * np.array(sizes)), "k:", label=r"$1/\sqrt{2n}$")
    ax.set(xlabel="n, values in the batch", ylabel="relative spread of s")
    ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
    ax.set_yticks([0.02, 0.05, 0.1, 0.2], ["2 %", "5 %", "10 %", "20 %"])
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


def figure_01_5(COLOR, NORMS, measure, outlier, rows):
    _fig, ax = plt.subplots(figsize=(8, 3.2))
    for name, p in NORMS.items():
        s = measure(rows, p, "exact")
        ax.plot(outlier, s / s[0], color=COLOR[name], linewidth=2)
        ax.text(20.3, (s / s[0])[-1], name, color=COLOR[name], va="center")
        at_10, at_20 = s[40] / s[0], s[80] / s[0]
        print(f"{name:5s}  an outlier at 10 multiplies s by {at_10:.2f}, at 20 by {at_20:.2f}")
    ax.set(
        xlabel="where the outlier is",
        ylabel="s, relative to no outlier",
        title="one outlier among n = 64",
    )
    plt.show()


def figure_01_7(NORMS, channels, ratios):
    _fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), width_ratios=[1, 1])
    edges = np.linspace(-4, 4, 81)
    standard = (channels - channels.mean(axis=1, keepdims=True)) / channels.std(
        axis=1, keepdims=True
    )
    for row, color in zip(standard, (BLUE, VERMILLION, GREEN, PURPLE), strict=False):
        left.hist(row, edges, histtype="step", density=True, color=color, linewidth=1.3)
    left.plot(edges, np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi), "k:", label="Gaussian")
    left.set(
        title="four channels behind the first convolution",
        xlabel="d / standard deviation",
        ylim=(0, 1.5),
        yticks=[],
    )
    left.legend()
    for column, (name, ratio) in enumerate(ratios.items()):
        right.plot(
            np.full(16, column), ratio, linestyle="none", alpha=0.5, markersize=6, **look(name)
        )
    right.axhline(1, color="black", linestyle=":", linewidth=1)
    right.set_xticks(range(len(NORMS)), list(NORMS))
    right.set(
        title="what each norm finds (one dot a channel)",
        ylabel="s / standard deviation",
        ylim=(0, None),
    )
    plt.show()


def figure_03_1(at, grid, landscape, length):
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(11.5, 3.9), width_ratios=[1.25, 1, 1])
    picture = left.contourf(grid, grid, landscape, levels=24, cmap="viridis")
    fig.colorbar(picture, ax=left, label="loss", shrink=0.9)
    angles = np.radians([-40, -20, 0, 20, 160, 180, 200, 220])
    for radius in (1, 2):
        for angle in angles:
            point = radius * np.array([math.cos(angle), math.sin(angle)])
            downhill = -np.array(at(*point)[1:])
            left.annotate(
                "",
                point + 5 * downhill,
                point,
                arrowprops={"arrowstyle": "->", "color": "white", "lw": 1.4},
            )
    left.plot(length, 0, "o", color=VERMILLION, markersize=9)
    left.set(
        title="the loss on a plane through w",
        xlabel="along w",
        ylabel="downhill at w",
        aspect="equal",
    )
    turn = np.radians(np.arange(0, 361, 5))
    for radius, style in ((1, "-"), (2, "--")):
        values = [at(radius * math.cos(t), radius * math.sin(t))[0] for t in turn]
        middle.plot(
            np.degrees(turn),
            values,
            style,
            color=BLUE if radius == 1 else VERMILLION,
            linewidth=2,
            label=f"length {radius}",
        )
    middle.set(title="around a circle", xlabel="direction (degrees)", xticks=[0, 90, 180, 270, 360])
    middle.legend(loc="upper left")
    radii = np.linspace(0.2, 4, 20)
    for degrees, color in ((0, VERMILLION), (60, BLUE), (150, GREEN)):
        t = math.radians(degrees)
        right.plot(
            radii,
            [at(r * math.cos(t), r * math.sin(t))[0] for r in radii],
            color=color,
            linewidth=2,
            label=f"{degrees}°",
        )
    right.set(title="along three rays", xlabel="length of the weight", ylim=middle.get_ylim())
    right.legend(loc="upper left", title="direction", ncols=3)
    plt.show()


def figure_03_4(scales, w, x):
    _fig, ax = plt.subplots(figsize=(7, 3))
    for name, p in (("L2", 2), ("L1", 1)):
        sizes = []
        for scale in scales:
            y, _ = lpnorm.batch_norm(scale * (x @ w.T), None, None, p=p, eps=1e-5)
            sizes.append(y.std())
        ax.semilogx(scales, sizes, markersize=4, label=f"{name}, eps = 1e-5", **look(name))
    ax.set(
        xlabel="w is multiplied by",
        ylabel="deviation of the output",
        title="(1) holds while s is far above eps",
        ylim=(0, 1.1),
    )
    ax.legend()
    plt.show()


def figure_04_1(Walk, draw_walk):
    _fig, axes = plt.subplots(1, 3, figsize=(11.5, 3.8), sharey=True)
    for ax, decay, color in zip(axes, (0.0, 0.02, 0.3), (VERMILLION, BLUE, GREEN), strict=True):
        path = Walk(lr=0.3, decay=decay).walk()
        draw_walk(ax, path, color)
        late = path[150:]
        spread = np.degrees(np.arctan2(late[:, 1], late[:, 0])).std()
        size = np.linalg.norm(late, axis=1).mean()
        ax.set_title(f"decay {decay:g}: length {size:.2f}, direction ±{spread:.0f}°")
    axes[0].set_ylabel("$w_2$")
    plt.show()


def figure_04_2(walks):
    _fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=[1, 1.2])
    steps = 12
    one, other = walks["with decay"][:steps], walks["no decay, (4.3)"][:steps]
    for far in other:
        left.plot(*np.array([np.zeros(2), far]).T, color=GREY, linewidth=0.6)
    left.plot(*one.T, "o-", color=BLUE, markersize=4, label="with decay")
    left.plot(*other.T, "o-", color=GREEN, markersize=4, label="no decay, (4.3)")
    left.set(title="the first 12 steps", aspect="equal", xlabel="$w_1$", ylabel="$w_2$")
    left.set(xlim=(-0.7, 2.2), ylim=(-0.6, 1.9))
    left.legend(loc="upper right")
    for name, color in (("with decay", BLUE), ("no decay", VERMILLION), ("no decay, (4.3)", GREEN)):
        angle = np.degrees(np.unwrap(np.arctan2(walks[name][:, 1], walks[name][:, 0])))
        right.plot(angle, "--" if "4.3" in name else "-", color=color, linewidth=1.4, label=name)
    right.set(title="the direction at every step", xlabel="step", ylabel="degrees", xlim=(0, 120))
    right.legend()
    plt.show()


def figure_04_3(ARMS):
    _fig, axes = plt.subplots(1, 3, figsize=(11.5, 3.3), sharey=True)
    for ax, (norm, title) in zip(axes, {"2": "L2", "1": "L1", "inf": "L∞"}.items(), strict=True):
        errors = compare_arms(norm, seed=0, device="cpu")
        for arm, label in ARMS.items():
            ax.semilogy(
                range(1, 201),
                np.maximum(errors[arm], 1e-17),
                color=look(arm)["color"],
                ls=DASHES.get(arm, "-"),
                label=label,
            )
        worst = ", ".join(f"{ARMS[arm]}: {max(errors[arm]):.0e}" for arm in ARMS)
        print(f"{title}: largest errors   {worst}")
        ax.set(title=f"{title} batch norm", xlabel="step")
    axes[0].set_ylabel("error of a direction")
    axes[2].legend(loc="center right", fontsize=9)
    plt.show()


def figure_04_4(by_norm, by_rate):
    _fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=[1, 1.4])
    for path, color, label in (
        (by_norm, PURPLE, "length × √10"),
        (by_rate, BLUE, "learning rate / 10"),
    ):
        left.plot(*path.T, ".", color=color, markersize=4, label=label)
    left.plot(0, 0, "+", color="black")
    left.set(aspect="equal", xlabel="$w_1$", ylabel="$w_2$", title="the two walks", ylim=(-1, 1.6))
    left.legend(loc="upper right", fontsize=9)
    for path, style, color in ((by_norm, "-", PURPLE), (by_rate, "--", BLUE)):
        right.plot(np.degrees(np.arctan2(path[:, 1], path[:, 0])), style, color=color)
    right.axvline(100, color="black", linestyle=":", linewidth=1)
    right.set(title="their directions coincide", xlabel="step", ylabel="degrees")
    plt.show()


def figure_04_6(results):
    _fig, axes = plt.subplots(1, 4, figsize=(12, 3.2))
    for arm, mine in results[0].items():
        color, style, epochs = look(arm)["color"], DASHES.get(arm, "-"), range(1, 13)
        for ax, values in zip(
            axes,
            (
                mine["norm"],
                mine["step_size"],
                np.degrees(mine["angle"]),
                100 * (1 - np.array(mine["test_accuracy"])),
            ),
            strict=True,
        ):
            ax.plot(epochs, values, color=color, linestyle=style, linewidth=2, label=arm)
    for ax, title in zip(
        axes,
        (
            "length of a channel",
            "effective step size",
            "angle per step (degrees)",
            "test error (%)",
        ),
        strict=True,
    ):
        ax.set(title=title, xlabel="epoch", yscale="log", xticks=[1, 6, 9, 12])
        ax.minorticks_off()
    axes[0].legend(fontsize=9)
    axes[3].set_yticks([0.3, 1, 3, 10, 30], ["0.3", "1", "3", "10", "30"])
    plt.show()


def figure_05_3(TopK):
    _fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=[1, 1.1])
    sizes = 2 ** np.arange(4, 15, 2)
    four = {"L1": 1, "L∞": math.inf, "Top-10": TopK(10), "Range": lpnorm.Range()}
    for name, p in four.items():
        for constant, style, fill in (("paper", "-", None), ("exact", ":", "none")):
            deviations = []
            for n in sizes:
                values = np.random.default_rng(int(n)).standard_normal((2**18 // n, n))
                y, _ = lpnorm.batch_norm(
                    values, None, None, p=p, axis=0, eps=0.0, constant=constant
                )
                deviations.append(math.sqrt((y * y).mean()))
            left.semilogx(
                sizes,
                deviations,
                linestyle=style,
                markerfacecolor=fill,
                markersize=4,
                label=name if constant == "paper" else None,
                **look(name),
            )
    left.axhline(1, color="black", linewidth=0.6)
    left.set(title="deviation of x̂ (dotted: exact constants)", xlabel="n", ylim=(0.5, 1.45))
    left.set_xticks(sizes, [f"{n:,}" for n in sizes])
    left.minorticks_off()
    left.legend(ncols=2)
    values = np.random.default_rng(4).standard_normal((64, 4096))
    for p, constant, label, style in (
        (2, "paper", "L2", "-"),
        (math.inf, "paper", "L∞, paper's C", "-"),
        (math.inf, "exact", "L∞, exact C", "--"),
    ):
        color = look(label[:2])["color"]
        y, _ = lpnorm.batch_norm(values, None, None, p=p, axis=0, eps=0.0, constant=constant)
        right.hist(
            y.ravel(),
            np.linspace(-5, 5, 101),
            histtype="step",
            density=True,
            color=color,
            linestyle=style,
            linewidth=1.8,
            label=f"{label}: {y.std():.2f}",
        )
        right.axvline(abs(y).max(), color=color, linestyle=":", linewidth=1.2)
    right.set(title="x̂ for n = 4,096 (dotted: its largest value)", xlabel="x̂", yticks=[])
    right.legend(title="deviation", loc="upper left")
    plt.show()


def figure_05_4(arms):
    _fig, ax = plt.subplots(figsize=(8, 3.4))
    for row, (name, found) in enumerate(arms.items()):
        errors = 100 - np.array(found)
        fill = "none" if "exact" in name else None
        style = look(name.split(",")[0]) | {"linestyle": "none", "markerfacecolor": fill}
        ax.plot(errors, [row] * len(errors), alpha=0.7, markersize=8, **style)
        ax.plot(errors.mean(), row, "|", color="black", markersize=18, markeredgewidth=2)
    ax.set_yticks(range(len(arms)), list(arms))
    ax.invert_yaxis()
    ax.set(xlabel="test error (%), one dot a seed, bar: mean", xlim=(0, None))
    plt.show()


def figure_06_1(shown):
    _fig, ax = plt.subplots(figsize=(10, 3.6))
    for row, (name, value) in enumerate(shown.items()):
        for place, bit in enumerate(f"{value.view('uint16'):016b}"):
            color = PURPLE if place == 0 else ORANGE if place < 6 else BLUE
            x = place + (0.4 if place > 0 else 0) + (0.4 if place > 5 else 0)
            box = plt.Rectangle(
                (x, row + 0.1), 0.9, 0.8, ec=color, fc=color if bit == "1" else "white"
            )
            ax.add_patch(box)
            ink = "white" if bit == "1" else "black"
            ax.text(x + 0.45, row + 0.52, bit, ha="center", va="center", fontsize=9, color=ink)
        broken = name.startswith(("300 ·", "2⁻¹³ ·"))
        ax.text(
            -0.4, row + 0.5, name, ha="right", va="center", color=VERMILLION if broken else "black"
        )
        ax.text(
            17.1,
            row + 0.5,
            f"{float(value):.10g}",
            va="center",
            color=VERMILLION if broken else "black",
        )
    for x, name, color in ((0.45, "S", PURPLE), (3.85, "E", ORANGE), (11.8, "F", BLUE)):
        ax.text(x, -0.25, name, color=color, ha="center", weight="bold")
    ax.set(xlim=(-3.5, 21), ylim=(8.1, -0.8))
    ax.axis("off")
    plt.show()


def figure_06_2(every, gap):
    _fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.2))
    left.loglog(every[:-1], gap, color=BLUE, linewidth=2, base=2)
    left.set(title="distance to the next number", xlabel="float16 number")
    right.loglog(
        every[:-1], gap / 2 / every[:-1].astype("float64"), color=BLUE, linewidth=1, base=2
    )
    right.axhline(2.0**-11, color="black", linestyle=":", linewidth=1)
    right.set(title="largest relative error of rounding there", xlabel="float16 number")
    for ax in (left, right):
        ax.axvspan(2.0**-24, 2.0**-14, color=VERMILLION, alpha=0.15, linewidth=0)
        ax.set_xticks([2.0**e for e in (-24, -14, -7, 0, 8, 16)])
    left.text(2.0**-23.5, 2.0**1, "subnormal", color=VERMILLION)
    right.text(2.0**-9, 2.0**-9.6, "$u = 2^{-11}$")
    plt.show()


def figure_06_3(error, every, infinite, zero):
    _fig, ax = plt.subplots(figsize=(10, 3.4))
    some = np.isfinite(error) & (error > 0) & ~zero
    ax.loglog(every[some], error[some], ".", color=BLUE, markersize=1.5)
    ax.axvspan(every[0], every[zero].max(), color=VERMILLION, alpha=0.25, linewidth=0)
    ax.axvspan(every[infinite].min(), every[-1], color=VERMILLION, alpha=0.25, linewidth=0)
    ax.axhline(0.01, color="black", linestyle=":", linewidth=1)
    ax.text(2.0**-23, 0.03, "$d^2 = 0$", color=VERMILLION, fontsize=12)
    ax.text(2.0**9, 0.03, "$d^2 = \\infty$", color=VERMILLION, fontsize=12)
    ax.text(2.0**-4, 0.014, "1 %")
    ax.set_xscale("log", base=2)
    ax.set_xticks([2.0**e for e in (-24, -12, -7, 0, 8, 16)])
    ax.set(
        xlim=(2.0**-24, 65504),
        ylim=(2e-4, 1.5),
        xlabel="d",
        ylabel="relative error of $\\sqrt{d^2}$",
    )
    plt.show()


def figure_06_5(Accumulate, a, quiet):
    _fig, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6))
    counts = np.unique(np.geomspace(1, 60_000, 200).astype(int))
    for scale, shade in ((1, PURPLE), (4, "#7b3f66")):
        part = [Accumulate("float16", "sequential").total(scale * a[:, :n]).item() for n in counts]
        left.plot(counts, part, color=shade, linewidth=2)
        left.text(59_000, part[-1] + 1500, f"float16, scale {scale}", color=shade, ha="right")
        left.plot(
            counts, [scale * a[0, :n].sum(dtype="float64") for n in counts], "k:", linewidth=1
        )
    left.set(
        title="sequential: the sum so far",
        xlabel="terms added (dotted: exact)",
        xlim=(0, 60_000),
        ylim=(0, 68_000),
    )
    for ax, order, color in ((middle, "pairwise", ORANGE), (right, "pairwise_mean", GREEN)):
        for scale, alpha in ((1, 0.5), (16, 1.0)):
            highest, lowest = [], []
            for level in range(17):
                with quiet():
                    nodes = (scale * a).reshape(2**level, -1).T  # each row: what one node adds up
                    sums = Accumulate("float16", order)
                    found = sums.total(nodes) if order == "pairwise" else sums.average(nodes)
                highest.append(float(found.max()))
                lowest.append(float(found.min()))
            ax.fill_between(range(17), lowest, np.minimum(highest, 3e5), color=color, alpha=0.35)
            finite = np.isfinite(highest)
            ax.plot(
                np.arange(17)[finite],
                np.array(highest)[finite],
                "o-",
                color=color,
                alpha=alpha,
                markersize=4,
                label=f"scale {scale}",
            )
            for level in np.arange(17)[~finite][:1]:
                ax.plot(level, 65504, "X", color=VERMILLION, markersize=11, clip_on=False)
        ax.axhline(65504, color="black", linestyle=":", linewidth=1)
        ax.set_yscale("log", base=2)
        ax.set(
            title=f"{order}: nodes by level", xlabel="level of the tree", ylim=(2.0**-16, 2.0**18)
        )
        ax.set_yticks([2.0**e for e in (-14, -7, 0, 7, 16)])
        ax.set_xticks(range(0, 17, 4))
        ax.legend(loc="lower right", fontsize=9)
    middle.text(0, 2.0**16.3, "65,504", fontsize=9)
    plt.show()


def figure_06_6(Accumulate, ORDERS, quiet, sizes):
    _fig, ax = plt.subplots(figsize=(8.5, 3.3))
    for order, color in ORDERS.items():
        errors = []
        for n in sizes:
            rows = abs(
                np.random.default_rng(int(n)).standard_normal((max(1, 2**17 // n), n))
            ).astype("float16")
            exact = rows.mean(axis=1, keepdims=True, dtype="float64")
            with quiet():
                got = Accumulate("float16", order).average(rows).astype("float64")
            errors.append(np.median(abs(got / exact - 1)))
        errors = np.array(errors)
        finite = np.isfinite(errors)
        wide = {"linewidth": 6, "alpha": 0.5} if order == "pairwise" else {"linewidth": 1.8}
        ax.loglog(
            sizes[finite], errors[finite], "o-", color=color, markersize=4, label=order, **wide
        )
        if not finite.all():
            ax.plot(sizes[~finite][0], 1, "X", color=color, markersize=12, clip_on=False)
    ax.axhline(0.01, color="black", linestyle=":", linewidth=1)
    ax.text(2, 0.012, "1 %")
    ax.set_xscale("log", base=2)
    ax.set_xticks(2 ** np.arange(1, 18, 4))
    ax.set(xlabel="n", ylabel="relative error of the mean", ylim=(1e-5, 1))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


def figure_06_8(curves, exponents, colors):
    fig, panels = plt.subplots(1, 2, figsize=(11.5, 3.6), sharey=True)
    for (name, found), color in zip(curves.items(), colors, strict=True):
        for ax, errors in zip(panels, found, strict=True):
            style = {"color": color, "markersize": 3.5, "label": name}
            ax.semilogy(exponents, np.minimum(errors, 3), "o-", **style)
    for ax, title in zip(panels, ("forward: x̂", "backward: dx (dy of size 1)"), strict=True):
        ax.axhline(0.01, color="black", linestyle=":", linewidth=1)
        ax.set(title=title, xlabel="scale of the input, power of two", ylim=(1e-4, 4))
    panels[0].set_ylabel("relative error")
    fig.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    plt.show()


def figure_06_9(SETTINGS, TRAININGS, trained):
    _fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.3), sharey=True)
    for ax, (setting, title) in zip(axes, SETTINGS.items(), strict=True):
        for name, color in zip(TRAININGS, ("black", VERMILLION, BLUE), strict=True):
            for number, run in enumerate(trained[setting, name]):
                accuracy = np.array(run["test_accuracy"])
                epochs = np.arange(1, accuracy.size + 1)
                label = name if number == 0 else None
                if run["diverged"]:
                    ax.plot(
                        0.6,
                        90,
                        "X",
                        color=color,
                        markersize=12,
                        label=None if label is None else f"{label}: broken",
                    )
                    continue
                ax.plot(
                    epochs,
                    100 - 100 * accuracy,
                    "o-",
                    color=color,
                    markersize=4,
                    alpha=0.8,
                    label=label,
                )
        ax.axhline(90, color=GREY, linestyle=":", linewidth=1)
        ax.set(title=title, xlabel="epoch", yscale="log", xlim=(0.3, 4.3))
        ax.set_yticks([1, 2, 5, 10, 20, 50, 90], ["1", "2", "5", "10", "20", "50", "90"])
        ax.minorticks_off()
        ax.legend(loc="lower left", fontsize=9)
    axes[0].set_ylabel("test error (%)")
    axes[0].set_ylim(0.2, None)
    plt.show()


def figure_07_1(g, rho, v, w_bounded, w_learned):
    _fig, axes = plt.subplots(1, 3, figsize=(11, 2.8), sharey=True)
    channels = np.arange(1, 9)
    for ax, lengths, title, color in (
        (axes[0], channel_norms(v), "|v|, what is stored", GREY),
        (axes[1], channel_norms(w_learned), "|w|, weight norm: = g", BLUE),
        (axes[2], channel_norms(w_bounded), "|w|, bounded: = ρ", VERMILLION),
    ):
        ax.bar(channels, lengths, color=color, width=0.7)
        ax.set(title=title, xlabel="output channel", xticks=channels)
    axes[1].plot(channels, g, "_", color="black", markersize=16)
    axes[0].axhline(rho, color=VERMILLION, linestyle="--")
    plt.show()


def figure_07_5(watched):
    _fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
    for (name, (lengths, _)), color in zip(watched.items(), (BLUE, VERMILLION), strict=True):
        left.plot(lengths[:, 0], color=color, linewidth=2, label=name)
        right.fill_between(
            range(len(lengths)), lengths[:, 1], lengths[:, 2], color=color, alpha=0.35
        )
        right.plot(lengths[:, 1], color=color, linewidth=1)
        right.plot(lengths[:, 2], color=color, linewidth=1, label=name)
    left.set(title="length of v (mean over the channels)", xlabel="step")
    right.set(title="length of w (from the shortest to the longest)", xlabel="step", ylim=(0, None))
    left.legend()
    right.legend()
    plt.show()


def figure_08_1(CANDIDATES, curves, found, upstream):
    _fig, (left, right) = plt.subplots(1, 2, figsize=(11.5, 3.5), width_ratios=[1, 1.5])
    for (_name, runs), color in zip(curves.items(), (GREEN, VERMILLION), strict=True):
        for number, run in enumerate(runs):
            left.plot(
                range(1, 6),
                run,
                "o-",
                color=color,
                markersize=4,
                alpha=0.8,
                label=_name if number == 0 else None,
            )
    left.set(
        title="test accuracy with a right and a wrong dx",
        xlabel="epoch",
        xticks=range(1, 6),
        ylabel="%",
    )
    left.legend(loc="lower right")
    for i, (which, color) in enumerate(zip(upstream, (GREY, ORANGE, BLUE), strict=True)):
        heights = [max(found[name, which], 1e-12) for name in CANDIDATES]
        right.barh(
            np.arange(5) + 0.26 * (i - 1),
            heights,
            left=1e-13,
            height=0.24,
            color=color,
            label=which,
        )
    right.axvline(1e-6, color="black", linestyle=":", linewidth=1)
    right.set_yticks(range(5), list(CANDIDATES))
    right.invert_yaxis()
    right.set(
        xscale="log", xlabel="error of the gradient check (dotted: passes below)", xlim=(1e-13, 30)
    )
    right.legend(loc="lower left", bbox_to_anchor=(1, 0.3), title="upstream")
    plt.show()


def figure_08_2(PLANTED, backward, forward, plant, remainder, steps):
    _fig, ax = plt.subplots(figsize=(8.5, 3.4))
    lines = {"right": (forward, backward), "mean(g) forgotten": None, "C forgotten in h": None}
    for (name, pair), color in zip(lines.items(), (GREEN, VERMILLION, PURPLE), strict=True):
        pair = pair or plant(*PLANTED[name])
        ax.loglog(
            steps, [remainder(pair, t) for t in steps], "o-", color=color, markersize=4, label=name
        )
    ax.loglog(steps, steps**2, ":", color="black", label="$t^2$")
    ax.loglog(steps, steps / 8, "--", color="black", linewidth=1, label="$t / 8$")
    ax.invert_xaxis()
    ax.set(xlabel="step t (smaller to the right)", ylabel="remainder R(t)")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


def figure_08_3(grid, names, reports):
    _fig, ax = plt.subplots(figsize=(11.5, 5))
    ax.imshow(grid, cmap=ListedColormap([VERMILLION, "#dcebf5"]), vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8.5)
    ax.set_yticks(range(len(reports)), list(reports))
    ax.set_xticks(np.arange(len(names)) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(reports)) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="both", length=0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    plt.show()


# ---- panels that several cells of a notebook draw -----------------------------------------------


def band(ax, deviations, s, limit, title):
    """Bars, and the band of plus and minus s."""
    n = len(deviations)
    ax.bar(np.arange(n), deviations, color=GREY, width=1.0 if n > 40 else 0.8)
    ax.axhspan(-s, s, color=BLUE, alpha=0.25, linewidth=0)
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set(ylim=(-limit, limit), xticks=[], title=title)


def step(ax, start, end, title):
    """A step in the plane, on the circle that it leaves."""
    circle, radius = np.linspace(0, 2 * np.pi, 100), math.hypot(*start)
    ax.plot(radius * np.cos(circle), radius * np.sin(circle), color=GREY, linewidth=0.8)
    for point, color in ((start, GREY), (end, VERMILLION)):
        ax.plot([0, 4 * point[0]], [0, 4 * point[1]], ":", color=color, linewidth=1.2)
    arrow = {"arrowstyle": "-|>", "color": VERMILLION, "lw": 2, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=arrow)
    ax.plot(*start, "o", color="black", markersize=5)
    ax.set(xlim=(-0.3, 2.6), ylim=(-0.8, 2.1), aspect="equal", title=title)
    ax.set(xticks=range(3), yticks=range(3))


def settling(ax, paths, title):
    """Lengths from three starts, relative to where they should settle."""
    for path, color in zip(paths, (BLUE, GREEN, VERMILLION), strict=True):
        ax.plot(path, color=color)
    ax.axhline(1, color="black", linestyle=":", linewidth=1)
    ax.set(title=title, xlabel="step", ylim=(0, 4))


def family(row, k, deviations, dx, constant_s, title):
    """d and dx, the k largest |d| in orange; dotted: dx for constant s."""
    counted = abs(deviations) >= np.sort(abs(deviations))[-k]
    colors = np.where(counted, VERMILLION, "#cccccc")
    numbers = np.arange(1, len(deviations) + 1)
    row[0].bar(numbers, deviations, color=colors)
    row[0].set_title(title)
    row[1].bar(numbers, dx, color=colors)
    row[1].bar(numbers, constant_s, color="none", edgecolor="black", linestyle=":")
    row[1].set_title("dx (dotted: for constant s)")
    for ax in row:
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_xticks([])


def two_bars(ax, outputs, title):
    """Two outputs side by side; a cross where one is not finite."""
    for (label, y), color, shift in zip(
        outputs.items(), (BLUE, VERMILLION), (-0.2, 0.2), strict=True
    ):
        bad, places = ~np.isfinite(y), np.arange(len(y)) + shift
        ax.bar(places, np.where(bad, 0, y), width=0.4, color=color, label=label)
        ax.plot(places[bad], np.zeros(bad.sum()), "x", color=color, markersize=9)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(title=title, xticks=[], ylim=(-2.7, 2.9))
    ax.legend(loc="upper left", fontsize=9)


def plane(ax, curve, path, image, target, title):
    """The curve that w can be on, the way of v and its w's, and the target."""
    ax.plot(*curve.T, color=GREY, linewidth=1)
    ax.plot(*np.array(path).T, "o-", color="black", markersize=3, linewidth=1, label="v")
    ax.plot(*np.array(image).T, "o", color=VERMILLION, markersize=5, label="w")
    for a, b in zip(path, image, strict=True):
        ax.plot(*np.array([a, b]).T, ":", color=VERMILLION, linewidth=0.8)
    ax.plot(*target, "*", color=BLUE, markersize=13, label="target w*")
    ax.set(aspect="equal", xlim=(-1.5, 2.4), ylim=(-1.5, 2.4), title=title, xlabel="$w_1$")


def blocks(ax, values, color, title):
    """One bar a block, with its number."""
    ax.bar(range(1, 4), values, color=color, width=0.6)
    for block, value in enumerate(values, 1):
        ax.text(block, value, f"{value:.2g}", ha="center", va="bottom")
    ax.set(title=title, xticks=range(1, 4), xlabel="block", ylim=(0, 1.2 * max(values)))
