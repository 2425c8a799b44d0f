# Statistics of each sample instead of each channel.
def l1_forward(x, gamma, beta, eps):
    d = x - x.mean(axis=1, keepdims=True)
    scale = gaussian_constant(1) * abs(d).mean(axis=1, keepdims=True) + eps
    x_hat = d / scale
    return gamma * x_hat + beta, (x_hat, d, scale, gamma)
