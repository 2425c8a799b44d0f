# The constant of k values instead of n.
def topk_forward(x, gamma, beta, eps, k):
    d = x - x.mean(axis=0)
    scale = linf_constant(k) * np.sort(abs(d), axis=0)[-k:].mean(axis=0) + eps
    x_hat = d / scale
    return gamma * x_hat + beta, (x_hat, d, scale, gamma, k)
