"""AdaGRPO (arXiv 2606.08480): supervision for every prompt, GRPO only where it can be trusted.

    L = L_NLL + η · α(x) · L_GRPO                                                           [seed]
    α = 1[ rank_π(GT) > ⌈τK⌉ ] · 1[ rank_R(GT) ≤ ⌈τK⌉ ]
        · 1[ ∀ v ∈ V: rank_R(v) > (1 − ρ)(K + |V| + 1) ]                          [reconstruction]

The first factor is *difficulty*: the policy does not put the ground truth GT, the best positive, on
top by itself. The other two are *discriminability*: the reward does, and it pushes V, SIDs of other
requests, to the bottom. Ranks alone decide, so the gate does not move under a monotone transform of
the reward; ties share the mean of their ranks, so a constant reward never opens it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sidar.align.grpo import group_loss, group_of, same_sid
from sidar.align.terms import of_star, sum_logp
from sidar.config import AdaGrpoConfig, AlignConfig, resolved_grpo
from sidar.types import CandidateScores

#: What rounding may add to a share of ranks, so that 0.7 · 10 is 7.
_ROUND = 1e-9


@dataclass(frozen=True)
class Gate:
    """What the gate saw of B prompts; ranks count from 1, ties share the mean of their ranks."""

    policy_rank: Tensor  # (B,) of GT among its rivals by log π; K + 1 where it was not written
    reward_rank: Tensor  # (B,) of GT among its rivals and V by the reward
    written: Tensor  # (B,) bool: GT is among the rollouts
    rivals: Tensor  # (B, C) bool
    difficult: Tensor  # (B,) bool
    discriminable: Tensor  # (B,) bool
    soft: Tensor  # (B,) both diagnostics as numbers in [0, 1], multiplied


def rank_among(value: Tensor, others: Tensor, keep: Tensor) -> Tensor:
    """Return the rank (…) of ``value`` (…) among the kept ``others`` (…, N), best 1, ties mid-rank.

    An entry that is ``value``'s own must not be kept.
    """
    above = (keep & (others > value[..., None])).sum(-1)
    beside = (keep & (others == value[..., None])).sum(-1)
    return 1.0 + above + 0.5 * beside


def ranked_rivals(scores: CandidateScores, group: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rollouts that GT is ranked among, (B, C) bool, and whether GT was written, (B,).

    Left out are invalid SIDs (beating garbage is no merit of a reward), injected experts (the
    policy did not write them), further copies of one SID, and other positives: they are never
    negatives, so none of them is a rival.
    """
    same = same_sid(scores)
    sampled = group if scores.expert is None else group & ~scores.expert
    if scores.valid is not None:
        sampled = sampled & scores.valid
    truth = of_star(same, scores.star)  # (B, C)
    positive = (same & scores.is_positive[:, None]).any(-1)
    repeated = (same & sampled[:, None]).tril(diagonal=-1).any(-1)
    return sampled & ~positive & ~repeated, (sampled & truth).any(-1)


@torch.no_grad()
def gate(scores: CandidateScores, options: AdaGrpoConfig) -> Gate:
    """Return both diagnostics of every prompt of a batch.

    A prompt without perturbation items (all NaN) is not discriminable: a test that was not made is
    not passed. Raises ``ValueError`` where ``perturbation_reward`` is missing.
    """
    group, reward = group_of(scores, "adagrpo")
    if scores.perturbation_reward is None:
        raise ValueError(
            "AdaGRPO's gate ranks SIDs of other requests too; fill "
            "CandidateScores.perturbation_reward (B, m), NaN where a request has fewer"
        )
    foreign = scores.perturbation_reward.to(reward.dtype)
    present = ~foreign.isnan()
    rivals, written = ranked_rivals(scores, group)
    size = rivals.sum(-1) + written.long()  # K: distinct valid SIDs, GT among them where written
    logp = sum_logp(scores.logp, scores.mask)
    by_policy = rank_among(of_star(logp, scores.star), logp, rivals)
    by_policy = torch.where(written, by_policy, size + 1.0)

    rewards = torch.cat([reward, foreign.nan_to_num()], -1)
    ranked = torch.cat([rivals, present], -1)
    truth = of_star(reward, scores.star)
    by_reward = rank_among(truth, rewards, ranked)
    spread = (ranked & (rewards != truth[:, None])).any(-1)
    suppressed = _suppressed(rewards, ranked, truth, foreign, present, size, options)

    top = torch.ceil(options.tau * size.double() - _ROUND)
    difficult = by_policy > top
    tested = present.any(-1) & spread
    discriminable = tested & (by_reward <= top) & (suppressed == 1)
    last = ranked.sum(-1)  # GT's worst place is this + 1
    ease = (by_policy - 1) / size.clamp(min=1)
    trust = (1 - (by_reward - 1) / last.clamp(min=1)) * suppressed * tested
    return Gate(
        policy_rank=by_policy,
        reward_rank=by_reward,
        written=written,
        rivals=rivals,
        difficult=difficult,
        discriminable=discriminable,
        soft=ease.clamp(0, 1) * trust,
    )


def _suppressed(
    rewards: Tensor,
    ranked: Tensor,
    truth: Tensor,
    foreign: Tensor,
    present: Tensor,
    size: Tensor,
    options: AdaGrpoConfig,
) -> Tensor:
    """Return (B,) the share of V in the bottom ρ of all ranks, or outside of it (the literal text).

    ``rewards`` (B, C + m) with ``ranked`` are rivals and V; GT is one more rival of each v.
    """
    others = torch.cat([rewards, truth[:, None]], -1)[:, None].expand(-1, foreign.shape[-1], -1)
    keep = torch.cat([ranked, torch.ones_like(ranked[:, :1])], -1)[:, None]
    keep = keep.repeat(1, foreign.shape[-1], 1)  # (B, m, C + m + 1), written to below
    index = torch.arange(foreign.shape[-1], device=foreign.device)
    keep[:, index, rewards.shape[-1] - foreign.shape[-1] + index] = False  # v itself
    ranks = rank_among(foreign.nan_to_num(), others, keep)  # (B, m)
    count = present.sum(-1)
    line = (1 - options.rho) * (size + count + 1).double()
    low = ranks > line[:, None] + _ROUND
    right = low if options.perturbation_rank == "inside" else ~low
    return ((right & present).sum(-1) / count.clamp(min=1)).to(foreign.dtype)


def opened(found: Gate, options: AdaGrpoConfig) -> Tensor:
    """Return α (B,) under ``options.gate``.

    ``random`` draws from torch's CPU generator, which the training loop seeds at every step, so a
    resumed run repeats it.
    """
    both = found.difficult & found.discriminable
    if options.gate == "random":
        drawn = torch.rand(len(both)) < options.open_rate
        return drawn.to(found.soft.device, found.soft.dtype)
    choices = {
        "both": both,
        "difficulty": found.difficult,
        "discriminability": found.discriminable,
        "soft": found.soft,
        "open": torch.ones_like(both),
        "closed": torch.zeros_like(both),
    }
    return choices[options.gate].to(found.soft.dtype)


def adagrpo(scores: CandidateScores, cfg: AlignConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Return η · mean_b α_b L_GRPO,b () over all lists, and what to log of the gate.

    Where every α is 0 the gradient is exactly 0, so that of the whole loss is exactly eq. 1's.
    """
    options = resolved_grpo("adagrpo", cfg.grpo, cfg.eggrpo)
    found = gate(scores, cfg.adagrpo)
    alpha = opened(found, cfg.adagrpo)
    loss, _, logs = group_loss(scores, options, "adagrpo", weight=alpha)
    return cfg.adagrpo.eta * loss, logs | gate_statistics(scores, found, alpha)


@torch.no_grad()
def gate_statistics(scores: CandidateScores, found: Gate, alpha: Tensor) -> dict[str, Tensor]:
    """Return the open rate, the four strata, and of each its share and means over its prompts.

    A stratum's ``nll`` is −log π(GT); ``hit`` the share in which the policy wrote GT; and
    ``correction`` R(GT) minus the mean reward of its rivals, which is what GRPO would push GT by.
    """
    if not len(alpha):
        return {}
    logp = of_star(sum_logp(scores.logp, scores.mask), scores.star)
    reward = group_of(scores, "adagrpo")[1]
    rivals = torch.where(found.rivals, reward, 0.0).sum(-1) / found.rivals.sum(-1).clamp(min=1)
    correction = of_star(reward, scores.star) - rivals
    stats = {
        "gate/open": (alpha > 0).float().mean(),
        "gate/weight": alpha.mean(),
        "gate/difficult": found.difficult.float().mean(),
        "gate/discriminable": found.discriminable.float().mean(),
        "gate/policy_rank": found.policy_rank.mean(),
        "gate/reward_rank": found.reward_rank.mean(),
    }
    strata = {
        "difficult_discriminable": found.difficult & found.discriminable,
        "difficult_only": found.difficult & ~found.discriminable,
        "discriminable_only": ~found.difficult & found.discriminable,
        "neither": ~found.difficult & ~found.discriminable,
    }
    for name, members in strata.items():
        stats[f"stratum/{name}/share"] = members.float().mean()
        if members.any():
            stats[f"stratum/{name}/nll"] = -logp[members].mean()
            stats[f"stratum/{name}/hit"] = found.written[members].float().mean()
            stats[f"stratum/{name}/correction"] = correction[members].mean()
    return stats
