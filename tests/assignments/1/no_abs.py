# The absolute value is forgotten: the mean of d is 0.
def l1_forward(x, gamma, beta, eps):
    d = x - x.mean(axis=0)
    scale = gaussian_constant(1) * d.mean(axis=0) + eps
    x_hat = d / scale
    return gamma * x_hat + beta, (x_hat, d, scale, gamma)
