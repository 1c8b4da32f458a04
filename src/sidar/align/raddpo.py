"""RAD-DPO (arXiv 2602.23964): one positive against a list of negatives, with two guards for
Semantic IDs.

    r̂(x, y) = log π(y|x) / |y|,   d_j = r̂(x, y_w*) − r̂(x, y_j)
    printed (eq. 2, 7):  L_PL = −log σ(  β · log Σ_j w_j exp( d_j) )    [seed]
    softmax:             L_PL = −log σ( −β · log Σ_j w_j exp(−d_j) )    [reconstruction]

The printed sign measures the margin against the *easiest* negative; the lineage that the paper
cites (S-DPO, OneSearch) computes the other, which measures it against the *hardest* and under which
RDRW softens what the text says it softens.  Both are here; docs/methods/raddpo.md holds the
arithmetic.

TLGD (eq. 3–4) stops the gradient of a negative on the tokens that it shares with y_w*: forward
value unchanged. RDRW (eq. 5–6) gives the weights w_j, see :mod:`sidar.align.rdrw`; a weight that a
list gives a negative is a factor of its w_j, and one that it gives y_w* a factor of its L_PL.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sidar.align.rdrw import SimilarityWindow, shuffled, star_similarity
from sidar.align.terms import (
    full_precision,
    list_mean,
    masked_logsumexp,
    mean_logp,
    negative_weights,
    of_star,
    pair_mean,
    shared_prefix,
)
from sidar.config import OBJECTIVE_DEFAULTS, AlignConfig
from sidar.types import CandidateScores

Form = Literal["softmax", "printed"]


def truncate_gradient(logp: Tensor, shared: Tensor) -> Tensor:
    """TLGD, eq. 4: ``logp`` (B, C, S) with the gradient of each candidate's first ``shared`` (B, C)
    steps stopped.

    Detach, never multiply by 0: the reward must keep its value.
    """
    inside = torch.arange(logp.shape[-1], device=logp.device) < shared[..., None]
    return torch.where(inside, logp.detach(), logp)


def _log_weights(margins: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return torch.zeros_like(margins)
    return weights.clamp(min=torch.finfo(torch.float32).tiny).log()


#: β of each reading where ``align.beta`` gives none.
BETAS: dict[Form, float] = {
    "softmax": OBJECTIVE_DEFAULTS["raddpo"]["beta"],
    "printed": OBJECTIVE_DEFAULTS["raddpo-paper"]["beta"],
}


def plackett_luce(
    margins: Tensor,
    negatives: Tensor,
    weights: Tensor | None = None,
    *,
    beta: float,
    form: Form = "softmax",
    beta_inside: bool = False,
) -> Tensor:
    """(B,) L_PL of each list (eq. 2 / 7) from margins d_j (B, C), ``negatives`` (B, C) bool and
    weights w_j (B, C).

    ``beta_inside`` scales each margin before the sum instead of its logarithm (S-DPO's place for
    β); at one negative of weight 1 all four combinations coincide.  Rows without negatives hold a
    meaningless finite number: mask them.
    """
    inner, outer = (beta, 1.0) if beta_inside else (1.0, beta)
    log_w = _log_weights(margins, weights)
    if form == "printed":
        z = masked_logsumexp(log_w + inner * margins, negatives)
    else:
        z = -masked_logsumexp(log_w - inner * margins, negatives)
    return -F.logsigmoid(outer * z)


def pairwise(
    margins: Tensor, weights: Tensor | None = None, *, beta: float, form: Form, beta_inside: bool
) -> Tensor:
    """(B, C) the same contrast with each negative alone (ablation "w/o global contrast")
    [reconstruction].
    """
    log_w = _log_weights(margins, weights)
    inner, outer = (beta, 1.0) if beta_inside else (1.0, beta)
    z = inner * margins + (log_w if form == "printed" else -log_w)
    return -F.logsigmoid(outer * z)


def raddpo_contrast(
    scores: CandidateScores, cfg: AlignConfig, window: SimilarityWindow | None, *, form: Form
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_PL of a batch with its switches (``tlgd, rdrw*, lcp, contrast, beta, beta_inside``) and
    what to log of RDRW.

    Raises ``ValueError`` where ``rdrw`` compares states and the hidden states or the window are
    missing.
    """
    beta = BETAS[form] if cfg.beta is None else cfg.beta
    negatives = scores.is_negative
    logp = full_precision(scores.logp)
    reward_star = of_star(mean_logp(logp, scores.mask), scores.star)  # (B,)
    shared = shared_prefix(scores, cfg.lcp)  # (B, C)
    if cfg.tlgd:
        logp = truncate_gradient(logp, shared)
    margins = reward_star[:, None] - mean_logp(logp, scores.mask)  # (B, C), d_j

    logs: dict[str, Tensor] = {}
    weights = negative_weights(scores)  # (B, C) or None
    if cfg.rdrw and cfg.rdrw_weights == "constant":
        weights = torch.full_like(margins, cfg.rdrw_constant) * (
            1.0 if weights is None else weights
        )
        logs["rdrw/weight_mean"] = torch.tensor(cfg.rdrw_constant)
    elif cfg.rdrw:
        if window is None or scores.hidden is None:
            raise ValueError(
                "rdrw needs a SimilarityWindow and CandidateScores.hidden; "
                "score with an rdrw_state, or set align.rdrw: false"
            )
        sims = star_similarity(scores.hidden, scores.star)  # (B, C), no gradient
        found, logs = window.weigh(sims[negatives])  # anchors from before this batch
        if cfg.rdrw_weights == "shuffled":
            found = shuffled(found)
        given = 1.0 if weights is None else weights[negatives]
        weights = torch.ones_like(margins)
        weights[negatives] = (found * given).to(weights.dtype)
        if int(negatives.sum()) > 1:  # does the state say more than the prefix? near 1 it does not
            pairs = torch.stack([sims[negatives], shared[negatives].to(sims.dtype)])
            logs["rdrw/prefix_correlation"] = torch.corrcoef(pairs)[0, 1].nan_to_num()
            length = (scores.tokens >= 0).sum(-1)
            alike = (length == of_star(length, scores.star)[:, None])[negatives]
            # does it say more than the length? near 1 it does not
            if alike.any() and not alike.all():
                pairs = torch.stack([sims[negatives], alike.to(sims.dtype)])
                logs["rdrw/length_correlation"] = torch.corrcoef(pairs)[0, 1].nan_to_num()
        window.add(sims[negatives])

    if cfg.contrast == "pairwise":
        per_pair = pairwise(margins, weights, beta=beta, form=form, beta_inside=cfg.beta_inside)
        return pair_mean(per_pair, scores), logs
    per_list = plackett_luce(
        margins, negatives, weights, beta=beta, form=form, beta_inside=cfg.beta_inside
    )
    return list_mean(per_list, negatives.any(-1), scores), logs
