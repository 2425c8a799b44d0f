"""Every claim by its name, in the order in which they are reproduced."""

from lpnorm.experiments import (
    bounded_weight_norm,
    constant,
    equilibrium,
    exact_step,
    half_precision,
    half_range,
    norms,
    scale_invariance,
    weight_decay,
)
from lpnorm.experiments.report import Claim, Options, Result, reproduce, table
from lpnorm.experiments.verdicts import RULE

CLAIMS: dict[str, Claim] = {
    module.CLAIM.name: module.CLAIM
    for module in (
        scale_invariance,
        norms,
        constant,
        weight_decay,
        bounded_weight_norm,
        equilibrium,
        exact_step,
        half_range,
        half_precision,
    )
}

__all__ = ["CLAIMS", "RULE", "Claim", "Options", "Result", "reproduce", "table"]
