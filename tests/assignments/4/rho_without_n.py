# The root of the number of channels is forgotten.
def bounded_norm(v, p):
    return float((abs(v) ** p).sum() ** (1 / p))
