# Only w is returned.
def weight_norm(v, g):
    return g[:, None] * v / np.sqrt((v * v).sum(axis=1, keepdims=True))
