# The right value, but as a Python float.
def sequential_sum(x):
    return float(np.add.accumulate(x)[-1])
