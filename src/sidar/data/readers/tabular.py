"""Parquet, CSV/TSV and JSONL files, folders and globs, with the columns mapped by the config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sidar.data.duck import Duck, files, name
from sidar.data.readers.source import FILE, PLACE, Source, find_files, select_columns
from sidar.data.readers.staging import stage_csv, stage_jsonl

PARQUET = (".parquet", ".pq")
CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
JSONL = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
SUFFIXES = (*PARQUET, *CSV, *JSONL)


def open_table(
    duck: Duck, path: str, columns: Mapping[str, str], wanted: Sequence[str], required: Sequence[str], option: str
) -> Source:
    """All files of ``path`` as one :class:`Source` with the columns ``wanted``.

    ``option`` is the config section, named in errors. JSONL columns may be dotted paths ("object.id").
    """
    source = Source("")
    view = name(f"files of {option}")
    own = [columns.get(column, column) for column in wanted]
    open_files(duck, path, own, option, view, source)
    source.sql = select_columns(duck, view, columns, wanted, required, f"{option}.columns")
    return source


def open_files(duck: Duck, path: str, keys: Sequence[str], option: str, view: str, source: Source) -> None:
    """Create ``view`` over all files of ``path``, with their own columns, FILE and PLACE.

    ``keys`` are the columns to take from JSONL records. Empty files of a folder are skipped.
    """
    found = find_files(path, SUFFIXES, option, f"{option}.path")
    paths = []
    for file in [p for p in found if p.stat().st_size] or found:
        if file.name.endswith(PARQUET):
            paths.append(file)
        elif file.name.endswith(CSV):
            paths.append(stage_csv(duck, file, source))
        elif file.name.endswith(JSONL):
            paths.append(stage_jsonl(duck, file, keys, source))
        else:
            raise ValueError(f"{option}.path: {file} has none of the known endings {', '.join(SUFFIXES)}")
    duck.run(f"CREATE OR REPLACE VIEW {view} AS {parquet_rows(duck, paths)}")


def parquet_rows(duck: Duck, paths: list[Path]) -> str:
    """SQL over Parquet files with the columns FILE and PLACE; files staged in ``duck.work`` carry their own."""
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
