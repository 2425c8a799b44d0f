# 0 / 0 for a constant channel in the backward pass.
def lp_backward(dy, cache):
    x_hat, d, norm, scale, gamma, p = cache
    g = gamma * dy
    h = gaussian_constant(p) * np.sign(d) * (abs(d) / norm) ** (p - 1) / len(d)
    total = (g * x_hat).sum(axis=0)
    dx = (g - g.mean(axis=0) - total * (h - h.mean(axis=0))) / scale
    return dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0)
