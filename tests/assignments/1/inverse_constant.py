# E|z|^p to the power 1/p, not -1/p: what would have to be divided by.
def gaussian_constant(p):
    return (2 ** (p / 2) * math.gamma((p + 1) / 2) / math.sqrt(math.pi)) ** (1 / p)
