"""One DuckDB connection under a memory cap: the engine that everything about the log streams
through.

Nothing here holds a log in Python: results leave as Parquet files, as Arrow batches, or as a
handful of counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import duckdb
import pyarrow as pa
from duckdb.sqltypes import DuckDBPyType

from sidar.types import PathLike


def text(value: object) -> str:
    """``value`` as a quoted SQL string."""
    return "'" + str(value).replace("'", "''") + "'"


def name(identifier: str) -> str:
    """``identifier`` as a quoted SQL name."""
    return '"' + identifier.replace('"', '""') + '"'


def files(paths: list[Path]) -> str:
    """A SQL list of file names."""
    return "[" + ", ".join(text(p) for p in paths) + "]"


class Duck:
    """A connection that spills into ``work`` instead of growing beyond ``memory`` (DuckDB's own
    unit, e.g. "1GB").
    """

    def __init__(self, work: PathLike, memory: str = "1GB", threads: int | None = None) -> None:
        self.work = Path(work)
        self.work.mkdir(parents=True, exist_ok=True)
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory,
            "temp_directory": str(self.work / "spill"),
            # every file that needs an order asks for it; without it exports stream
            "preserve_insertion_order": False,
        }
        if threads:
            config["threads"] = threads
        try:
            self._con = duckdb.connect(":memory:", config=config)
        except duckdb.ParserException as error:
            raise ValueError(
                f"events.memory: {memory!r} is no amount of memory, e.g. 1GB ({error})"
            ) from error
        self._files = 0
        self.run("SET TimeZone = 'UTC'")

    def __enter__(self) -> Duck:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._con.close()

    def run(self, sql: str) -> None:
        """Execute a statement that returns nothing of interest."""
        self._con.execute(sql).fetchall()

    def rows(self, sql: str) -> list[tuple]:
        """All rows of a *small* result."""
        return self._con.sql(sql).fetchall()

    def row(self, sql: str) -> tuple:
        """The only row of an aggregate."""
        return self.rows(sql)[0]

    def table(self, sql: str) -> pa.Table:
        """A result that fits in memory, as Arrow."""
        return self._con.sql(sql).to_arrow_table()

    def batches(self, sql: str, rows: int = 100_000) -> pa.RecordBatchReader:
        """A result of any size, as a stream of Arrow batches; their order is the query's ORDER BY
        or none.
        """
        return self._con.sql(sql).to_arrow_reader(rows)

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """Inside, results keep the order of the files that they come from."""
        self.run("SET preserve_insertion_order = true")
        try:
            yield
        finally:
            self.run("SET preserve_insertion_order = false")

    def new_file(self, suffix: str = ".parquet") -> Path:
        """The path of a file of its own in the work folder."""
        self._files += 1
        return self.work / f"staged-{self._files}{suffix}"

    def register(self, view: str, table: pa.Table) -> None:
        """Make an Arrow table readable as ``view`` without copying it."""
        self._con.register(view, table)

    def columns(self, relation: str) -> dict[str, str]:
        """``{column: SQL type}`` of a view, table or query in parentheses."""
        return {row[0]: str(row[1]) for row in self.rows(f"DESCRIBE SELECT * FROM {relation}")}

    def types(self, relation: str) -> dict[str, DuckDBPyType]:
        """``{column: SQL type}`` with the inner types of lists and structs."""
        rows = self._con.sql(f"SELECT * FROM {relation}")
        return dict(zip(rows.columns, rows.types, strict=True))

    def export(self, sql: str, path: PathLike, options: str = "") -> int:
        """Stream a query into one Parquet file (or a partitioned folder); returns the number of
        rows written.
        """
        return int(
            self._con.execute(f"COPY ({sql}) TO {text(path)} (FORMAT parquet{options})").fetchall()[
                0
            ][0]
        )
