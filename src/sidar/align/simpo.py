"""SimPO: reference-free pairs on length-normalised log-probs with a target margin.

    mean_j −log σ( β ( log π(y_w*|x)/|y_w*| − log π(y_j|x)/|y_j| − γ/β ) )      [source: SimPO code]

β = 2.0 and γ/β = 0.25, the code's defaults (its README starts at 0.5); no SFT term of its own.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sidar.align.terms import mean_logp, of_star, pair_mean
from sidar.config import OBJECTIVE_DEFAULTS, AlignConfig
from sidar.types import CandidateScores


def simpo(scores: CandidateScores, cfg: AlignConfig) -> Tensor:
    """() SimPO over the pairs (y_w*, y_j) of each list; ``cfg.gamma`` is the *ratio* γ/β."""
    default = OBJECTIVE_DEFAULTS["simpo"]
    beta = default["beta"] if cfg.beta is None else cfg.beta
    ratio = default["gamma"] if cfg.gamma is None else cfg.gamma
    reward = mean_logp(scores.logp, scores.mask)
    margins = of_star(reward, scores.star)[:, None] - reward - ratio
    return pair_mean(-F.logsigmoid(beta * margins), scores)
