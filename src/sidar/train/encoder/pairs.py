"""Pairs of a query and an item that answers it: what a dense encoder is fine-tuned on.

The same rows as SFT has (docs/evaluation.md): logged queries with what was clicked on training
days, and pseudo-queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from sidar.train.pseudo import ItemWords, Matches, pseudo_query


@dataclass(frozen=True)
class Pair:
    """A query, one row that answers it, and every row that is known to (sorted; ``row`` is among
    them).
    """

    query: str
    row: int
    positives: np.ndarray


class Pairs(Protocol):
    """A part of the mixture: the same (index, epoch) always gives the same pair."""

    def __len__(self) -> int: ...

    def pair(self, index: int, epoch: int) -> Pair: ...


class LogPairs:
    """Logged queries → one clicked item each, another one in every epoch.

    ``table``: SFT rows (``query``, ``positives``, best first). A request without text or without a
    live positive is left out and counted in ``dropped``. The item is drawn from the request's
    ``max_positives`` best live ones. Every item that the same text (case and white space aside) was
    answered with in any request of the table is a positive of the query, also those beyond
    ``max_positives``.
    """

    def __init__(
        self, table: pa.Table, alive: np.ndarray, seed: int, *, max_positives: int = 8
    ) -> None:
        self._seed, self._max_positives = seed, max_positives
        self._texts = [(text or "").strip() for text in table.column("query").to_pylist()]
        positives = table.column("positives").combine_chunks()
        counts = np.diff(positives.offsets.to_numpy())
        rows = positives.flatten().to_numpy().astype(np.int64)
        of = np.repeat(np.arange(table.num_rows), counts)
        has_text = np.fromiter((bool(text) for text in self._texts), bool, len(self._texts))
        keep = alive[rows] & has_text[of]
        rows, of = rows[keep], of[keep]
        self._requests = np.unique(of)
        self._rows = rows
        self._start = np.concatenate([np.searchsorted(of, self._requests), [len(of)]])
        numbers: dict[str, int] = {}
        keys = [
            numbers.setdefault(" ".join(text.casefold().split()), len(numbers))
            for text in self._texts
        ]
        self._text_of = np.asarray(keys, np.int64)
        answers = np.unique(np.stack([self._text_of[of], rows], axis=1), axis=0)
        self._answers = answers[:, 1]
        self._answer_start = np.searchsorted(answers[:, 0], np.arange(len(numbers) + 1))
        self.dropped = table.num_rows - len(self._requests)

    def __len__(self) -> int:
        return len(self._requests)

    def pair(self, index: int, epoch: int) -> Pair:
        request = int(self._requests[index])
        rows = self._rows[self._start[index] : self._start[index + 1]][: self._max_positives]
        row = int(rows[np.random.default_rng([self._seed, 5, request, epoch]).integers(len(rows))])
        text = self._text_of[request]
        known = self._answers[self._answer_start[text] : self._answer_start[text + 1]]
        return Pair(self._texts[request], row, known)


class PseudoPairs:
    """Pseudo-query → its item, worded anew in every epoch as in SFT; every item with all its words
    is a positive.
    """

    def __init__(self, words: Sequence[ItemWords], alive: np.ndarray, seed: int) -> None:
        self._words, self._seed = words, seed
        has_text = np.fromiter(
            (bool(w.title or w.category or w.brand) for w in words), bool, len(words)
        )
        self._rows = np.flatnonzero(alive & has_text)
        self._matches = Matches(words, self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def pair(self, index: int, epoch: int) -> Pair:
        row = int(self._rows[index])
        query = pseudo_query(self._words[row], np.random.default_rng([self._seed, 3, row, epoch]))
        return Pair(query, row, np.union1d(self._matches(query), [row]).astype(np.int64))


def hidden(pairs: Sequence[Pair]) -> np.ndarray:
    """(B, B) bool: item j of the batch answers query i as well and so is no negative; the diagonal
    is False.
    """
    rows = np.asarray([pair.row for pair in pairs])
    mask = np.stack([np.isin(rows, pair.positives) for pair in pairs])
    np.fill_diagonal(mask, False)
    return mask
