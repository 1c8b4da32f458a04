"""ORPO: likelihood of y_w* plus the log odds ratio against each negative, no reference.

    −log p(y_w*) + λ · mean_j −log σ( log odds(y_w*) − log odds(y_j) )       [source: N12; known]
    odds = p / (1 − p)

with p = exp(mean token log-prob), so log odds = lp − log(1 − exp(lp)); λ = 0.1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sidar.align.terms import full_precision, list_mean, mean_logp, of_star, pair_mean
from sidar.config import OBJECTIVE_DEFAULTS, AlignConfig
from sidar.types import CandidateScores

#: A short SID that the model is sure of has lp → 0, where the odds are infinite.
MAX_LOGP = -1e-6


def log_odds(mean_logp: Tensor) -> Tensor:
    """log p/(1−p) of p = exp(``mean_logp``), clamped at lp ≤ −1e-6; same shape."""
    lp = full_precision(mean_logp).clamp(max=MAX_LOGP)
    return lp - torch.log(-torch.expm1(lp))


def orpo(scores: CandidateScores, cfg: AlignConfig) -> tuple[Tensor, Tensor]:
    """(likelihood term, λ · odds-ratio term), each (); the likelihood term is ORPO's own, not eq.
    1.
    """
    lam = OBJECTIVE_DEFAULTS["orpo"]["lam"] if cfg.lam is None else cfg.lam
    lp = mean_logp(scores.logp, scores.mask)
    star = of_star(lp, scores.star)
    odds = log_odds(lp)
    ratio = of_star(odds, scores.star)[:, None] - odds
    has_positive = scores.is_positive.any(-1)
    return list_mean(-star, has_positive, scores), lam * pair_mean(-F.logsigmoid(ratio), scores)
