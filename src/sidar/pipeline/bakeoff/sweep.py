"""Beams of several widths: CQ-SID's two protocols (:mod:`sidar.evaluate.hitrate`), and recall by width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sidar.evaluate.hitrate import TRUNCATED, equal_beam, semantic
from sidar.evaluate.hitrate import truncated as cut
from sidar.evaluate.metrics import score_ranking
from sidar.evaluate.truth import Truth
from sidar.types import Prompt, Scores

#: Widths of the beams; 1, 10 and 100 are the paper's, 5 and 50 half of two of them.
WIDTHS = (1, 5, 10, 25, 50, 100, 200)
#: Recall by width counts the first so many items, so that fuller SIDs have no longer lists.
CUT = 100
#: Queries (by hash) for the widest beam, which takes most of the time.
TRUNCATED_QUERIES = 128


def modes(prompts: Sequence[Prompt]) -> dict[str, list[Prompt]]:
    """The prompts as they are (``personalised``) and without history and profile (``semantic``), where that differs.

    Where a request has no query text, there is no semantic prompt of it, and none of the set.
    """
    bare = list(semantic(prompts))
    if bare == list(prompts):
        return {"semantic": bare}
    mute = any(not prompt.query.strip() for prompt in bare)
    return {"personalised": list(prompts)} | ({} if mute else {"semantic": bare})


def sweep(retriever: Any, index: Any, truth: Truth, prompts: Sequence[Prompt]) -> Scores:
    """``{"<what>@<width>": (Q,)}``: hit and number of items of each width's own beam, and recall of its first 100."""
    found: Scores = {}
    for width in (w for w in WIDTHS if w <= max(len(index), WIDTHS[0])):
        ranked = retriever.beams(prompts, width).sids
        rows, _ = index.expand_with_source(ranked, CUT)
        found |= equal_beam(truth, index, ranked, [width])
        found[f"recall@{width}"] = score_ranking(truth, rows, [f"recall@{CUT}"])[f"recall@{CUT}"]
    return found


def truncated(retriever: Any, index: Any, truth: Truth, prompts: Sequence[Prompt], beam: int) -> Scores:
    """Hit rate among the first 1,000 items of a beam of ``beam`` SIDs; how many SIDs they are from, how many items."""
    return cut(truth, index, retriever.beams(prompts, beam).sids)


def truncation_beam(index: Any) -> int:
    """A beam whose SIDs hold 1,000 items with room to spare, or all SIDs."""
    per_sid = max(len(index.rows), 1) / max(len(index), 1)
    return max(1, min(len(index), round(1.25 * TRUNCATED / per_sid)))


def width_at(recalls: Mapping[int, float], target: float) -> float:
    """The width at which recall reaches ``target``, linear in log₂ between two widths; inf where none does."""
    widths = sorted(recalls)
    for before, width in zip([None, *widths], widths, strict=False):
        if recalls[width] >= target:
            if before is None or recalls[width] == recalls[before]:
                return float(width)
            share = (target - recalls[before]) / (recalls[width] - recalls[before])
            return float(2 ** (np.log2(before) + share * (np.log2(width) - np.log2(before))))
    return float("inf")
