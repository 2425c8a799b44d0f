# The root of the mean square, consistently in forward and backward.
def weight_norm(v, g):
    norm = np.sqrt((v * v).mean(axis=1, keepdims=True))
    v_hat = v / norm
    return g[:, None] * v_hat, (v_hat, norm, g)


def weight_norm_backward(dw, cache):
    v_hat, norm, g = cache
    dg = (dw * v_hat).sum(axis=1)
    dv = g[:, None] / norm * (dw - dg[:, None] * v_hat / v_hat.shape[1])
    return dv, dg
