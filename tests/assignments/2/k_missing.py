# 1/k is missing from the gradient of the mean of the k largest.
def topk_backward(dy, cache):
    x_hat, d, scale, gamma, k = cache
    g = gamma * dy
    last = np.sort(abs(d), axis=0)[-k]
    above, tied = abs(d) > last, abs(d) == last
    share = (k - above.sum(axis=0)) / tied.sum(axis=0)
    h = linf_constant(len(d)) * np.sign(d) * (above + share * tied)
    total = (g * x_hat).sum(axis=0)
    dx = (g - g.mean(axis=0) - total * (h - h.mean(axis=0))) / scale
    return dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0)
