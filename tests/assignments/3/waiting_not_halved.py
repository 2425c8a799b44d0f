# The value that waits is not halved.
def pairwise_mean(x):
    n, half_of = len(x), np.float16(0.5)
    while len(x) > 1:
        half = len(x) // 2
        pairs = x[:half] * half_of + x[len(x) - half :] * half_of
        x = np.concatenate([pairs, x[half : len(x) - half]])
    return np.float16(float(x[0]) / (n / 2 ** math.ceil(math.log2(n))))
