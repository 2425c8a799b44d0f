# The ReLU is passed by on the way back.
def network_backward(dlogits, cache):
    x, y, a, of_norm, W2 = cache
    dz, dgamma, dbeta = l1_backward(dlogits @ W2, of_norm)
    return dz.T @ x, dgamma, dbeta, dlogits.T @ a, dlogits.sum(axis=0)
