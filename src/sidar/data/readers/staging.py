"""Text files → Parquet with all columns as text, once, so that every later pass is columnar.

A record that cannot be cut into columns (wrong number of columns, an open quote, invalid UTF-8, not
JSON) is a reject with its record number, never an abort.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np

from sidar.data.duck import Duck, name, text
from sidar.data.readers.dialect import opened, read_dialect
from sidar.data.readers.source import FILE, KEPT_REJECTS, PLACE, Reject, Source
from sidar.data.readers.typed import hive_columns

#: Longest record of a text file that is read, in bytes (DuckDB buffers sixteen of them per thread).
MAX_RECORD = 4_194_304


@dataclass(frozen=True)
class Layout:
    """How the records of a text file are cut."""

    columns: tuple[str, ...]
    delimiter: str
    quoted: bool = False
    header: bool = False
    escape: str = '"'
    skipped: int = 0  # lines before the header

    def reading(self, path: Path) -> str:
        """SQL of the file's records, all columns VARCHAR."""
        listed = ", ".join(f"{text(c)}: 'VARCHAR'" for c in self.columns)
        quote = "'\"'" if self.quoted else "''"
        return (
            f"read_csv({text(path)}, columns = {{{listed}}}, header = {self.header}, auto_detect = "
            f"false, delim = chr({ord(self.delimiter)}), quote = {quote}, escape = "
            f"{text(self.escape) if self.quoted else quote}, skip = {self.skipped}, store_rejects "
            f"= true, max_line_size = {MAX_RECORD})"
        )


def stage_csv(
    duck: Duck,
    path: Path,
    source: Source,
    keys: Collection[str] = (),
    named: Path | None = None,
) -> Path:
    """Stage a delimited file with a header; its dialect is read from its head
    (:func:`read_dialect`).

    ``keys`` are columns that are looked for, ``named`` is what to call a copy.  Quotes inside of
    quotes are doubled, or follow a backslash where that way of reading cuts more records.
    """
    dialect = read_dialect(path, keys)
    source.nameless.update(dialect.nameless)
    listed = [name(c) for c in dialect.columns]
    partitions = {
        key: value
        for key, value in hive_columns(named or path).items()
        if key not in dialect.columns
    }
    listed += [f"{text(value)} AS {name(key)}" for key, value in partitions.items()]
    layout = Layout(
        dialect.columns, dialect.delimiter, quoted=True, header=True, skipped=dialect.skipped
    )
    staged, rejects = _staged_csv(duck, path, layout, listed, named)
    if rejects.rejected and _holds(path, b'\\"'):
        other, fewer = _staged_csv(duck, path, replace(layout, escape="\\"), listed, named)
        if sum(fewer.rejected.values()) < sum(rejects.rejected.values()):
            staged, other, rejects = other, staged, fewer
        other.unlink()
    source.rejects += rejects.rejects
    source.shifts += rejects.shifts
    for (file, reason), count in rejects.rejected.items():
        source.refuse(file, reason, count)
    return staged


def _staged_csv(
    duck: Duck, path: Path, layout: Layout, listed: list[str], named: Path | None
) -> tuple[Path, Source]:
    """Stage a file by one layout; the source holds what could not be cut."""
    rejects = Source("")
    columns, places = ", ".join(listed), (FILE, PLACE)
    return stage_records(duck, path, layout, columns, rejects, named, places), rejects


def _holds(path: Path, mark: bytes) -> bool:
    """Return whether a file holds ``mark``."""
    with opened(path) as f:
        tail = b""
        while block := f.read(1 << 20):
            if mark in tail + block:
                return True
            tail = block[1 - len(mark) :]
    return False


def stage_fields(duck: Duck, path: Path, columns: Sequence[str], source: Source) -> Path:
    """Stage a tab-separated file without header or quoting: ``columns``, ``file``, ``place``."""
    return stage_records(
        duck, path, Layout(tuple(columns), "\t"), ", ".join(name(c) for c in columns), source
    )


def stage_whole_lines(duck: Duck, path: Path, source: Source) -> Path:
    """Stage the lines of a text file as they are: ``line, file, place``.

    Blank lines are left out.
    """
    raw = stage_records(
        duck, path, Layout(("line",), "\x01"), "ltrim(line, chr(65279)) AS line", source
    )
    target = duck.new_file()
    duck.export(f"SELECT * FROM read_parquet({text(raw)}) WHERE trim(line) <> ''", target)
    raw.unlink()
    return target


def stage_records(
    duck: Duck,
    path: Path,
    layout: Layout,
    columns: str,
    source: Source,
    named: Path | None = None,
    places: tuple[str, str] = ("file", "place"),
) -> Path:
    """Write ``columns`` of all records with their places; what cannot be cut goes to ``source``."""
    file, target = str(named or path), duck.new_file()
    place = f"row_number() OVER () + {layout.skipped + layout.header}"
    picked = f"{columns}, {text(file)} AS {places[0]}, {place} AS {places[1]}"
    with duck.in_order():  # row_number() must follow the file
        try:
            duck.export(f"SELECT {picked} FROM {layout.reading(path)}", target)
        # e.g. both Windows and Unix line ends in one file
        except (duckdb.InvalidInputException, duckdb.IOException):
            try:
                plain = _unix_copy(path, duck.new_file(".txt"))
                duck.export(f"SELECT {picked} FROM {layout.reading(plain)}", target)
            except (
                duckdb.InvalidInputException,
                duckdb.IOException,
                EOFError,
                OSError,
                zlib.error,
            ) as error:
                raise ValueError(
                    f"{file} cannot be cut into records: {str(error).splitlines()[0]}"
                ) from error
            plain.unlink()
    _take_rejects(duck, file, source)
    return target


def _take_rejects(duck: Duck, file: str, source: Source) -> None:
    """Move DuckDB's rejects of one file to ``source``; an open quote counts every line that it
    swallowed.
    """
    duck.run(
        """CREATE OR REPLACE TEMP TABLE rejected AS
            SELECT line, CASE error_type::VARCHAR WHEN 'INVALID ENCODING' THEN 'not UTF-8'
                    WHEN 'UNQUOTED VALUE' THEN 'open quote' ELSE lower(error_type::VARCHAR)
                    END AS reason,
                coalesce(csv_line, '') AS raw
            FROM reject_errors QUALIFY row_number() OVER (PARTITION BY line ORDER BY error_type,
            column_idx) = 1"""
    )
    lines = (
        "sum(1 + len(rtrim(raw, chr(10))) - len(replace(rtrim(raw, chr(10)), chr(10), '')))::BIGINT"
    )
    for reason, count in duck.rows(f"SELECT reason, {lines} FROM rejected GROUP BY 1"):
        source.refuse(file, reason, count)
    kept = duck.rows(f"SELECT line, reason, raw FROM rejected ORDER BY line LIMIT {KEPT_REJECTS}")
    source.rejects += [Reject(file, *fields) for fields in kept]
    places = (
        duck.table("SELECT line FROM rejected ORDER BY line")
        .column("line")
        .to_numpy()
        .astype(np.int64)
    )
    if len(places):
        source.shifts.append((file, places - np.arange(1, len(places) + 1)))
    for table in ("rejected", "reject_errors", "reject_scans"):
        duck.run(f"DROP TABLE IF EXISTS {table}")


def _unix_copy(path: Path, target: Path) -> Path:
    """The file, unpacked, with every line end as ``\\n``."""
    with opened(path) as source, target.open("wb") as out:
        held = b""
        while block := source.read(1 << 20):
            block = held + block
            held = b"\r" if block.endswith(b"\r") else b""
            out.write(block[: len(block) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
        out.write(b"\n" if held else b"")
    return target
