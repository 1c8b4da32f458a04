"""Where changes of items are written down before they are answered.

The database keeps a write-ahead log of its own; here stands what it leads to: the last state of
every changed item, in the order in which items were first changed, with the number of its last
change.  That is snapshot and log in one; reading it back is the replay, and reading what has a
higher number than the last one seen is how replicas follow each other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

import numpy as np

from sidar.serve.database import Database, Session, is_postgres, open_database
from sidar.serve.database.base import Row
from sidar.serve.live.items import ItemState
from sidar.types import PathLike

SCHEMA = """
CREATE TABLE IF NOT EXISTS items (
    place {place}, item_id TEXT NOT NULL UNIQUE, fields TEXT NOT NULL,
    alive INTEGER NOT NULL, encoded INTEGER NOT NULL, codes TEXT, vector {blob},
    bundle TEXT NOT NULL, changed BIGINT NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS version (changes BIGINT NOT NULL);
INSERT INTO version SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM version);
"""
_UPSERT = """
INSERT INTO items (item_id, fields, alive, encoded, codes, vector, bundle, changed)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (item_id) DO UPDATE SET fields = excluded.fields, alive = excluded.alive,
    encoded = excluded.encoded, codes = excluded.codes, vector = excluded.vector,
    bundle = excluded.bundle, changed = excluded.changed
"""
_READ = """
SELECT item_id, fields, alive, encoded, codes, vector, bundle FROM items WHERE changed > ?
ORDER BY place
"""


class BehindError(Exception):
    """The store holds changes that the writer has not seen."""


class ItemStore(Protocol):
    """Keeps the states of changed items; safe for many threads and processes."""

    def write(self, states: Sequence[ItemState], bundle: str, seen: int) -> int:
        """Keep states, all or none, and return how many changes there were in all.

        ``bundle``: hash of the one whose encoder and codebooks made them; ``seen``: the changes
        that the writer knows.  :class:`BehindError` where there are others.
        """
        ...

    def read(self, bundle: str, since: int = 0) -> tuple[list[ItemState], int]:
        """Return the states changed after the first ``since`` changes, by first change, and how
        many changes there were in all.

        States that another bundle encoded come without SID and vector: they must be made anew.
        """
        ...

    @property
    def name(self) -> str:
        """File or URL, by which another process opens it."""
        ...

    def version(self) -> int:
        """Return how many changes there were in all."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


class SqlItems:
    """An :class:`ItemStore` in a database, which may be that of the events."""

    def __init__(self, database: Database, name: str) -> None:
        """``name``: file or URL."""
        self._database, self._name = database, name

    @property
    def name(self) -> str:
        return self._name

    def write(self, states: Sequence[ItemState], bundle: str, seen: int) -> int:
        def work(session: Session) -> int:
            # first of all: the row is a lock, so numbers rise as changes are committed
            ((changes,),) = session.rows(
                "UPDATE version SET changes = changes + ? RETURNING changes", (len(states),)
            )
            if changes - len(states) != seen:
                raise BehindError
            session.each(_UPSERT, [_row(state, bundle, changes) for state in states])
            return int(changes)

        return self._database.write(work)

    def read(self, bundle: str, since: int = 0) -> tuple[list[ItemState], int]:
        def work(session: Session) -> tuple[list[Row], int]:
            ((changes,),) = session.rows("SELECT changes FROM version")
            return session.rows(_READ, (since,)), int(changes)

        rows, changes = self._database.read(work)
        return [_state(row, bundle) for row in rows], changes

    def version(self) -> int:
        ((changes,),) = self._database.read(lambda s: s.rows("SELECT changes FROM version"))
        return int(changes)

    def close(self) -> None:
        self._database.close()


def open_items(store: PathLike) -> SqlItems:
    """Return the items in ``store``, a file of SQLite or a URL ``postgresql://…``; ``ValueError``
    where it cannot be opened.
    """
    return SqlItems(open_tables(store), str(store))


def open_tables(store: PathLike) -> Database:
    """Return the database in ``store`` with the tables of items, as this version has them."""
    database = open_database(store, SCHEMA, "items")
    if not is_postgres(store):
        database.write(_number_changes)
    return database


def _number_changes(session: Session) -> None:
    """Add the numbers of changes to a file of a version that did not keep them."""
    if "changed" not in [row[1] for row in session.rows("PRAGMA table_info(items)")]:
        session.rows("ALTER TABLE items ADD COLUMN changed BIGINT NOT NULL DEFAULT 0")
        session.rows("UPDATE items SET changed = (SELECT changes FROM version)")


def _row(state: ItemState, bundle: str, changes: int) -> Row:
    return (
        state.item_id,
        json.dumps(state.fields, default=_json),
        int(state.alive),
        int(state.encoded),
        None if state.codes is None else json.dumps(state.codes),
        None if state.vector is None else state.vector.astype("<f4").tobytes(),
        bundle,
        changes,
    )


def _state(row: Row, bundle: str) -> ItemState:
    item_id, fields, alive, encoded, codes, vector, made_with = row
    read: dict[str, Any] = json.loads(fields)
    if read.get("created") is not None:
        read["created"] = datetime.fromisoformat(read["created"])
    ours = made_with == bundle
    return ItemState(
        item_id=item_id,
        fields=read,
        alive=bool(alive),
        encoded=bool(encoded),
        codes=tuple(json.loads(codes)) if ours and codes is not None else None,
        vector=np.frombuffer(vector, "<f4") if ours and vector is not None else None,
    )


def _json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in a store of items")
