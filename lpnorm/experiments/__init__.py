"""The paper's claims, one file each: measured on real data, written as JSON and as a picture."""

from lpnorm.experiments import constant, norms, scale_invariance
from lpnorm.experiments.report import Claim, Options, Result, reproduce, table

CLAIMS: dict[str, Claim] = {
    claim.name: claim for claim in (scale_invariance.CLAIM, norms.CLAIM, constant.CLAIM)
}

__all__ = ["CLAIMS", "Claim", "Options", "Result", "reproduce", "table"]
