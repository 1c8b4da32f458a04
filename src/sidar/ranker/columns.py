"""The named features of a request and an item, and which of them each use of the ranker reads.

Everything that is counted is counted on the days before the request; a value that there is not is
NaN. The shares, logarithms and distances to the best candidate make values comparable between
queries, and between a log of five days and one of eight [ours].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

#: What a feature needs: nothing but the item and the log, or a model's beams, or the other
#: candidates of its request.
Needs = Literal["item", "beam", "list"]


@dataclass(frozen=True)
class Column:
    """One feature: its name, what it says, and what it needs."""

    name: str
    meaning: str
    needs: Needs = "item"
    #: Read from what was chosen for this very query: hidden in the copies that stand for queries
    #: that nobody has asked before.
    of_query: bool = False


_BEAM = (
    Column("logp", "log π of the item's SID; NaN where no beam reached it", "beam"),
    Column("logp_gap", "log π less that of the best SID in the beam", "beam"),
    Column("beam_place", "how many SIDs of the beam have a higher log π", "beam"),
)
_ITEM = (
    Column("share", "log of the item's share inside its SID, by the clicks of the days before"),
    Column("bm25", "BM25 of query and item; 0 where no word of the query occurs"),
    Column("bm25_gap", "BM25 less that of the best candidate", "list"),
    Column("cosine", "cosine of the vectors of query and item"),
    Column("cosine_gap", "cosine less that of the best candidate", "list"),
    Column("count", "log(1 + c), c the counts of the item for this query", of_query=True),
    Column("count_recent", "the same, halved for every day that a count is old", of_query=True),
    Column("count_share", "c over the counts of all items for this query", of_query=True),
    Column("query_count", "log(1 + n), n the counts of all items for this query", of_query=True),
    Column("prior", "log of the item's smoothed share of all clicks"),
    Column("item_age", "days since the item was created"),
    Column("last_chosen", "days since the item was last chosen for any query"),
    Column("price", "log of the item's price"),
    Column(
        "price_gap",
        "log price less the mean log price of what is chosen for this query",
        of_query=True,
    ),
    Column(
        "category_share",
        "share of what is chosen for this query in the item's category",
        of_query=True,
    ),
    Column("root_share", "the same of the category's first level", of_query=True),
    Column("history_length", "items in the user's history"),
    Column("history_item", "share of the history that is this item"),
    Column("history_brand", "share of the history that has the item's brand"),
    Column("history_category", "share of the history in the item's category"),
    Column("history_cosine", "cosine of the item and the mean vector of the history"),
    Column("history_price", "log price less the mean log price of the history"),
    Column("query_words", "words of the query"),
)


def all_columns(levels: int) -> tuple[Column, ...]:
    """Return every feature of a table with SIDs of ``levels`` levels (0 = without a model)."""
    steps = tuple(
        Column(f"logp_{level}", f"log π of the SID's code {level}, given those before", "beam")
        for level in range(1, levels + 1)
    )
    return (*_BEAM, *steps, *_ITEM) if levels else _ITEM


def columns_of(use: Literal["answer", "reward"], levels: int) -> tuple[Column, ...]:
    """Return the features that a use reads.

    The answer reads all. A reward reads what needs the item alone: its own log π would reward what
    the policy believes already, and the candidates of a reward are whatever was written.
    """
    found = all_columns(levels)
    return found if use == "answer" else tuple(one for one in found if one.needs == "item")


def names_of(columns: Sequence[Column]) -> tuple[str, ...]:
    """Return the names of ``columns``."""
    return tuple(column.name for column in columns)
