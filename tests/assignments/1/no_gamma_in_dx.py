# dx starts from dy instead of gamma dy.
def l1_backward(dy, cache):
    x_hat, d, scale, gamma = cache
    h = gaussian_constant(1) * np.sign(d) / len(d)
    total = (dy * x_hat).sum(axis=0)
    dx = (dy - dy.mean(axis=0) - total * (h - h.mean(axis=0))) / scale
    return dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0)
