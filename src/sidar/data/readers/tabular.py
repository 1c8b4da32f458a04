"""Parquet, CSV/TSV and JSONL files, folders and globs, with the columns mapped by the config.

Text files are staged once into Parquet (all columns as text), so that every later pass is columnar.  A record that
cannot be split (wrong number of columns, invalid UTF-8, not JSON) is a reject with its record number, never an abort.
"""

from __future__ import annotations

import csv
import gzip
import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sidar.data.duck import Duck, files, name, text
from sidar.data.readers.source import FILE, KEPT_REJECTS, PLACE, Reject, Source, find_files, select_columns

PARQUET, CSV, JSONL = (
    (".parquet", ".pq"),
    (".csv", ".tsv", ".csv.gz", ".tsv.gz"),
    (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"),
)
SUFFIXES = (*PARQUET, *CSV, *JSONL)
#: Longest record of a text file that is read, in bytes (DuckDB buffers sixteen of them per thread).
MAX_RECORD = 4_194_304


def open_table(
    duck: Duck, path: str, columns: Mapping[str, str], wanted: Sequence[str], required: Sequence[str], option: str
) -> Source:
    """All files of ``path`` as one :class:`Source` with the columns ``wanted``.

    ``option`` is the config section, named in errors. JSONL columns may be dotted paths ("object.id").
    """
    source = Source("")
    parquet = []
    for file in find_files(path, SUFFIXES, option, f"{option}.path"):
        if file.name.endswith(PARQUET):
            parquet.append(file)
        elif file.name.endswith(CSV):
            parquet.append(stage_csv(duck, file, source))
        elif file.name.endswith(JSONL):
            own = [columns.get(column, column) for column in wanted]
            parquet.append(stage_jsonl(duck, file, own, source))
        else:
            raise ValueError(f"{option}.path: {file} has none of the known endings {', '.join(SUFFIXES)}")
    view = name(f"files of {option}")
    duck.run(f"CREATE OR REPLACE VIEW {view} AS {parquet_rows(duck, parquet)}")
    source.sql = select_columns(duck, view, columns, wanted, required, f"{option}.columns")
    return source


def parquet_rows(duck: Duck, paths: list[Path]) -> str:
    """SQL over Parquet files with the columns FILE and PLACE; files staged by this module carry their own."""
    own = [p for p in paths if p.parent != duck.work]
    staged = [p for p in paths if p.parent == duck.work]
    parts = []
    if own:
        for path in own:
            try:
                pq.read_schema(path)
            except (pa.ArrowInvalid, OSError) as error:
                raise ValueError(f"{path} is no readable Parquet file: {error}") from error
        inner = f"read_parquet({files(own)}, union_by_name = true, filename = '{FILE}', file_row_number = true)"
        parts.append(f"SELECT * EXCLUDE (file_row_number), file_row_number + 1 AS {PLACE} FROM {inner}")
    if staged:
        parts.append(f"SELECT * FROM read_parquet({files(staged)}, union_by_name = true)")
    return " UNION ALL BY NAME ".join(parts)


def stage_csv(duck: Duck, path: Path, source: Source) -> Path:
    """Stage a delimited file with a header; the delimiter is the commonest of ``, ; tab |`` in the header."""
    header, delimiter = _header(path)
    listed = ", ".join(f"{text(c)}: 'VARCHAR'" for c in header)
    reading = (
        f"read_csv({text(path)}, columns = {{{listed}}}, header = true, auto_detect = false, "
        f"delim = {text(delimiter)}, quote = '\"', escape = '\"', {_rejects()})"
    )
    target = _target(duck)
    columns = ", ".join(name(c) for c in header)
    _stage(duck, target, path, columns, reading, source, first_record=2, places=(FILE, PLACE))
    return target


def stage_jsonl(duck: Duck, path: Path, keys: Sequence[str], source: Source) -> Path:
    """Stage one JSON object per line; lists and objects stay JSON text. ``keys`` are names or dotted paths."""
    lines = stage_lines(duck, path, source)
    sample = f"(SELECT line FROM read_parquet({text(lines)}) LIMIT 1000)"
    known = {key for (key,) in duck.rows(f"SELECT DISTINCT unnest(json_keys(line)) FROM {sample}")}
    pointers = {k: _pointer(k, known) for k in keys}
    picked = [f"json_extract_string(line, {text(p)}) AS {name(k)}" for k, p in pointers.items() if p]
    target = _target(duck)
    picked += [f"file AS {FILE}", f"place AS {PLACE}"]
    duck.export(f"SELECT {', '.join(picked)} FROM read_parquet({text(lines)})", target)
    lines.unlink()
    return target


def stage_lines(duck: Duck, path: Path, source: Source, named: Path | None = None) -> Path:
    """Stage the lines of a file that are JSON objects: ``line, file, place``. Blank lines are skipped.

    ``named`` is the file to name in the quarantine when ``path`` is a temporary copy.
    """
    file = named or path
    reading = (
        f"read_csv({text(path)}, columns = {{'line': 'VARCHAR'}}, header = false, auto_detect = false, "
        f"delim = chr(1), quote = '', escape = '', {_rejects()})"
    )
    raw = _target(duck)
    _stage(duck, raw, path, "ltrim(line, chr(65279)) AS line", reading, source, first_record=1, named=file)
    fault = (
        "CASE WHEN NOT json_valid(line) THEN 'not JSON' WHEN json_type(line) <> 'OBJECT' THEN 'not a JSON object' END"
    )
    bad = f"FROM read_parquet({text(raw)}) WHERE line IS NOT NULL AND {fault} IS NOT NULL"
    for reason, count in duck.rows(f"SELECT {fault}, count(*) {bad} GROUP BY 1"):
        source.rejected[str(file), reason] = count
    kept = duck.rows(f"SELECT place, {fault}, line {bad} ORDER BY place LIMIT {KEPT_REJECTS}")
    before = [after for shifted, after in source.shifts if shifted == str(file)]
    source.rejects += [Reject(str(file), p + bisect_left(before, p), reason, line) for p, reason, line in kept]
    target = _target(duck)
    duck.export(f"SELECT * FROM read_parquet({text(raw)}) WHERE line IS NOT NULL AND {fault} IS NULL", target)
    raw.unlink()
    return target


def stage_fields(duck: Duck, path: Path, columns: Sequence[str], source: Source) -> Path:
    """Stage a tab-separated file without header or quoting."""
    listed = ", ".join(f"{text(c)}: 'VARCHAR'" for c in columns)
    reading = (
        f"read_csv({text(path)}, columns = {{{listed}}}, header = false, auto_detect = false, "
        f"delim = chr(9), quote = '', escape = '', {_rejects()})"
    )
    target = _target(duck)
    _stage(duck, target, path, ", ".join(name(c) for c in columns), reading, source, first_record=1)
    return target


def read_json(path: Path) -> object:
    """A whole JSON file; an error names the file, line and column."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not UTF-8 JSON: {error}") from error


def _header(path: Path) -> tuple[list[str], str]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as f:
        first = f.readline(MAX_RECORD).decode("utf-8-sig", errors="replace").rstrip("\r\n")
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


def _rejects() -> str:
    return f"store_rejects = true, max_line_size = {MAX_RECORD}"


def _target(duck: Duck) -> Path:
    """A new file in the work folder."""
    number = max((int(p.stem.split("-")[1]) for p in duck.work.glob("staged-*.parquet")), default=-1) + 1
    return duck.work / f"staged-{number}.parquet"


def _stage(
    duck: Duck,
    target: Path,
    path: Path,
    columns: str,
    reading: str,
    source: Source,
    first_record: int,
    named: Path | None = None,
    places: tuple[str, str] = ("file", "place"),
) -> None:
    file = str(named or path)
    columns += f", {text(file)} AS {places[0]}, row_number() OVER () + {first_record - 1} AS {places[1]}"
    with duck.in_order():  # row_number() must follow the file
        duck.export(f"SELECT {columns} FROM {reading}", target)
    seen: set[int] = set()
    for line, kind, raw in duck.rows("SELECT line, lower(error_type), csv_line FROM reject_errors ORDER BY line"):
        if line in seen:  # one record may break several rules
            continue
        seen.add(line)
        reason = {"invalid encoding": "not UTF-8"}.get(kind, kind)
        source.rejected[file, reason] = source.rejected.get((file, reason), 0) + 1
        source.shifts.append((file, line - len(seen)))
        if len(seen) <= KEPT_REJECTS:
            source.rejects.append(Reject(file, line, reason, raw or ""))
    duck.run("DROP TABLE IF EXISTS reject_errors")
    duck.run("DROP TABLE IF EXISTS reject_scans")
