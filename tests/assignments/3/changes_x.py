# The fold is done in the caller's array.
def pairwise_sum(x):
    n = len(x)
    while n > 1:
        half = n // 2
        x[:half] += x[n - half : n]
        n -= half
    return x[0]
