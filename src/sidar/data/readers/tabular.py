"""Parquet, CSV/TSV and JSON files, folders and globs, with the columns mapped by the config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sidar.data.duck import Duck, name
from sidar.data.readers.archive import ZIP, unpack
from sidar.data.readers.json_files import stage_jsonl
from sidar.data.readers.source import MEASURES, NESTED, PROSE, Source, find_files, select_columns
from sidar.data.readers.staging import stage_csv
from sidar.data.readers.typed import Roles, typed_rows

PARQUET = (".parquet", ".pq")
CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
JSONL = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
JSON = (".json", ".json.gz")  # one list of objects
SUFFIXES = (*PARQUET, *CSV, *JSONL)
#: What may stand inside of a zip; Parquet is packed already.
ZIPPED = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")


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
    into JSON objects and Parquet structs; ``attributes`` may be a pattern ("attr_*") of keys of
    JSON objects. ``decimal`` is the mark in numbers that are text.
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
    found = find_files(path, (*SUFFIXES, *JSON, ZIP), option, f"{option}.path")
    tables = [p for p in found if p.name.endswith(SUFFIXES)]
    plain = [p for p in found if p.name.endswith(JSON)]
    # a folder's .json and .zip files are facts about its tables, unless there is nothing else
    found = tables or plain or found
    paths: list[Path] = []
    for file in [p for p in found if p.stat().st_size] or found:
        if file.name.endswith(ZIP):
            paths += _staged_members(duck, file, option, roles, source)
        else:
            paths.append(_staged(duck, file, option, roles, source))
    rows, columns = typed_rows(duck, paths, roles)
    source.columns = list(dict.fromkeys([*source.columns, *columns]))
    duck.run(f"CREATE OR REPLACE VIEW {view} AS {rows}")


def _staged(
    duck: Duck, file: Path, option: str, roles: Roles, source: Source, named: Path | None = None
) -> Path:
    """Return the Parquet file to read for ``file``; ``named`` is what to call it where it is a
    copy.
    """
    if file.name.endswith((*JSONL, *JSON)):
        return stage_jsonl(duck, file, roles, source, named)
    if pattern := roles.patterns:
        raise ValueError(
            f"{option}.columns: {pattern[0]!r} names many columns, which only JSON files may have; "
            f"{named or file} is another format. Name one column"
        )
    if file.name.endswith(PARQUET):
        return file
    if file.name.endswith(CSV):
        return stage_csv(duck, file, source, roles.columns or (), named)
    raise ValueError(
        f"{option}.path: {file} has none of the known endings {', '.join((*SUFFIXES, *JSON, ZIP))}"
    )


def _staged_members(
    duck: Duck, file: Path, option: str, roles: Roles, source: Source
) -> list[Path]:
    """Return the Parquet files to read for the members of a zip."""
    staged = []
    for member in unpack(file, duck.work, ZIPPED, f"{option}.path"):
        try:
            staged.append(_staged(duck, member.unpacked, option, roles, source, member.name))
        except ValueError as error:  # the copy is gone when the message is read
            raise ValueError(str(error).replace(str(member.unpacked), str(member.name))) from error
        member.unpacked.unlink()
    return staged
