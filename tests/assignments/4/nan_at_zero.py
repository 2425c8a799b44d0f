# v |v|^(p-2): 0 / 0 where a weight is 0.
def bounded_weight_norm_backward(dw, cache):
    v, norm, rho, p = cache
    along = (dw * v / norm).sum(axis=1, keepdims=True)
    h = v * abs(v) ** (p - 2.0) / norm ** (p - 1)
    return rho / norm * (dw - along * h)
