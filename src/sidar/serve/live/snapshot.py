"""A retriever over a bundle's catalogue with changes: rows are appended, changed or retired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from sidar.baselines import Bm25, Dense
from sidar.baselines.dense import VectorChannel
from sidar.index import PrefixIndex
from sidar.index.dual_view import Probed
from sidar.serve.bundle.encoder import Vectors
from sidar.serve.fused import FusedAnswer, ranked_answer
from sidar.serve.live.items import ItemState
from sidar.serve.parts import CatalogueParts
from sidar.serve.retriever import Retriever
from sidar.types import CATALOGUE_SCHEMA, Catalogue, SemanticIds


@dataclass(frozen=True)
class Changes:
    """States of changed items with the row of each: its row in the bundle, or the next free one."""

    states: tuple[ItemState, ...]
    rows: np.ndarray  # (n,) int64
    n_items: int  # rows in all

    @classmethod
    def of(cls, base: Catalogue, states: Sequence[ItemState]) -> Changes:
        """Number ``states``, which are in the order of their first change."""
        rows = base.rows([state.item_id for state in states]).astype(np.int64)
        fresh = rows < 0
        rows[fresh] = len(base) + np.arange(int(fresh.sum()))
        return cls(tuple(states), rows, len(base) + int(fresh.sum()))

    def placed(self, base: np.ndarray, values: Mapping[int, Any], fill: float = 0) -> np.ndarray:
        """Return ``base`` (N, …) with a place for every row, and ``values`` by row in theirs."""
        out = np.full((self.n_items, *base.shape[1:]), fill, base.dtype)
        out[: len(base)] = base
        for row, value in values.items():
            out[row] = value
        return out


def changed(base: Retriever, states: Sequence[ItemState], version: int) -> Retriever:
    """Return ``base`` with the last states of changed items, as if its bundle had been made so.

    Codebooks, weights, and the statistics of the lexical channel stay; clicks of new items are 0.
    """
    changes = Changes.of(base.catalogue, states)
    catalogue = _catalogue(base.catalogue, changes)
    sids = _sids(base.sids, changes)
    prior, counts = base.index.prior, base.index.counts
    index = PrefixIndex.build(
        sids,
        None if prior is None else changes.placed(prior, {}),
        None if counts is None else changes.placed(counts, {}),
    )
    vectors = _vectors(base.vectors, changes)
    fused = _fused(base.fused, index, catalogue, vectors, changes)
    return base.over(CatalogueParts(index, sids, catalogue, vectors, fused, version))


def _catalogue(base: Catalogue, changes: Changes) -> Catalogue:
    """The table with its changed rows exchanged; what stands between them is not copied."""
    rows = [state.fields | {"alive": state.alive} for state in changes.states]
    table = pa.Table.from_pylist(rows, schema=CATALOGUE_SCHEMA)
    whole = base.table.replace_schema_metadata(None)
    parts, done = [], 0
    for place in np.argsort(changes.rows):
        row = int(changes.rows[place])
        if row < len(base):
            parts.append(whole.slice(done, row - done))
            done = row + 1
        elif done < len(base):
            parts.append(whole.slice(done))
            done = len(base)
        parts.append(table.slice(int(place), 1))
    parts.append(whole.slice(done))
    joined = pa.concat_tables([part.cast(CATALOGUE_SCHEMA) for part in parts if len(part)])
    return Catalogue(joined.replace_schema_metadata(base.table.schema.metadata), base.lineage)


def _sids(base: SemanticIds, changes: Changes) -> SemanticIds:
    """The table with SIDs of new items, without those of retired ones."""
    codes, lengths = {}, {}
    for state, row in zip(changes.states, changes.rows.tolist(), strict=True):
        sid = state.codes if state.encoded else base.tuple_of(row)
        sid = sid if state.alive and sid is not None else ()
        codes[row] = [*sid, *[-1] * (base.n_levels - len(sid))]
        lengths[row] = len(sid)
    return replace(
        base,
        codes=changes.placed(base.codes, codes, fill=-1),
        lengths=changes.placed(base.lengths, lengths),
    )


def _vectors(base: Vectors | None, changes: Changes) -> Vectors | None:
    """The item vectors with those of new items; the bundle's own where none is new."""
    if base is None or base.items is None:
        return base
    new = {
        row: state.vector
        for state, row in zip(changes.states, changes.rows.tolist(), strict=True)
        if state.encoded and state.vector is not None
    }
    if not new:
        return base
    return replace(base, items=changes.placed(base.items, new))


def _fused(
    base: FusedAnswer | None,
    index: PrefixIndex,
    catalogue: Catalogue,
    vectors: Vectors | None,
    changes: Changes,
) -> FusedAnswer | None:
    if base is None or vectors is None or vectors.items is None:
        return base
    items = vectors.items
    lexical = _lexical(base.lexical, catalogue, changes)
    model = base.model.over(changes.placed(base.model.counts, {}), catalogue.alive)
    ranked = None
    if base.ranked is not None:
        ranked = ranked_answer(base.ranked.ranker, model, index, catalogue, lexical, items)
    return replace(
        base,
        lexical=lexical,
        dense=_dense(base.dense, items, catalogue.alive),
        model=model,
        ranked=ranked,
    )


def _lexical(base: Bm25, catalogue: Catalogue, changes: Changes) -> Bm25:
    """The lexical channel with the words of the items that were given anew."""
    live = base.renumbered(np.where(catalogue.alive, np.arange(len(catalogue)), -1))
    states = zip(changes.states, changes.rows.tolist(), strict=True)
    new = [row for state, row in states if state.encoded and state.alive]
    return live.with_items(base, catalogue, np.sort(np.array(new, np.int64)))


def _dense(base: VectorChannel, items: np.ndarray, alive: np.ndarray) -> VectorChannel:
    if isinstance(base, Probed):
        return replace(base, index=base.index.with_items(items, alive=alive))
    assert isinstance(base, Dense)
    return Dense(items, base.embedder, alive=alive)
