"""E[C * statistic(x - sample mean)] for Gaussian groups: the table in `gaussian_constant`.

python tests/sample_mean_bias.py        prints the table's rows (seed 0, 400,000 groups each)
"""

import math

import numpy as np

from lpnorm import Accumulate, Range, TopK, gaussian_constant
from lpnorm.norms import as_norm

SIZES = [2, 4, 16, 64, 256]
NORMS = [2, 1, 3, math.inf, TopK(10), Range()]


def simulate(p, n, groups, seed):
    """The mean of C * statistic, with the exact constant, and its standard error."""
    rng = np.random.default_rng([seed, n])
    values = []
    for size in [min(20_000, groups)] * (groups // min(20_000, groups)):
        x = rng.standard_normal((size, n))
        d = x - x.mean(axis=1, keepdims=True)
        values.append(as_norm(p).statistic(d, Accumulate("float64"))[:, 0])
    scale = gaussian_constant(p, n, "exact") * np.concatenate(values)
    return scale.mean(), scale.std() / math.sqrt(scale.size)


if __name__ == "__main__":
    for n in SIZES:
        entries = []
        for p in NORMS:
            fits = not isinstance(p, TopK) or p.k <= n
            entries.append(f"{simulate(p, n, 400_000, 0)[0]:5.3f}" if fits else "  -  ")
        print(f"| {n:3} | " + " | ".join(entries) + " |")
