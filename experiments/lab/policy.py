"""The policy of the lab (a table of logits per prefix) and its training by the project's own
objectives.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from experiments.lab.world import CONFUSERS, GRADES, LEVELS, RELEVANT, Dials, World, make_world
from sidar.align import SimilarityWindow, objective
from sidar.config import AlignConfig
from sidar.types import CandidateScores

K1, K2, K3 = LEVELS
SECOND, THIRD = K1, K1 + K1 * K2  # where the rows of levels 2 and 3 begin in a table
SFT_RATE, ALIGN_RATE, ALIGN_STEPS = 0.5, 0.1, 100
#: β of both readings in the standard world; the objective's own default has become smaller since
#: (docs/findings.md).
BETA = 2.0
Weights = Literal["similarity", "shuffled", "constant"]


def step_logp(table: Tensor, leaves: Tensor) -> Tensor:
    """(W, C, 3) log-prob of each code of ``leaves`` (W, C) under ``table`` (W, D)."""
    first, parent, last = leaves // (K2 * K3), leaves // K3, leaves % K3
    rows = leaves.shape[1]
    two = SECOND + first[..., None] * K2 + torch.arange(K2)
    three = THIRD + parent[..., None] * K3 + torch.arange(K3)
    columns = torch.cat(
        [torch.arange(K1).expand(len(leaves), -1), two.flatten(1), three.flatten(1)], 1
    )
    # one gather, one backward
    one, two, three = table.gather(1, columns).split((K1, rows * K2, rows * K3), 1)
    one = one.log_softmax(-1).gather(1, first)
    two = two.view(-1, rows, K2).log_softmax(-1).gather(2, (parent % K2)[..., None])[..., 0]
    three = three.view(-1, rows, K3).log_softmax(-1).gather(2, last[..., None])[..., 0]
    return torch.stack([one, two, three], -1)


def leaf_logp(table: Tensor) -> Tensor:
    """(W, LEAVES) log π of every SID, valid or not."""
    one = table[:, :SECOND].log_softmax(-1)
    two = table[:, SECOND:THIRD].view(-1, K1, K2).log_softmax(-1)
    three = table[:, THIRD:].view(-1, K1, K2, K3).log_softmax(-1)
    return (one[:, :, None, None] + two[..., None] + three).flatten(1)


def as_scores(
    logp: Tensor,
    leaves: Tensor,
    tier: Tensor,
    star: Tensor,
    cosine: Tensor,
    reference: Tensor | None = None,
) -> CandidateScores:
    """Lists as the shipped objectives take them; steps are the three codes and an EOS that does not
    count.

    RDRW reads ``hidden``: states of two dimensions whose cosine with that of y_w* is ``cosine``.
    """
    codes = torch.stack([leaves // (K2 * K3), K1 + leaves // K3 % K2, K1 + K2 + leaves % K3], -1)
    end = torch.zeros_like(codes[..., :1])
    return CandidateScores(
        logp=torch.cat([logp, end.to(logp.dtype)], -1),
        mask=torch.cat([torch.ones_like(codes), end], -1).bool(),
        tokens=torch.cat([codes, end + sum(LEVELS)], -1),
        is_positive=tier > 0,
        is_negative=tier == 0,
        tier=tier,
        star=star,
        hidden=torch.stack([cosine, (1 - cosine**2).clamp(min=0).sqrt()], -1),
        ref_logp=None if reference is None else torch.cat([reference, end.to(logp.dtype)], -1),
    )


def seen_by_rdrw(cosine: Tensor, tier: Tensor, weights: Weights, g: torch.Generator) -> Tensor:
    """``cosine`` (W, C) as the control wants it: permuted among all negatives, or all alike (eq. 6
    then gives .75).
    """
    if weights == "similarity":
        return cosine
    changed, negative = cosine.clone(), tier == 0
    if weights == "constant":
        changed[negative] = 0.5
    else:
        values = cosine[negative]
        changed[negative] = values[torch.randperm(len(values), generator=g)]
    return changed


def train(
    world: World,
    table: Tensor,
    name: str,
    *,
    steps: int = ALIGN_STEPS,
    rate: float = ALIGN_RATE,
    schedule: Literal["cosine", "constant"] = "cosine",
    weights: Weights = "similarity",
    plain: bool = False,
    seed: int = 1,
    watch: Callable[[int, Tensor], None] | None = None,
    **switches: object,
) -> Tensor:
    """(W, D) the table after ``steps`` of one list per query under ``align.objective = name`` and
    ``switches``.

    RAD-DPO's β is :data:`BETA` where ``switches`` give none.

    A step is ``rate`` · gradient / its running root mean square, one scalar per seed.  So all
    methods move equally far whatever the scale of their loss, as under Adam; Adam's element-wise
    form would undo the softmax's own proportions in a table of logits.  ``plain`` takes rate ·
    gradient instead.  The lists drawn depend on ``seed`` alone, so that methods are paired step by
    step.
    """
    g, shuffles = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    if name.startswith("raddpo"):
        switches = {"beta": BETA} | switches
    cfg, method, window = (
        AlignConfig(objective=name, **switches),
        objective(name),
        SimilarityWindow(),
    )
    rows = torch.arange(len(table))
    leaves, start = world.leaves, table
    table = table.clone().requires_grad_()
    square = torch.zeros(world.seeds)
    for step in range(steps):
        if watch is not None:
            watch(step, table.detach())
        m = torch.randint(world.items.shape[1], (len(table),), generator=g)
        here, tier = leaves[rows, m], world.tier[rows, m]
        cosine = (
            seen_by_rdrw(world.cosine[rows, m], tier, weights, shuffles)
            if cfg.rdrw
            else world.cosine[rows, m]
        )
        reference = step_logp(start, here) if method.needs_reference else None
        scores = as_scores(
            step_logp(table, here), here, tier, world.star[rows, m], cosine, reference
        )
        (slope,) = torch.autograd.grad(method.parts(scores, cfg, window).total, table)
        slope = slope.view(world.seeds, -1)
        batch = len(table)  # the objectives take means over it
        square = 0.9 * square + 0.1 * (batch * slope.norm(dim=1)).square()
        per_query = square / (1 - 0.9 ** (step + 1)) / (len(table) // world.seeds)
        size = torch.ones_like(square) if plain else per_query.sqrt().clamp(min=1e-12)
        now = (
            rate * (0.5 + 0.5 * math.cos(math.pi * step / steps)) if schedule == "cosine" else rate
        )
        slope *= (now * batch / size)[:, None]
        table = table.detach().sub_(slope.view_as(table)).requires_grad_()
    if watch is not None:
        watch(steps, table.detach())
    return table.detach()


@functools.lru_cache(maxsize=4)
def prepared(dials: Dials, seeds: int, seed: int = 0) -> tuple[World, Tensor]:
    """A world and its SFT policy, trained on the positives of the same log."""
    world = make_world(dials, seeds, seed=seed)
    return world, train(world, world.base, "sft", steps=dials.sft_steps, rate=SFT_RATE, seed=2)


@torch.no_grad()
def quality(world: World, table: Tensor) -> dict[str, Tensor]:
    """(S,) per measure, the mean over a seed's queries; ranks are among the catalogue's SIDs
    (constrained decoding).

    ``ndcg@10``: graded truth. ``best.mrr``: of the most relevant item. ``recall@8``: of the 8
    relevant items. ``click.mrr``: expected over the next click under the same log, accidents
    included. ``invalid.mass``: exact; ``prefix.mass``: on pairs of codes that some product has.
    """
    logp = leaf_logp(table)
    legal = logp.masked_fill(~world.valid, float("-inf"))
    has_prefix = world.valid.view(-1, K1 * K2, K3).any(-1, keepdim=True).expand(-1, -1, K3)
    known = world.pool[:, : CONFUSERS.stop]
    rank = 1 + (legal[:, None] > legal.gather(1, known)[..., None]).sum(-1)  # (W, 14)
    relevant, gain = rank[:, RELEVANT], GRADES[RELEVANT].float()
    ideal = (gain.sort(descending=True).values / torch.arange(2, len(gain) + 2).log2()).sum()
    values = {
        "ndcg@10": (gain / (relevant + 1).log2() * (relevant <= 10)).sum(-1) / ideal,
        "best.mrr": 1 / rank[:, 0],
        "recall@8": (relevant <= 8).float().mean(-1),
        "click.mrr": (world.click_law[: CONFUSERS.stop] / rank).sum(-1),
        "invalid.mass": 1 - (logp.exp() * world.valid).sum(-1),
        "prefix.mass": (logp.exp() * has_prefix.flatten(1)).sum(-1),
    }
    return {name: value.view(world.seeds, -1).mean(1) for name, value in values.items()}
