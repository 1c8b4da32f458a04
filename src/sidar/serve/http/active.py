"""Which bundle was activated last, kept through the end of the process."""

from __future__ import annotations

from typing import Protocol

from sidar.serve.database import open_database
from sidar.types import PathLike

_SCHEMA = """
CREATE TABLE IF NOT EXISTS active_bundle (
    label TEXT PRIMARY KEY, started_with TEXT NOT NULL, name TEXT NOT NULL);
"""
_UPSERT = """
INSERT INTO active_bundle VALUES (?, ?, ?) ON CONFLICT (label) DO UPDATE SET
    started_with = excluded.started_with, name = excluded.name
"""


class ActiveStore(Protocol):
    """Keeps the name of the bundle that answers; safe for many threads."""

    def write(self, label: str, started_with: str, name: str) -> None:
        """Keep that ``name`` answers under ``label``; it is on the disk then.

        ``started_with``: hash of the bundle that the server was started with. Started with another
        one, it answers from that.
        """
        ...

    def read(self, label: str, started_with: str) -> str | None:
        """Return the name that was kept last; None where the server was started otherwise."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


class SqliteActive:
    """An :class:`ActiveStore` in one file of SQLite, which may be that of the events."""

    def __init__(self, path: PathLike) -> None:
        self._database = open_database(path, _SCHEMA, "the active bundle")

    def write(self, label: str, started_with: str, name: str) -> None:
        self._database.write(lambda session: session.rows(_UPSERT, (label, started_with, name)))

    def read(self, label: str, started_with: str) -> str | None:
        query = "SELECT name FROM active_bundle WHERE label = ? AND started_with = ?"
        rows = self._database.read(lambda session: session.rows(query, (label, started_with)))
        return str(rows[0][0]) if rows else None

    def close(self) -> None:
        self._database.close()
