"""Multi-label supervised fine-tuning: every product that was clicked is a right answer.

    L_SFT = −(1/|Y_pos|) Σ_{y ∈ Y_pos} log π_θ(y|x)                           (RAD-DPO eq. 1) [seed]

summed over the tokens inside a positive and averaged over the prompt's positives, then over
prompts.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sidar.align.terms import full_precision, sum_logp
from sidar.types import CandidateScores


def multi_label_sft(
    scores: CandidateScores,
    positives: Literal["mean", "flat"] = "mean",
    which: Literal["all", "top"] = "all",
) -> Tensor:
    """() the loss of eq. 1 over a batch.

    ``mean`` is eq. 1.  ``flat`` counts each (prompt, positive) as an example of its own, so prompts
    with many positives weigh more.  ``which="top"`` keeps y_w* alone (the main reading of the
    ablation "w/o Multi-label SFT").

    When ``scores.eos_logp`` is given (IDs of one fixed length), each positive's log-prob gains the
    log-prob of EOS against the last level's codes, a training-only term [reconstruction]: at fixed
    length no other loss reaches the state that emits EOS, and RDRW compares exactly that state.
    With variable lengths EOS is an ordinary counted step.

    Where the candidates carry weights, each positive's term is multiplied by its own v_i (inverse
    propensity [known: Joachims, Swaminathan, Schnabel 2017]); the divisors stay the numbers of
    positives and prompts.
    """
    logp = sum_logp(scores.logp, scores.mask)  # (B, C)
    if scores.eos_logp is not None:
        logp = logp + full_precision(scores.eos_logp)
    if scores.weight is not None:
        logp = logp * scores.weight
    keep = scores.is_positive
    if which == "top":
        star = torch.zeros_like(keep)
        star[torch.arange(len(keep), device=keep.device), scores.star] = True
        keep = keep & star
    total = torch.where(keep, logp, 0.0)
    count = keep.sum(-1)
    if positives == "flat":
        return -total.sum() / count.sum().clamp(min=1)
    return -(total.sum(-1) / count.clamp(min=1)).sum() / max(len(count), 1)
