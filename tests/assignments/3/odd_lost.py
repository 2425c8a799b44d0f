# The value that waits is lost.
def pairwise_sum(x):
    while len(x) > 1:
        half = len(x) // 2
        x = x[:half] + x[half : 2 * half]
    return x[0]
