"""What to watch while preferences are trained: the quantities in which the methods' claims and
harms show.

RAD-DPO's TLGD speaks of shared prefixes, Ren & Sutherland (docs/sources.md) of mass squeezed out of
everything but the argmax; both are visible here before any recall moves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sidar.align.terms import full_precision, mean_logp, of_star, shared_prefix, sum_logp
from sidar.types import CandidateScores

#: Below this ratio of gradient norms a run says that its contrast is inactive (docs/evaluation.md).
INACTIVE = 0.01
#: Shares of groups of rollouts above which a run says what is wrong, and what to do.
WATCHED = {
    "group/zero_variance": (
        0.9,
        "most groups have one reward for all and teach nothing; a finer reward, a larger "
        "align.rollouts.group or experts (eggrpo) make them differ",
    ),
    "expert/squeezed": (
        0.5,
        "in most groups only the expert's reward differs, so everything that the model writes is "
        "pushed down alike; a finer reward tells its SIDs apart",
    ),
}


@torch.no_grad()
def list_statistics(scores: CandidateScores) -> dict[str, Tensor]:
    """Scalars of a batch of lists; a quantity that the batch does not define is left out.

    ``pairs/shared1``, ``pairs/shared2``: share of pairs (y_w*, y_j) with at least 1 and 2 equal
    leading tokens (the paper: 34.6 % and 1.9 %).  ``logp/other_positives``: mean log π of Y_pos
    without y_w*, which must not fall. ``logp/star_first``: mean log π of y_w*'s first code, whose
    variance over steps is the "oscillation" claim. ``first/entropy`` (nats) and ``first/top``:
    spread and largest probability of the first code.
    """
    logp = sum_logp(scores.logp, scores.mask)
    reward = mean_logp(scores.logp, scores.mask)
    negatives = scores.is_negative
    others = scores.is_positive.clone()
    others[torch.arange(len(others), device=others.device), scores.star] = False
    stats = {
        "logp/star": of_star(logp, scores.star).mean(),
        "logp/star_first": of_star(full_precision(scores.logp), scores.star)[:, 0].mean(),
    }
    if others.any():
        stats["logp/other_positives"] = logp[others].mean()
    if negatives.any():
        shared = shared_prefix(scores)[negatives]
        margins = (of_star(reward, scores.star)[:, None] - reward)[negatives]
        stats |= {
            "pairs/count": negatives.sum().float(),
            "pairs/shared1": (shared >= 1).float().mean(),
            "pairs/shared2": (shared >= 2).float().mean(),
            "pairs/margin": margins.mean(),
            "pairs/accuracy": (margins > 0).float().mean(),
            "logp/negatives": logp[negatives].mean(),
        }
    if scores.first_logp is not None:
        first = scores.first_logp.float()
        stats["first/entropy"] = -(first.exp() * first).nan_to_num().sum(-1).mean()
        stats["first/top"] = first.amax(-1).exp().mean()
    return stats


def gradient_ratio(contrast: Tensor, sft: Tensor, logp: Tensor) -> Tensor:
    """‖∂L_PL/∂logp‖ / ‖∂L_SFT/∂logp‖ on the log-prob tensor (B, C, S): the contrast's share of what
    is learned.

    Taken on the log-probs because every objective is a function of them alone, so it costs no pass
    through the model and compares methods on one footing; :data:`INACTIVE` is the line below which
    the contrast does nothing.
    """
    ours, theirs = (
        torch.autograd.grad(part, logp, retain_graph=True, allow_unused=True)[0]
        for part in (contrast, sft)
    )
    zero = logp.new_zeros(())
    top = zero if ours is None else ours.norm()
    bottom = zero if theirs is None else theirs.norm()
    return top / bottom.clamp(min=1e-30)
