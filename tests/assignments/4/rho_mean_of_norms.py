# The mean of the channels' norms (a version of the authors' code).
def bounded_norm(v, p):
    return float(((abs(v) ** p).sum(axis=1) ** (1 / p)).mean())
