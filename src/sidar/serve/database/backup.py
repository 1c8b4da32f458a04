"""Copy a store: a snapshot of one in use, a snapshot brought back, a file moved to a server."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sidar.serve.database.base import Row, Session
from sidar.serve.database.opening import is_postgres, open_database
from sidar.serve.events.store import SCHEMA as EVENTS
from sidar.serve.live.store import open_tables
from sidar.types import PathLike

#: Tables with their columns, in the order of their rows; those of items are numbered anew.
_TABLES = {
    "items": ("item_id, fields, alive, encoded, codes, vector, bundle, changed", "place"),
    "shown": (
        'request_id, ts, "user", session_id, query, bucket, item_id, position, channels',
        "request_id, item_id",
    ),
    "chosen": (
        'event_id, request_id, ts, item_id, action, "user", session_id, query, position, value, '
        "dwell_s, bucket, channels",
        "event_id",
    ),
    "changed": ("day, times", "day"),
}
#: Rows that are written at a time.
_ROWS = 10_000


def copy_store(source: PathLike, target: PathLike) -> dict[str, int]:
    """Copy events, histories and live items as they are at one moment, and return how many rows of
    each table; the source may be in use.

    Both are files of SQLite or URLs ``postgresql://…``.  ``ValueError`` where ``source`` is not
    there, and where ``target`` holds something already.
    """
    if not is_postgres(source) and not Path(source).is_file():
        raise ValueError(f"{source} does not exist; name the file or URL of serve.store")
    before, after = open_tables(source), open_tables(target)
    for one in (source, target):
        open_database(one, EVENTS, "events").close()
    try:
        return before.read(lambda read: after.write(lambda write: _copied(read, write, target)))
    finally:
        before.close()
        after.close()


def _copied(read: Session, write: Session, target: PathLike) -> dict[str, int]:
    counts = {}
    for table, (columns, order) in _TABLES.items():
        if write.rows(f"SELECT 1 FROM {table} LIMIT 1"):
            raise ValueError(f"{target} holds {table} already; copy into an empty store")
        marks = ", ".join("?" * len(columns.split(",")))
        insert = f"INSERT INTO {table} ({columns}) VALUES ({marks})"
        rows = read.stream(f"SELECT {columns} FROM {table} ORDER BY {order}")
        counts[table] = sum(write.each(insert, some) for some in _batches(rows))
    changes = read.rows("SELECT changes FROM version")[0]
    write.rows("UPDATE version SET changes = ?", changes)
    return counts


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while some := list(islice(rows, _ROWS)):
        yield some
