"""The judge: `check(candidate, ...)` says whether an implementation is right, and if not, why."""

from lpnorm.verify.judge import JudgeError, assert_correct, check
from lpnorm.verify.report import Check, Report

__all__ = ["Check", "JudgeError", "Report", "assert_correct", "check"]
