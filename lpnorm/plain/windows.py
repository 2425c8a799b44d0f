"""The windows that a convolution or a pool looks through."""

from __future__ import annotations

from typing import Any

from lpnorm.arrays import Array, check_count, library_of


class Windows:
    """kernel, stride and padding as pairs (height, width), each given as an int or a pair.

    owner: whose windows they are, for messages. Raises TypeError or ValueError naming kernel,
    stride or padding.
    """

    def __init__(self, owner: str, kernel: Any, stride: Any, padding: Any) -> None:
        self.owner = owner
        self.kernel = _pair("kernel", kernel, 1)
        self.stride = _pair("stride", stride, 1)
        self.padding = _pair("padding", padding, 0)

    @property
    def taps(self) -> int:
        """How many values a window sees of a channel."""
        return self.kernel[0] * self.kernel[1]

    def over(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """H', W' for x of this shape (N, C, H, W): how many windows there are each way.

        ValueError naming the owner if x has other axes or is smaller than a window.
        """
        if len(shape) != 4:
            raise ValueError(f"{self.owner}: x must be (N, C, H, W), got {tuple(shape)}")
        sides = zip(shape[2:], self.kernel, self.stride, self.padding, strict=True)
        counts = [(size + 2 * pad - kernel) // stride + 1 for size, kernel, stride, pad in sides]
        if min(counts) < 1:
            raise ValueError(
                f"{self.owner}: x of shape {tuple(shape)}, padded by {self.padding}, "
                f"is smaller than the kernel {self.kernel}"
            )
        return counts[0], counts[1]

    def view(self, x: Array, fill: float = 0.0) -> Array:
        """x (N, C, H, W) padded with `fill`, as (kernel height, kernel width, N, C, H', W').

        Entry [a, b] is what the tap (a, b) of the kernel sees at every output position.
        """
        (above, left), (down, right) = self.padding, self.stride
        xp = library_of(x)
        if above or left:
            sides = ((0, 0), (0, 0), (above, above), (left, left))
            x = xp.pad(x, sides, constant_values=fill)
        seen = xp.lib.stride_tricks.sliding_window_view(x, self.kernel, axis=(2, 3))
        return seen[:, :, ::down, ::right].transpose(4, 5, 0, 1, 2, 3)

    def scatter(self, taps: Array, dx: Array) -> None:
        """The transpose of `view`: add (kernel height, kernel width, N, C, H', W') to dx, tap after
        tap, where x was read."""
        (above, left), (down, right) = self.padding, self.stride
        n, c, height, width = dx.shape
        padded = dx
        if above or left:
            size = (n, c, height + 2 * above, width + 2 * left)
            padded = library_of(dx).zeros(size, dx.dtype)
            padded[:, :, above : above + height, left : left + width] = dx
        rows, columns = taps.shape[4:]
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                seen = slice(i, i + down * rows, down), slice(j, j + right * columns, right)
                padded[(..., *seen)] += taps[i, j]
        if above or left:
            dx[...] = padded[:, :, above : above + height, left : left + width]


def _pair(name: str, value: Any, low: int) -> tuple[int, int]:
    both = value if isinstance(value, tuple) else (value, value)
    if len(both) != 2:
        raise ValueError(f"{name} must be an int or a pair, got {value!r}")
    return check_count(name, both[0], low), check_count(name, both[1], low)
