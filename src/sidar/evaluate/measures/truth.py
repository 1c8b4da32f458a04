"""Graded truth as arrays: qrels once per set, then every system of that set is looked up in a few
passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sidar.types import Catalogue, Qrels

#: Judged entries per block of the lookup table: blocks × judged columns of float32 stay inside a
#: core's cache.
_BLOCK = 1024


@dataclass(frozen=True)
class Truth:
    """Judged things of Q queries in CSR form; *things* are catalogue rows or SID numbers.

    ``starts`` (Q+1,) int64 · ``things`` (nnz,) int64, unique inside a query, in 0..size−1 ·
    ``grades`` (nnz,) float32. ``relevant``: the grade from which a thing counts for binary
    measures; 0 = any positive grade does. A judged item that the catalogue lacks keeps a number of
    its own ≥ the catalogue's size: nobody can return it, and it still counts in every denominator.
    """

    starts: np.ndarray
    things: np.ndarray
    grades: np.ndarray
    size: int
    relevant: float = 1.0

    @classmethod
    def build(
        cls,
        qrels: Qrels,
        query_ids: Sequence[str],
        row_of: Callable[[str], int],
        n_rows: int,
        relevant: float = 1.0,
    ) -> Truth:
        """Truth of ``query_ids`` in that order; ``row_of`` gives −1 for an item that the catalogue
        lacks.

        Raises ``ValueError`` naming query and item where a grade is not finite.
        """
        starts = np.zeros(len(query_ids) + 1, dtype=np.int64)
        things: list[int] = []
        grades: list[float] = []
        unknown: dict[str, int] = {}
        for q, query_id in enumerate(query_ids):
            judged = qrels.get(query_id, {})
            starts[q + 1] = starts[q] + len(judged)
            for item_id, grade in judged.items():
                row = row_of(item_id)
                things.append(
                    row if row >= 0 else n_rows + unknown.setdefault(item_id, len(unknown))
                )
                grades.append(grade)
        values = np.asarray(grades, dtype=np.float32)
        if not np.isfinite(values).all():
            at = int(np.flatnonzero(~np.isfinite(values))[0])
            query_id = query_ids[int(np.searchsorted(starts, at, side="right")) - 1]
            item_id = list(qrels[query_id])[at - int(starts[query_ids.index(query_id)])]
            raise ValueError(
                f"qrels: query {query_id!r}, item {item_id!r} has grade {grades[at]}; grades are "
                "numbers"
            )
        return cls(
            starts, np.asarray(things, dtype=np.int64), values, n_rows + len(unknown), relevant
        )

    @classmethod
    def of_catalogue(
        cls, qrels: Qrels, query_ids: Sequence[str], catalogue: Catalogue, relevant: float
    ) -> Truth:
        """Truth over the rows of ``catalogue``."""
        known = {item_id: row for row, item_id in enumerate(catalogue.item_ids)}
        return cls.build(
            qrels, query_ids, lambda item_id: known.get(item_id, -1), len(catalogue), relevant
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def query(self) -> np.ndarray:
        """(nnz,) int64: the query of each judged thing."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def is_relevant(self, grades: np.ndarray) -> np.ndarray:
        """Bool array: which grades count for binary measures."""
        if self.relevant > 0:
            return np.asarray(grades >= np.float32(self.relevant))
        return np.asarray(grades > 0)

    @cached_property
    def n_relevant(self) -> np.ndarray:
        """(Q,) int64: relevant things of each query."""
        return np.bincount(self.query[self.is_relevant(self.grades)], minlength=len(self))

    def ideal_dcg(self, cutoff: int | None) -> np.ndarray:
        """(Q,) float64: the DCG of the judged things in the best order, cut at ``cutoff`` (None =
        uncut).
        """
        order = np.lexsort((-self.grades, self.query))
        rank = np.arange(len(order)) - self.starts[self.query[order]]  # 0-based, inside the query
        gain = np.maximum(self.grades[order], 0).astype(np.float64) / np.log2(rank + 2)
        if cutoff is not None:
            gain[rank >= cutoff] = 0
        return np.bincount(self.query[order], weights=gain, minlength=len(self))

    def grades_of(self, ranked: np.ndarray) -> np.ndarray:
        """(Q, k) float32 grades of ``ranked`` (Q, k) things; 0 for unjudged ones and for −1 (none).

        Blocks of queries share one small dense table (query × judged things of the block), which
        two gathers read: 100k × 100 lookups take about 0.15 s on one core, a binary search 0.9 s.
        """
        if ranked.shape[0] != len(self):
            raise ValueError(
                f"ranking of {ranked.shape[0]} queries against the truth of {len(self)}"
            )
        if ranked.size and int(ranked.max()) >= self.size:
            raise ValueError(
                f"ranking names thing {int(ranked.max())}, but there are only {self.size}"
            )
        out = np.zeros(ranked.shape, dtype=np.float32)
        # 0 = judged for no query of the block; last = "none"
        column = np.zeros(self.size + 1, dtype=np.int32)
        q = 0
        while q < len(self):
            end = int(np.searchsorted(self.starts, self.starts[q] + _BLOCK, side="right")) - 1
            end = min(max(end, q + 1), q + 256, len(self))
            span = slice(int(self.starts[q]), int(self.starts[end]))
            things = self.things[span]
            column[things] = np.arange(1, len(things) + 1, dtype=np.int32)
            table = np.zeros((end - q, len(things) + 1), dtype=np.float32)
            table[self.query[span] - q, column[things]] = self.grades[span]
            out[q:end] = np.take_along_axis(table, column[ranked[q:end]], axis=1)
            column[things] = 0
            q = end
        return out

    def sums_of(self, ranked: np.ndarray, number_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Per ranked group: the sum of its members' positive grades and the number of its relevant
        members.

        ``ranked`` (Q, G) group numbers, −1 none; ``number_of`` (size of the catalogue,) the group
        of each thing. Returns (Q, G) float64 and (Q, G) int64.
        """
        group = self._groups(number_of)
        n_groups = int(max(group.max(initial=-1), ranked.max(initial=-1))) + 1
        key, inverse = np.unique(self.query * n_groups + group, return_inverse=True)
        gain = np.bincount(inverse, weights=np.maximum(self.grades, 0), minlength=len(key))
        count = np.bincount(inverse, weights=self.is_relevant(self.grades), minlength=len(key))
        if not len(key):
            return np.zeros(ranked.shape), np.zeros(ranked.shape, dtype=np.int64)
        wanted = np.where(ranked >= 0, np.arange(len(self))[:, None] * n_groups + ranked, -1)
        at = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
        found = key[at] == wanted
        return np.where(found, gain[at], 0.0), np.where(found, count[at], 0).astype(np.int64)

    def project(self, number_of: np.ndarray) -> Truth:
        """The same truth over groups (SIDs): a group's grade is the highest of its members
        (docs/evaluation.md).

        A judged item without an SID (−1) becomes a group of its own that no SID ranking can reach.
        """
        group = self._groups(number_of)
        size = int(max(group.max(initial=-1), number_of.max(initial=-1))) + 1
        key = self.query * size + group
        order = np.lexsort((-self.grades, key))
        first = np.ones(len(order), dtype=bool)
        first[1:] = key[order][1:] != key[order][:-1]
        keep = order[first]  # sorted by query, then group; highest grade of each
        counts = np.bincount(self.query[keep], minlength=len(self))
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Truth(starts, group[keep], self.grades[keep], size, self.relevant)

    def restrict(self, members: np.ndarray) -> Truth:
        """Truth over the things where ``members`` (size of the catalogue,) is True; the others
        count as unjudged.
        """
        inside = np.zeros(self.size, dtype=bool)
        inside[: len(members)] = members
        keep = inside[self.things]
        counts = np.bincount(self.query[keep], minlength=len(self))
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return replace(self, starts=starts, things=self.things[keep], grades=self.grades[keep])

    def _groups(self, number_of: np.ndarray) -> np.ndarray:
        """(nnz,) int64 group of each judged thing; strangers get numbers past every real group."""
        beyond = int(number_of.max(initial=-1)) + 1
        numbers = np.full(self.size, -1, dtype=np.int64)
        numbers[: len(number_of)] = number_of
        group = numbers[self.things]
        return np.where(group >= 0, group, beyond + self.things)
