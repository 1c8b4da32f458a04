"""Parquet, CSV/TSV and JSON files, folders and globs, with the columns mapped by the config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sidar.data.duck import Duck, name
from sidar.data.readers.json_files import stage_jsonl
from sidar.data.readers.source import MEASURES, NESTED, PROSE, Source, find_files, select_columns
from sidar.data.readers.staging import stage_csv
from sidar.data.readers.typed import Roles, typed_rows

PARQUET = (".parquet", ".pq")
CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
JSONL = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
JSON = (".json", ".json.gz")  # one list of objects
SUFFIXES = (*PARQUET, *CSV, *JSONL)


def open_table(
    duck: Duck,
    path: str,
    columns: Mapping[str, str],
    wanted: Sequence[str],
    required: Sequence[str],
    option: str,
    decimal: str = ".",
) -> Source:
    """All files of ``path`` as one :class:`Source` with the columns ``wanted``.

    ``option`` is the config section, named in errors. Columns may be dotted paths ("object.id")
    into JSON objects and Parquet structs. ``decimal`` is the mark in numbers that are text.
    """
    source = Source("")
    view = name(f"files of {option}")
    own = {column: columns.get(column, column) for column in wanted}
    labels = {own[column] for column in wanted if column not in MEASURES | NESTED | PROSE}
    roles = Roles(
        list(own.values()),
        frozenset(own[c] for c in wanted if c in MEASURES) - labels,
        frozenset(own[c] for c in wanted if c in NESTED),
        frozenset(own[c] for c in wanted if c in PROSE) - labels,
        decimal,
    )
    open_files(duck, path, roles.columns, option, view, source, roles)
    source.sql = select_columns(
        duck, view, columns, wanted, required, f"{option}.columns", source.columns
    )
    return source


def open_files(
    duck: Duck,
    path: str,
    keys: Sequence[str] | None,
    option: str,
    view: str,
    source: Source,
    roles: Roles | None = None,
) -> None:
    """Create ``view`` over all files of ``path`` with the columns ``keys`` as text, FILE and PLACE.

    ``keys`` is None for all columns; ``roles`` says which of them may be more than text. Columns
    that no file has are left out; ``source.columns`` names all that the files have. Empty files of
    a folder are skipped.
    """
    roles = roles or Roles(keys)
    found = find_files(path, (*SUFFIXES, *JSON), option, f"{option}.path")
    tables = [p for p in found if p.name.endswith(SUFFIXES)]
    # a folder's .json files are facts about its tables, unless there is nothing else
    found = tables or found
    paths = []
    for file in [p for p in found if p.stat().st_size] or found:
        if file.name.endswith(PARQUET):
            paths.append(file)
        elif file.name.endswith(CSV):
            paths.append(stage_csv(duck, file, source, keys or ()))
        elif file.name.endswith((*JSONL, *JSON)):
            paths.append(stage_jsonl(duck, file, roles, source))
        else:
            raise ValueError(
                f"{option}.path: {file} has none of the known endings "
                f"{', '.join((*SUFFIXES, *JSON))}"
            )
    rows, columns = typed_rows(duck, paths, roles)
    source.columns = list(dict.fromkeys([*source.columns, *columns]))
    duck.run(f"CREATE OR REPLACE VIEW {view} AS {rows}")
