"""Open the database that ``serve.store`` names."""

from __future__ import annotations

from sidar.serve.database.base import Database
from sidar.types import PathLike


def is_postgres(store: PathLike) -> bool:
    """Return whether ``store`` names a PostgreSQL server, and not a file."""
    return str(store).startswith(("postgresql://", "postgres://"))


def open_database(store: PathLike, schema: str, holds: str) -> Database:
    """Open ``store``, a file or a URL ``postgresql://…``, with the tables of ``schema``.

    ``ValueError`` where it is no such database; ``holds`` says in it what it should hold.
    """
    database: Database
    if is_postgres(store):
        from sidar.serve.database.postgres import PostgresDatabase

        database = PostgresDatabase(str(store), holds)
    else:
        from sidar.serve.database.sqlite import SqliteDatabase

        database = SqliteDatabase(store, holds)
    statements = schema.format(**database.dialect).split(";")
    try:
        database.make([statement for statement in statements if statement.strip()])
    except BaseException:
        database.close()
        raise
    return database
