"""Objectives that need a frozen reference (here: the SFT model): DPO, S-DPO and DMPO.

With the log-ratio l(y) = log π(y|x) − log π_ref(y|x), summed over tokens, and l_w that of y_w*:

    DPO    mean_j −log σ( β (l_w − l_j) )           β = 0.1, n pairs a prompt  [known]
    S-DPO  −log σ( −log Σ_j exp( β (l_j − l_w) ) )  β = 1, inside the sum      [source: S-DPO code]
    DMPO   −log σ( β l_w − (β/k) Σ_j l_j )          β = 0.1 [reconstruction]   [known]

None of them has an SFT term of its own; ``+sft`` adds eq. 1 of RAD-DPO.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sidar.align.terms import list_mean, masked_logsumexp, of_star, pair_mean, sum_logp
from sidar.config import OBJECTIVE_DEFAULTS, AlignConfig
from sidar.types import CandidateScores


def log_ratio(scores: CandidateScores) -> Tensor:
    """(B, C) log π(y|x) − log π_ref(y|x).

    Raises ``ValueError`` where the scores carry no reference.
    """
    if scores.ref_logp is None:
        raise ValueError(
            "this objective compares with a reference; fill CandidateScores.ref_logp from the "
            "frozen SFT model"
        )
    return sum_logp(scores.logp, scores.mask) - sum_logp(scores.ref_logp, scores.mask).detach()


def dpo(scores: CandidateScores, cfg: AlignConfig) -> Tensor:
    """() Direct Preference Optimization over the pairs (y_w*, y_j) of each list."""
    beta = OBJECTIVE_DEFAULTS["dpo"]["beta"] if cfg.beta is None else cfg.beta
    ratio = log_ratio(scores)
    margins = of_star(ratio, scores.star)[:, None] - ratio
    return pair_mean(-F.logsigmoid(beta * margins), scores)


def sdpo(scores: CandidateScores, cfg: AlignConfig) -> Tensor:
    """() Softmax-DPO: the list as one (n+1)-way choice, so the hardest negative is pushed most."""
    beta = OBJECTIVE_DEFAULTS["sdpo"]["beta"] if cfg.beta is None else cfg.beta
    ratio = log_ratio(scores)
    margins = of_star(ratio, scores.star)[:, None] - ratio
    z = -masked_logsumexp(-beta * margins, scores.is_negative)
    return list_mean(-F.logsigmoid(z), scores.is_negative.any(-1), scores)


def dmpo(scores: CandidateScores, cfg: AlignConfig) -> Tensor:
    """() Direct Multi-Preference Optimization: the mean of the negatives inside one sigmoid."""
    beta = OBJECTIVE_DEFAULTS["dmpo"]["beta"] if cfg.beta is None else cfg.beta
    ratio = log_ratio(scores)
    count = scores.is_negative.sum(-1)
    mean_negative = torch.where(scores.is_negative, ratio, 0.0).sum(-1) / count.clamp(min=1)
    z = beta * (of_star(ratio, scores.star) - mean_negative)
    return list_mean(-F.logsigmoid(z), count > 0, scores)
