"""Arrays in memory that has been used before: a fresh page costs more than what is written to it.

A training makes arrays of the same few sizes at every step, and the operating system clears every
page that it hands out: half of a small network's time. So what `lpnorm.fast` makes lies in blocks
that are kept, and a block is used again once nothing refers to it any more: no array, no view of
one, nothing else that Python counts. A result is therefore never overwritten while somebody can
still see it. Blocks that nobody has needed for a while are given back; `clear` gives back all that
are idle.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np

SMALL = 2**16  # bytes: less is left to NumPy
LINE = 64  # bytes: where a block's array begins, so that a vector never spans two lines
PATIENCE = 2**11  # requests after which an idle block is given back
_GIL = getattr(sys, "_is_gil_enabled", lambda: True)
COUNTED = sys.implementation.name == "cpython" and _GIL()  # are references counted, and at once?


def _rounded(size: int) -> int:
    """Up to the next of 4, 5, 6, 7, 8, 10, 12, ... times a power of two: so that layers share."""
    step = 1 << max(0, size.bit_length() - 3)
    return -(-size // step) * step


class Blocks:
    """Blocks by their size, each with the number of the request that it was last given for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.of_size: dict[int, list[list[Any]]] = {}
        self.requests = 0
        self.idle = self._references([np.empty(1, np.uint8), 0])

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        """`numpy.empty`, in a block that nothing refers to."""
        dtype = np.dtype(dtype)
        size = math.prod(shape if isinstance(shape, tuple) else (shape,)) * dtype.itemsize
        if size < SMALL or not COUNTED:
            return np.empty(shape, dtype)
        room = _rounded(size)
        with self.lock:
            self.requests += 1
            if self.requests % (PATIENCE // 4) == 0:
                self._give_back(self.requests - PATIENCE)
            blocks = self.of_size.setdefault(room, [])
            for block in blocks:
                if self._references(block) == self.idle:
                    break
            else:
                block = [np.empty(room + LINE, np.uint8), 0]
                blocks.append(block)
            block[1] = self.requests
            start = -block[0].ctypes.data % LINE
            return block[0][start : start + size].view(dtype).reshape(shape)

    def _references(self, block: list[Any]) -> int:
        return sys.getrefcount(block[0])

    def _give_back(self, before: int) -> None:
        for size, blocks in list(self.of_size.items()):
            kept = [b for b in blocks if b[1] > before or self._references(b) != self.idle]
            self.of_size[size] = kept
            if not kept:
                del self.of_size[size]

    def clear(self) -> None:
        """Give back all blocks that nothing refers to."""
        with self.lock:
            self._give_back(self.requests)

    def size(self) -> int:
        """Bytes of all blocks."""
        with self.lock:
            return sum(size * len(blocks) for size, blocks in self.of_size.items())


BLOCKS = Blocks()
empty, clear, size = BLOCKS.empty, BLOCKS.clear, BLOCKS.size
