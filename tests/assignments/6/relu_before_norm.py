# ReLU before the batch norm.
def network_forward(W1, gamma, beta, W2, b2, x):
    z = np.maximum(x @ W1.T, 0)
    y, of_norm = l1_forward(z, gamma, beta, 1e-5)
    return y @ W2.T + b2, (x, y, y, of_norm, W2)
