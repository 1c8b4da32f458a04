"""The world of the lab: queries with known relevance on a small trie, and the preference lists that
a log gives.

Letters: S seeds, Q queries of a seed, W = S·Q tables (nothing is shared between queries), P items
of a query's pool, M lists of a query's log, C candidates of a list.  An SID is three codes and is
written as one leaf number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = (12, 8, 6)
LEAVES = math.prod(LEVELS)
#: The pool of a query: clicked relevant items, relevant ones that no click ever reaches, irrelevant
#: ones that are clicked by accident ("confusers"), and plainly irrelevant ones.
GRADES = torch.tensor([3, 2, 2, 1, 1, 2, 1, 1] + [0] * 24)
SEEN, RELEVANT, CONFUSERS = slice(0, 5), slice(0, 8), slice(8, 14)
POSITIVES = 2
#: Similarity of a pair (y_w, y_j): mean .5, sd .15 (quartiles at ±.1) shifted for pseudo-negatives
#: by the AUC dial.
SIM_MEAN, SIM_SD = 0.5, 0.15


@dataclass(frozen=True)
class Dials:
    """What an experiment may turn. ``share``: probability that two items of a query have the same
    first code.

    ``noise``: share of negatives that are relevant (pseudo-negatives).  ``informative``: share of
    the other negatives that are confusers, which the policy has learned to like.  ``accidental``:
    share of clicks that hit confusers. ``auc``: of the similarity that RDRW sees, pseudo-negative
    against true negative.  ``sft_steps``: how long the policy was trained before alignment; few
    steps leave headroom.
    """

    share: float = 0.35
    noise: float = 0.25
    informative: float = 0.5
    accidental: float = 0.3
    n: int = 3
    lists: int = 24
    auc: float = 0.7
    sft_steps: int = 40


@dataclass(frozen=True)
class World:
    """W queries: their truth, their log and the policy's table before any training."""

    seeds: int
    pool: Tensor  # (W, P) leaf of each item of the pool
    valid: Tensor  # (W, LEAVES) bool, the catalogue
    base: Tensor  # (W, D) logits, all levels in one row (policy.py)
    click_law: Tensor  # (P,) probability that a click falls on each item
    items: Tensor  # (W, M, C) place in the pool of each candidate: positives first, then negatives
    tier: Tensor  # (W, M, C) 3 order, 1 click, 0 negative
    star: Tensor  # (W, M) place of y_w* in its list
    cosine: Tensor  # (W, M, C) similarity to y_w*, which has 1

    @property
    def leaves(self) -> Tensor:
        """(W, M, C) the candidates' SIDs."""
        return self.pool[:, None].expand(-1, self.items.shape[1], -1).gather(2, self.items)

    @property
    def pseudo(self) -> Tensor:
        """(W, M, C) bool: negatives that are relevant."""
        return (self.tier == 0) & (GRADES[self.items] > 0)


def anchor_share(share: float) -> float:
    """Mass a of the favoured first code with a² + (1 − a)²/(K − 1) = ``share``; the other codes
    split the rest.
    """
    k = LEVELS[0]
    if not 1 / k <= share <= 0.85:
        raise ValueError(f"share must be between 1/{k} and .85, got {share}")
    return (1 + math.sqrt(max(0.0, 1 - k * (1 - share * (k - 1))))) / k


def draw_pool(tables: int, share: float, g: torch.Generator) -> Tensor:
    """(W, P) distinct leaves; two of them have the same first code with probability ``share``."""
    first = torch.full((LEVELS[0],), (1 - anchor_share(share)) / (LEVELS[0] - 1))
    first[0] = anchor_share(share)
    codes = torch.multinomial(first, tables * len(GRADES), replacement=True, generator=g).view(
        tables, -1
    )
    below = LEAVES // LEVELS[0]
    place = (
        torch.nn.functional.one_hot(codes, LEVELS[0]).cumsum(1).gather(2, codes[..., None])[..., 0]
        - 1
    )
    # leaves of each first code, shuffled
    order = torch.rand(tables, LEVELS[0], below, generator=g).argsort(-1)
    return codes * below + order.flatten(1).gather(1, codes * below + place)


def first_by_key(keep: Tensor, count: Tensor, g: torch.Generator) -> Tensor:
    """``count`` (…) random members of each row of ``keep`` (…, P), as a bool mask; fewer where it
    has fewer.
    """
    key = torch.rand(keep.shape, generator=g).masked_fill(~keep, 2.0)
    return keep & (key.argsort(-1).argsort(-1) < count[..., None])


def draw_lists(
    tables: int, dials: Dials, law: Tensor, g: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """(items, tier, star) of M lists per query; see :class:`World`."""
    shape = (tables, dials.lists, len(GRADES))
    gumbel = -torch.log(-torch.log(torch.rand(shape, generator=g).clamp(1e-9, 1 - 1e-7)))
    positives = (law.log() + gumbel).topk(POSITIVES).indices  # (W, M, 2), without replacement
    free = torch.ones(shape, dtype=torch.bool).scatter(2, positives, False)
    group = torch.zeros(3, len(GRADES), dtype=torch.bool)
    group[0, RELEVANT], group[1, CONFUSERS], group[2, CONFUSERS.stop :] = True, True, True

    wanted = torch.full(shape[:2], float(dials.n))
    chosen = torch.zeros(shape, dtype=torch.bool)
    for members, probability in zip(group, (dials.noise, dials.informative, 1.0), strict=True):
        count = torch.binomial(wanted, torch.full_like(wanted, probability), generator=g)
        got = first_by_key(free & members, count, g)
        chosen |= got
        wanted = wanted - got.sum(-1)
    mixed = chosen * (1 + torch.rand(shape, generator=g))  # any order among the chosen
    negatives = mixed.topk(dials.n).indices

    grade = GRADES[positives].float()
    # better items are bought more often
    order = torch.rand(grade.shape, generator=g) < 0.2 + 0.2 * grade
    tier = torch.where(order, 3, 1)
    star = (tier * 10 - torch.arange(POSITIVES)).argmax(-1)  # top tier, first listed
    return (
        torch.cat([positives, negatives], -1),
        torch.cat([tier, torch.zeros_like(negatives)], -1),
        star,
    )


def base_table(pool: Tensor, valid: Tensor, g: torch.Generator) -> Tensor:
    """(W, D) logits of softmax(noise + 2·valid + 1·relevant) over leaves: what is known before any
    click.
    """
    score = torch.randn(valid.shape, generator=g) + 2.0 * valid
    score = score.scatter_add(1, pool, (GRADES > 0).float().expand_as(pool))
    third = score.view(-1, *LEVELS)
    second = third.logsumexp(-1)
    return torch.cat([second.logsumexp(-1), second.flatten(1), third.flatten(1)], 1)


def similarities(
    items: Tensor, tier: Tensor, star: Tensor, auc: float, g: torch.Generator
) -> Tensor:
    """(W, M, C) cosines to y_w*, one value per (query, item), whose AUC for "is a pseudo-negative"
    is ``auc``.
    """
    if not 0.5 <= auc <= 1:
        raise ValueError(f"auc must be between .5 and 1, got {auc}")
    shift = (
        8.0
        if auc == 1
        else math.sqrt(2) * torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(auc)).item()
    )
    z = torch.randn(len(items), len(GRADES), generator=g) + shift * (GRADES > 0)
    z = z - shift * 0.25  # keep the bulk away from a cosine of 1
    cosine = (SIM_MEAN + SIM_SD * z).clamp(-1, 0.999)
    if auc == 1:
        cosine = torch.where(GRADES > 0, cosine.clamp(0.9, 0.999), cosine.clamp(max=0.89))
    listed = cosine[:, None].expand(-1, items.shape[1], -1).gather(2, items)
    return listed.scatter(2, star[..., None], 1.0)


def make_world(dials: Dials, seeds: int, queries: int = 4, seed: int = 0) -> World:
    """``seeds`` × ``queries`` independent queries; the same ``seed`` gives the same world for the
    same dials.
    """
    g = torch.Generator().manual_seed(seed)
    tables = seeds * queries
    law = torch.zeros(len(GRADES))
    law[SEEN] = (1 - dials.accidental) * GRADES[SEEN] / GRADES[SEEN].sum()
    law[CONFUSERS] = dials.accidental / len(law[CONFUSERS])
    pool = draw_pool(tables, dials.share, g)
    background = torch.rand(tables, LEAVES, generator=g) < 112 / (LEAVES - len(GRADES))
    valid = background.scatter(1, pool, True)
    base = base_table(pool, valid, g)
    items, tier, star = draw_lists(tables, dials, law, g)
    cosine = similarities(items, tier, star, dials.auc, g)
    return World(seeds, pool, valid, base, law, items, tier, star, cosine)
