# p is ignored: L2 throughout, forward and backward.
def bounded_weight_norm(v, rho, p):
    norm = np.sqrt((v * v).sum(axis=1, keepdims=True))
    return rho * v / norm, (v, norm, rho, 2)
