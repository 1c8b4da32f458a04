"""What people ask of a catalogue beside searching it, as values: its columns, their values, the
tree of its Semantic IDs, items by words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from sidar.filters import FacetCount
from sidar.serve.request import SearchRequest

#: Parts of a prefix, and characters of a text, that a request may have.
MAX_PREFIX, MAX_TEXT = 64, 256


class BrowseRequest(SearchRequest):
    """A look at the catalogue: ``k`` entries from ``offset``, of the items that ``filter`` allows.

    It waits in the queue of searches, so that it sees the catalogue that they see, and is answered
    alone.
    """

    query: str = ""
    view: Literal["columns", "values", "facets", "shelf", "items"]
    key: str = Field("", max_length=MAX_TEXT)
    text: str = Field("", max_length=MAX_TEXT)
    prefix: tuple[int, ...] = Field((), max_length=MAX_PREFIX)
    order: Literal["code", "size"] = "code"
    offset: int = Field(0, ge=0)


@dataclass(frozen=True)
class ColumnView:
    """A column as a sample of the items shows it.

    ``kinds``: text, numbers, booleans, times, lists; ``coverage``: share of the items that have a
    value; ``values``: different ones in the sample; ``low`` and ``high`` of numbers.
    """

    key: str
    kinds: tuple[str, ...]
    coverage: float
    values: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ItemCard:
    """An item as a list shows it."""

    item_id: str
    title: str
    brand: str
    price: float | None
    image_url: str
    category: tuple[str, ...]
    sid: tuple[int, ...]
    sid_text: str


@dataclass(frozen=True)
class Bucket:
    """A prefix of the tree and what lies below it; ``is_sid``: it is a Semantic ID itself."""

    code: int
    text: str
    items: int
    sids: int
    label: str
    share: float
    example: str
    is_sid: bool = False


@dataclass(frozen=True)
class ShelfView:
    """A place in the tree of Semantic IDs.

    ``path``: the prefixes that lead to it, itself last; ``buckets`` of ``n_buckets``: what comes
    next; ``here`` of ``n_here``: items whose Semantic ID is this prefix.
    """

    text: str
    depth: int
    n_levels: int
    codebook_size: int  # codes of the next level; 0 at the last
    items: int
    sids: int
    label: str
    path: tuple[Bucket, ...]
    buckets: tuple[Bucket, ...]
    n_buckets: int
    here: tuple[ItemCard, ...]
    n_here: int


@dataclass(frozen=True)
class BrowseView:
    """What was asked for; the other parts are empty."""

    columns: tuple[ColumnView, ...] = ()
    values: tuple[FacetCount, ...] = ()
    items: tuple[ItemCard, ...] = ()
    shelf: ShelfView | None = None
