"""The loss: softmax and cross-entropy in one."""

from __future__ import annotations

from typing import Any

from lpnorm import plain
from lpnorm.arrays import Array, short


def softmax_cross_entropy(
    logits: Array, labels: Array, scale: float = 1.0, impl: Any = None
) -> tuple[float, Array]:
    """The mean over the batch of -log softmax(logits)[label], and its gradient.

    logits: (N, classes), float; labels: (N,), integers from 0 to classes - 1, of the same array
    library; scale multiplies the gradient. impl: None (`lpnorm.plain`) or a module with this
    function. Returns a Python float and dlogits in the dtype of logits. Raises TypeError or
    ValueError naming the argument. The formula is in `lpnorm.plain.softmax_cross_entropy`.
    """
    function = getattr(plain if impl is None else impl, "softmax_cross_entropy", None)
    if not callable(function):
        what = "None or a module with softmax_cross_entropy"
        raise TypeError(f"impl must be {what}, got {short(impl)}")
    return function(logits, labels, scale)
