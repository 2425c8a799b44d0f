# The decimal logarithm.
def linf_constant(n):
    if n == 1:
        return 1.0
    return (1 + math.sqrt(math.pi * math.log(4))) / 2 / math.sqrt(2 * math.log10(n))
