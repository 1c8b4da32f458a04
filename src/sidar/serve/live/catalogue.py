"""A catalogue with changed rows: what has not changed is not copied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from sidar.types import CATALOGUE_SCHEMA, Catalogue, Json

#: Changed rows beside those of the table; more than this, and a quarter of the table, go into it.
_BESIDE = 1024


class LiveCatalogue(Catalogue):
    """``base`` with changed rows and new ones behind its own; ``alive`` (N,) bool of all.

    Its table is joined when a column is asked for as a whole.
    """

    _base: Catalogue
    _changed: Mapping[int, Json]
    _new: Mapping[str, int]

    def __init__(self, base: Catalogue, changed: Mapping[int, Json], alive: np.ndarray) -> None:
        # a frozen value: it is filled here and nowhere else
        self.__dict__.update(lineage=base.lineage, alive=alive, _base=base, _changed=changed)
        new = {item["item_id"]: row for row, item in changed.items() if row >= len(base)}
        self.__dict__["_new"] = new

    @classmethod
    def of(cls, before: Catalogue, items: Mapping[int, Json]) -> LiveCatalogue:
        """Return ``before`` with the fields of ``items`` by row; new rows follow its last one."""
        # as a column would give them back: an integer price is a float, a date has its zone
        table = pa.Table.from_pylist(list(items.values()), schema=CATALOGUE_SCHEMA)
        written = dict(zip(items, table.to_pylist(), strict=True))
        base, changed = before, written
        if isinstance(before, LiveCatalogue):
            many = len(before._changed) > max(_BESIDE, len(before._base) // 4)
            base = Catalogue(before.table, before.lineage) if many else before._base
            changed = written if many else {**before._changed, **written}
        alive = np.ones(max(len(before), 1 + max(items, default=-1)), bool)
        alive[: len(before)] = before.alive
        alive[list(items)] = [bool(item["alive"]) for item in items.values()]
        return cls(base, changed, alive)

    def __len__(self) -> int:
        return len(self.alive)

    @cached_property
    def table(self) -> pa.Table:
        """The whole table; stretches that did not change are those of the base."""
        whole = self._base.table.replace_schema_metadata(None)
        parts, done = [], 0
        rows = sorted(self._changed)
        table = pa.Table.from_pylist([self._changed[row] for row in rows], schema=CATALOGUE_SCHEMA)
        for place, row in enumerate(rows):
            start = min(row, len(self._base))
            parts += [whole.slice(done, start - done), table.slice(place, 1)]
            done = min(row + 1, len(self._base))
        parts.append(whole.slice(done))
        joined = pa.concat_tables([part.cast(CATALOGUE_SCHEMA) for part in parts if len(part)])
        return joined.combine_chunks().replace_schema_metadata(self._base.table.schema.metadata)

    @cached_property
    def item_ids(self) -> np.ndarray:
        """(N,) object array of item ids in row order."""
        return np.concatenate([self._base.item_ids, np.asarray(list(self._new), dtype=object)])

    def row(self, item_id: str) -> int:
        row = self._new.get(item_id)
        return self._base.row(item_id) if row is None else row

    def rows(self, item_ids: Iterable[str]) -> np.ndarray:
        names = list(item_ids)
        rows = self._base.rows(names)
        for place in np.flatnonzero(rows < 0).tolist():
            rows[place] = self._new.get(names[place], -1)
        return rows

    def item(self, row: int) -> dict[str, Any]:
        changed = self._changed.get(int(row))
        return self._base.item(row) if changed is None else dict(changed)

    def fields(self, row: int, names: Sequence[str]) -> list[Any]:
        changed = self._changed.get(int(row))
        if changed is None:
            return self._base.fields(row, names)
        return [changed[name] for name in names]
