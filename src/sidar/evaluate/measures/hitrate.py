"""Hit rates of ranked SIDs in both of CQ-SID's protocols, and its two kinds of prompts
(docs/methods/cqsid.md).

At *equal beam* a query is hit when a relevant item is among **all** items of the beam's SIDs: a
tokenizer with fuller SIDs then shows more items for the same beam. *Truncation* takes that
advantage away: the beam's SIDs are expanded in the order of the beam, inside an SID by the prior
(training clicks), and cut at 1,000 items. The paper expands "by efficiency score", of which we have
no formula; this order is a [reconstruction].

A *personalised* prompt holds query, history and profile, a *semantic* one the query alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from sidar.evaluate.measures.metrics import score_ranking
from sidar.evaluate.measures.truth import Truth
from sidar.types import EvalSet, Prompt, Scores

TRUNCATED = 1000


class Expands(Protocol):
    """What hit rates need of a :class:`sidar.index.PrefixIndex`."""

    @property
    def rows_start(self) -> np.ndarray: ...

    def expand_with_source(self, sid_numbers: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(Q, k) rows in the order of the SIDs, and which SID each is from."""


def equal_beam(truth: Truth, index: Expands, ranked: np.ndarray, beams: Sequence[int]) -> Scores:
    """``{"hit@<beam>", "recall@<beam>", "items@<beam>": (Q,)}`` of SIDs ``ranked`` (Q, W), best
    first, −1 = none.

    hit: 1 where any relevant item is among all items of the first ``beam`` SIDs; recall: the share
    of the relevant items that is; items: how many there are. A beam wider than W counts as W.
    """
    found: Scores = {}
    for beam in beams:
        first = ranked[:, :beam]
        rows, _ = index.expand_with_source(first, largest_expansion(index, first))
        k = rows.shape[1]
        scores = score_ranking(truth, rows, [f"hit@{k}", f"recall@{k}"])
        found |= {f"hit@{beam}": scores[f"hit@{k}"], f"recall@{beam}": scores[f"recall@{k}"]}
        found[f"items@{beam}"] = (rows >= 0).sum(axis=1).astype(np.float64)
    return found


def truncated(truth: Truth, index: Expands, ranked: np.ndarray, most: int = TRUNCATED) -> Scores:
    """``{"hit", "recall", "sids", "items": (Q,)}`` of the first ``most`` items of ``ranked`` (Q,
    W).

    ``sids``: how many SIDs they are from, the beam that would have been enough; where ``items`` is
    below ``most``, the beam held no more.
    """
    rows, source = index.expand_with_source(ranked, most)
    scores = score_ranking(truth, rows, [f"hit@{most}", f"recall@{most}"])
    return {
        "hit": scores[f"hit@{most}"],
        "recall": scores[f"recall@{most}"],
        "sids": (source.max(axis=1, initial=-1) + 1).astype(np.float64),
        "items": (rows >= 0).sum(axis=1).astype(np.float64),
    }


def largest_expansion(index: Expands, ranked: np.ndarray) -> int:
    """The most items that the SIDs of one query, (Q, W) numbers with −1 = none, hold together; at
    least 1.
    """
    sizes = np.diff(index.rows_start)
    return int(np.where(ranked >= 0, sizes[np.maximum(ranked, 0)], 0).sum(axis=1).max(initial=1))


def semantic(prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """The same prompts without history and profile."""
    return tuple(replace(prompt, history=(), profile="") for prompt in prompts)


def in_mode(eval_sets: Sequence[EvalSet], mode: str) -> list[EvalSet]:
    """``eval_sets`` with the prompts that ``evaluate.prompts`` names: as they are, or the query
    alone.

    Raises ``ValueError`` naming the set and query that would be left without any word.
    """
    if mode == "personalised":
        return list(eval_sets)
    if mode != "semantic":
        raise ValueError(f"evaluate.prompts is {mode!r}; want personalised or semantic")
    for each in eval_sets:
        mute = [
            q
            for q, prompt in zip(each.query_ids, each.prompts, strict=True)
            if not prompt.query.strip()
        ]
        if mute:
            raise ValueError(
                f"evaluate.prompts: semantic leaves query {mute[0]!r} of {each.name} empty, as "
                f"{len(mute)} of its {len(each)} have a history and no text; set evaluate.prompts "
                "to personalised"
            )
    return [replace(each, prompts=semantic(each.prompts)) for each in eval_sets]
