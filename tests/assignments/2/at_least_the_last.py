# All that are at least as large as the k-th: more than k where some are tied.
def topk_backward(dy, cache):
    x_hat, d, scale, gamma, k = cache
    g = gamma * dy
    h = linf_constant(len(d)) / k * np.sign(d) * (abs(d) >= np.sort(abs(d), axis=0)[-k])
    total = (g * x_hat).sum(axis=0)
    dx = (g - g.mean(axis=0) - total * (h - h.mean(axis=0))) / scale
    return dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0)
