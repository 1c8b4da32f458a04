"""Where events are kept: an interface, and the tables of a database behind it.

Clicks, carts and orders are acknowledged when they are on the disk: a transaction with a sync each.
An event is known by its id, so one that is sent again changes nothing, at whichever replica.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Protocol

from sidar.data.cleaning.clean import DAY_US
from sidar.serve.database import Database, Session, open_database
from sidar.serve.database.base import Row
from sidar.serve.events.rows import Chosen, Shown
from sidar.types import PathLike

#: Columns of a day's log, in their order.
COLUMNS = (
    *("ts", "user_id", "session_id", "request_id", "query", "item_id", "position", "action"),
    *("value", "dwell_s", "bucket", "channels"),
)
SCHEMA = """
CREATE TABLE IF NOT EXISTS shown (
    request_id TEXT NOT NULL, ts BIGINT NOT NULL, "user" TEXT NOT NULL, session_id TEXT NOT NULL,
    query TEXT NOT NULL, bucket TEXT NOT NULL, item_id TEXT NOT NULL, position INTEGER NOT NULL,
    channels TEXT NOT NULL, PRIMARY KEY (request_id, item_id)){keyed};
CREATE TABLE IF NOT EXISTS chosen (
    event_id TEXT PRIMARY KEY, request_id TEXT NOT NULL, ts BIGINT NOT NULL,
    item_id TEXT NOT NULL, action INTEGER NOT NULL, "user" TEXT NOT NULL,
    session_id TEXT NOT NULL, query TEXT NOT NULL, position INTEGER NOT NULL,
    value DOUBLE PRECISION, dwell_s DOUBLE PRECISION, bucket TEXT NOT NULL,
    channels TEXT NOT NULL){keyed};
CREATE INDEX IF NOT EXISTS shown_ts ON shown (ts);
CREATE INDEX IF NOT EXISTS shown_user ON shown ("user");
CREATE INDEX IF NOT EXISTS chosen_ts ON chosen (ts);
CREATE INDEX IF NOT EXISTS chosen_user ON chosen ("user", ts);
CREATE TABLE IF NOT EXISTS changed (day INTEGER PRIMARY KEY, times INTEGER NOT NULL);
"""
_SHOW = "INSERT INTO shown VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
#: An event takes what it does not say from the impression of its item.
_CHOOSE = """
INSERT INTO chosen
SELECT e.event_id, e.request_id, e.ts, e.item_id, e.action,
    coalesce(e."user", s."user", ''), coalesce(e.session_id, s.session_id, ''),
    coalesce(e.query, s.query, ''), coalesce(e.position, s.position, 0), e.value, e.dwell_s,
    coalesce(e.bucket, s.bucket, ''), coalesce(s.channels, '')
FROM (SELECT CAST(? AS TEXT) AS event_id, CAST(? AS TEXT) AS request_id, CAST(? AS BIGINT) AS ts,
    CAST(? AS TEXT) AS item_id, CAST(? AS INTEGER) AS action, CAST(? AS TEXT) AS "user",
    CAST(? AS TEXT) AS session_id, CAST(? AS TEXT) AS query, CAST(? AS INTEGER) AS position,
    CAST(? AS DOUBLE PRECISION) AS value, CAST(? AS DOUBLE PRECISION) AS dwell_s,
    CAST(? AS TEXT) AS bucket) e
LEFT JOIN shown s ON s.request_id = e.request_id AND s.item_id = e.item_id
WHERE true ON CONFLICT DO NOTHING
"""
_DAY = """
SELECT ts, "user", session_id, request_id, query, item_id, position, 0 AS action, NULL AS value,
    NULL AS dwell_s, bucket, channels FROM shown WHERE ts >= ? AND ts < ?
UNION ALL
SELECT ts, "user", session_id, request_id, query, item_id, position, action, value, dwell_s, bucket,
    channels FROM chosen WHERE ts >= ? AND ts < ?
ORDER BY 1, 4, 8, 7, 6
"""
_HISTORY = """
SELECT item_id FROM chosen WHERE "user" = ? AND "user" <> '' GROUP BY item_id
ORDER BY max(ts) DESC, item_id LIMIT ?
"""
_CHANGE = """
INSERT INTO changed VALUES (?, 1) ON CONFLICT (day) DO UPDATE SET times = changed.times + 1
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


class SqlEvents:
    """An :class:`EventStore` in a database, which may be that of the items."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def show(self, rows: Sequence[Shown]) -> None:
        def work(session: Session) -> None:
            session.each(_SHOW, [astuple(row) for row in rows])
            _change(session, {row.ts // DAY_US for row in rows})

        self._database.write(work)

    def choose(self, events: Sequence[Chosen]) -> int:
        # in one order, so that replicas that are sent the same events do not block each other
        ordered = sorted(events, key=lambda event: event.event_id)

        def work(session: Session) -> int:
            new = session.each(_CHOOSE, [astuple(event) for event in ordered])
            _change(session, {event.ts // DAY_US for event in events})
            return new

        return self._database.write(work)

    def history(self, user: str, most: int) -> list[str]:
        rows = self._database.read(lambda session: session.rows(_HISTORY, (user, most)))
        return [item_id for (item_id,) in reversed(rows)]

    def erase(self, user: str) -> int:
        def work(session: Session) -> int:
            days: set[int] = set()
            gone = 0
            for table in ("shown", "chosen"):
                moments = session.rows(
                    f'DELETE FROM {table} WHERE "user" = ? RETURNING ts', (user,)
                )
                days |= {ts // DAY_US for (ts,) in moments}
                gone += len(moments)
            _change(session, days)
            return gone

        gone = self._database.write(work)
        self._database.forget("shown", "chosen")
        return gone

    def changed_days(self) -> dict[int, int]:
        query = "SELECT day, times FROM changed ORDER BY day"
        return {
            int(day): int(times)
            for day, times in self._database.read(lambda session: session.rows(query))
        }

    def day(self, day: int) -> list[Row]:
        span = (day * DAY_US, (day + 1) * DAY_US)
        return self._database.read(lambda session: session.rows(_DAY, span + span))

    def written(self, days: Mapping[int, int]) -> None:
        query = "DELETE FROM changed WHERE day = ? AND times = ?"
        self._database.write(lambda session: session.each(query, days.items()))

    def close(self) -> None:
        self._database.close()


def open_events(store: PathLike) -> SqlEvents:
    """Return the events in ``store``, a file of SQLite or a URL ``postgresql://…``; ``ValueError``
    where it cannot be opened.
    """
    return SqlEvents(open_database(store, SCHEMA, "events"))


def _change(session: Session, days: set[int]) -> None:
    """Note that the logs of ``days`` are old; in one order, so that two writers do not block."""
    session.each(_CHANGE, [(day,) for day in sorted(days)])
