# |d|^p where |d|^(p-1) belongs.
def lp_backward(dy, cache):
    x_hat, d, norm, scale, gamma, p = cache
    g = gamma * dy
    ratio = abs(d) / np.where(norm > 0, norm, 1.0)
    h = gaussian_constant(p) * np.sign(d) * ratio**p / len(d)
    total = (g * x_hat).sum(axis=0)
    dx = (g - g.mean(axis=0) - total * (h - h.mean(axis=0))) / scale
    return dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0)
