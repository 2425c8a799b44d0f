"""Course assignments: what is asked, how an answer is marked, and `lpnorm grade`."""

from lpnorm.grading.course import NUMBERS, assignment, show, tell

__all__ = ["NUMBERS", "assignment", "show", "tell"]
