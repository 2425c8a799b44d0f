# Added in float64 and rounded once.
def sequential_sum(x):
    total = 0.0
    for value in x:
        total += float(value)
    return np.float16(total)
