"""The slow twin of the prefix index: a set of tuples."""

from __future__ import annotations

import numpy as np

from sidar.types import SemanticIds


def semantic_ids(tuples: list[tuple[int, ...]], sizes: tuple[int, ...]) -> SemanticIds:
    """An SID table with one row per tuple; the empty tuple is an item without an SID."""
    codes = np.full((len(tuples), len(sizes)), -1, np.int32)
    for row, sid in enumerate(tuples):
        codes[row, : len(sid)] = sid
    return SemanticIds(codes, np.array([len(t) for t in tuples], np.int32), sizes)


class TupleIndex:
    """Answers from the definition, one tuple at a time."""

    def __init__(self, sids: SemanticIds, prior: np.ndarray | None = None) -> None:
        tuples = [sids.tuple_of(row) for row in range(len(sids))]
        self.sids = sorted(set(tuples) - {()})
        weight = np.zeros(len(sids)) if prior is None else prior
        self.items = {
            sid: sorted(
                (r for r, t in enumerate(tuples) if t == sid), key=lambda r: (-weight[r], r)
            )
            for sid in self.sids
        }

    def prefixes(self, depth: int) -> list[tuple[int, ...]]:
        return sorted({sid[:depth] for sid in self.sids if len(sid) >= depth})

    def children(self, prefix: tuple[int, ...]) -> list[int]:
        depth = len(prefix)
        return sorted(
            {sid[depth] for sid in self.sids if len(sid) > depth and sid[:depth] == prefix}
        )

    def expand(self, sids: list[tuple[int, ...]], k: int) -> list[int]:
        rows = [row for sid in sids for row in self.items.get(sid, [])][:k]
        return rows + [-1] * (k - len(rows))
