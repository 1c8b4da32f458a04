"""Text files → Parquet with all columns as text, once, so that every later pass is columnar.

A record that cannot be cut into columns (wrong number of columns, an open quote, invalid UTF-8, not JSON) is a reject
with its record number, never an abort.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from sidar.data.duck import Duck, name, text
from sidar.data.readers.source import FILE, KEPT_REJECTS, PLACE, Reject, Source

#: Longest record of a text file that is read, in bytes (DuckDB buffers sixteen of them per thread).
MAX_RECORD = 4_194_304


@dataclass(frozen=True)
class Layout:
    """How the records of a text file are cut."""

    columns: tuple[str, ...]
    delimiter: str
    quoted: bool = False
    header: bool = False

    def reading(self, path: Path) -> str:
        """SQL of the file's records, all columns VARCHAR."""
        listed = ", ".join(f"{text(c)}: 'VARCHAR'" for c in self.columns)
        quote = "'\"'" if self.quoted else "''"
        return (
            f"read_csv({text(path)}, columns = {{{listed}}}, header = {self.header}, auto_detect = false, "
            f"delim = chr({ord(self.delimiter)}), quote = {quote}, escape = {quote}, "
            f"store_rejects = true, max_line_size = {MAX_RECORD})"
        )


def stage_csv(duck: Duck, path: Path, source: Source) -> Path:
    """Stage a delimited file with a header; the delimiter is the commonest of ``, ; tab |`` in the header."""
    header, delimiter = _header(path)
    columns = ", ".join(name(c) for c in header)
    delimiter = delimiter if len(header) > 1 else "\x01"  # one column: commas of its values part nothing
    layout = Layout(tuple(header), delimiter, quoted=True, header=True)
    return _stage(duck, path, layout, columns, source, places=(FILE, PLACE))


def stage_fields(duck: Duck, path: Path, columns: Sequence[str], source: Source) -> Path:
    """Stage a tab-separated file without header or quoting: ``columns``, ``file``, ``place``."""
    return _stage(duck, path, Layout(tuple(columns), "\t"), ", ".join(name(c) for c in columns), source)


def stage_whole_lines(duck: Duck, path: Path, source: Source) -> Path:
    """Stage the lines of a text file as they are: ``line, file, place``. Blank lines are left out."""
    raw = _stage(duck, path, Layout(("line",), "\x01"), "ltrim(line, chr(65279)) AS line", source)
    target = duck.new_file()
    duck.export(f"SELECT * FROM read_parquet({text(raw)}) WHERE trim(line) <> ''", target)
    raw.unlink()
    return target


def stage_jsonl(duck: Duck, path: Path, keys: Sequence[str], source: Source) -> Path:
    """Stage one JSON object per line; lists and objects stay JSON text. ``keys`` are names or dotted paths."""
    lines = stage_lines(duck, path, source)
    sample = f"(SELECT line FROM read_parquet({text(lines)}) LIMIT 1000)"
    known = {key for (key,) in duck.rows(f"SELECT DISTINCT unnest(json_keys(line)) FROM {sample}")}
    pointers = {k: _pointer(k, known) for k in keys}
    picked = [f"json_extract_string(line, {text(p)}) AS {name(k)}" for k, p in pointers.items() if p]
    if not known:  # an empty part of a folder lacks nothing
        picked = [f"NULL::VARCHAR AS {name(k)}" for k in keys]
    picked += [f"file AS {FILE}", f"place AS {PLACE}"]
    target = duck.new_file()
    duck.export(f"SELECT {', '.join(picked)} FROM read_parquet({text(lines)})", target)
    lines.unlink()
    return target


def stage_lines(duck: Duck, path: Path, source: Source, named: Path | None = None) -> Path:
    """Stage the lines of a file that are JSON objects: ``line, file, place``. Blank lines are skipped.

    ``named`` is the file to name in the quarantine when ``path`` is a temporary copy.
    """
    file = str(named or path)
    raw = _stage(duck, path, Layout(("line",), "\x01"), "ltrim(line, chr(65279)) AS line", source, named=named)
    fault = (
        "CASE WHEN NOT json_valid(line) THEN 'not JSON' WHEN json_type(line) <> 'OBJECT' THEN 'not a JSON object' END"
    )
    bad = f"FROM read_parquet({text(raw)}) WHERE line IS NOT NULL AND {fault} IS NOT NULL"
    for reason, count in duck.rows(f"SELECT {fault}, count(*) {bad} GROUP BY 1"):
        source.refuse(file, reason, count)
    before = np.concatenate([after for shifted, after in source.shifts if shifted == file] or [np.array([], np.int64)])
    for place, reason, line in duck.rows(f"SELECT place, {fault}, line {bad} ORDER BY place LIMIT {KEPT_REJECTS}"):
        source.rejects.append(Reject(file, place + int(np.searchsorted(before, place)), reason, line))
    target = duck.new_file()
    duck.export(f"SELECT * FROM read_parquet({text(raw)}) WHERE line IS NOT NULL AND {fault} IS NULL", target)
    raw.unlink()
    return target


def read_json(path: Path) -> object:
    """A whole JSON file; an error names the file, line and column."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not UTF-8 JSON: {error}") from error


def _header(path: Path) -> tuple[list[str], str]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as f:
        try:
            raw = f.readline(MAX_RECORD)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is no readable gzip file: {error}") from error
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path} is UTF-16; save it as UTF-8")
    first = raw.decode("utf-8-sig", errors="replace").splitlines()[0] if raw.strip() else ""
    delimiter = max(",;\t|", key=first.count)
    header = next(csv.reader([first], delimiter=delimiter), [])
    if not header or len(set(header)) != len(header) or not all(header):
        raise ValueError(f"{path}: its first line is no header of distinct column names: {first[:120]!r}")
    return header, delimiter


def _pointer(key: str, known: set[str]) -> str:
    """JSON path of ``key``: the plain key where a record has it, else its dotted parts; empty = absent."""
    if key in known:
        return "$." + json.dumps(key, ensure_ascii=False)
    parts = key.split(".")
    return "$" + "".join("." + json.dumps(p, ensure_ascii=False) for p in parts) if parts[0] in known else ""


def _stage(
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
    place = f"row_number() OVER () + {int(layout.header)}"
    picked = f"{columns}, {text(file)} AS {places[0]}, {place} AS {places[1]}"
    with duck.in_order():  # row_number() must follow the file
        try:
            duck.export(f"SELECT {picked} FROM {layout.reading(path)}", target)
        except (duckdb.InvalidInputException, duckdb.IOException):  # e.g. both Windows and Unix line ends in one file
            try:
                plain = _unix_copy(path, duck.new_file(".txt"))
                duck.export(f"SELECT {picked} FROM {layout.reading(plain)}", target)
            except (duckdb.InvalidInputException, duckdb.IOException, EOFError, OSError, zlib.error) as error:
                raise ValueError(f"{file} cannot be cut into records: {str(error).splitlines()[0]}") from error
            plain.unlink()
    _take_rejects(duck, file, source)
    return target


def _take_rejects(duck: Duck, file: str, source: Source) -> None:
    """Move DuckDB's rejects of one file to ``source``; an open quote counts every line that it swallowed."""
    duck.run(
        """CREATE OR REPLACE TEMP TABLE rejected AS
            SELECT line, CASE error_type::VARCHAR WHEN 'INVALID ENCODING' THEN 'not UTF-8'
                    WHEN 'UNQUOTED VALUE' THEN 'open quote' ELSE lower(error_type::VARCHAR) END AS reason,
                coalesce(csv_line, '') AS raw
            FROM reject_errors QUALIFY row_number() OVER (PARTITION BY line ORDER BY error_type, column_idx) = 1"""
    )
    lines = "sum(1 + len(rtrim(raw, chr(10))) - len(replace(rtrim(raw, chr(10)), chr(10), '')))::BIGINT"
    for reason, count in duck.rows(f"SELECT reason, {lines} FROM rejected GROUP BY 1"):
        source.refuse(file, reason, count)
    kept = duck.rows(f"SELECT line, reason, raw FROM rejected ORDER BY line LIMIT {KEPT_REJECTS}")
    source.rejects += [Reject(file, *fields) for fields in kept]
    places = duck.table("SELECT line FROM rejected ORDER BY line").column("line").to_numpy().astype(np.int64)
    if len(places):
        source.shifts.append((file, places - np.arange(1, len(places) + 1)))
    for table in ("rejected", "reject_errors", "reject_scans"):
        duck.run(f"DROP TABLE IF EXISTS {table}")


def _unix_copy(path: Path, target: Path) -> Path:
    """The file, unpacked, with every line end as ``\\n``."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as source, target.open("wb") as out:
        held = b""
        while block := source.read(1 << 20):
            block = held + block
            held = b"\r" if block.endswith(b"\r") else b""
            out.write(block[: len(block) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
        out.write(b"\n" if held else b"")
    return target
