# dgamma is taken with the deviations, before they are divided by the scale.
def l1_backward(dy, cache):
    x_hat, d, scale, gamma = cache
    g = gamma * dy
    h = gaussian_constant(1) * np.sign(d) / len(d)
    total = (g * x_hat).sum(axis=0)
    dx = (g - g.mean(axis=0) - total * (h - h.mean(axis=0))) / scale
    return dx, (dy * d).sum(axis=0), dy.sum(axis=0)
