# (a + b) / 2: the sum inside overflows before it is halved.
def pairwise_mean(x):
    n, two = len(x), np.float16(2)
    while len(x) > 1:
        half = len(x) // 2
        front, back, middle = x[:half], x[len(x) - half :], x[half : len(x) - half]
        x = np.concatenate([(front + back) / two, middle / two])
    return np.float16(float(x[0]) / (n / 2 ** math.ceil(math.log2(n))))
