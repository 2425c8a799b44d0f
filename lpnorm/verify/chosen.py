"""The numbers that are chosen, not derived, and that a verdict or a name hangs on, with reasons.

Bounds of values and gradients are derived (`bounds`). Thresholds that choose between two sentences
about a failure stand where the sentences do.
"""

from __future__ import annotations

# Bounds are those of one order of operations; other right orders (autograd's, gamma taken out of
# the sums, a division for a product with the reciprocal) round every term a few times more.
FORMS = 4.0

# Taylor remainders: h^2 against h is 2 against 1 in slope, and half-way leaves room for h^3. Below
# this fraction of the terms the remainder is rounding.
TAYLOR_SLOPE, TAYLOR_NOISE = 1.7, 1e-13
# <dx, d>: what float64 itself loses of sums that cancel, where eps leaves nearly nothing.
EULER = 1e-13
# Scale and shift: s changes by eps or less where eps cannot be scaled along; root and quotient give
# it twice, in two calls.
SHIFTED = 4.0

# Weight norms' laws: a norm of n terms rounds n + 4 times at worst, w and dv use it twice, and the
# law compares two calls: 8 (n + 4) u.
WEIGHT_LAWS, WEIGHT_ROUNDINGS = 8.0, 4

# Kinks: h is read off dx, whose n terms and 8 operations round; below it float64 itself does.
KINK_ROUNDINGS, KINK_LEAST = 8, 1e-12
# Shares of ties are told apart from 0, 1 and each other at less than a fifth.
SHARE_IN_DOUBT = 0.2

# Running statistics: an average of n values and 16 operations (the quantity may be a reciprocal of
# a root), each statistic and batch in another dtype than ours: four times.
RUNNING, RUNNING_ROUNDINGS = 4.0, 16
# Evaluation: a dozen operations, the root and reciprocal among them, in two forms (a x + b, or
# gamma (x - mean) / s + beta), four times.
EVALUATION = 64.0
# Its gradient: s, its reciprocal and the products round a dozen times, at most, and twice that
# where s comes through a root of a rounded square.
EVALUATION_GRADIENT = 24.0

# A gradient is that of a candidate's own forward: central differences with h = 2^-16 are good to
# h^2 and to rounding / h, both about 1e-9 of the terms.
FOLLOWS = 1e-6

# Conventions: y is within so many bounds of the exact sums to be told tightly, of the least exact
# ones to be told at all (a probe is one case of many, in one order of operations more); below LEAST
# of y float64's own conversions show. A constant is meant to be the right one to four digits;
# beyond a hundredth it is another.
TIGHT, LOOSE, LEAST = 2.0, 4.0, 1e-9
FEW_DIGITS, OTHER_CONSTANT = 1e-4, 1e-2

# Mistakes: how closely one must give a candidate's numbers, as a fraction of the largest of them
# (rounding in the dtype over n terms is a hundredth of it), and of what the mistake itself changes.
CLOSE = {"float64": 1e-8, "float32": 5e-4, "float16": 6e-2}
EXPLAINS = 0.2
# Fits: the remainder that is rounding; float16 tells too little.
FITS = {"float64": 1e-9, "float32": 1e-5}
# Two numbers are the same one in words: a factor and n / (n - 1), say.
SAME = {"float64": 1e-7, "float32": 1e-4, "float16": 1e-2}
