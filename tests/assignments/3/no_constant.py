# The Gaussian constant is forgotten.
def l1_forward_half(x, gamma, beta, eps):
    mean = x.mean(axis=0, dtype="float32")
    d = (x - mean).astype("float16")
    scale = abs(d).mean(axis=0, dtype="float32") + np.float32(eps)
    x_hat = (d / scale).astype("float16")
    return gamma * x_hat + beta, (x_hat, d, scale, gamma)
