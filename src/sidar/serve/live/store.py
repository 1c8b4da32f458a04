"""Where changes of items are written down before they are answered: an interface, and SQLite.

SQLite keeps a write-ahead log of its own; here stands what it leads to: the last state of every
changed item, in the order in which items were first changed.  That is snapshot and log in one, and
reading it back is the replay.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

import numpy as np

from sidar.serve.live.items import ItemState
from sidar.serve.sqlite import kept, open_database
from sidar.types import PathLike

_SCHEMA = """
CREATE TABLE IF NOT EXISTS items (
    place INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL UNIQUE, fields TEXT NOT NULL,
    alive INTEGER NOT NULL, encoded INTEGER NOT NULL, codes TEXT, vector BLOB,
    bundle TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS version (changes INTEGER NOT NULL);
INSERT INTO version SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM version);
"""
_UPSERT = """
INSERT INTO items (item_id, fields, alive, encoded, codes, vector, bundle)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (item_id) DO UPDATE SET fields = excluded.fields, alive = excluded.alive,
    encoded = excluded.encoded, codes = excluded.codes, vector = excluded.vector,
    bundle = excluded.bundle
"""


class ItemStore(Protocol):
    """Keeps the states of changed items; safe for many threads."""

    def write(self, states: Sequence[ItemState], bundle: str) -> int:
        """Keep states, all or none, and return how many changes there were in all.

        ``bundle``: hash of the one whose encoder and codebooks made them.
        """
        ...

    def read(self, bundle: str) -> tuple[list[ItemState], int]:
        """Return all states by first change, and how many changes there were in all.

        States that another bundle encoded come without SID and vector: they must be made anew.
        """
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


class SqliteItems:
    """An :class:`ItemStore` in one file of SQLite, which may be that of the events."""

    def __init__(self, path: PathLike) -> None:
        self._turn = threading.Lock()
        # waits ten seconds for the events, whose transactions are short
        self._open = open_database(path, _SCHEMA, "items", "busy_timeout=10000")

    def write(self, states: Sequence[ItemState], bundle: str) -> int:
        rows = [
            (
                state.item_id,
                json.dumps(state.fields, default=_json),
                int(state.alive),
                int(state.encoded),
                None if state.codes is None else json.dumps(state.codes),
                None if state.vector is None else state.vector.astype("<f4").tobytes(),
                bundle,
            )
            for state in states
        ]
        with self._turn, kept(self._open) as open_:
            open_.executemany(_UPSERT, rows)
            open_.execute("UPDATE version SET changes = changes + ?", (len(rows),))
            ((changes,),) = open_.execute("SELECT changes FROM version")
        return int(changes)

    def read(self, bundle: str) -> tuple[list[ItemState], int]:
        with self._turn:
            self._open.execute("BEGIN")
            rows = self._open.execute(
                "SELECT item_id, fields, alive, encoded, codes, vector, bundle FROM items"
                " ORDER BY place"
            ).fetchall()
            ((changes,),) = self._open.execute("SELECT changes FROM version")
            self._open.execute("COMMIT")
        return [_state(row, bundle) for row in rows], int(changes)

    def close(self) -> None:
        with self._turn:
            self._open.close()


def _state(row: tuple[Any, ...], bundle: str) -> ItemState:
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
