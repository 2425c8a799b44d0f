# The norm is treated as a constant.
def weight_norm_backward(dw, cache):
    v_hat, norm, g = cache
    return g[:, None] / norm * dw, (dw * v_hat).sum(axis=1)
