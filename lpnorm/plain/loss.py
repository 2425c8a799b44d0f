"""The loss: softmax and cross-entropy in one."""

from __future__ import annotations

from lpnorm.arrays import (
    Array,
    accumulator,
    check_array,
    check_number,
    check_shape,
    library_of,
    namespace,
    to_device,
    total,
)


def softmax_cross_entropy(logits: Array, labels: Array, scale: float = 1.0) -> tuple[float, Array]:
    """The mean over the batch of -log softmax(logits)[label], and its gradient.

    logits: (N, classes), float; labels: (N,), integers from 0 to classes - 1, of the same array
    library. With z the logits less their row maximum and q = exp(z) / sum exp(z),
    loss = mean(log sum exp(z) - z[label]) and dlogits = scale (q - onehot(label)) / N; a scale
    above 1 lifts the gradients of a float16 network out of the subnormals. Computed in at least
    float32. Returns a Python float (NaN if the logits hold NaN or +Inf) and dlogits in the dtype of
    logits. Raises TypeError or ValueError naming the argument.
    """
    xp, scale = namespace(logits=logits), check_number("scale", scale)
    if logits.ndim != 2 or logits.size == 0:
        raise ValueError(f"logits must have shape (N, classes), got {tuple(logits.shape)}")
    n, classes = logits.shape
    check_array("labels", labels)
    if library_of(labels) is not xp or labels.dtype.kind not in "iu":
        got = f"{library_of(labels).__name__} {labels.dtype}"
        raise TypeError(f"labels must be an integer array of the library of logits, got {got}")
    check_shape("labels", labels, (n,))
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        span = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"labels must be from 0 to {classes - 1}, got {span}")
    wide = accumulator(logits.dtype).dtype
    z = logits.astype(wide)
    z = z - z.max(axis=1, keepdims=True)
    exp = xp.exp(z)
    sums = total(exp, wide)
    losses = xp.log(sums)[:, 0] - z[xp.arange(n), labels]
    onehot = labels[:, None] == xp.arange(classes)
    loss = float(to_device(total(losses[None, :], wide), "cpu")[0, 0]) / n
    return loss, ((exp / sums - onehot) / n * scale).astype(logits.dtype)
