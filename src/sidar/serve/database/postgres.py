"""A PostgreSQL server that replicas share: one connection a store, opened again when lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from sidar.serve.database.base import Row, Session, StoreUnreachableError

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")
#: Tables are in a schema of their own, so that the database may hold others.
SCHEMA = "sidar"
#: Seconds until a server that does not answer is given up for this time.
CONNECT_SECONDS = 5
#: Number of the lock that keeps two replicas from making the tables at a time.
_MAKING = 0x51DA2


@dataclass(frozen=True)
class _PostgresSession:
    cursor: psycopg.Cursor[Row]

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        self.cursor.execute(_marked(sql), [_kept(value) for value in values])
        return self.cursor.fetchall() if self.cursor.description else []

    def each(self, sql: str, values: Iterable[Sequence[object]]) -> int:
        kept = [[_kept(value) for value in one] for one in values]
        if not kept:
            return 0
        self.cursor.executemany(_marked(sql), kept)
        return self.cursor.rowcount

    def stream(self, sql: str) -> Iterator[Row]:
        return self.cursor.stream(_marked(sql))


class PostgresDatabase:
    """A :class:`~sidar.serve.database.base.Database` on a server, named by a URL
    ``postgresql://…``.
    """

    dialect: Mapping[str, str] = {
        "place": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "blob": "BYTEA",
        "keyed": "",
    }

    def __init__(self, url: str, holds: str) -> None:
        """Connect; ``ValueError`` where the driver is missing, or the server does not take us, with
        what it should ``hold``.
        """
        try:
            import psycopg
        except ImportError:
            raise ValueError(
                "serve.store names a PostgreSQL server, which needs the extra: "
                "pip install 'sidar[postgres]'"
            ) from None
        self._psycopg, self._url = psycopg, url
        self._turn = threading.Lock()
        self._open: psycopg.Connection[Row] | None = None
        try:
            self.make([])
        except (StoreUnreachableError, psycopg.Error) as error:
            raise ValueError(f"serve.store is no store of {holds}: {error}") from error

    def make(self, statements: Sequence[str]) -> None:
        def making(session: Session) -> None:
            session.rows(f"SELECT pg_advisory_xact_lock({_MAKING})")
            # who may not make the schema may still use it
            if not session.rows("SELECT 1 FROM pg_namespace WHERE nspname = ?", (SCHEMA,)):
                session.rows(f"CREATE SCHEMA {SCHEMA}")
            for statement in statements:
                session.rows(statement)

        self.write(making)

    def write(self, work: Callable[[Session], T]) -> T:
        return self._in_transaction(work, read_only=False)

    def read(self, work: Callable[[Session], T]) -> T:
        return self._in_transaction(work, read_only=True)

    def forget(self, *tables: str) -> None:
        """Free what was deleted. Copies in the server's own log and backups are its
        administrator's.
        """
        with self._turn:
            self._connected().execute(f"VACUUM {', '.join(tables)}")

    def close(self) -> None:
        with self._turn:
            if self._open is not None:
                self._open.close()

    def _in_transaction(self, work: Callable[[Session], T], *, read_only: bool) -> T:
        with self._turn:
            for attempt in (1, 2):
                connection = self._connected()
                try:
                    with connection.transaction(), connection.cursor() as cursor:
                        if read_only:  # one state for all statements
                            cursor.execute(
                                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
                            )
                        return work(_PostgresSession(cursor))
                except (self._psycopg.OperationalError, self._psycopg.InterfaceError) as error:
                    # the server went away, or was started again: once more, over a new connection
                    connection.close()
                    self._open = None
                    if attempt == 2:
                        raise StoreUnreachableError(str(error)) from error
        raise AssertionError("not reached")

    def _connected(self) -> psycopg.Connection[Row]:
        if self._open is None:
            try:
                self._open = self._psycopg.connect(
                    self._url, autocommit=True, connect_timeout=CONNECT_SECONDS
                )
                self._open.execute(f"SET search_path TO {SCHEMA}")
            except self._psycopg.OperationalError as error:
                self._open = None
                raise StoreUnreachableError(str(error).strip()) from error
        return self._open


def _marked(sql: str) -> str:
    """The statement with the marks of psycopg for values."""
    return sql.replace("?", "%s")


def _kept(value: object) -> object:
    """The value as the server can keep it: its texts hold no null character."""
    return value.replace("\x00", "\ufffd") if isinstance(value, str) else value
