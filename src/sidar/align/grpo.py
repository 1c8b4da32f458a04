"""The GRPO family: a clipped surrogate over a group of SIDs that a policy wrote.

    A_i = (R_i − mean) / (std + ε)             within the group of one prompt           [known]
    L = −mean_i mean_t [ min(ρ_it A_i, clip(ρ_it, 1 − ε_low, 1 + ε_high) A_i) − β k3 ]  [known]
    k3 = exp(l_ref − l) − (l_ref − l) − 1

GRPO, Dr.GRPO, DAPO, GSPO and MiniOneRec's recipe are choices of the options in ``align.grpo``
(docs/methods/grpo.md). Without ``old_logp`` the policy that sampled is the one that is trained, so
ρ = exp(l − SG l) = 1 and the gradient is A_i ∇l.

A group drawn without replacement is no sample of π. With its inclusion weights w = p/q, and without
the division by the standard deviation, the estimator is unbiased:

    Σ_i w_i ∇l_i ( R_i (1 − p_i + w_i) − Σ_j w_j R_j )     [known: Kool, van Hoof, Welling 2019]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from sidar.align.terms import full_precision, sum_logp
from sidar.config import AlignConfig, GrpoConfig, resolved_grpo
from sidar.types import CandidateScores

Std = Literal["sample", "population", "none"]


def group_of(scores: CandidateScores, name: str) -> tuple[Tensor, Tensor]:
    """Return the members (B, C) bool of each prompt's group and the rewards (B, C) of candidates.

    Raises ``ValueError`` where the scores carry no rollouts or no rewards.
    """
    if scores.rollout is None or scores.reward is None:
        missing = "rollout" if scores.rollout is None else "reward"
        raise ValueError(
            f"align.objective {name!r} learns from rewarded rollouts; fill "
            f"CandidateScores.{missing} from a group of SIDs that the policy wrote"
        )
    return scores.rollout, full_precision(scores.reward).detach()


def zero_variance(reward: Tensor, group: Tensor) -> Tensor:
    """Return (B,) bool: every member of the group has the same reward, or there is none."""
    high = torch.where(group, reward, float("-inf")).amax(-1)
    low = torch.where(group, reward, float("inf")).amin(-1)
    return high <= low


def advantages(
    reward: Tensor,
    group: Tensor,
    *,
    std: Std = "sample",
    eps: float = 1e-4,
    weight: Tensor | None = None,
) -> Tensor:
    """Return (B, C) A_i = (R_i − mean) / (std + eps) within each group, 0 outside.

    ``weight`` (B, C) makes mean and deviation weighted ones. A group of one reward has A = 0
    exactly, whatever rounding leaves of its variance.
    """
    share = group.to(reward.dtype) if weight is None else torch.where(group, weight, 0.0)
    total = share.sum(-1, keepdim=True).clamp(min=torch.finfo(reward.dtype).tiny)
    mean = (share * reward).sum(-1, keepdim=True) / total
    centred = torch.where(group, reward - mean, 0.0)
    if std != "none":
        variance = (share * centred.square()).sum(-1, keepdim=True) / total
        if std == "sample":
            size = group.sum(-1, keepdim=True)
            variance = variance * size / (size - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + eps)
    return torch.where(zero_variance(reward, group)[:, None], 0.0, centred)


def unbiased_advantages(
    reward: Tensor, group: Tensor, weight: Tensor, probability: Tensor
) -> Tensor:
    """Return (B, C) R_i (1 − p_i + w_i) − Σ_j w_j R_j of groups drawn without replacement.

    ``probability`` (B, C) is p_i under the policy that sampled, ``weight`` (B, C) p_i over the
    probability that SID i is drawn. Exact for a policy whose mass P lies inside the index; outside
    of it nothing is drawn, and E[R] ∇P is left over from the baseline. A group of one reward is
    *not* silenced: its terms cancel in expectation only, and a rule that looks at the group would
    bias what it leaves.
    """
    share = torch.where(group, weight, 0.0)
    baseline = (share * reward).sum(-1, keepdim=True)
    return torch.where(group, reward * (1 - probability + share) - baseline, 0.0)


def member_weights(
    scores: CandidateScores, group: Tensor, reward: Tensor, options: GrpoConfig
) -> tuple[Tensor, Tensor]:
    """Return the advantages (B, C) and the members' weights u (B, C) in the group's mean.

    u = 1 makes the plain mean. With inclusion weights and ``std: none`` u = G w_i, so that the mean
    is the unbiased sum; with a standard deviation u = G w_i / Σ w, which is consistent, not
    unbiased.
    """
    std: Std = options.std or "sample"
    uniform = group.to(reward.dtype)
    if scores.inclusion is None or options.inclusion == "biased":
        return advantages(reward, group, std=std, eps=options.eps), uniform
    weight = torch.where(group, full_precision(scores.inclusion).to(reward.dtype), 0.0).detach()
    size = uniform.sum(-1, keepdim=True)
    if std == "none":
        probability = sum_logp(sampling_logp(scores), scores.mask).exp()
        return unbiased_advantages(reward, group, weight, probability), weight * size
    share = weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo(reward.dtype).tiny)
    return advantages(reward, group, std=std, eps=options.eps, weight=weight), share * size


def sampling_logp(scores: CandidateScores) -> Tensor:
    """Return (B, C, S) log-probs under the policy that wrote the group, no gradient.

    They are those of the policy that is trained where the scores carry none, or NaN: an expert was
    not written, so its ratio is 1.
    """
    logp = full_precision(scores.logp).detach()
    if scores.old_logp is None:
        return logp
    old = full_precision(scores.old_logp).detach()
    return torch.where(old.isnan(), logp, old)


def ratios(scores: CandidateScores, counted: Tensor, level: str | None) -> Tensor:
    """Return (B, C, S) ρ = π / π_old: of each token, or of the whole SID at each of its steps.

    ``sequence`` is the geometric mean over the SID's steps (GSPO), ``product`` π(y|x) / π_old(y|x).
    """
    log_ratio = torch.where(counted, full_precision(scores.logp) - sampling_logp(scores), 0.0)
    if level != "token":
        whole = log_ratio.sum(-1, keepdim=True)
        if level == "sequence":
            whole = whole / counted.sum(-1, keepdim=True).clamp(min=1)
        log_ratio = whole.expand_as(log_ratio)
    return log_ratio.exp()


def k3(scores: CandidateScores, counted: Tensor) -> Tensor:
    """Return (B, C, S) exp(l_ref − l) − (l_ref − l) − 1, an unbiased estimate of KL(π ‖ π_ref) on
    samples of π; 0 where not counted.

    Raises ``ValueError`` where the scores carry no reference.
    """
    if scores.ref_logp is None:
        raise ValueError(
            "the KL term compares with a reference; fill CandidateScores.ref_logp from the model "
            "as it came in, or set align.grpo.kl: 0"
        )
    gap = full_precision(scores.ref_logp).detach() - full_precision(scores.logp)
    gap = torch.where(counted, gap, 0.0)
    return gap.exp() - gap - 1


def surrogate(
    scores: CandidateScores, group: Tensor, advantage: Tensor, options: GrpoConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (B, C, S) losses of the counted steps of the group's members, and what to log.

    ``options`` must be resolved (:func:`~sidar.config.resolved_grpo`).
    """
    counted = scores.mask & group[..., None]
    ratio = ratios(scores, counted, options.ratio)
    low = 1.0 - options.clip_low if options.clip_low else 0.0
    high = 1.0 + options.clip_high if options.clip_high else float("inf")
    gain = advantage[..., None]
    loss = -torch.minimum(ratio * gain, ratio.clamp(low, high) * gain)
    clipped = ((ratio < low) & (gain < 0)) | ((ratio > high) & (gain > 0))
    logs = {}
    if counted.any():
        logs["ratio/mean"] = ratio.detach()[counted].mean()
        logs["ratio/clipped"] = clipped[counted].float().mean()
    if options.kl:
        divergence = k3(scores, counted)
        loss = loss + options.kl * divergence
        if counted.any():
            logs["kl"] = divergence.detach()[counted].mean()
    return torch.where(counted, loss, 0.0), logs


def group_mean(
    loss: Tensor,
    counted: Tensor,
    share: Tensor,
    normalise: str | None,
    *,
    lists: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Return () the mean over steps, members and lists of ``loss`` (B, C, S).

    ``counted`` (B, C, S) are the members' steps, ``share`` (B, C) their weights u. ``lists`` (B,)
    bool keeps some lists in the mean (default: all), ``weight`` (B,) multiplies each one's loss and
    leaves the divisor. ``constant`` divides a SID's sum by the L levels, the longest a SID can
    count; ``token`` divides the batch's sum by its number of steps.
    """
    steps = counted.sum(-1)
    member = loss.sum(-1) * share
    keep = torch.ones_like(member[:, 0], dtype=torch.bool) if lists is None else lists
    if normalise == "token":
        per_list, divisor = member.sum(-1), int(steps[keep].sum())
    else:
        length = steps if normalise == "sequence" else torch.full_like(steps, loss.shape[-1] - 1)
        size = (steps > 0).sum(-1)
        per_list = (member / length.clamp(min=1)).sum(-1) / size.clamp(min=1)
        divisor = int(keep.sum())
    if weight is not None:
        per_list = per_list * weight
    return torch.where(keep, per_list, 0.0).sum() / max(divisor, 1)


def group_loss(
    scores: CandidateScores,
    options: GrpoConfig,
    name: str,
    *,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the surrogate's loss () of a batch under resolved ``options``, the advantages (B, C)
    and what to log; ``weight`` (B,) as in :func:`group_mean`.
    """
    group, reward = group_of(scores, name)
    advantage, share = member_weights(scores, group, reward, options)
    if options.spare_positives:
        advantage = torch.where(of_positive(scores), advantage.clamp(min=0.0), advantage)
    loss, logs = surrogate(scores, group, advantage, options)
    lists = ~zero_variance(reward, group) if options.dynamic else None
    counted = scores.mask & group[..., None]
    total = group_mean(loss, counted, share, options.normalise, lists=lists, weight=weight)
    return total, advantage, {**group_statistics(scores, group, reward), **logs}


@torch.no_grad()
def group_statistics(scores: CandidateScores, group: Tensor, reward: Tensor) -> dict[str, Tensor]:
    """Return what to watch of the groups; a quantity that the batch does not define is left out.

    ``group/zero_variance``: share of groups whose rewards are all equal, from which nothing is
    learned. ``group/hit``: share with a logged positive among the sampled members.
    ``group/unique``: distinct SIDs among the members; ``group/valid``: members that are SIDs of the
    index. ``group/logp``: mean log π of the members, whose rise is the loss of entropy.
    """
    some = group.any(-1)
    if not some.any():
        return {}
    size = group.sum(-1).clamp(min=1)
    mean = torch.where(group, reward, 0.0).sum(-1) / size
    spread = torch.where(group, (reward - mean[:, None]).square(), 0.0).sum(-1) / size
    sampled = group if scores.expert is None else group & ~scores.expert
    repeats = same_sid(scores) & group[:, None]
    earlier = repeats.tril(diagonal=-1).any(-1)
    stats = {
        "group/zero_variance": zero_variance(reward, group)[some].float().mean(),
        "group/reward_mean": mean[some].mean(),
        "group/reward_std": spread[some].sqrt().mean(),
        "group/hit": (sampled & of_positive(scores)).any(-1)[some].float().mean(),
        "group/unique": 1.0 - earlier[group].float().mean(),
        "group/logp": sum_logp(scores.logp, scores.mask)[group].mean(),
    }
    if scores.valid is not None:
        stats["group/valid"] = scores.valid[group].float().mean()
    return stats


def same_sid(scores: CandidateScores) -> Tensor:
    """Return (B, C, C) bool: two candidates have the same tokens."""
    return (scores.tokens[:, :, None] == scores.tokens[:, None]).all(-1)


def of_positive(scores: CandidateScores) -> Tensor:
    """Return (B, C) bool: the candidate has the SID of a logged positive, the positives included.

    Sampling with replacement may write a positive's SID twice; the flag is on one of them.
    """
    return (same_sid(scores) & scores.is_positive[:, None]).any(-1)


def grpo(
    name: str,
) -> Callable[[CandidateScores, AlignConfig], tuple[Tensor, dict[str, Tensor]]]:
    """Return the contrast of ``grpo, drgrpo, dapo, gspo`` or ``minionerec``: one surrogate, its
    options from :data:`~sidar.config.GRPO_DEFAULTS` where ``align.grpo`` says nothing.
    """

    def contrast(scores: CandidateScores, cfg: AlignConfig) -> tuple[Tensor, dict[str, Tensor]]:
        options = resolved_grpo(name, cfg.grpo, cfg.eggrpo)
        loss, _, logs = group_loss(scores, options, name)
        return loss, logs

    return contrast
