"""Random groups of rollouts for the alignment tests, in both shapes: CandidateScores and the
reference's dicts.
"""

import torch
from lists_align import as_dicts, random_lists

from sidar.types import CandidateScores


def random_groups(seed, *, experts=0, off_policy=True, perturbations=4, **options):
    """A batch with 1–3 positives, some of which were written too, and other rollouts; codes repeat,
    so some SIDs are drawn twice. ``experts`` = positives that were put into the group.
    """
    scores = random_lists(seed, candidates=10, **options)
    g = torch.Generator().manual_seed(500 + seed)
    shape, dtype = scores.is_positive.shape, scores.logp.dtype
    written = scores.is_positive & (torch.rand(shape, generator=g) < 0.4)
    scores.rollout = scores.is_negative | written
    scores.is_negative = torch.zeros_like(scores.is_positive)
    scores.tier = scores.is_positive.long()
    if experts:
        order = scores.is_positive.long().cumsum(-1)
        scores.expert = scores.is_positive & (order <= experts)
        scores.rollout = scores.rollout | scores.expert
    else:
        scores.expert = torch.zeros_like(scores.is_positive)
    scored = scores.rollout | scores.is_positive
    levels = torch.randint(0, 4, shape, generator=g).to(dtype) / 3  # rewards that tie
    scores.reward = torch.where(scored, levels, 0.0)
    scores.valid = scores.is_positive | (torch.rand(shape, generator=g) < 0.8)
    if off_policy:
        shift = 0.6 * torch.rand(scores.logp.shape, generator=g, dtype=dtype) - 0.3
        scores.old_logp = (scores.logp.detach() + shift) * scores.mask
    scores.perturbation_reward = torch.rand((shape[0], perturbations), generator=g, dtype=dtype)
    scores.perturbation_reward[0, 0] = float("nan")
    return scores


def with_inclusion(scores, seed=0):
    """The same batch (in place) with inclusion weights in .05–1."""
    g = torch.Generator().manual_seed(900 + seed)
    drawn = torch.rand(scores.rollout.shape, generator=g, dtype=torch.float64) * 0.95 + 0.05
    scores.inclusion = torch.where(scores.rollout, drawn, 0.0)
    return scores


def as_groups(scores):
    """The reference's view of a batch."""
    lists = as_dicts(scores)
    for b, item in enumerate(lists):
        counted = [scores.mask[b, c] for c in range(scores.mask.shape[1])]
        item["group"] = scores.rollout[b].nonzero()[:, 0].tolist()
        item["reward"] = scores.reward[b].tolist()
        item["all_tokens"] = [tuple(t) for t in scores.tokens[b].tolist()]
        item["expert"] = [] if scores.expert is None else scores.expert[b].nonzero()[:, 0].tolist()
        item["valid"] = None if scores.valid is None else scores.valid[b].tolist()
        item["levels"] = scores.mask.shape[-1] - 1
        old = scores.logp.detach() if scores.old_logp is None else scores.old_logp
        item["old"] = [old[b, c][m].tolist() for c, m in enumerate(counted)]
        if scores.perturbation_reward is not None:
            item["foreign"] = [v for v in scores.perturbation_reward[b].tolist() if v == v]
        if scores.inclusion is not None:
            item["inclusion"] = scores.inclusion[b].tolist()
    return lists


def one_group(rewards, *, star_reward=1.0, star_written=False, perturbations=(), logp=None):
    """One prompt with one positive (its first candidate) and a group with given rewards; all SIDs
    differ, every SID has one code.
    """
    count = len(rewards) + 1
    group = torch.ones(1, count, dtype=torch.bool)
    group[0, 0] = star_written
    values = torch.full((count,), -2.0) if logp is None else torch.tensor(logp)
    steps = torch.stack([values, torch.zeros_like(values)], -1)[None].double()
    mask = torch.tensor([True, False]).expand(1, count, 2)
    positive = torch.zeros(1, count, dtype=torch.bool)
    positive[0, 0] = True
    return CandidateScores(
        logp=steps.requires_grad_(),
        mask=mask,
        tokens=torch.stack([torch.arange(count), torch.full((count,), count)], -1)[None],
        is_positive=positive,
        is_negative=torch.zeros_like(positive),
        tier=positive.long(),
        star=torch.zeros(1, dtype=torch.long),
        reward=torch.tensor([[star_reward, *rewards]], dtype=torch.float64),
        rollout=group,
        ref_logp=torch.full_like(steps, -2.0).detach(),
        perturbation_reward=torch.tensor([list(perturbations)], dtype=torch.float64),
    )
