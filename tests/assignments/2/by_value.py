# The k largest values d, not the k largest magnitudes.
def topk_forward(x, gamma, beta, eps, k):
    d = x - x.mean(axis=0)
    scale = linf_constant(len(x)) * np.sort(d, axis=0)[-k:].mean(axis=0) + eps
    x_hat = d / scale
    return gamma * x_hat + beta, (x_hat, d, scale, gamma, k)
