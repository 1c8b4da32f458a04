"""One file of SQLite that keeps what was acknowledged, through a kill and a loss of power."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidar.types import PathLike


class StoreError(Exception):
    """What should have been kept could not be, and nothing of it was: a full disk, say."""


@contextmanager
def kept(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All that is done inside is on the disk afterwards, or nothing of it; one at a time.

    Raises :class:`StoreError` where the file cannot be written.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            # a disk that is full may be noticed only here
            connection.execute("COMMIT")
        except BaseException:
            # SQLite may have taken it back by itself
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    except sqlite3.Error as error:
        raise StoreError(f"the store cannot be written: {error}") from error


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
