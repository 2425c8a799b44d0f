# The norm is taken over the channels, for each weight apart.
def weight_norm(v, g):
    norm = np.sqrt((v * v).sum(axis=0, keepdims=True))
    v_hat = v / norm
    return g[:, None] * v_hat, (v_hat, norm, g)
