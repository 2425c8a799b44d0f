"""From seconds to ratios, and to text."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lpnorm.bench.contestants import COPY, TORCH, TORCH_L1, Entry, Problem
from lpnorm.bench.steps import ORDER, STEP, Part, Training

COLUMNS = {"reused": "fast, reused", "fast": "fast, fresh", "plain": "plain", "naive": "naive"}


PLAIN_OR_TORCH = {"torch": "PyTorch's own layer (L2)", "plain": "the plain code, same norm"}


def case(problem: Problem, times: Mapping[Entry, Sequence[float]], **about: Any) -> dict[str, Any]:
    """What was measured of a problem: every second, medians, ratios with lowest and highest.

    `over_reference` is over PyTorch's own layer, or over the plain code with the same norm where
    PyTorch was not timed and for float16 (NumPy's own). Ratios are those of calls of one round.
    """
    measured = {entry: list(seconds) for entry, seconds in times.items() if seconds}
    half = problem.dtype == "float16"
    reference = "plain" if half or TORCH not in measured else "torch"
    results = []
    for entry, seconds in measured.items():
        median = statistics.median(seconds)
        over = TORCH if reference == "torch" else Entry("plain", entry.norm)
        result: dict[str, Any] = {
            **entry._asdict(),
            "median_seconds": median,
            "ns_per_element": 1e9 * median / problem.elements,
            "copies_of_x": _ratio(seconds, measured.get(COPY)),
            "over_reference": _ratio(seconds, measured.get(over)),
            "over_plain": _ratio(seconds, measured.get(Entry("plain", entry.norm))),
            "seconds": seconds,
        }
        if entry.norm == "L1":
            result["over_torch_l1"] = _ratio(seconds, measured.get(TORCH_L1))
        results.append(result)
    return {
        "problem": str(problem),
        "layer": problem.layer,
        "shape": list(problem.shape),
        "dtype": problem.dtype,
        "accumulate": problem.sums.dtype.name,
        "values_of_a_group": problem.n,
        "elements": problem.elements,
        "reference": reference,
        **about,
        "results": results,
    }


PARTS = "sum of its parts"


def step_case(
    training: Training,
    counts: Mapping[Part, int],
    times: Mapping[tuple[Part, str], Sequence[float]],
    losses: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """What was measured of a training step: for each contestant the whole step, every kind of layer
    (seconds of a layer times how often it occurs, added up in each round) and the sum of these.

    `over_reference` is over PyTorch, or over the plain code where PyTorch was not timed.
    """
    rounds = min(map(len, times.values()))  # an interrupted round does not count
    who = list(dict.fromkeys(each for _, each in times))
    reference = next((each for each in ("torch", "plain") if each in who), who[0])
    seconds: dict[tuple[str, str], list[float]] = {}
    for (part, each), measured in times.items():
        kinds = (part.kind,) if part.kind == STEP else (part.kind, PARTS)
        for kind in kinds:
            sums = seconds.setdefault((kind, each), [0.0] * rounds)
            for i in range(rounds):
                sums[i] += counts[part] * measured[i]
    results = [
        {
            "kind": kind,
            "layers": sum(n for part, n in counts.items() if part.kind == kind),
            "who": each,
            "median_seconds": statistics.median(seconds[kind, each]),
            "over_reference": _ratio(seconds[kind, each], seconds[kind, reference]),
            "seconds": seconds[kind, each],
        }
        for kind in (*ORDER, PARTS, STEP)
        for each in who
        if (kind, each) in seconds
    ]
    return {
        "problem": str(training),
        "model": training.model,
        "batch": training.batch,
        "reference": reference,
        "losses": {each: list(found) for each, found in losses.items()},
        "results": results,
        "parts": [
            {**part._asdict(), "count": n, "seconds": {w: list(times[part, w]) for w in who}}
            for part, n in counts.items()
        ],
    }


def _ratio(seconds: Sequence[float], over: Sequence[float] | None) -> dict[str, float] | None:
    if not over:
        return None
    ratios = [a / b for a, b in zip(seconds, over, strict=False)]
    return spread(ratios)


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
    }


def find(case: dict[str, Any], who: str, norm: str) -> dict[str, Any] | None:
    """A contestant's result in a case."""
    found = [r for r in case["results"] if (r["who"], r["norm"]) == (who, norm)]
    return found[0] if found else None


def norms_of(case: dict[str, Any]) -> list[str]:
    """The norms in a case, in the order asked for; last those that only PyTorch was timed with."""
    results = sorted(case["results"], key=lambda result: result["who"] == "torch")
    return [norm for norm in dict.fromkeys(r["norm"] for r in results) if norm]


# --- text ------------------------------------------------------------------------------------


def number(v: float) -> str:
    return (
        f"{v:.2g}"
        if v < 0.0995
        else f"{v:.2f}"
        if v < 9.995
        else f"{v:.1f}"
        if v < 99.95
        else f"{v:.0f}"
    )


def _cell(ratio: dict[str, float] | None) -> str:
    if ratio is None:
        return ""
    return "{} ({}-{})".format(*map(number, ratio.values()))


def table(cases: Sequence[dict[str, Any]]) -> str:
    """One small table a case: ratios of time, "median (lowest-highest)"."""
    return "\n\n".join(map(_of_case, cases))


def _of_case(case: dict[str, Any]) -> str:
    from tabulate import tabulate

    norms = norms_of(case)
    who = [w for w in COLUMNS if any(r["who"] == w for r in case["results"])]
    with_l1 = find(case, *TORCH_L1) is not None
    rows = []
    for norm in norms:
        row = [norm]
        for each in who:
            result = find(case, each, norm)
            if result and each == case["reference"]:
                row.append(f"1 ({_ms(result)} ms)")
            else:
                row.append(_cell(result and result["over_reference"]))
        ours = find(case, "reused", norm) or find(case, "fast", norm) or {}
        row.append(number(ours["copies_of_x"]["median"]) if ours.get("copies_of_x") else "")
        if with_l1:
            fresh = find(case, "fast", norm) or ours
            row.append(_cell(fresh.get("over_torch_l1")))
        rows.append(row)
    over = PLAIN_OR_TORCH[case["reference"]]
    heads = [
        "",
        *(COLUMNS[w] for w in who),
        "copies of x",
        *(["over torch's L1"] if with_l1 else []),
    ]
    head = f"{case['problem']}: time over {over}{_absolute(case)}"
    return f"{head}\n{tabulate(rows, heads, disable_numparse=True)}" if rows else head


def _absolute(case: dict[str, Any]) -> str:
    """What the reference and a copy take, in ms."""
    told = []
    if (torch := find(case, *TORCH)) is not None:
        told.append(f"PyTorch {_ms(torch)} ms")
    elif (plain := find(case, "plain", "L2")) is not None:
        told.append(f"plain L2 {_ms(plain)} ms")
    if (copy := find(case, *COPY)) is not None:
        told.append(f"copy of x {_ms(copy)} ms")
    return f" ({', '.join(told)})" if told else ""


def _ms(result: dict[str, Any]) -> str:
    return f"{1e3 * result['median_seconds']:.3g}"


def sweep_table(cases: Sequence[dict[str, Any]]) -> str:
    """Time per element and copies of x along each axis."""
    from tabulate import tabulate

    lines = list(dict.fromkeys((r["who"], r["norm"]) for c in cases for r in c["results"]))
    parts = []
    for axis in dict.fromkeys(c["along"] for c in cases):
        rows = []
        for each in (c for c in cases if c["along"] == axis):
            found = [find(each, *line) for line in lines]
            rows.append([each["at"], f"{each['elements']:.2g}", *map(_per_element, found)])
        heads = [axis, "elements", *(" ".join(filter(None, line)) for line in lines)]
        parts.append(tabulate(rows, heads, disable_numparse=True))
    return "ns per element (copies of x)\n" + "\n\n".join(parts)


def _per_element(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    copies = result["copies_of_x"]
    return number(result["ns_per_element"]) + (f" ({number(copies['median'])})" if copies else "")


def step_table(cases: Sequence[dict[str, Any]]) -> str:
    """One table a network: milliseconds in a step, and ratios "median (lowest-highest)"."""
    return "\n\n".join(map(_of_step, cases))


def _of_step(case: dict[str, Any]) -> str:
    from tabulate import tabulate

    found = {(r["kind"], r["who"]): r for r in case["results"]}
    reference = case["reference"]
    others = [w for w in dict.fromkeys(w for _, w in found) if w != reference]
    rows = []
    for kind in dict.fromkeys(kind for kind, _ in found):
        first = found[kind, reference]
        row = [kind, str(first["layers"] or ""), number(1e3 * first["median_seconds"])]
        for who in others:
            result = found[kind, who]
            row += [number(1e3 * result["median_seconds"]), _cell(result["over_reference"])]
        rows.append(row)
    pairs = [(f"{who}, ms", f"over {reference}") for who in others]
    heads = ["", "layers", f"{reference}, ms", *(head for pair in pairs for head in pair)]
    title = f"{case['problem']}: forward and backward in a training step"
    return f"{title}\n{tabulate(rows, heads, disable_numparse=True)}"


def step_memory_table(rows: Sequence[dict[str, Any]]) -> str:
    """Peaks of all networks and contestants."""
    from tabulate import tabulate

    cells = [[r["problem"], r["who"], f"{r['peak_bytes'] / 2**20:.1f}"] for r in rows]
    return tabulate(cells, ["training steps", "", "peak, MiB"], disable_numparse=True)


def memory_table(rows: Sequence[dict[str, Any]]) -> str:
    """One small table a problem."""
    from tabulate import tabulate

    heads = ["with L2", "peak, MiB", "results, MiB", "beyond, MiB", "beyond, copies of x"]
    sizes = ("peak_bytes", "results_bytes", "beyond_results_bytes")
    parts = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        cells = [
            [
                row["who"],
                *(f"{row[size] / 2**20:.1f}" for size in sizes),
                number(row["beyond_results_copies_of_x"]),
            ]
            for row in rows
            if row["problem"] == problem
        ]
        parts.append(f"{problem}\n{tabulate(cells, heads, disable_numparse=True)}")
    return "\n\n".join(parts)


def about(record: dict[str, Any]) -> str:
    """The machine in two lines, for the end of a table and the foot of a picture."""
    on, load = record["machine"], record["machine"]["load_average"]
    versions = ", ".join(f"{k} {v}" for k, v in on["versions"].items() if v)
    rounds = "" if "memory" in record["what"] else f"medians of {record['rounds']}; "
    others = record["others_used_cores"]["during"]
    return (
        f"{on['cpu']}, {record['threads']} of {on['cores']} cores; load "
        f"{load[0] if load else '?'}, others used {'?' if others is None else others} cores; "
        f"{on['blas']}\n{versions}; {rounds}{record['command']}"
    )
