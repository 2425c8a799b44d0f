# numpy.sum, which adds float16 numbers in float32.
def sequential_sum(x):
    return np.sum(x)
