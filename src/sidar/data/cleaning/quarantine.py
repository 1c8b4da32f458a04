"""Rows that cannot be used: counted by reason, kept with their place, and tolerated
up to a limit.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sidar.data.duck import Duck
from sidar.data.readers.source import Source
from sidar.types import Json

#: Columns of ``quarantine.parquet``. ``place`` is the 1-based record of the file (a CSV's header is
#: record 1).
QUARANTINE_SCHEMA = pa.schema(
    [("file", pa.string()), ("place", pa.int64()), ("reason", pa.string()), ("raw", pa.string())]
)

#: Characters of a refused value or record that a message shows.
_SHOWN = 120


class Stopped(ValueError):
    """Reading stopped; ``quarantine`` holds the rows that were refused until then."""

    def __init__(self, message: str, quarantine: Quarantine) -> None:
        super().__init__(message)
        self.quarantine = quarantine


@dataclass
class Quarantine:
    """What reading one source left out.

    ``malformed`` counts toward the ``bad_rows`` limit. ``unknown`` (events of items that the
    catalogue lacks) and ``ignored`` (actions that no mapping names) do not: they are normal in real
    logs and are reported apart. ``unread`` says which values of rows that were used could not be
    read, a sentence for each column. ``parts`` are Parquet files with :data:`QUARANTINE_SCHEMA`
    when the rows were streamed; ``rows`` holds the rest.
    """

    source: str
    total: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)  # malformed rows per file
    rows: pa.Table = field(default_factory=QUARANTINE_SCHEMA.empty_table)
    parts: list[Path] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """Malformed rows of all reasons."""
        return sum(self.malformed.values())

    def refuse(self, source: Source) -> None:
        """Count and keep the records that the reader itself could not split into columns."""
        for (file, reason), count in source.rejected.items():
            self.malformed[reason] += count
            self.files[file] += count
            self.total += count
        kept = [vars(reject) for reject in source.rejects]
        self.rows = pa.concat_tables(
            [self.rows, pa.Table.from_pylist(kept, schema=QUARANTINE_SCHEMA)]
        )

    def example(self) -> str:
        """Return the first refused row in words, e.g. ``events.csv, record 2, ts 'n/a'``; "" where
        there is none.
        """
        row = self._first()
        if row is None:
            return ""
        where = f"{Path(row['file']).name}, record {row['place']:,}"
        fields = json.loads(row["raw"]) if row["raw"].startswith("{") else None
        if not isinstance(fields, dict):
            return f"{where}, {row['reason']}: {row['raw'].strip()[:_SHOWN]!r}"
        column = next((word for word in row["reason"].split() if word in fields), None)
        if column is not None and fields[column] is not None:
            return f"{where}, {column} {str(fields[column])[:_SHOWN]!r}"
        return f"{where}, {row['reason']}: {row['raw'][:_SHOWN]}"

    def _first(self) -> Json | None:
        """The refused row that comes first by file and record."""
        tables = [self.rows.slice(0, 1).to_pylist()]
        for part in self.parts:
            batch = next(pq.ParquetFile(part).iter_batches(batch_size=1), None)
            tables.append([] if batch is None else batch.to_pylist())
        return min(
            (row for rows in tables for row in rows),
            key=lambda row: (row["file"], row["place"]),
            default=None,
        )

    def check(self, limit: float, option: str) -> None:
        """Stop when more than ``limit`` of all rows are malformed; ``option`` is the config key
        that sets it.
        """
        if self.bad > limit * max(self.total, 1):
            reasons = ", ".join(
                f"{reason} ({count:,})" for reason, count in self.malformed.most_common(3)
            )
            worst, count = self.files.most_common(1)[0] if self.files else (self.source, self.bad)
            example = self.example()
            raise Stopped(
                f"{self.source}: {self.bad:,} of {self.total:,} rows are malformed "
                f"({self.bad / self.total:.1%}, allowed {limit:.1%}): {reasons}; most of them in "
                f"{worst} ({count:,})"
                + (f", e.g. {example}" if example else "")
                + f". Fix the file or its column mapping, or raise {option}",
                self,
            )

    def report(self) -> dict[str, object]:
        """Counts for ``report.json``."""
        return {
            "source": self.source,
            "rows": self.total,
            "malformed": dict(self.malformed.most_common()),
            "unknown_items": self.unknown,
            "ignored_actions": dict(self.ignored.most_common(50)),
        }


def restored(duck: Duck, bad: str, source: Source) -> str:
    """SQL of the rows of ``bad`` with record numbers as an editor counts them.

    Readers number the records that could be read; every reject that stood before a row moves it by
    one.
    """
    if not source.shifts:
        return f"SELECT * FROM ({bad})"
    shifts = [
        pa.table({"file": pa.repeat(pa.scalar(file), len(at)), "after": at})
        for file, at in source.shifts
    ]
    duck.register("reject_places", pa.concat_tables(shifts))
    running = """SELECT file, after, max(n) AS n
        FROM (SELECT file, after, row_number() OVER (PARTITION BY file ORDER BY after) AS n
        FROM reject_places)
        GROUP BY ALL"""
    return f"""SELECT b.file, b.place + coalesce(s.n, 0) AS place, b.reason, b.raw
        FROM ({bad}) b ASOF LEFT JOIN ({running}) s ON b.file = s.file AND b.place > s.after"""


def write_quarantine(sources: list[Quarantine], path: Path) -> int:
    """Gather every source's rows in one Parquet file, streaming; returns the number of rows."""
    with pq.ParquetWriter(path, QUARANTINE_SCHEMA) as writer:
        for source in sources:
            writer.write_table(source.rows.cast(QUARANTINE_SCHEMA))
            for part in source.parts:
                for batch in pq.ParquetFile(part).iter_batches():
                    writer.write_batch(batch.cast(QUARANTINE_SCHEMA))
    return int(pq.read_metadata(path).num_rows)
