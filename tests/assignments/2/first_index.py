# argmax: of tied entries the first gets everything.
def linf_backward(dy, cache):
    x_hat, d, scale, gamma = cache
    g = gamma * dy
    h = np.zeros_like(d)
    place, column = abs(d).argmax(axis=0), np.arange(d.shape[1])
    h[place, column] = linf_constant(len(d)) * np.sign(d[place, column])
    total = (g * x_hat).sum(axis=0)
    dx = (g - g.mean(axis=0) - total * (h - h.mean(axis=0))) / scale
    return dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0)
