"""Beams of several widths: hit rates at equal beam and under truncation (CQ-SID's two protocols), recall by width.

*Equal beam*: a beam of W SIDs is expanded to all of their items; a query is hit when a relevant item is among them.
*Truncation*: SIDs are expanded in beam order until 1,000 items are there; then IDs that hold more items gain nothing by
it. *semantic* prompts hold the query alone, *personalised* ones history and profile as well (methods.md §5.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sidar.evaluate.metrics import score_ranking
from sidar.evaluate.truth import Truth
from sidar.types import Prompt, Scores

#: Widths of the beams; 1, 10 and 100 are the paper's, 5 and 50 half of two of them.
WIDTHS = (1, 5, 10, 25, 50, 100, 200)
#: Recall by width counts the first so many items, so that wider SIDs have no longer lists.
CUT = 100
TRUNCATED = 1000
#: Queries (by hash) for the widest beam, which takes most of the time.
TRUNCATED_QUERIES = 128


def modes(prompts: Sequence[Prompt]) -> dict[str, list[Prompt]]:
    """The prompts as they are (``personalised``) and without history and profile (``semantic``), where that differs."""
    bare = [Prompt(prompt.query, task=prompt.task) for prompt in prompts]
    return {"semantic": bare} if bare == list(prompts) else {"personalised": list(prompts), "semantic": bare}


def sweep(retriever: Any, index: Any, truth: Truth, prompts: Sequence[Prompt]) -> Scores:
    """``{"<what>@<width>": (Q,)}``: hit, recall (first 100 items) and number of items of each width's beam."""
    from sidar.decode import to_hits

    found: Scores = {}
    for width in (w for w in WIDTHS if w <= max(len(index), WIDTHS[0])):
        beams = retriever.beams(prompts, width)
        most = largest_expansion(index, beams.sids)
        hits = to_hits(beams, index, max(most, CUT))
        found[f"hit@{width}"] = score_ranking(truth, hits.rows, [f"hit@{hits.rows.shape[1]}"]).popitem()[1]
        found[f"recall@{width}"] = score_ranking(truth, hits.rows, [f"recall@{CUT}"])[f"recall@{CUT}"]
        found[f"items@{width}"] = (hits.rows >= 0).sum(axis=1).astype(np.float64)
    return found


def truncated(retriever: Any, index: Any, truth: Truth, prompts: Sequence[Prompt], beam: int) -> Scores:
    """Hit rate among the first 1,000 items of a beam of ``beam`` SIDs; how many SIDs they are from, how many items."""
    from sidar.decode import to_hits

    beams = retriever.beams(prompts, beam)
    hits = to_hits(beams, index, TRUNCATED)
    _, source = index.expand_with_source(beams.sids, TRUNCATED)
    return {
        "hit": score_ranking(truth, hits.rows, [f"hit@{TRUNCATED}"])[f"hit@{TRUNCATED}"],
        "sids": (source.max(axis=1) + 1).astype(np.float64),
        "items": (hits.rows >= 0).sum(axis=1).astype(np.float64),
    }


def truncation_beam(index: Any) -> int:
    """A beam whose SIDs hold 1,000 items with room to spare, or all SIDs."""
    per_sid = max(len(index.rows), 1) / max(len(index), 1)
    return max(1, min(len(index), round(1.25 * TRUNCATED / per_sid)))


def largest_expansion(index: Any, sids: np.ndarray) -> int:
    """The most items that the SIDs of one query, (Q, W) numbers with −1 = none, hold together."""
    sizes = np.diff(index.rows_start)
    return int(np.where(sids >= 0, sizes[np.maximum(sids, 0)], 0).sum(axis=1).max(initial=1))


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
