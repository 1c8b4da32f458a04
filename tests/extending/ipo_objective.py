"""IPO as an alignment objective: a squared loss that stops pushing a pair apart at a margin."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sidar.align import log_ratio, register_objective
from sidar.align.terms import of_star, pair_mean
from sidar.types import CandidateScores


class IpoOptions(BaseModel):
    """IPO (Azar et al., arXiv 2310.12036, eq. 17)."""

    model_config = ConfigDict(extra="forbid")
    tau: float = Field(0.1, gt=0, description="The margin is 1 / (2 tau).")


@register_objective("ipo", options=IpoOptions, needs_reference=True)
def ipo(scores: CandidateScores, options: IpoOptions) -> Tensor:
    """Return the mean over pairs (y_w*, y_j) of (h_w - h_j - 1 / (2 tau))^2, h =
    log pi - log ref.
    """
    ratio = log_ratio(scores)
    margins = of_star(ratio, scores.star)[:, None] - ratio
    return pair_mean((margins - 1 / (2 * options.tau)).square(), scores)
