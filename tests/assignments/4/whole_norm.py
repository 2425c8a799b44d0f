# One norm for the whole matrix.
def weight_norm(v, g):
    norm = np.sqrt((v * v).sum())
    v_hat = v / norm
    return g[:, None] * v_hat, (v_hat, norm, g)
