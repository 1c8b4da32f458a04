"""EG-GRPO (arXiv 2605.14434): groups that hold a few logged SIDs beside the sampled ones.

    L = −(1/G) Σ_i min( ρ_i A_i, clip(ρ_i, 1 ± ε) A_i ) + β KL,   ρ_i = π(o_i|x) / π_old(o_i|x)
                                                                            [source: N1, N2]

Mean, deviation and gradient are over the enlarged group. The KL term is not in eq. 10 and has
weight 1.0 in section 4.1; both are here. Which experts enter, and whether they replace sampled
members, is settled before: the batch carries the flags.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sidar.align.grpo import group_loss, group_of, zero_variance
from sidar.config import AlignConfig, resolved_grpo
from sidar.types import CandidateScores


def eggrpo(scores: CandidateScores, cfg: AlignConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss () over groups with experts, and what to log of them."""
    options = resolved_grpo("eggrpo", cfg.grpo, cfg.eggrpo)
    loss, advantage, logs = group_loss(scores, options, "eggrpo")
    return loss, logs | expert_statistics(scores, advantage)


@torch.no_grad()
def expert_statistics(scores: CandidateScores, advantage: Tensor) -> dict[str, Tensor]:
    """Return what the experts do to their groups; nothing where the batch has none.

    ``expert/squeezed``: share of the groups with experts whose other members all have one reward.
    One expert then has A = √(G − 1) and every sample −1/√(G − 1) (population deviation): SFT on the
    expert that pushes all that the policy writes down alike (Ren & Sutherland's squeezing).
    ``expert/pull``: largest expert advantage over √(G − 1), so 1 is that extreme.
    """
    group, reward = group_of(scores, "eggrpo")
    if scores.expert is None or not (scores.expert & group).any():
        return {}
    expert, others = group & scores.expert, group & ~scores.expert
    having = expert.any(-1)
    alike = zero_variance(reward, others) & ~zero_variance(reward, group)
    largest = torch.where(expert, advantage, float("-inf")).amax(-1)[having]
    root = (group.sum(-1)[having] - 1).clamp(min=1).sqrt()
    stats = {
        "expert/count": expert.sum(-1).float().mean(),
        "expert/advantage": advantage[expert].mean(),
        "expert/squeezed": alike[having].float().mean(),
        "expert/pull": (largest / root).mean(),
    }
    if others.any():
        stats["expert/others_advantage"] = advantage[others].mean()
    return stats
