"""One file of SQLite that keeps what was acknowledged, through a kill and a loss of power."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sidar.serve.database.base import Row, Session, StoreError
from sidar.types import PathLike

T = TypeVar("T")
#: Milliseconds to wait for another process or connection, whose transactions are short.
BUSY_MS = 10_000


@dataclass(frozen=True)
class _SqliteSession:
    open_: sqlite3.Connection

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        return self.open_.execute(sql, values).fetchall()

    def each(self, sql: str, values: Iterable[Sequence[object]]) -> int:
        return max(0, self.open_.executemany(sql, values).rowcount)

    def stream(self, sql: str) -> Iterator[Row]:
        return iter(self.open_.execute(sql))


class SqliteDatabase:
    """A :class:`~sidar.serve.database.base.Database` in one file; each commit is on the disk."""

    dialect: Mapping[str, str] = {
        "place": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "blob": "BLOB",
        "keyed": " WITHOUT ROWID",
    }

    def __init__(self, path: PathLike, holds: str) -> None:
        """Open or make the file ``path``; ``ValueError`` where it is no such database, with what
        it should ``hold``.
        """
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._turn = threading.Lock()
        # secure_delete: what is erased is overwritten, not only forgotten
        pragmas = ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON")
        self._open = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._open.execute(f"PRAGMA busy_timeout={BUSY_MS}")
            for pragma in pragmas:
                self._open.execute(f"PRAGMA {pragma}")
            self._open.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.DatabaseError as error:
            self._open.close()
            raise ValueError(f"{path} is no store of {holds}: {error}") from error

    def make(self, statements: Sequence[str]) -> None:
        self._in_transaction(
            "BEGIN IMMEDIATE", lambda session: [session.rows(statement) for statement in statements]
        )

    def write(self, work: Callable[[Session], T]) -> T:
        try:
            return self._in_transaction("BEGIN IMMEDIATE", work)
        except sqlite3.Error as error:
            raise StoreError(f"the store cannot be written: {error}") from error

    def read(self, work: Callable[[Session], T]) -> T:
        try:
            return self._in_transaction("BEGIN", work)
        except sqlite3.Error as error:
            raise StoreError(f"the store cannot be read: {error}") from error

    def forget(self, *tables: str) -> None:
        with self._turn:
            # the journal would hold what was erased until it is used again
            self._open.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        with self._turn:
            self._open.close()

    def _in_transaction(self, begin: str, work: Callable[[Session], T]) -> T:
        with self._turn:
            self._open.execute(begin)
            try:
                made = work(_SqliteSession(self._open))
                # a disk that is full may be noticed only here
                self._open.execute("COMMIT")
            except BaseException:
                # SQLite may have taken it back by itself
                if self._open.in_transaction:
                    self._open.execute("ROLLBACK")
                raise
        return made
