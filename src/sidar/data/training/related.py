"""Near-line history: of what a user clicked, what is of a category that the query is about.

S3 of CQ-SID's progressive training reads "near-line clicked SIDs of related categories" [source:
N1].  How categories and queries are related is not said; here the words of the catalogue vote
[reconstruction]: with n(w) products whose title or category has the word w, n(w, c) of them of
category c,

    score(c | q) = Σ_{w ∈ q} n(w, c) / n(w)

and the three categories of the highest score are related.  No log is read, so nothing of a
request's own outcome can leak into its prompt, and unseen queries have related categories too.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sidar.types import Catalogue

#: Depth of a category path that counts as one category, and how many are related to a query.
DEPTH, MOST = 2, 3
_WORD = re.compile(r"\w+", re.UNICODE)


class RelatedCategories:
    """Which products of a history are of a category that a query is about."""

    def __init__(self, catalogue: Catalogue, depth: int = DEPTH, most: int = MOST) -> None:
        self._most = most
        self._category = [tuple(path or ())[:depth] for path in catalogue.column("category")]
        self._votes: dict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
        for title, category in zip(catalogue.column("title"), self._category, strict=True):
            for word in _words(" ".join([title or "", *category])):
                self._votes[word][category] += 1
        self._known: dict[str, set[tuple[str, ...]]] = {}

    def of(self, query: str) -> set[tuple[str, ...]]:
        """Return the related categories; none where no product has a word of the query."""
        if query not in self._known:
            self._known[query] = self._related(query)
        return self._known[query]

    def _related(self, query: str) -> set[tuple[str, ...]]:
        scores: dict[tuple[str, ...], float] = defaultdict(float)
        for word in _words(query):
            votes = self._votes.get(word, Counter())
            for category, count in votes.items():
                scores[category] += count / votes.total()
        # ties by name, so that the order of the catalogue decides nothing
        best = sorted(scores, key=lambda category: (-scores[category], category))
        return set(best[: self._most])

    def keep(self, query: str, history: Sequence[int]) -> list[int]:
        """Return the rows of ``history`` that are related to ``query``, in their order.

        All of them where the query says nothing: it has no word that a product has.
        """
        related = self.of(query)
        if not related:
            return list(history)
        return [row for row in history if self._category[row] in related]


def keep_related(requests: Path, catalogue: Catalogue) -> None:
    """Cut every history in ``requests.parquet`` to what is related to its query, in place."""
    categories, tmp = RelatedCategories(catalogue), requests.with_suffix(".tmp")
    file = pq.ParquetFile(requests)
    with pq.ParquetWriter(tmp, file.schema_arrow) as writer:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            asked = zip(
                table.column("query").to_pylist(), table.column("history").to_pylist(), strict=True
            )
            kept = [categories.keep(query or "", history or []) for query, history in asked]
            place = table.column_names.index("history")
            column = pa.array(kept, table.schema.field(place).type)
            writer.write_table(table.set_column(place, table.schema.field(place), column))
    tmp.replace(requests)


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
