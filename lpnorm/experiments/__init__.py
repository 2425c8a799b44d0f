"""The paper's claims, one file each: measured on real data, written as JSON and as a picture.

What is public is loaded when it is first used: a training needs its own claim's file alone, and
only what it imports decides whether a stored one is still good (`lpnorm.experiments.sources`).
"""

from importlib import import_module
from typing import Any

__all__ = ["CLAIMS", "RULE", "Claim", "Options", "Result", "reproduce", "table"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("lpnorm.experiments.claims"), name)
    raise AttributeError(f"module 'lpnorm.experiments' has no attribute {name!r}")
