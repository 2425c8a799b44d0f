# Sum first, divide then: infinity for large values.
def pairwise_mean(x):
    return np.float16(float(pairwise_sum(x)) / len(x))
