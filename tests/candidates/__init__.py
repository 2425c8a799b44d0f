"""Implementations by other hands for the judge, right and wrong, by library.

Written without knowledge of `lpnorm.verify.check` or of its catalogue of mistakes. Every right one
is checked against the oracle and finite differences in tests/test_judge_candidates.py, and every
wrong one whose values are wrong is shown there to differ from the oracle. Cases of torch, JAX and
ONNX come from functions that import them.
"""
