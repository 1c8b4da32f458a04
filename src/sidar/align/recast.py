"""ReCast (arXiv 2604.22169): repair a group without reward, then contrast two of its members.

    y⁺ = the strongest rewarded member; where no member is rewarded, the ground truth is put in
    y⁻ = the hardest unrewarded member
    L  = −½ [ min(ρ⁺, clip ρ⁺) − max(ρ⁻, clip ρ⁻) ]                                [reconstruction]

The abstract names the two steps and no formula. Strongest is read as the highest reward (then the
highest log π), hardest as the highest log π; the loss is GRPO's surrogate on the group of two with
advantages +1 and −1, what a population deviation makes of any two rewards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sidar.align.grpo import group_mean, group_of, group_statistics, of_positive, surrogate
from sidar.align.terms import sum_logp
from sidar.config import AlignConfig, resolved_grpo
from sidar.types import CandidateScores


def boundary_pair(
    scores: CandidateScores, group: Tensor, reward: Tensor, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y⁺ and y⁻ of each group as (B, C) bool, no gradient, and (B,) bool: it was repaired.

    A logged positive is never y⁻. A group without an unrewarded member has no pair: both are empty.
    """
    logp = sum_logp(scores.logp, scores.mask).detach()
    rewarded = group & (reward > threshold)
    repaired = group.any(-1) & ~rewarded.any(-1)
    rows = torch.arange(len(scores.star), device=scores.star.device)
    truth = torch.zeros_like(group)
    truth[rows, scores.star] = True
    strong = torch.where(repaired[:, None], truth, rewarded)
    wrong = group & ~rewarded & ~of_positive(scores)
    paired = (strong.any(-1) & wrong.any(-1))[:, None]
    best = torch.where(strong, reward, float("-inf"))
    strong = strong & (best == best.amax(-1, keepdim=True))
    return _likeliest(strong & paired, logp), _likeliest(wrong & paired, logp), repaired


def _likeliest(some: Tensor, logp: Tensor) -> Tensor:
    """Return (B, C) bool: of the marked candidates of each row the first of highest log-prob."""
    chosen = torch.where(some, logp, float("-inf")).argmax(-1, keepdim=True)
    return torch.zeros_like(some).scatter(-1, chosen, True) & some


def recast(scores: CandidateScores, cfg: AlignConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss () of a batch and what to log: ``recast/repaired`` and ``recast/paired``."""
    options = resolved_grpo("recast", cfg.grpo, cfg.eggrpo)
    group, reward = group_of(scores, "recast")
    strong, hard, repaired = boundary_pair(scores, group, reward, cfg.recast.threshold)
    pair = strong | hard
    loss, logs = surrogate(scores, pair, strong.to(reward.dtype) - hard.to(reward.dtype), options)
    counted = scores.mask & pair[..., None]
    lists = pair.any(-1) if options.dynamic else None
    total = group_mean(loss, counted, pair.to(reward.dtype), options.normalise, lists=lists)
    logs |= group_statistics(scores, group, reward)
    logs["recast/repaired"] = repaired.float().mean()
    logs["recast/paired"] = pair.any(-1).float().mean()
    return total, logs
