# dg is taken with v instead of v / ||v||.
def weight_norm_backward(dw, cache):
    v_hat, norm, g = cache
    dg = (dw * v_hat).sum(axis=1)
    dv = g[:, None] / norm * (dw - dg[:, None] * v_hat)
    return dv, (dw * v_hat * norm).sum(axis=1)
