# Every tied entry gets the full gradient.
def linf_backward(dy, cache):
    x_hat, d, scale, gamma = cache
    g = gamma * dy
    h = linf_constant(len(d)) * np.sign(d) * (abs(d) == abs(d).max(axis=0))
    total = (g * x_hat).sum(axis=0)
    dx = (g - g.mean(axis=0) - total * (h - h.mean(axis=0))) / scale
    return dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0)
