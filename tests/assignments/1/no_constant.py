# The Gaussian constant is forgotten, consistently: forward and backward.
def l1_forward(x, gamma, beta, eps):
    d = x - x.mean(axis=0)
    scale = abs(d).mean(axis=0) + eps
    x_hat = d / scale
    return gamma * x_hat + beta, (x_hat, d, scale, gamma)


def l1_backward(dy, cache):
    x_hat, d, scale, gamma = cache
    g = gamma * dy
    h = np.sign(d) / len(d)
    total = (g * x_hat).sum(axis=0)
    dx = (g - g.mean(axis=0) - total * (h - h.mean(axis=0))) / scale
    return dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0)
