# Returns the first weights.
def train(x, labels, seed):
    rng, hidden = np.random.default_rng(seed), 64
    W1 = rng.standard_normal((hidden, x.shape[1])) * np.sqrt(2 / x.shape[1])
    z = x @ W1.T
    mean = z.mean(axis=0)
    scale = C1 * abs(z - mean).mean(axis=0) + 1e-5
    W2 = rng.standard_normal((10, hidden)) * np.sqrt(2 / hidden)
    return W1, np.ones(hidden), np.zeros(hidden), W2, np.zeros(10), mean, scale
