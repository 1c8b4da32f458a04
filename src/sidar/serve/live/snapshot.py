"""A retriever over a catalogue with changes: rows are appended, changed or retired.

Each is made from the one before and from what changed, so a change costs little beside the search
structures of SIDs, which are arrays in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sidar.baselines import Bm25, Dense, LiveBm25
from sidar.baselines.dense import VectorChannel
from sidar.index import PrefixIndex
from sidar.index.dual_view import Probed
from sidar.serve.bundle.encoder import Vectors
from sidar.serve.fused import FusedAnswer, changed_ranking
from sidar.serve.live.catalogue import LiveCatalogue
from sidar.serve.live.items import ItemState
from sidar.serve.live.vectors import LiveVectors
from sidar.serve.parts import CatalogueParts
from sidar.serve.retriever import Retriever
from sidar.types import Catalogue, Json, SemanticIds


@dataclass(frozen=True)
class Changes:
    """States of changed items by row: their rows before, or the next free ones."""

    states: Mapping[int, ItemState]
    n_items: int  # rows in all

    @classmethod
    def of(cls, before: Catalogue, states: Sequence[ItemState]) -> Changes:
        """Number ``states``, each of another item, in their order."""
        rows = before.rows([state.item_id for state in states]).astype(np.int64)
        fresh = rows < 0
        rows[fresh] = len(before) + np.arange(int(fresh.sum()))
        by_row = dict(zip(rows.tolist(), states, strict=True))
        return cls(by_row, len(before) + int(fresh.sum()))

    @property
    def items(self) -> dict[int, Json]:
        """The fields of the items, as the catalogue has them."""
        return {row: state.fields | {"alive": state.alive} for row, state in self.states.items()}

    @property
    def vectors(self) -> dict[int, np.ndarray]:
        """The vectors that were given anew."""
        return {
            row: state.vector
            for row, state in self.states.items()
            if state.encoded and state.vector is not None
        }

    def placed(self, before: np.ndarray, values: Mapping[int, Any], fill: float = 0) -> np.ndarray:
        """Return ``before`` (n, …) with a place for every row, and ``values`` in theirs."""
        out = np.full((self.n_items, *before.shape[1:]), fill, before.dtype)
        out[: len(before)] = before
        for row, value in values.items():
            out[row] = value
        return out


def changed(before: Retriever, states: Sequence[ItemState], version: int) -> Retriever:
    """Return ``before`` with changed items, as if its bundle had been made of them.

    Codebooks and weights stay; clicks of new items are 0.
    """
    changes = Changes.of(before.catalogue, states)
    catalogue = LiveCatalogue.of(before.catalogue, changes.items)
    columns = before.filters.masks.columns.changed(catalogue, changes.items)
    parts = replace(before.parts, catalogue=catalogue, version=version, columns=columns)
    sids = _sids(before, changes)
    if sids is not before.sids:
        parts = replace(parts, sids=sids, index=_index(before.index, sids, changes))
    vectors = _vectors(before.vectors, changes)
    parts = replace(parts, vectors=vectors)
    return before.over(replace(parts, fused=_fused(before, parts, changes)))


def _sids(before: Retriever, changes: Changes) -> SemanticIds:
    """The table with SIDs of new items, without those of retired ones; itself where none moves."""
    table, known = before.sids, len(before.catalogue)
    codes, lengths = {}, {}
    for row, state in changes.states.items():
        old = table.tuple_of(row) if row < known else ()
        sid = state.codes if state.encoded else old
        sid = sid if state.alive and sid is not None else ()
        if row >= known or sid != old:
            codes[row] = [*sid, *[-1] * (table.n_levels - len(sid))]
            lengths[row] = len(sid)
    if not codes:
        return table
    return replace(
        table,
        codes=changes.placed(table.codes, codes, fill=-1),
        lengths=changes.placed(table.lengths, lengths),
    )


def _index(before: PrefixIndex, sids: SemanticIds, changes: Changes) -> PrefixIndex:
    prior, counts = before.prior, before.counts
    return PrefixIndex.build(
        sids,
        None if prior is None else changes.placed(prior, {}),
        None if counts is None else changes.placed(counts, {}),
    )


def _vectors(before: Vectors | None, changes: Changes) -> Vectors | None:
    """The item vectors with those of new items; the same where none is new."""
    new = changes.vectors
    if before is None or before.items is None or not new:
        return before
    return replace(before, items=LiveVectors.of(before.items, changes.n_items, new))


def _fused(before: Retriever, parts: CatalogueParts, changes: Changes) -> FusedAnswer | None:
    """The fused answer over the catalogue of ``parts``."""
    fused, vectors = before.fused, parts.vectors
    if fused is None or vectors is None or vectors.items is None:
        return fused
    alive = parts.catalogue.alive
    same = len(alive) == len(before.catalogue) and np.array_equal(alive, before.catalogue.alive)
    dense, model = fused.dense, fused.model
    if not same or changes.vectors:
        dense = _dense(dense, vectors.items, alive)
    if not same:
        model = model.over(changes.placed(model.counts, {}), alive)
    lexical = _lexical(fused.lexical, alive, changes)
    ranked = fused.ranked
    if ranked is not None:
        index = None if parts.index is before.index else parts.index
        ranked = changed_ranking(ranked, model, index, alive, changes.items, lexical, vectors.items)
    return replace(fused, lexical=lexical, dense=dense, model=model, ranked=ranked)


def _lexical(before: Bm25 | LiveBm25, alive: np.ndarray, changes: Changes) -> Bm25 | LiveBm25:
    """The lexical channel with the words of the items that were given anew."""
    gone = [row for row, state in changes.states.items() if not state.alive]
    new = {
        row: state.fields for row, state in changes.states.items() if state.encoded and state.alive
    }
    if not gone and not new:
        return before
    live = before if isinstance(before, LiveBm25) else LiveBm25.of(before, len(alive))
    if live is not None:
        return live.changed(len(alive), gone, new)
    # an index that an older version wrote: it cannot score new items, and leaves them out
    assert isinstance(before, Bm25)
    kept = alive.copy()
    kept[list(new)] = False
    return before.renumbered(np.where(kept, np.arange(len(alive)), -1))


def _dense(before: VectorChannel, items: np.ndarray, alive: np.ndarray) -> VectorChannel:
    if isinstance(before, Probed):
        return replace(before, index=before.index.with_items(items, alive=alive))
    assert isinstance(before, Dense)
    return Dense(items, before.embedder, alive=alive)
