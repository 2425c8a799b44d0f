# The p-th root is forgotten.
def lp_forward(x, gamma, beta, eps, p):
    d = x - x.mean(axis=0)
    norm = (abs(d) ** p).mean(axis=0)
    scale = gaussian_constant(p) * norm + eps
    x_hat = d / scale
    return gamma * x_hat + beta, (x_hat, d, norm, scale, gamma, p)
