"""Random lists for the alignment tests, in both shapes: CandidateScores and the
reference's dicts.
"""

import torch

from sidar.types import CandidateScores


def random_lists(
    seed, *, prompts=4, candidates=6, levels=3, variable=False, codes=3, dim=5, dtype=torch.float64
):
    """A batch with 1–3 positives each and the rest negatives or padding; the last prompt has no
    negatives.
    """
    g = torch.Generator().manual_seed(seed)
    steps = levels + 1
    shape = (prompts, candidates, steps)
    logp = -torch.rand(shape, generator=g, dtype=dtype) * 3 - 0.01
    ref = -torch.rand(shape, generator=g, dtype=dtype) * 3 - 0.01
    code = torch.randint(0, codes, shape, generator=g)
    lengths = torch.randint(1, levels + 1, (prompts, candidates), generator=g) if variable else None
    offsets = torch.arange(steps) * codes
    tokens, mask = code + offsets, torch.zeros(shape, dtype=torch.bool)
    for b in range(prompts):
        for c in range(candidates):
            n = levels if lengths is None else int(lengths[b, c])
            tokens[b, c, n] = levels * codes  # EOS
            tokens[b, c, n + 1 :] = -1
            mask[b, c, : n + (1 if variable else 0)] = True
    is_positive = torch.zeros(prompts, candidates, dtype=torch.bool)
    is_negative = torch.zeros_like(is_positive)
    for b in range(prompts):
        n_pos = int(torch.randint(1, 4, (1,), generator=g))
        n_neg = (
            0
            if b == prompts - 1
            else int(torch.randint(1, candidates - n_pos + 1, (1,), generator=g))
        )
        is_positive[b, :n_pos] = True
        is_negative[b, n_pos : n_pos + n_neg] = True
        pad = slice(n_pos + n_neg, None)
        mask[b, pad], tokens[b, pad], logp[b, pad], ref[b, pad] = False, -1, 0.0, 0.0
    logp, ref = logp * mask, ref * mask
    star = torch.tensor(
        [int(torch.randint(0, int(p.sum()), (1,), generator=g)) for p in is_positive]
    )
    tier = is_positive.long()
    tier[torch.arange(prompts), star] = 3
    return CandidateScores(
        logp=logp.requires_grad_(),
        mask=mask,
        tokens=tokens,
        is_positive=is_positive,
        is_negative=is_negative,
        tier=tier,
        star=star,
        hidden=torch.randn(prompts, candidates, dim, generator=g, dtype=dtype),
        ref_logp=ref,
    )


def weighted(scores, seed=0, *, positives=True, negatives=True):
    """The same batch (in place) with weights in .1–3 on the sides asked for, 1 elsewhere."""
    g = torch.Generator().manual_seed(1000 + seed)
    drawn = (
        torch.rand(scores.star.shape[0], scores.mask.shape[1], generator=g, dtype=torch.float64)
        * 2.9
        + 0.1
    )
    sides = (scores.is_positive & positives) | (scores.is_negative & negatives)
    scores.weight = torch.where(sides, drawn, 1.0)
    return scores


def as_dicts(scores):
    """The reference's view of a batch."""
    lists = []
    for b in range(len(scores.star)):
        counted = [scores.mask[b, c] for c in range(scores.mask.shape[1])]
        lists.append(
            {
                "star": int(scores.star[b]),
                "positives": scores.is_positive[b].nonzero()[:, 0].tolist(),
                "negatives": scores.is_negative[b].nonzero()[:, 0].tolist(),
                "tokens": [scores.tokens[b, c][m].tolist() for c, m in enumerate(counted)],
                "logp": [scores.logp[b, c][m].tolist() for c, m in enumerate(counted)],
                "ref": [scores.ref_logp[b, c][m].tolist() for c, m in enumerate(counted)],
                "state": scores.hidden[b].tolist(),
                **({} if scores.weight is None else {"weight": scores.weight[b].tolist()}),
            }
        )
    return lists


def one_list(rewards_negative, reward_star, *, levels=1):
    """One list with given length-normalised rewards: y_w* first, then the negatives; no shared
    tokens.
    """
    rewards = torch.tensor([[reward_star, *rewards_negative]], dtype=torch.float64)
    n = rewards.shape[1]
    logp = rewards[..., None].repeat(1, 1, levels + 1)
    mask = torch.ones(1, n, levels + 1, dtype=torch.bool)
    mask[..., levels] = False
    logp = (logp * mask).requires_grad_()
    positive = torch.zeros(1, n, dtype=torch.bool)
    positive[0, 0] = True
    return CandidateScores(
        logp=logp,
        mask=mask,
        tokens=torch.arange(n * (levels + 1)).view(1, n, levels + 1),
        is_positive=positive,
        is_negative=~positive,
        tier=positive.long(),
        star=torch.zeros(1, dtype=torch.long),
        hidden=torch.randn(1, n, 4, dtype=torch.float64),
        ref_logp=torch.zeros_like(logp),
    )
