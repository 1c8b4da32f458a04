"""Catalogue columns as filters read them: typed values, made on first use and kept.

Every column is its distinct values and, per row, the number of its value; a condition is decided
once per distinct value. Keys of the JSON column ``attributes`` are columns like any other.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from sidar.filters.cache import ByteCache
from sidar.filters.condition import FilterError
from sidar.types import Catalogue, Json

#: Prefix of the keys of the JSON column.
ATTRIBUTES = "attributes."
#: Columns that are no keys: the JSON object itself, and the tombstones, which no search returns.
_HIDDEN = ("attributes", "alive")
#: Rows that are read to say which attributes there are, when a key is unknown.
_SAMPLE = 5_000
#: A column with this many new slots, and more than it was read with, is read anew.
_SPARE_SLOTS = 1024
#: Bytes of columns that are kept.
COLUMN_BYTES = 1 << 28


@dataclass(frozen=True)
class Elements:
    """The values of one type in a column: ``owner`` (m,) is the slot that each of ``values`` (m,)
    belongs to, None = slot i has value i.
    """

    values: np.ndarray
    owner: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values)

    def joined(self, more: Elements | None, first: int) -> Elements:
        """Return these and ``more``, whose slots are numbered from ``first``."""
        if more is None or self.owner is None or more.owner is None:
            return self
        return Elements(
            np.concatenate([self.values, more.values]),
            np.concatenate([self.owner, more.owner + first]),
        )

    def held(self, slots: np.ndarray) -> Elements | None:
        """Return the elements of those ``slots`` (U,) bool; None where there are none."""
        if self.owner is None:
            return self
        kept = slots[self.owner]
        if kept.all():
            return self
        return Elements(self.values[kept], self.owner[kept]) if kept.any() else None


@dataclass(frozen=True)
class Column:
    """U slots (distinct values, or one per row) and ``codes`` (N,) int32, the slot of each row;
    None = slot i is row i.

    A slot holds one value, several (a list) or none; ``null`` and ``empty`` (U,) bool. Values stand
    by type: ``numbers`` float64, ``texts`` str, ``booleans`` bool, ``times`` int64 µs UTC.
    ``paths``: per slot its list as it stands, None where it is no list. ``n_read``: the slots that
    it had when it was read as a whole.
    """

    key: str
    codes: np.ndarray | None
    null: np.ndarray
    empty: np.ndarray
    numbers: Elements | None = None
    texts: Elements | None = None
    booleans: Elements | None = None
    times: Elements | None = None
    paths: Sequence[tuple[Any, ...] | None] = ()
    n_read: int = 0

    @classmethod
    def of_values(cls, key: str, codes: np.ndarray, values: Sequence[Any]) -> Column:
        """Sort the distinct ``values`` (U,) of a column by type; an object is neither null nor
        matched by anything.
        """
        found: dict[type, tuple[list[int], list[Any]]] = {
            float: ([], []),
            str: ([], []),
            bool: ([], []),
        }
        paths: list[tuple[Any, ...] | None] = []
        null = np.zeros(len(values), bool)
        empty = np.zeros(len(values), bool)
        for slot, value in enumerate(values):
            is_list = isinstance(value, (list, tuple))
            parts = [part for part in value if part is not None] if is_list else [value]
            paths.append(tuple(parts) if is_list else None)
            null[slot] = value is None
            empty[slot] = value is None or value == "" or (is_list and not parts)
            # of equal elements one: an item counts once per value
            for part in dict.fromkeys(
                (type(p), p) for p in parts if isinstance(p, (str, int, float))
            ):
                kind = float if part[0] is int else part[0]
                found[kind][0].append(slot)
                found[kind][1].append(part[1])
        made = {
            kind: Elements(np.asarray(values, object if kind is str else kind), np.asarray(owner))
            for kind, (owner, values) in found.items()
            if owner
        }
        has_lists = any(path is not None for path in paths)
        return cls(
            key,
            codes,
            null,
            empty,
            numbers=made.get(float),
            texts=made.get(str),
            booleans=made.get(bool),
            paths=paths if has_lists else (),
            n_read=len(values),
        )

    def changed(self, n: int, values: Mapping[int, Any]) -> Column | None:
        """Return the column over ``n`` rows with other ``values`` by row, as if it were read anew;
        None where it must be.
        """
        rows = np.fromiter(values, np.int64)
        if self.codes is None:
            return self._placed(n, rows, list(values.values()))
        first = len(self.null)
        if first + len(rows) - self.n_read > max(_SPARE_SLOTS, self.n_read):
            return None
        codes = np.zeros(n, np.int32)
        codes[: len(self.codes)] = self.codes
        codes[rows] = first + np.arange(len(rows))
        new = Column.of_values(self.key, codes, list(values.values()))
        # a value that no row has any more must not count: it may have been the only number, say
        held = np.bincount(codes, minlength=first + len(rows)) > 0
        paths: Sequence[tuple[Any, ...] | None] = ()
        if self.paths or new.paths:
            paths = [*(self.paths or [None] * first), *(new.paths or [None] * len(rows))]
            if all(path is None or not here for path, here in zip(paths, held, strict=True)):
                paths = ()
        return replace(
            self,
            codes=codes,
            null=np.concatenate([self.null, new.null]),
            empty=np.concatenate([self.empty, new.empty]),
            numbers=_joined(self.numbers, new.numbers, first, held),
            texts=_joined(self.texts, new.texts, first, held),
            booleans=_joined(self.booleans, new.booleans, first, held),
            paths=paths,
        )

    def _placed(self, n: int, rows: np.ndarray, new: list[Any]) -> Column:
        """The column of one slot per row with ``new`` values at ``rows``."""
        null = np.ones(n, bool)
        null[: len(self.null)] = self.null
        null[rows] = [value is None for value in new]
        if self.times is not None:
            times = np.zeros(n, np.int64)
            times[: len(self.null)] = self.times.values
            times[rows] = [0 if value is None else to_microseconds(value) for value in new]
            return replace(self, null=null, empty=null, times=Elements(times))
        assert self.numbers is not None
        numbers = np.full(n, np.nan)
        numbers[: len(self.null)] = self.numbers.values
        numbers[rows] = [np.nan if value is None else value for value in new]
        null = np.isnan(numbers)
        return replace(self, null=null, empty=null, numbers=Elements(numbers))

    @property
    def nbytes(self) -> int:
        """About the memory that the column takes."""
        sizes = 0 if self.codes is None else self.codes.nbytes
        sizes += self.null.nbytes + self.empty.nbytes
        for part in (self.numbers, self.texts, self.booleans, self.times):
            if part is not None:
                each = 64 if part.values.dtype == object else part.values.itemsize
                sizes += len(part) * (each + 8)
        return sizes + 64 * len(self.paths)

    @property
    def kinds(self) -> list[str]:
        """What the column holds, in words."""
        parts = {
            "numbers": self.numbers,
            "text": self.texts,
            "booleans": self.booleans,
            "times": self.times,
        }
        return [kind for kind, part in parts.items() if part is not None]

    @cached_property
    def moments(self) -> Elements | None:
        """Times of the column: its own, or those of its texts that are ISO 8601 dates or times."""
        if self.times is not None or self.texts is None or self.texts.owner is None:
            return self.times
        owner, values = [], []
        for slot, value in zip(self.texts.owner, self.texts.values, strict=True):
            moment = microseconds(value)
            if moment is not None:
                owner.append(slot)
                values.append(moment)
        return Elements(np.asarray(values), np.asarray(owner)) if owner else None

    def rows(self, slots: np.ndarray) -> np.ndarray:
        """Return (N,) bool of ``slots`` (U,) bool."""
        return slots if self.codes is None else slots[self.codes]

    def where(
        self, elements: Elements | None, holds: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Return (U,) bool: slots of which any of ``elements`` satisfies ``holds`` (m,) bool."""
        slots = np.zeros(len(self.null), bool)
        if elements is None:
            return slots
        chosen = holds(elements.values)
        if elements.owner is None:
            return chosen & ~self.null
        slots[elements.owner[chosen]] = True
        return slots

    def needs(self, elements: Elements | None, wanted: str, advice: str) -> None:
        """Raise :class:`FilterError` where the column holds values and none of the ``wanted``
        type.
        """
        if elements is None and self.kinds:
            raise FilterError(
                f"{self.key} holds {' and '.join(self.kinds)}, not {wanted}; {advice}"
            )


class Columns:
    """The columns of a catalogue by key, read on first use; ``limit`` bytes of them are kept."""

    def __init__(self, catalogue: Catalogue, limit: int = COLUMN_BYTES) -> None:
        self.catalogue = catalogue
        self.names = [name for name in catalogue.table.column_names if name not in _HIDDEN]
        self._kept: ByteCache[Column] = ByteCache(limit)

    def __len__(self) -> int:
        return len(self.catalogue)

    def column(self, key: str) -> Column:
        """Return a column; :class:`FilterError` for an unknown key names what is near."""
        return self._kept.get(key, lambda: self._read(key), lambda column: column.nbytes)

    def changed(self, catalogue: Catalogue, items: Mapping[int, Json]) -> Columns:
        """Return the columns of ``catalogue``, which has the fields of ``items`` by row and is else
        the one of these columns: what was read is carried on.
        """
        other = Columns(catalogue, self._kept.limit)
        objects = {row: _object(item["attributes"]) for row, item in items.items()}
        for key, column in self._kept.items():
            name = str(key)
            if name in self.names:
                values = {row: item[name] for row, item in items.items()}
            else:
                asked = name.removeprefix(ATTRIBUTES)
                values = {row: of.get(asked) for row, of in objects.items()}
            after = column.changed(len(catalogue), values)
            # an attribute that no item has any more is unknown
            if after is not None and (name in self.names or after.kinds):
                other.keep(name, after)
        return other

    def keep(self, key: str, column: Column) -> None:
        """Keep a column that need not be read."""
        self._kept.get(key, lambda: column, lambda made: made.nbytes)

    def ids(self, item_ids: Iterable[str]) -> np.ndarray:
        """Return (N,) bool of the items called ``item_ids``; unknown ids are no items."""
        mask = np.zeros(len(self), bool)
        rows = self.catalogue.rows(item_ids)
        mask[rows[rows >= 0]] = True
        return mask

    @cached_property
    def attribute_names(self) -> list[str]:
        """Names of attributes, as far as a sample of the items shows them."""
        column = self.catalogue.table.column("attributes")
        places = np.unique(np.linspace(0, max(len(column) - 1, 0), _SAMPLE).astype(np.int64))
        names: set[str] = set()
        for raw in column.take(places[: len(column)]).to_pylist():
            names.update(json.loads(raw) if raw else ())
        return sorted(names)

    def _read(self, key: str) -> Column:
        if key in self.names:
            return _stored(key, self.catalogue.table.column(key).combine_chunks())
        if not key.startswith(ATTRIBUTES):
            raise self._unknown(key)
        codes, values = self._extract(key.removeprefix(ATTRIBUTES))
        if len(values) == 1:  # null alone: no item has it
            raise self._unknown(key)
        return Column.of_values(key, codes, values)

    def _extract(self, name: str) -> tuple[np.ndarray, list[Any]]:
        """Return (N,) codes and the distinct values of one attribute; the last value is null."""
        import duckdb

        items = self.catalogue.table.select(["attributes"])
        pointer = "/" + name.replace("~", "~0").replace("/", "~1")  # RFC 6901
        with duckdb.connect(":memory:", config={"threads": 1}) as connection:
            connection.register("items", items)
            query = "SELECT json_extract(attributes, ?)::VARCHAR AS value FROM items"
            found = connection.sql(query, params=[pointer]).to_arrow_table()
        codes, distinct = _coded(found.column("value").combine_chunks())
        return codes, [None if text is None else json.loads(text) for text in distinct]

    def _unknown(self, key: str) -> FilterError:
        attributes = [ATTRIBUTES + name for name in self.attribute_names]
        # a bundle keeps no texts, and catalogues of other shops no stock
        table = self.catalogue.table
        filled = [name for name in self.names if table.column(name).null_count < len(table)]
        known = [*filled, *attributes]
        near = difflib.get_close_matches(key, known, n=3)
        if not near:  # the name alone, without the prefix
            near = [name for name in attributes if name.removeprefix(ATTRIBUTES) == key]
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        if attributes:
            more = f" and attributes such as {', '.join(attributes[:3])}"
        else:
            more = "; this catalogue keeps no attributes (a bundle made before filters does not)"
        return FilterError(f"there is no {key!r}{hint} Columns are {', '.join(filled)}{more}")


def _object(raw: str | None) -> Json:
    """The JSON object in the column of attributes; empty where there is none."""
    found = json.loads(raw) if raw else {}
    return found if isinstance(found, dict) else {}


def _joined(
    before: Elements | None, new: Elements | None, first: int, held: np.ndarray
) -> Elements | None:
    """Elements of one type with ``new`` ones, whose slots are numbered from ``first``; those of
    slots that are not ``held`` (U,) bool go.
    """
    if before is None:
        if new is None or new.owner is None:
            return None
        before, new = Elements(new.values, new.owner + first), None
    return before.joined(new, first).held(held)


def microseconds(text: str) -> int | None:
    """Return µs since 1970 UTC of an ISO 8601 date or time (UTC where it names no zone); None for
    another text.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return to_microseconds(moment)


def to_microseconds(moment: datetime) -> int:
    """Return µs since 1970 UTC, in whole numbers; UTC where ``moment`` names no zone."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    delta = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _stored(key: str, array: pa.Array) -> Column:
    """Return a column of the catalogue's table."""
    if pa.types.is_floating(array.type):
        values = array.to_numpy(zero_copy_only=False)  # null is NaN
        null = np.isnan(values)
        return Column(key, None, null, null, numbers=Elements(values))
    if pa.types.is_timestamp(array.type):
        null = array.is_null().to_numpy(zero_copy_only=False)
        values = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        return Column(key, None, null, null, times=Elements(values))
    if pa.types.is_boolean(array.type):
        codes = array.cast(pa.int8()).fill_null(2).to_numpy(zero_copy_only=False).astype(np.int32)
        return Column.of_values(key, codes, [False, True, None])
    if pa.types.is_list(array.type):
        slots: dict[tuple[str, ...] | None, int] = {}
        lists = (None if value is None else tuple(value) for value in array.to_pylist())
        codes = np.fromiter((slots.setdefault(v, len(slots)) for v in lists), np.int32, len(array))
        return Column.of_values(key, codes, list(slots))
    return Column.of_values(key, *_coded(array))


def _coded(array: pa.Array) -> tuple[np.ndarray, list[Any]]:
    """Return (N,) int32 codes of a text column and its distinct values; the last is null."""
    encoded = array.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    codes = encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    return codes.astype(np.int32), [*values, None]
