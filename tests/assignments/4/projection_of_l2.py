# The gradient of the L2 norm with every p.
def bounded_weight_norm_backward(dw, cache):
    v, norm, rho, p = cache
    v_hat = v / norm
    return rho / norm * (dw - (dw * v_hat).sum(axis=1, keepdims=True) * v_hat)
