"""The history of a request: rows of the items that the catalogue has, and a note on the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sidar.types import Catalogue


@dataclass(frozen=True)
class History:
    """Rows of the ids that are known, the ids that are not, and a note about those."""

    rows: tuple[int, ...] = ()
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, catalogue: Catalogue, item_ids: Sequence[str]) -> History:
        """Read the ids of a request, oldest first."""
        if not item_ids:
            return cls()
        rows = catalogue.rows(item_ids)
        known = tuple(int(row) for row in rows if row >= 0)
        ignored = tuple(item_id for item_id, row in zip(item_ids, rows, strict=True) if row < 0)
        if not ignored:
            return cls(known)
        note = (
            f"{len(ignored)} history ids are not in the catalogue and were left out: "
            f"{', '.join(ignored[:5])}"
        )
        return cls(known, ignored, (note,))
