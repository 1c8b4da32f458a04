"""The few quantities that every preference objective is made of: sums, means, the star, shared
prefixes.

Letters: B prompts, C candidates, S scored steps (types.py).  Everything is computed in fp32 log
space.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sidar.types import CandidateScores


def full_precision(values: Tensor) -> Tensor:
    """fp32 at least: bf16 log-probs are never added up; fp64 stays, for tests."""
    return values if values.dtype == torch.float64 else values.float()


def sum_logp(logp: Tensor, mask: Tensor) -> Tensor:
    """(B, C) log π(y|x) = Σ_t log π(y_t|x, y_<t) over the steps that count."""
    return torch.where(mask, full_precision(logp), 0.0).sum(-1)


def mean_logp(logp: Tensor, mask: Tensor) -> Tensor:
    """(B, C) length-normalised reward r̂ = log π(y|x) / |y| (RAD-DPO eq. 2, SimPO)."""
    return sum_logp(logp, mask) / mask.sum(-1).clamp(min=1)


def of_star(values: Tensor, star: Tensor) -> Tensor:
    """(B, …) the entry of y_w* in ``values`` (B, C, …)."""
    return values[torch.arange(len(star), device=star.device), star]


def shared_prefix(scores: CandidateScores, against: Literal["star", "any_pos"] = "star") -> Tensor:
    """(B, C) int64 number of leading tokens that each candidate shares with a positive (k of
    RAD-DPO eq. 3).

    Tokens are compared as global ids (level and code) and the comparison stops at the shorter SID;
    EOS takes part where it counts.  ``star`` compares with y_w* alone, the only positive inside
    L_PL; ``any_pos`` takes the longest prefix over all positives [reconstruction: protects the
    prefixes of the other valid items too].
    """
    tokens, mask = scores.tokens, scores.mask
    if against == "star":
        same = tokens == of_star(tokens, scores.star)[:, None]
        same &= mask & of_star(mask, scores.star)[:, None]  # (B, C, S)
        return same.long().cumprod(-1).sum(-1)
    same = tokens[:, :, None] == tokens[:, None]
    same &= mask[:, :, None] & mask[:, None] & scores.is_positive[:, None, :, None]  # (B, C, C', S)
    return same.long().cumprod(-1).sum(-1).amax(-1)


def masked_logsumexp(values: Tensor, keep: Tensor) -> Tensor:
    """(B,) log Σ exp over the kept columns of ``values`` (B, C); 0, with zero gradient, where a row
    keeps none.

    A row without any kept column would be −∞ and turn gradients into NaN; lists without negatives
    reach this line.
    """
    some = keep.any(-1, keepdim=True)
    filled = torch.where(keep, values, torch.where(some, float("-inf"), 0.0))
    return torch.where(some[:, 0], filled.logsumexp(-1), 0.0)


def list_mean(per_list: Tensor, counts: Tensor, scores: CandidateScores) -> Tensor:
    """() mean over *all* lists of a batch; lists where ``counts`` (B,) is False contribute 0 to the
    contrast.

    Dividing by every list and not by those with negatives keeps "a list without negatives trains
    SFT only" true without changing the weight of its neighbours.  Where the candidates carry
    weights, each list counts with that of its y_w* (inverse propensity: the contrast exists because
    y_w* was clicked); the divisor stays the number of lists.
    """
    if scores.weight is not None:
        per_list = per_list * of_star(scores.weight, scores.star)
    return torch.where(counts, per_list, 0.0).sum() / max(len(per_list), 1)


def pair_mean(per_pair: Tensor, scores: CandidateScores) -> Tensor:
    """() mean over a list's pairs (y_w*, y_j), then over lists as :func:`list_mean`; ``per_pair``
    is (B, C).
    """
    count = scores.is_negative.sum(-1)
    inside = torch.where(scores.is_negative, per_pair, 0.0).sum(-1) / count.clamp(min=1)
    return list_mean(inside, count > 0, scores)


def negative_weights(scores: CandidateScores) -> Tensor | None:
    """(B, C) given weights of the negatives, 1 elsewhere; None where every one is 1."""
    if scores.weight is None:
        return None
    weights = torch.where(scores.is_negative, scores.weight, 1.0)
    return None if bool((weights == 1).all()) else weights


def refuse_negative_weights(scores: CandidateScores, name: str) -> None:
    """Raise ``ValueError`` where a negative carries a weight: only RAD-DPO's contrast has a place
    for it.
    """
    if negative_weights(scores) is not None:
        raise ValueError(
            f"align.objective {name!r} has no place for the weights of negatives; use raddpo or "
            "raddpo-paper, or lists without the column negative_weights"
        )


def take_rows(scores: CandidateScores, rows: Tensor) -> CandidateScores:
    """The scores of some prompts of a batch; ``rows`` is (B,) bool or indices."""
    kept = {name: value[rows] for name, value in vars(scores).items() if value is not None}
    return CandidateScores(**kept)
