"""One file of SQLite that keeps what was acknowledged, through a kill and a loss of power."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sidar.types import PathLike


def open_database(path: PathLike, schema: str, holds: str, *pragmas: str) -> sqlite3.Connection:
    """Open or make the file ``path`` with the tables of ``schema``; each commit is on the disk.

    Any thread may use the connection, one at a time. ``ValueError`` where the file is no such
    database; ``holds`` says in it what the file should hold.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", *pragmas):
            connection.execute(f"PRAGMA {pragma}")
        connection.executescript(schema)
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path} is no store of {holds}: {error}") from error
    return connection
