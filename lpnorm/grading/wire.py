"""Values as bytes, between the grader and the process that runs a submission.

Only plain things travel: None, truth values, numbers, text, arrays of numbers, tuples of these, and
`Handle`, which stands for an object that stays where it is. Nothing is ever unpickled, so that what
a submission sends cannot run anything; sizes are bounded before anything is allocated. This file is
imported on both sides and uses NumPy alone.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

LARGEST = 64 * 2**20  # bytes of one message
LONGEST = 2**20  # bytes of its description
KINDS: tuple[str, ...] = ("float16", "float32", "float64", "bool")
KINDS += tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))


class BadMessage(Exception):
    """What came is no message of this format; the text says why, in one line."""


@dataclass(frozen=True)
class Handle:
    """An object in the submission's process, by its number."""

    number: int


def pack(value: Any) -> bytes:
    """The value as bytes. Raises BadMessage for what cannot travel."""
    buffers: list[bytes] = []
    text = json.dumps(_tree(value, buffers, 0)).encode()
    return struct.pack("<I", len(text)) + text + b"".join(buffers)


def unpack(data: bytes) -> Any:
    """The value that `pack` made into these bytes; BadMessage for anything else."""
    try:
        (length,) = struct.unpack_from("<I", data)
        if length > LONGEST:
            raise BadMessage("its answer has too many parts")
        tree = json.loads(data[4 : 4 + length].decode())
        value, used = _value(tree, memoryview(data), 4 + length)
    except BadMessage:
        raise
    except (ValueError, KeyError, TypeError, OverflowError, struct.error, RecursionError) as error:
        raise BadMessage(f"its answer cannot be read ({type(error).__name__})") from None
    if used != len(data):
        raise BadMessage("its answer has the wrong length")
    return value


def _tree(value: Any, buffers: list[bytes], depth: int) -> Any:
    if depth > 8:
        raise BadMessage("it is nested too deeply")
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        if isinstance(value, int) and abs(value) > 2**63:
            raise BadMessage("an integer is too large")
        return value
    if isinstance(value, Handle):
        return {"handle": value.number}
    if isinstance(value, (tuple, list)):
        return [_tree(each, buffers, depth + 1) for each in value]
    if isinstance(value, np.ndarray):
        if value.dtype.name not in KINDS:
            raise BadMessage(f"an array has dtype {value.dtype}")
        if value.nbytes > LARGEST:
            raise BadMessage(f"an array of shape {value.shape} is too large")
        buffers.append(np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<")).tobytes())
        return {"dtype": value.dtype.name, "shape": list(value.shape), **_layout(value)}
    raise BadMessage(f"a {type(value).__name__} where an array or a number belongs")


def _layout(a: np.ndarray) -> dict[str, Any]:
    """How the array lies in memory, so that the other side can lay it out alike."""
    if a.flags.c_contiguous and a.flags.writeable:
        return {}
    sizes = [abs(s) for s in a.strides]
    return {
        "order": sorted(range(a.ndim), key=lambda i: -sizes[i]),
        "back": [i for i in range(a.ndim) if a.strides[i] < 0],
        "step": 2 if sizes and min(sizes) > a.itemsize else 1,
        "locked": not a.flags.writeable,
    }


def _value(tree: Any, data: memoryview, at: int, depth: int = 0) -> tuple[Any, int]:
    """The value of a tree, and where in the data the next buffer starts."""
    if depth > 8:
        raise BadMessage("its answer is nested too deeply")
    if isinstance(tree, list):
        if len(tree) > 1000:
            raise BadMessage("its answer has too many parts")
        found = []
        for each in tree:
            value, at = _value(each, data, at, depth + 1)
            found.append(value)
        return tuple(found), at
    if not isinstance(tree, dict):
        return tree, at
    if "handle" in tree:
        return Handle(int(tree["handle"])), at
    if tree["dtype"] not in KINDS:
        raise BadMessage("its answer has an unknown dtype")
    dtype, shape = np.dtype(tree["dtype"]), tree["shape"]
    if len(shape) > 16 or not all(type(n) is int and 0 <= n <= LARGEST for n in shape):
        raise BadMessage("its answer has an impossible shape")
    size = math.prod(shape) * dtype.itemsize
    if size > len(data) - at:
        raise BadMessage("its answer is shorter than it says")
    flat = np.frombuffer(data[at : at + size], dtype.newbyteorder("<")).astype(dtype)
    return _laid_out(flat.reshape(shape), tree), at + size


def _laid_out(a: np.ndarray, tree: dict[str, Any]) -> np.ndarray:
    if "order" not in tree:
        return a
    order, step = [int(i) for i in tree["order"]], int(tree["step"])
    if sorted(order) != list(range(a.ndim)) or step not in (1, 2):
        raise BadMessage("its answer has an impossible layout")
    lengths = [a.shape[i] for i in order]
    if lengths:
        lengths[-1] *= step
    view = np.zeros(lengths, a.dtype)
    if step == 2:
        view = view[..., ::2]
    view = view.transpose(np.argsort(order)) if order else view
    view = view[tuple(slice(None, None, -1 if i in tree["back"] else 1) for i in range(a.ndim))]
    view[...] = a
    view.setflags(write=not tree["locked"])
    return view


# ---- messages over a pipe ---------------------------------------------------------------------


def send(pipe: int, value: Any) -> None:
    """Write one message. Raises BadMessage or OSError."""
    data = pack(value)
    if len(data) > LARGEST:
        raise BadMessage("it is too large to send")
    data = struct.pack("<Q", len(data)) + data
    while data:
        data = data[os.write(pipe, data[: 2**20]) :]


def receive(pipe: int) -> Any:
    """Read one message; EOFError when the other side is gone. Raises BadMessage or OSError."""
    (length,) = struct.unpack("<Q", _exactly(pipe, 8))
    if length > LARGEST:
        raise BadMessage("its answer is too large")
    return unpack(_exactly(pipe, length))


def _exactly(pipe: int, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        more = os.read(pipe, min(count - len(found), 2**20))
        if not more:
            raise EOFError
        found += more
    return bytes(found)
