"""Where events are kept: an interface, and SQLite behind it.

Clicks, carts and orders are acknowledged when they are on the disk: a transaction with a sync each
(journal WAL, ``synchronous=FULL``).  An event is known by its id, so one that is sent again changes
nothing.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from typing import Protocol

from sidar.data.cleaning.clean import DAY_US
from sidar.serve.events.rows import Chosen, Shown
from sidar.serve.sqlite import kept, open_database
from sidar.types import PathLike

#: Columns of a day's log, in their order.
COLUMNS = (
    *("ts", "user_id", "session_id", "request_id", "query", "item_id", "position", "action"),
    *("value", "dwell_s", "bucket", "channels"),
)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS shown (
    request_id TEXT NOT NULL, ts INTEGER NOT NULL, user TEXT NOT NULL, session_id TEXT NOT NULL,
    query TEXT NOT NULL, bucket TEXT NOT NULL, item_id TEXT NOT NULL, position INTEGER NOT NULL,
    channels TEXT NOT NULL, PRIMARY KEY (request_id, item_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chosen (
    event_id TEXT PRIMARY KEY, request_id TEXT NOT NULL, ts INTEGER NOT NULL,
    item_id TEXT NOT NULL, action INTEGER NOT NULL, user TEXT NOT NULL, session_id TEXT NOT NULL,
    query TEXT NOT NULL, position INTEGER NOT NULL, value REAL, dwell_s REAL,
    bucket TEXT NOT NULL, channels TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS shown_ts ON shown (ts);
CREATE INDEX IF NOT EXISTS shown_user ON shown (user);
CREATE INDEX IF NOT EXISTS chosen_ts ON chosen (ts);
CREATE INDEX IF NOT EXISTS chosen_user ON chosen (user, ts);
CREATE TABLE IF NOT EXISTS changed (day INTEGER PRIMARY KEY, times INTEGER NOT NULL);
"""
#: An event takes what it does not say from the impression of its item.
_CHOOSE = """
INSERT OR IGNORE INTO chosen
SELECT e.event_id, e.request_id, e.ts, e.item_id, e.action,
    coalesce(e.user, s.user, ''), coalesce(e.session_id, s.session_id, ''),
    coalesce(e.query, s.query, ''), coalesce(e.position, s.position, 0), e.value, e.dwell_s,
    coalesce(e.bucket, s.bucket, ''), coalesce(s.channels, '')
FROM (SELECT ? AS event_id, ? AS request_id, ? AS ts, ? AS item_id, ? AS action, ? AS user,
    ? AS session_id, ? AS query, ? AS position, ? AS value, ? AS dwell_s, ? AS bucket) e
LEFT JOIN shown s ON s.request_id = e.request_id AND s.item_id = e.item_id
"""
_DAY = """
SELECT ts, user, session_id, request_id, query, item_id, position, 0, NULL, NULL, bucket, channels
    FROM shown WHERE ts >= :low AND ts < :high
UNION ALL
SELECT ts, user, session_id, request_id, query, item_id, position, action, value, dwell_s, bucket,
    channels FROM chosen WHERE ts >= :low AND ts < :high
ORDER BY 1, 4, 8, 7, 6
"""
_HISTORY = """
SELECT item_id FROM chosen WHERE user = ? AND user <> '' GROUP BY item_id
ORDER BY max(ts) DESC, item_id LIMIT ?
"""


class EventStore(Protocol):
    """Keeps what was shown and chosen; safe for many threads."""

    def show(self, rows: Sequence[Shown]) -> None:
        """Keep impressions."""
        ...

    def choose(self, events: Sequence[Chosen]) -> int:
        """Keep events, all or none, and return how many of them were new."""
        ...

    def history(self, user: str, most: int) -> list[str]:
        """Return the ids of the last ``most`` items that a user chose, oldest first."""
        ...

    def erase(self, user: str) -> int:
        """Forget everything of a user and return how many rows that were."""
        ...

    def changed_days(self) -> dict[int, int]:
        """Return the days since 1970 (UTC) that changed since they were last written, and how many
        times each did.
        """
        ...

    def day(self, day: int) -> list[tuple[object, ...]]:
        """Return a day's log, rows of :data:`COLUMNS`."""
        ...

    def written(self, days: Mapping[int, int]) -> None:
        """Note that the logs of ``days`` are written; not of those that have changed more often
        meanwhile.
        """
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


class SqliteEvents:
    """An :class:`EventStore` in one file of SQLite."""

    def __init__(self, path: PathLike) -> None:
        self._turn = threading.Lock()
        # secure_delete: what is erased is overwritten, not only forgotten
        self._open = open_database(path, _SCHEMA, "events", "secure_delete=ON")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is done inside, or nothing of it."""
        with self._turn, kept(self._open) as open_:
            yield open_

    def show(self, rows: Sequence[Shown]) -> None:
        with self._transaction() as open_:
            marks = ", ".join("?" * 9)
            values = [astuple(row) for row in rows]
            open_.executemany(f"INSERT OR IGNORE INTO shown VALUES ({marks})", values)
            self._change(open_, {row.ts // DAY_US for row in rows})

    def choose(self, events: Sequence[Chosen]) -> int:
        with self._transaction() as open_:
            before = open_.total_changes
            open_.executemany(_CHOOSE, [astuple(event) for event in events])
            new = open_.total_changes - before
            self._change(open_, {event.ts // DAY_US for event in events})
        return new

    def history(self, user: str, most: int) -> list[str]:
        with self._turn:
            rows = self._open.execute(_HISTORY, (user, most)).fetchall()
        return [item_id for (item_id,) in reversed(rows)]

    def erase(self, user: str) -> int:
        with self._transaction() as open_:
            days: set[int] = set()
            rows = 0
            for table in ("shown", "chosen"):
                moments = open_.execute(f"SELECT ts FROM {table} WHERE user = ?", (user,))
                days |= {ts // DAY_US for (ts,) in moments}
                rows += open_.execute(f"DELETE FROM {table} WHERE user = ?", (user,)).rowcount
            self._change(open_, days)
        with self._turn:
            # the journal would hold what was erased until it is used again
            self._open.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return rows

    def changed_days(self) -> dict[int, int]:
        with self._turn:
            return dict(self._open.execute("SELECT day, times FROM changed ORDER BY day"))

    def day(self, day: int) -> list[tuple[object, ...]]:
        span = {"low": day * DAY_US, "high": (day + 1) * DAY_US}
        with self._turn:
            return self._open.execute(_DAY, span).fetchall()

    def written(self, days: Mapping[int, int]) -> None:
        with self._transaction() as open_:
            open_.executemany("DELETE FROM changed WHERE day = ? AND times = ?", days.items())

    def close(self) -> None:
        with self._turn:
            self._open.close()

    @staticmethod
    def _change(open_: sqlite3.Connection, days: set[int]) -> None:
        upsert = (
            "INSERT INTO changed VALUES (?, 1) ON CONFLICT (day) DO UPDATE SET times = times + 1"
        )
        open_.executemany(upsert, [(day,) for day in days])
