"""The row map of a compaction: where each row of the old catalogue is in the new one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.types import PathLike

FILE = "rowmap.parquet"
_META = b"sidar.rowmap"


@dataclass(frozen=True)
class RowMap:
    """``new`` (N_old,) int32: the new row of each old one, −1 where it is gone. It keeps order, so
    it is monotone.

    ``before`` and ``after`` are the lineages: an array of rows may be mapped only if it was made
    for ``before``.
    """

    new: np.ndarray
    before: str
    after: str

    @classmethod
    def keep(cls, kept: np.ndarray, before: str, after: str) -> RowMap:
        """The map that leaves out every row where ``kept`` (N_old,) is False."""
        new = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
        return cls(new, before, after)

    @property
    def old(self) -> np.ndarray:
        """(N_new,) int64 old row of each new one."""
        return np.flatnonzero(self.new >= 0)

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Rows of any shape in the new numbering, −1 for rows that are gone and for −1;
        ``ValueError`` names others.
        """
        rows = np.asarray(rows)
        if rows.size and (rows.max() >= len(self.new) or rows.min() < -1):
            wrong = rows[(rows >= len(self.new)) | (rows < -1)].flat[0]
            raise ValueError(
                f"row {wrong} is not of lineage {self.before}, which has {len(self.new)} rows"
            )
        return np.where(rows >= 0, self.new[rows], -1).astype(np.int32)

    def take(self, values: np.ndarray) -> np.ndarray:
        """What is stored per row (N_old, …), such as vectors or priors, in the new numbering
        (N_new, …).
        """
        if len(values) != len(self.new):
            raise ValueError(
                f"{len(values)} values do not fit lineage {self.before}, which has "
                f"{len(self.new)} rows"
            )
        return values[self.old]

    def save(self, folder: PathLike, item_ids: np.ndarray) -> None:
        """Write ``rowmap.parquet`` (item_id, old_row, new_row) into ``folder``; ``item_ids``
        (N_old,).
        """
        columns = {
            "item_id": pa.array(item_ids, pa.string()),
            "old_row": np.arange(len(self.new), dtype=np.int32),
            "new_row": self.new,
        }
        table = pa.table(columns).replace_schema_metadata(
            {_META: f"{self.before} {self.after}".encode()}
        )
        pq.write_table(table, Path(folder) / FILE)

    @classmethod
    def load(cls, folder: PathLike) -> RowMap:
        """Read what :meth:`save` wrote."""
        path = Path(folder) / FILE
        if not path.is_file():
            raise ValueError(f"{path} does not exist; it is written by `sidar sids compact`")
        table = pq.read_table(path)
        before, after = table.schema.metadata[_META].decode().split()
        return cls(table.column("new_row").to_numpy(), before, after)
