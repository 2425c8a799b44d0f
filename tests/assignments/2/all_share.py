# Everyone among the largest gets the same share, also those above the k-th place.
def topk_backward(dy, cache):
    x_hat, d, scale, gamma, k = cache
    g = gamma * dy
    largest = abs(d) >= np.sort(abs(d), axis=0)[-k]
    h = linf_constant(len(d)) * np.sign(d) * largest / largest.sum(axis=0)
    total = (g * x_hat).sum(axis=0)
    dx = (g - g.mean(axis=0) - total * (h - h.mean(axis=0))) / scale
    return dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0)
