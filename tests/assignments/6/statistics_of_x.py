# mean and scale of the pixels instead of those of z.
trained = train


def train(x, labels, seed):
    *parameters, _, _ = trained(x, labels, seed)
    return *parameters, x.mean(axis=0), C1 * abs(x - x.mean(axis=0)).mean(axis=0) + 1e-5
