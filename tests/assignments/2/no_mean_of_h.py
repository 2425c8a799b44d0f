# The scale depends on x through the mean, too: -mean(h) is missing.
def topk_backward(dy, cache):
    x_hat, d, scale, gamma, k = cache
    g = gamma * dy
    last = np.sort(abs(d), axis=0)[-k]
    above, tied = abs(d) > last, abs(d) == last
    share = (k - above.sum(axis=0)) / tied.sum(axis=0)
    h = linf_constant(len(d)) / k * np.sign(d) * (above + share * tied)
    dx = (g - g.mean(axis=0) - (g * x_hat).sum(axis=0) * h) / scale
    return dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0)
