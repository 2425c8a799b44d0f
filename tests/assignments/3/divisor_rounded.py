# NumPy rounds the Python float n / 2^L to float16 before it divides.
def pairwise_mean(x):
    n, half_of = len(x), np.float16(0.5)
    while len(x) > 1:
        x = x * half_of
        half = len(x) // 2
        x = np.concatenate([x[:half] + x[len(x) - half :], x[half : len(x) - half]])
    return x[0] / (n / 2 ** math.ceil(math.log2(n)))
