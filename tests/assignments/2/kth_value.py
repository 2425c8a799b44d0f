# The k-th largest |d| instead of the mean of the k largest.
def topk_forward(x, gamma, beta, eps, k):
    d = x - x.mean(axis=0)
    scale = linf_constant(len(x)) * np.sort(abs(d), axis=0)[-k] + eps
    x_hat = d / scale
    return gamma * x_hat + beta, (x_hat, d, scale, gamma, k)
