"""Look into a bundle's catalogue: columns for a filter line, and the tree of its Semantic IDs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidar.filters import FilterError, facet
from sidar.filters.columns import ATTRIBUTES
from sidar.index import PrefixIndex
from sidar.serve.browse.views import (
    BrowseRequest,
    BrowseView,
    Bucket,
    ColumnView,
    ItemCard,
    ShelfView,
)
from sidar.serve.filtering import Allowed, FilterIndex
from sidar.serve.request import RequestError
from sidar.serve.trace import Codes, PrefixStats, sid_text
from sidar.types import Catalogue, SemanticIds

#: Items that are read to say what the columns hold.
SAMPLE = 5_000
#: Attributes that are listed, those of the most items first.
MOST_ATTRIBUTES = 200
#: Different values of a column among which those with a text in them are looked for.
MOST_VALUES = 100_000
#: Words of a text that titles are held against.
MOST_WORDS = 8
_KINDS = {bool: "booleans", int: "numbers", float: "numbers", str: "text"}


@dataclass(frozen=True)
class Browser:
    """Answers :class:`~sidar.serve.browse.views.BrowseRequest`; another state of the catalogue is
    another one of these.
    """

    index: PrefixIndex
    sids: SemanticIds
    catalogue: Catalogue
    stats: PrefixStats
    filters: FilterIndex

    def view(self, request: BrowseRequest, allowed: Allowed | None) -> BrowseView:
        """Return what is asked for, of the ``allowed`` items; ``RequestError`` where there is no
        such column or prefix.
        """
        rows = self.catalogue.alive if allowed is None else allowed.rows
        if request.view == "columns":
            return BrowseView(columns=self.columns)
        if request.view == "values":
            return self._values(request, rows)
        if request.view == "items":
            return BrowseView(items=self._items(request, rows))
        if request.view == "shelf":
            return BrowseView(shelf=self._shelf(request, rows))
        return BrowseView()

    # ------------------------------------------------------------------ columns

    @cached_property
    def columns(self) -> tuple[ColumnView, ...]:
        """The columns that a filter may name, as a sample of the live items shows them."""
        live = np.flatnonzero(self.catalogue.alive)
        places = np.unique(np.linspace(0, max(len(live) - 1, 0), SAMPLE).astype(np.int64))
        names = self.filters.masks.columns.names
        table = self.catalogue.table.select([*names, "attributes"])
        sample = table.take(pa.array(live[places[: len(live)]]))
        views = [_column(key, sample.column(key).to_pylist()) for key in names]
        held: dict[str, list[Any]] = {}
        for raw in sample.column("attributes").to_pylist():
            for name, value in (json.loads(raw) if raw else {}).items():
                held.setdefault(name, []).append(value)
        attributes = [
            _column(ATTRIBUTES + name, values, of=len(sample)) for name, values in held.items()
        ]
        attributes.sort(key=lambda column: (-column.coverage, column.key))
        return (*(view for view in views if view.values), *attributes[:MOST_ATTRIBUTES])

    def _values(self, request: BrowseRequest, rows: np.ndarray) -> BrowseView:
        try:
            counts = facet(self.filters.masks.columns.column(request.key), rows, MOST_VALUES)
        except FilterError as error:
            raise RequestError(f"key: {error}") from None
        text = request.text.casefold()
        counts = [count for count in counts if text in str(count.value).casefold()]
        # those that begin with the text first; among these the most frequent
        counts.sort(key=lambda count: not str(count.value).casefold().startswith(text))
        return BrowseView(values=tuple(counts[request.offset :][: request.k]))

    # ------------------------------------------------------------------ items

    def _items(self, request: BrowseRequest, rows: np.ndarray) -> tuple[ItemCard, ...]:
        """Items with the id ``text``, then those whose titles hold all words of it."""
        text = request.text.strip()
        by_id = [row for row in self.catalogue.rows([text]).tolist() if row >= 0 and rows[row]]
        held = rows.copy()
        titles = self.catalogue.table.column("title")
        for word in text.split()[:MOST_WORDS]:
            has = pc.match_substring(titles, word, ignore_case=True).combine_chunks()
            held &= pc.fill_null(has, False).to_numpy(zero_copy_only=False)
        held[by_id] = False
        most = request.k + len(by_id)
        found = [*by_id, *np.flatnonzero(held)[:most].tolist()] if text else []
        return tuple(self._card(row) for row in found[: request.k])

    def _card(self, row: int) -> ItemCard:
        item = self.catalogue.item(row)
        sid = self.sids.tuple_of(row)
        return ItemCard(
            item_id=item["item_id"],
            title=item["title"] or "",
            brand=item["brand"] or "",
            price=item["price"],
            image_url=item["image_url"] or "",
            category=tuple(item["category"] or ()),
            sid=sid,
            sid_text=sid_text(sid),
        )

    # ------------------------------------------------------------------ the tree

    def _shelf(self, request: BrowseRequest, rows: np.ndarray) -> ShelfView:
        codes, page = request.prefix, slice(request.offset, request.offset + request.k)
        prefix = self._locate(codes)
        depth, at_end = len(codes), len(codes) == self.index.n_levels
        children = [] if at_end else self._children(codes, prefix)
        sized = [(child, *self._size(child, rows)) for child in children]
        # what no allowed item lies below is no way to go
        sized = [part for part in sized if part[1]]
        if request.order == "size":
            sized.sort(key=lambda part: (-part[1], part[0]))
        here = self._here(depth, prefix, rows)
        path = [codes[:level] for level in range(depth + 1)]
        return ShelfView(
            text=sid_text(codes),
            depth=depth,
            n_levels=self.index.n_levels,
            codebook_size=0 if at_end else self.index.codebook_sizes[depth],
            items=self._size(codes, rows)[0],
            sids=self._size(codes, rows)[1],
            label=self.stats.below(codes)[2] if codes else "",
            path=tuple(self._bucket(part, *self._size(part, rows)) for part in path),
            buckets=tuple(self._bucket(*part) for part in sized[page]),
            n_buckets=len(sized),
            here=tuple(self._card(row) for row in here[page]),
            n_here=len(here),
        )

    def _locate(self, codes: Codes) -> int:
        """The number of a prefix; ``RequestError`` where nothing lives below it."""
        if not codes:
            return 0
        sizes = self.index.codebook_sizes
        fits = len(codes) <= len(sizes) and all(
            0 <= code < size for code, size in zip(codes, sizes, strict=False)
        )
        prefix = int(self.stats.locate([codes])[0]) if fits else -1
        if prefix < 0:
            raise RequestError(f"prefix: no Semantic ID begins with {sid_text(codes)}")
        return prefix

    def _children(self, codes: Codes, prefix: int) -> list[Codes]:
        start, end = self.index.child_start[len(codes)][prefix : prefix + 2]
        return [(*codes, int(code)) for code in self.index.codes[len(codes)][start:end]]

    def _size(self, codes: Codes, rows: np.ndarray) -> tuple[int, int]:
        """The allowed items below a prefix, and the Semantic IDs."""
        first, end = self.stats.sid_range(codes) if codes else (0, len(self.index))
        return int(rows[self._rows_between(first, end)].sum()), end - first

    def _rows_between(self, first: int, end: int) -> np.ndarray:
        start, stop = self.index.rows_start[first], self.index.rows_start[end]
        return self.index.rows[int(start) : int(stop)]

    def _here(self, depth: int, prefix: int, rows: np.ndarray) -> list[int]:
        """The allowed rows whose Semantic ID is this prefix."""
        number = int(self.index.sid_of[depth][prefix])
        if number < 0:
            return []
        inside = self._rows_between(number, number + 1)
        return [int(row) for row in inside[rows[inside]]]

    def _bucket(self, codes: Codes, items: int, sids: int) -> Bucket:
        label, share, example = self.stats.below(codes)[2:] if codes else ("", 0.0, "")
        depth, prefix = len(codes), self._locate(codes)
        is_sid = bool(self.index.sid_of[depth][prefix] >= 0)
        code = codes[-1] if codes else -1
        return Bucket(code, sid_text(codes), items, sids, label, share, example, is_sid)


def _column(key: str, values: Sequence[Any], of: int | None = None) -> ColumnView:
    """Describe the sampled ``values`` of a column; ``of``: the size of the sample where it is
    larger.
    """
    kinds: dict[str, None] = {}
    different: set[Any] = set()
    numbers: list[float] = []
    present = [value for value in values if value is not None]
    for value in present:
        parts = value if isinstance(value, list) else [value]
        if isinstance(value, list):
            kinds["lists"] = None
        for part in parts:
            kinds[_KINDS.get(type(part), "objects" if isinstance(part, dict) else "times")] = None
            different.add(json.dumps(part, default=str))
            if isinstance(part, (int, float)) and not isinstance(part, bool):
                numbers.append(float(part))
    return ColumnView(
        key=key,
        kinds=tuple(kinds),
        coverage=len(present) / max(of or len(values), 1),
        values=len(different),
        low=min(numbers, default=None),
        high=max(numbers, default=None),
    )
