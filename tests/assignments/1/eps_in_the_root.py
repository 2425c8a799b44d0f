# eps as in ordinary batch norm, inside a root.
def l1_forward(x, gamma, beta, eps):
    d = x - x.mean(axis=0)
    scale = np.sqrt((gaussian_constant(1) * abs(d).mean(axis=0)) ** 2 + eps)
    x_hat = d / scale
    return gamma * x_hat + beta, (x_hat, d, scale, gamma)
