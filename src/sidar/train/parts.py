"""What the tasks of the alignment stage share: the frozen start, and lists mixed with item rows."""

from __future__ import annotations

import copy

from torch import Tensor

from sidar.align import multi_label_sft, take_rows
from sidar.lm.model import SidLM
from sidar.types import CandidateScores


def frozen_copy(model: SidLM) -> SidLM:
    """The model as it is now, without gradients: what a reference is."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def with_items(of_lists: Tensor | None, scores: CandidateScores, is_list: Tensor) -> Tensor:
    """Return () the loss of a batch: that of its lists and SFT of its item rows, by their shares.

    ``is_list`` (B,) bool says which rows are lists; ``of_lists`` is None where none is.
    """
    loss = scores.logp.new_zeros(()) if of_lists is None else of_lists * is_list.float().mean()
    if not is_list.all():
        rest = multi_label_sft(take_rows(scores, ~is_list))
        loss = loss + rest * (~is_list).float().mean()
    return loss
