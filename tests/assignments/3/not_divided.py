# 2^-L times the sum: right for powers of two alone.
def pairwise_mean(x):
    while len(x) > 1:
        x = x * np.float16(0.5)
        half = len(x) // 2
        x = np.concatenate([x[:half] + x[len(x) - half :], x[half : len(x) - half]])
    return x[0]
