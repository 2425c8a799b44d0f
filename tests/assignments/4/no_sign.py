# The sign is forgotten in the gradient of the norm.
def bounded_weight_norm_backward(dw, cache):
    v, norm, rho, p = cache
    along = (dw * v / norm).sum(axis=1, keepdims=True)
    h = (abs(v) / norm) ** (p - 1)
    return rho / norm * (dw - along * h)
