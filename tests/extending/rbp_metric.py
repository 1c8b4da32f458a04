"""Rank-biased precision as a metric: a reader goes on to the next result with a fixed chance."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sidar.evaluate import GradedRanks, register_metric


class RbpOptions(BaseModel):
    """Rank-biased precision (Moffat and Zobel, 2008)."""

    model_config = ConfigDict(extra="forbid")
    persistence: float = Field(0.8, gt=0, lt=1, description="Chance to look at the next result.")


@register_metric("rbp", options=RbpOptions, low=0.0, high=1.0, header="RBP")
def rbp(ranks: GradedRanks, options: RbpOptions) -> np.ndarray:
    """Return (1 - p) times the sum over relevant ranks r = 0, 1, … of p^r, per query."""
    p = options.persistence
    discounts = (1 - p) * p ** np.arange(ranks.relevant.shape[1])
    return ranks.relevant @ discounts
