"""Vectors for every language: small cases as .npy files, for programs that Python cannot call.

`write` puts into a folder, for each case, its inputs, the expected outputs and their bounds (.npy,
format version 1.0, little-endian, C order), and for all of them `cases.txt` (one line a case),
`schema.json` and, last, `manifest.json`. A program reads the inputs and writes
`<id>.<output>.out.npy` beside them; `lpnorm.verify.vectors_check` judges these.

Expected values are the oracle's for the inputs as they are, in float64; bounds come from `bounds`
and `weights`, rounded up to three digits. The same version writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lpnorm import __version__
from lpnorm.files import atomic
from lpnorm.norms import Range, TopK
from lpnorm.verify import cases, weights
from lpnorm.verify.cases import OUTPUTS, Case, Layout
from lpnorm.verify.layers import LAYERS
from lpnorm.verify.reference import Arithmetic, Conventions, default_place
from lpnorm.verify.vectors_schema import FLAGS, SCHEMA, TEXTS

Array = np.ndarray
NORMS: dict[str, Any] = {
    "1": 1,
    "2": 2,
    "3": 3,
    "1.5": 1.5,
    "inf": math.inf,
    "top10": TopK(10),
    "range": Range(),
}
FOLDERS = {"1": "L1", "2": "L2", "3": "L3", "1.5": "L1.5", "inf": "Linf"}
_ORDER = [*(flag for flag in FLAGS if flag != "zeros"), "zeros"]
DTYPES = ("float16", "float32", "float64")
EPS = {"float16": 2.0**-10, "float32": 1e-5, "float64": 1e-5}
TYPES = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}


@dataclass(frozen=True)
class Vector:
    """One case with its id."""

    id: str
    p: str | None  # a name in NORMS; None for SGD
    case: Case

    @property
    def layer(self) -> str:
        return self.case.layer

    @property
    def flags(self) -> tuple[str, ...]:
        """What it shows, zeros last."""
        return tuple(sorted(FLAGS.keys() & self.case.flags, key=_ORDER.index))

    @property
    def outputs(self) -> tuple[str, ...]:
        return OUTPUTS if self.case.layout is not None else weights.OUTPUTS[self.layer]


# ---- which cases ------------------------------------------------------------------------------


def plan(
    layers: Sequence[str] | None = None,
    norms: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
) -> Iterator[Vector]:
    """Every case, or those of some layers, norms (names in NORMS) and dtypes.

    SGD has no norm: its cases are left out where norms are given without the layer "sgd".
    Raises ValueError naming what is unknown.
    """
    for name, given, known in (
        ("layer", layers, tuple(LAYERS)),
        ("p", norms, tuple(NORMS)),
        ("dtype", dtypes, DTYPES),
    ):
        for each in given or ():
            if each not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {each!r}")
    for layer in layers or LAYERS:
        if layer == "sgd":
            if norms is None or layers is not None:
                for dtype in dtypes or DTYPES:
                    for case in weights.sgd_cases(dtype):
                        yield _vector(f"sgd/{dtype}", None, case)
            continue
        for p in norms or NORMS:
            for dtype in dtypes or DTYPES:
                folder = f"{layer}/{FOLDERS.get(p, p.title())}/{dtype}"
                if not layer.endswith("weight_norm"):
                    yield from _norm_cases(folder, layer, p, dtype)
                elif p in FOLDERS:  # the others are no norms of a weight vector
                    for case in weights.weight_cases(layer, NORMS[p], dtype):
                        yield _vector(folder, p, case)


def _vector(folder: str, p: str | None, case: Case) -> Vector:
    name = case.name.replace(", ", "-").replace(" = ", "-").replace(" ", "-")
    return Vector(f"{folder}/{name}", p, case)


def _norm_cases(folder: str, layer: str, p: str, dtype: str) -> Iterator[Vector]:
    norm, eps = NORMS[p], EPS[dtype]
    batch = layer == "batch_norm"
    layouts = (
        (Layout(layer, 4, 1), Layout(layer, 2, 1))
        if batch
        else (Layout(layer, 2, -1), Layout(layer, 3, (1, 2)))
    )

    def made(
        name: str, why: str, rows: Array, flags: str = "", layout: int = 0, eps: float = eps
    ) -> Vector:
        case = cases.build(name, why, rows, layouts[layout], dtype, eps, flags=flags)
        if "ties" in flags:  # a part along x makes the gradient of the scale show in dx
            case = case.but(dy=(case.x / 2 + case.dy / 4).astype(dtype))
        return _vector(folder, p, case)

    rows = cases.gaps(40)
    why = "random values, upstream gradient and parameters: every formula shows here"
    yield made("random values", why, rows, "telling")
    yield made("random values, other axes", why, rows, "axes", layout=1)
    yield made("large eps", "eps = 0.25: where is it added?", rows, "telling", eps=0.25)
    why = "deviations as small as eps: eps decides, also in the gradient"
    root = {2: 2.0}.get(norm, 1.0)
    small = max(2.0 ** round(math.log2(eps) / root), 2.0**-8 if dtype == "float16" else 0.0)
    yield made("small magnitude", why, rows * small, "tiny telling")
    why = "tied values and zeros: any element of the subdifferential is right"
    yield made("ties and zeros", why, cases.tied(norm), "ties zeros")
    level = np.broadcast_to(np.array([[1.5], [0.0], [-3.0]]), rows.shape).copy()
    level[0] = rows[0]
    why = "constant groups: y must be beta there, and no gradient NaN"
    yield made("constant groups", why, level, "constant-channel zeros")
    if cases.least(norm) == 1:
        why = "one value a group: d = 0, so y = beta and dx = 0"
        yield made("n = 1", why, np.array([[1.0], [-2.0], [0.5]]), "n=1 zeros")
    if cases.least(norm) <= 3:
        why = "a tiny group: n and n - 1 differ most"
        yield made("tiny groups, n = 3", why, cases.gaps(3), "small-n telling")
    if batch:
        why = "a mean far above the deviations: E[x^2] - E[x]^2 loses all digits"
        yield made("offset", why, rows + (8.0 if dtype == "float16" else 1024.0), "offset")
        power = float(norm) if p in ("2", "3", "1.5") else 1.0
        largest = (float(np.finfo(dtype).max) / 320) ** (1 / power) / 4
        large = min(2.0 ** math.floor(math.log2(max(largest, 1.0))), 2.0**12)
        why = "large values that the plain formula can still hold: nothing may overflow"
        yield made("large magnitude", why, rows * large, "large")
    if dtype == "float16":
        why = "deviations up to 870: their squares and cubes overflow float16, the scale does not"
        yield made("float16 overflow", why, rows * 2.0**9, "float16-overflow large")


# ---- expected values and bounds ---------------------------------------------------------------


def wanted(vector: Vector) -> tuple[dict[str, Array], dict[str, Array]]:
    """Expected outputs and bounds; a bound is infinite where an entry is not judged.

    The bounds are those of sums in any order, in the dtype, or in float32 for float16.
    """
    case = vector.case
    arithmetic = Arithmetic(accumulator(case.dtype), sequential=True)
    row, p = LAYERS[vector.layer], NORMS.get(str(vector.p))
    conventions = Conventions(p, default_place(p))
    outcome = row.expected(case, conventions)
    want = {name: np.asarray(outcome[name]) for name in vector.outputs}
    bounds = dict(row.limits(case, outcome, conventions, arithmetic))
    excused = row.excused(case, conventions)
    largest = float(np.finfo(case.dtype).max)
    for name, bound in bounds.items():
        unheld = abs(want[name]) + bound >= 0.5 * largest
        gone = unheld | excused.get(name, np.False_)
        bounds[name] = np.where(gone, np.inf, _rounded_up(np.broadcast_to(bound, want[name].shape)))
    return want, bounds


def accumulator(dtype: str) -> str:
    return "float32" if dtype == "float16" else dtype


def _rounded_up(bound: Array) -> Array:
    """To three digits, so that a last bit of this machine's libraries does not show."""
    flat = [float(f"{b * 1.006:.2e}") for b in bound.ravel().tolist()]
    return np.array(flat).reshape(bound.shape)


def ties(vector: Vector) -> list[dict[str, Any]]:
    """What the subdifferential allows in each group (output channel): see TEXTS["ties"]."""
    case = vector.case
    if "ties" not in vector.flags:
        return []
    if case.layout is None:
        rows = case.arrays["v"].reshape(len(case.arrays["v"]), -1).astype("float64")
    else:
        rows = case.layout.rows(case.x.astype("float64"))
        rows = rows - rows.mean(axis=1, keepdims=True)
    p, found = NORMS[str(vector.p)], []
    for group, d in enumerate(rows):
        size = abs(d)
        places: list[tuple[str, Array, int | None]]
        if p == 1:
            places = [("zero", d == 0, None)]
        elif isinstance(p, Range):
            places = [("maximum", d == d.max(), 1), ("minimum", d == d.min(), 1)]
        elif cases.is_order_statistic(p):
            last = np.sort(size)[-cases.least(p)]
            left = cases.least(p) - int((size > last).sum())
            places = [("last place", size == last, left)]
        else:
            continue
        for where, tied, slots in places:
            entries = np.flatnonzero(tied).tolist()
            if len(entries) > (slots or 0):
                found.append({"group": group, "where": where, "slots": slots, "entries": entries})
    return found


# ---- writing ----------------------------------------------------------------------------------


def npy(array: Array) -> bytes:
    """The array as a .npy file: version 1.0, little-endian, C order, header of 64 k bytes."""
    descr, shape = TYPES[str(array.dtype)], ", ".join(map(str, array.shape))
    shape += "," if array.ndim == 1 else ""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}"
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode("ascii")
    return start + np.ascontiguousarray(array, dtype=descr).tobytes()


def write(
    folder: str | os.PathLike[str],
    layers: Sequence[str] | None = None,
    norms: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
) -> int:
    """Write the cases (see `plan`) to a folder; returns how many.

    Each file is written atomically, manifest.json last; one from before is removed first, so a
    folder with a manifest is whole. Outputs of programs that lie there stay. Raises ValueError for
    an unknown filter, OSError where one cannot write.
    """
    folder = Path(folder)
    chosen = list(plan(layers, norms, dtypes))
    if not chosen:
        raise ValueError("these filters leave no case: a weight norm has no top10 and no range")
    (folder / "manifest.json").unlink(missing_ok=True)
    entries = [_write(folder, vector) for vector in chosen]
    lines = ["# " + " ".join(COLUMNS), *(line(entry) for entry in entries)]
    _put(folder / "cases.txt", ("\n".join(lines) + "\n").encode("ascii"))
    _put(folder / "schema.json", _json(SCHEMA))
    manifest = {"format": 1, "version": __version__, "schema": "schema.json", **TEXTS}
    _put(folder / "manifest.json", _json({**manifest, "cases": entries}))
    return len(entries)


def _write(folder: Path, vector: Vector) -> dict[str, Any]:
    """Write a case's arrays; returns its entry in the manifest."""
    case, digest = vector.case, hashlib.sha256()
    want, bounds = wanted(vector)
    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    for name, array in case.arrays.items():
        inputs[name] = {"file": f"{vector.id}.{name}.npy", "shape": list(array.shape)}
        digest.update(npy(array))
        _put(folder / inputs[name]["file"], npy(array))
    for name in vector.outputs:
        start = f"{vector.id}.{name}"
        outputs[name] = {
            "expected": f"{start}.npy",
            "bound": f"{start}.bound.npy",
            "out": f"{start}.out.npy",
            "shape": list(want[name].shape),
        }
        _put(folder / outputs[name]["expected"], npy(want[name]))
        _put(folder / outputs[name]["bound"], npy(bounds[name]))
    entry: dict[str, Any] = {"id": vector.id, "layer": vector.layer, "shows": case.why}
    entry |= {"name": case.name, "p": vector.p, "flags": list(vector.flags)}
    entry |= {"dtype": case.dtype, "accumulator": accumulator(case.dtype)}
    if case.layout is not None:
        n = case.n
        p = NORMS[str(vector.p)]
        constant = {"name": "paper", "value": Conventions(p, "added").c(n), "n": n}
        reduced = case.layout.affine  # the channels, or the axes normalized over
        entry |= {"constant": constant, "eps": case.eps, "eps_place": default_place(p)}
        entry |= {"axis": list(reduced), "settings": {}}
    else:
        entry |= {"constant": None, "eps": None, "eps_place": None}
        entry |= {"axis": [] if case.layer == "sgd" else [0], "settings": case.settings}
    entry |= {"inputs": inputs, "outputs": outputs, "ties": ties(vector)}
    entry["sha256"] = digest.hexdigest()
    return entry


COLUMNS = ("id", "layer", "p", "dtype", "constant", "eps", "eps_place", "axis", "shape", "settings")


def line(entry: dict[str, Any]) -> str:
    """A case in cases.txt: the columns COLUMNS, a dash for what there is not; the settings are
    name=number, as many as there are."""
    shape = next(iter(entry["inputs"].values()))["shape"]
    constant = entry["constant"]["value"] if entry["constant"] else 1.0
    columns = [entry["id"], entry["layer"], entry["p"] or "-", entry["dtype"], repr(constant)]
    columns += [repr(entry["eps"] or 0.0), entry["eps_place"] or "-"]
    columns += [",".join(map(str, entry["axis"])) or "-", ",".join(map(str, shape))]
    return " ".join(
        columns + [f"{name}={float(value)!r}" for name, value in entry["settings"].items()]
    )


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=True) + "\n").encode("ascii")


def _put(path: Path, content: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(content)
