"""How much faster is `lpnorm.fast` than `lpnorm.batchnorm` on NumPy float16 arrays? A script.

    taskset -c 0,1 python tests/bench_float16.py [--shape 128 64 32 32] [--repeats 5]

Forward and backward of batch norm with gamma and beta, both sides in one process, one after the
other by turns, each timed call right after an untimed one and a pause (NUMERICS: timing protocol).
The table holds medians in ms and their ratio; with every pair of timed calls the bits of y, dx,
dgamma, dbeta, mean and scale are compared, and the script ends with an error if one differs.
"""

import argparse
import math
import statistics
import time
from types import ModuleType
from typing import Any

import numpy as np
from tabulate import tabulate

import lpnorm
import lpnorm.fast
from lpnorm import Accumulate, Range, TopK, batchnorm

PAIRWISE = Accumulate("float16", "pairwise")
ROWS: list[tuple[str, Any, Any]] = [
    (f"{name}, {sums}", p, accumulate)
    for name, p in [("L1", 1), ("L2", 2), ("L-infinity", math.inf)]
    for sums, accumulate in [("float32", None), ("float16", "float16"), ("pairwise", PAIRWISE)]
]
MORE: list[tuple[str, Any, Any]] = [
    ("Top-10, float32", TopK(10), None),
    ("Top-10, float16", TopK(10), "float16"),
    ("Range, float32", Range(), None),
    ("Range, float16", Range(), "float16"),
    ("p = 3, float32", 3, None),
]


def run(module: ModuleType, p: Any, accumulate: Any, data: tuple[np.ndarray, ...]) -> list[Any]:
    """All results of one forward and backward."""
    x, dy, gamma, beta = data
    y, cache = module.batch_norm(x, gamma, beta, p, eps=2**-10, accumulate=accumulate)
    return [y, cache.mean, cache.scale, *module.batch_norm_backward(dy, cache)]


def timed(*arguments: Any) -> tuple[float, list[Any]]:
    """Seconds of one call, after an untimed one and a pause in which worker threads stop."""
    run(*arguments)
    time.sleep(0.01)
    start = time.perf_counter()
    results = run(*arguments)
    return time.perf_counter() - start, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs="+", default=[128, 64, 32, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--all", action="store_true", help="Top-10, Range and p = 3 too")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    channels = options.shape[1]
    data = tuple(
        rng.standard_normal(shape).astype(np.float16)
        for shape in (options.shape, options.shape, channels, channels)
    )
    table = []
    for name, p, accumulate in ROWS + MORE * options.all:
        seconds: tuple[list[float], list[float]] = [], []
        for _ in range(options.repeats):
            t_slow, want = timed(batchnorm, p, accumulate, data)
            t_fast, got = timed(lpnorm.fast, p, accumulate, data)
            seconds[0].append(t_slow)
            seconds[1].append(t_fast)
            for a, b in zip(got, want, strict=True):
                assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), name
            del got, want, a, b
        slow, fast = map(statistics.median, seconds)
        ratios = [a / b for a, b in zip(*seconds, strict=True)]
        table.append([name, slow * 1e3, fast * 1e3, slow / fast, min(ratios), max(ratios)])
    print(f"forward + backward on {tuple(options.shape)}, medians of {options.repeats}, in ms")
    headers = ["norm, sums in", "batchnorm", "fast", "ratio", "lowest", "highest"]
    print(tabulate(table, headers, floatfmt=("", ".0f", ".0f", ".2f", ".2f", ".2f")))


if __name__ == "__main__":
    main()
