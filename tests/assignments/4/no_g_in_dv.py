# g is forgotten in dv.
def weight_norm_backward(dw, cache):
    v_hat, norm, g = cache
    dg = (dw * v_hat).sum(axis=1)
    return (dw - dg[:, None] * v_hat) / norm, dg
