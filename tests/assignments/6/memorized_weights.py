# Weights that ignore what they are given (they would need the pixels in a known order).
def train(x, labels, seed):
    rng = np.random.default_rng(123)
    W1 = rng.standard_normal((64, 64))
    return (
        W1,
        np.ones(64),
        np.zeros(64),
        rng.standard_normal((10, 64)),
        *np.zeros((1, 10)),
        *np.ones((2, 64)),
    )
