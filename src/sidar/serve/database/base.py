"""What a store asks of a database: transactions over SQL with ``?`` for values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
#: One row of an answer.
Row = tuple[Any, ...]


class StoreError(Exception):
    """What should have been kept could not be, and nothing of it was: a full disk, say."""


class StoreUnreachableError(StoreError):
    """The server of the store does not answer; it may later."""


class Session(Protocol):
    """One transaction."""

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Run a statement and return what it answers."""
        ...

    def each(self, sql: str, values: Iterable[Sequence[object]]) -> int:
        """Run a statement for each of ``values`` and return how many rows changed."""
        ...

    def stream(self, sql: str) -> Iterator[Row]:
        """Run a statement and hand out its rows as they are read."""
        ...


class Database(Protocol):
    """Keeps tables; safe for many threads, and what is committed is on the disk."""

    #: Words of table definitions in which databases differ: ``{place}``, a number that rises with
    #: each row, ``{blob}``, bytes, and ``{keyed}``, a table that is its key's index.
    dialect: Mapping[str, str]

    def make(self, statements: Sequence[str]) -> None:
        """Run the statements that make the tables where they are missing; two replicas may."""
        ...

    def write(self, work: Callable[[Session], T]) -> T:
        """Return what ``work`` returns; all that it does is kept, or nothing of it.

        It may be called again where the connection was lost, so it must bear that.
        """
        ...

    def read(self, work: Callable[[Session], T]) -> T:
        """Return what ``work`` returns; all its statements see one state."""
        ...

    def forget(self, *tables: str) -> None:
        """Overwrite or free what was deleted in ``tables``, where it would be left lying."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...
