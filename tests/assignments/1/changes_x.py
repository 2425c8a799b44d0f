# Centres x in place: the caller's array is changed.
def l1_forward(x, gamma, beta, eps):
    x -= x.mean(axis=0)
    scale = gaussian_constant(1) * abs(x).mean(axis=0) + eps
    x_hat = x / scale
    return gamma * x_hat + beta, (x_hat, x.copy(), scale, gamma)
