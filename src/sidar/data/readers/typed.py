"""One conversion of physical types for all readers: later steps find text, and numbers and times
where they are asked.

Integers and decimals become digits, whole doubles lose their ``.0``, booleans become ``true`` and
``false``, times ISO text, binary UTF-8 text, a list of plain values its values joined by ", ".
Columns of times and quantities keep their numbers and times; columns of categories, attributes and
channels keep lists, structs and maps as JSON text.  What has no such form is refused with file,
column and type.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from duckdb.sqltypes import DuckDBPyType

from sidar.data.duck import Duck, files, name
from sidar.data.readers.source import FILE, PLACE, refuse_case_twins
from sidar.data.readers.sql_types import (
    EXACT_BELOW,
    LISTS,
    RECORDS,
    as_text,
    children,
    is_printable,
    is_text,
    kind_of,
    readable,
    shown_type,
    text_of_text,
    trimmed,
)


@dataclass(frozen=True)
class Roles:
    """Which columns a reader takes, by the source's own names, and what each is for.

    ``columns`` is None for all columns.  ``measures`` are times and quantities, ``nested`` may hold
    lists and structs, ``prose`` is free text; in columns that are neither measures nor prose, ids
    and labels, "12.0" means 12.
    """

    columns: Sequence[str] | None = None
    measures: frozenset[str] = frozenset()
    nested: frozenset[str] = frozenset()
    prose: frozenset[str] = frozenset()
    # the mark in numbers that are text; a comma must not change what a program wrote as a number
    decimal: str = "."

    @property
    def patterns(self) -> list[str]:
        """Those of the nested columns that stand for all keys of a pattern, such as ``attr_*``."""
        wanted = self.columns or ()
        return [column for column in wanted if column in self.nested and "*" in column]

    def is_label(self, column: str) -> bool:
        """Return whether a column is an id or a label."""
        return column not in self.measures and column not in self.prose


def typed_rows(duck: Duck, paths: Sequence[Path], roles: Roles) -> tuple[str, list[str]]:
    """Return SQL over Parquet files with the columns of ``roles`` converted, FILE and PLACE; and
    all column names.

    Files staged in ``duck.work`` carry their own FILE and PLACE.  Each group of files that store
    alike is converted on its own, so the parts of one source may store a column in different types.
    A column "brand.name" may be the field of a struct.  Raises ``ValueError`` for a file that is no
    Parquet and for values that have no text form.
    """
    groups: dict[tuple, list[Path]] = {}
    for path in paths:
        try:
            schema = pq.read_schema(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is no readable Parquet file: {error}") from error
        staged = path.parent == duck.work
        _check_names(path, schema.names, roles, staged)
        _check_durations(path, schema, roles)
        partitions = (
            () if staged else tuple(key for key in hive_columns(path) if key not in schema.names)
        )
        fields = tuple((field.name, str(field.type)) for field in schema)
        whole = tuple(_whole_labels(duck, path, schema, roles))
        groups.setdefault((staged, partitions, fields, whole), []).append(path)
    parts = [
        _Part(duck, group, staged, bool(partitions), frozenset(whole), roles, _halves(fields))
        for (staged, partitions, fields, whole), group in groups.items()
    ]
    refuse_case_twins(
        (column for part in parts for column in part.types), "the files of one source"
    )
    kinds: dict[str, set[str]] = {}
    for part in parts:
        for column, sql_type in part.types.items():
            kinds.setdefault(column, set()).add(kind_of(sql_type))
    measures = {column for column in roles.measures if len(kinds.get(column, set()) - {""}) == 1}
    names = dict.fromkeys(column for part in parts for column in part.all_columns)
    return " UNION ALL BY NAME ".join(part.converted(measures) for part in parts), list(names)


def _check_names(path: Path, names: Sequence[str], roles: Roles, staged: bool) -> None:
    """Raise ``ValueError`` for column names that SQL cannot tell apart or that stand for a row's
    file and number.
    """
    if not staged:
        for column in names:
            if column.lower() in (FILE, "file_row_number"):
                raise ValueError(
                    f"{path}: the name of column {column!r} is reserved; rename the column"
                )
    wanted = (
        None
        if roles.columns is None
        else {column.split(".")[0].lower() for column in roles.columns}
    )
    refuse_case_twins((n for n in names if wanted is None or n.lower() in wanted), str(path))


def _check_durations(path: Path, schema: pa.Schema, roles: Roles) -> None:
    """Raise ``ValueError`` for durations: Parquet holds them as whole numbers of a unit that its
    columns do not say.
    """
    for field in schema:
        if pa.types.is_duration(field.type) and (
            roles.columns is None or field.name in roles.columns
        ):
            raise ValueError(
                f"{path}: column {field.name!r} holds durations ({field.type}); write them as "
                "numbers, e.g. of seconds"
            )


def hive_columns(path: Path) -> dict[str, str]:
    """Return the columns that a path's folders give its rows: ``shop=7/day=2026-11-01/part.csv``
    gives two.
    """
    pairs = [part.partition("=") for part in path.parts[:-1]]
    return {key: value for key, mark, value in pairs if mark and key}


def _halves(fields: Sequence[tuple[str, str]]) -> frozenset[str]:
    """Return the columns of two-byte floats, which DuckDB reads as four-byte ones."""
    return frozenset(column for column, kind in fields if kind == "halffloat")


class _Part:
    """Files of one schema."""

    def __init__(
        self,
        duck: Duck,
        paths: list[Path],
        staged: bool,
        partitioned: bool,
        whole: frozenset[str],
        roles: Roles,
        halves: frozenset[str],
    ) -> None:
        self.duck, self.whole, self.roles, self.halves = duck, whole, roles, halves
        if staged:
            self.rows, self.place = (
                f"read_parquet({files(paths)}, hive_partitioning = false)",
                PLACE,
            )
        else:
            self.rows = (
                f"read_parquet({files(paths)}, filename = '{FILE}', file_row_number = true, "
                f"hive_partitioning = {partitioned}, hive_types_autocast = false)"
            )
            self.place = f"file_row_number + 1 AS {PLACE}"
        added = (FILE, PLACE) if staged else (FILE, PLACE, "file_row_number")
        every = {c: t for c, t in duck.types(self.rows).items() if c not in added}
        self.all_columns = list(every)
        self.types: dict[str, DuckDBPyType] = {}
        self.values: dict[str, str] = {}
        for column in every if roles.columns is None else dict.fromkeys(roles.columns):
            if column in every:
                self.types[column], self.values[column] = every[column], name(column)
            else:
                self._add_field(column, every)

    def _add_field(self, column: str, every: dict[str, DuckDBPyType]) -> None:
        """Add "a.b", the field b of a struct a, where there is one."""
        first, *rest = column.split(".")
        if not rest or first not in every:
            return
        sql_type, value = every[first], name(first)
        for field in rest:
            fields = children(sql_type) if sql_type.id == "struct" else {}
            if field not in fields:
                return
            sql_type, value = fields[field], f"{value}.{name(field)}"
        self.types[column], self.values[column] = sql_type, value

    def converted(self, measures: Collection[str]) -> str:
        """Return SQL of the converted rows; ``measures`` are the columns that keep numbers and
        times.
        """
        self._check()
        picked = [f"{self._value(column, measures)} AS {name(column)}" for column in self.types]
        return f"SELECT {', '.join([*picked, FILE, self.place])} FROM {self.rows}"

    def _value(self, column: str, measures: Collection[str]) -> str:
        value, sql_type = self.values[column], self.types[column]
        if column in measures and kind_of(sql_type) in ("number", "time"):
            return value
        if column in self.roles.nested and sql_type.id in (*LISTS, *RECORDS):
            return f"to_json({readable(value, sql_type)})::VARCHAR"
        if column in self.whole:
            return f"regexp_replace({trimmed(as_text(value, sql_type))}, '\\.0+$', '')"
        if (
            column in self.roles.measures
            and self.roles.decimal == ","
            and kind_of(sql_type) == "number"
        ):
            return (
                f"{value}::VARCHAR || CASE WHEN contains({value}::VARCHAR, 'e') THEN '' ELSE "
                "'e0' END"
            )
        return as_text(value, sql_type)

    def _check(self) -> None:
        """Raise ``ValueError`` for values that would be lost: wide whole doubles, bytes that are no
        text, structs.
        """
        # column, SQL of the fault, SQL of an example, what to say
        tests: list[tuple[str, str, str, str]] = []
        for column, sql_type in self.types.items():
            value = self.values[column]
            if sql_type.id in EXACT_BELOW and column not in self.roles.measures:
                limit = EXACT_BELOW["half" if column in self.halves else sql_type.id]
                largest = f"max(abs({value})) FILTER (isfinite({value}))"
                whole = f"bool_and(NOT isfinite({value}) OR {value} = trunc({value}))"
                shown = f"coalesce(try_cast({largest} AS HUGEINT)::VARCHAR, ({largest})::VARCHAR)"
                advice = (
                    f"which tells whole numbers apart only below {limit:,}; write them as "
                    "integers or text"
                )
                tests.append((column, f"{whole} AND {largest} >= {limit}", shown, advice))
            elif sql_type.id == "blob":
                bad = f"{value} IS NOT NULL AND TRY(decode({value})) IS NULL"
                advice = "which is no UTF-8 text; write the column as text"
                tests.append(
                    (
                        column,
                        f"bool_or({bad})",
                        f"any_value({value}::VARCHAR) FILTER ({bad})",
                        advice,
                    )
                )
            elif column not in self.roles.nested and not is_printable(sql_type):
                advice = (
                    f"where text is wanted; name one field ({column}.<field>) or write the "
                    "column as text"
                )
                example = f"any_value(left(to_json({readable(value, sql_type)})::VARCHAR, 80))"
                tests.append((column, f"count({value}) > 0", example, advice))
        if not tests:
            return
        looks = ", ".join(f"{bad}, {shown}" for _, bad, shown, _ in tests)
        for file, *found in self.duck.rows(
            f"SELECT {FILE}, {looks} FROM {self.rows} GROUP BY {FILE} ORDER BY {FILE}"
        ):
            for (column, _, _, advice), bad, shown in zip(
                tests, found[::2], found[1::2], strict=True
            ):
                if bad:
                    kind = shown_type(self.types[column])
                    raise ValueError(
                        f"{file}: column {column!r} holds {kind}, e.g. {shown}, {advice}"
                    )


def _whole_labels(duck: Duck, path: Path, schema: pa.Schema, roles: Roles) -> list[str]:
    """Return the text columns of ids and labels that were whole doubles once: "12.0" beside "13",
    and nothing else.

    Raises ``ValueError`` where a column holds "1.2346E+12", or doubles too wide to be exact: digits
    were lost.
    """
    wanted = schema.names if roles.columns is None else roles.columns
    texts = [
        column
        for column in dict.fromkeys(wanted)
        if column in schema.names and column not in (FILE, PLACE) and roles.is_label(column)
        if is_text(schema.field(column).type)
    ]
    if not texts:
        return []
    rows = f"read_parquet({files([path])}, hive_partitioning = false)"
    looks = []
    values = {
        column: trimmed(text_of_text(name(column), schema.field(column).type)) for column in texts
    }
    for value in values.values():
        wide = (
            f"(contains({value}, 'E+') OR contains({value}, 'e+')) AND "
            f"regexp_full_match({value}, '{_POWER}')"
        )
        looks.append(f"bool_or(ends_with({value}, '.0')), any_value({value}) FILTER ({wide})")
    found = duck.row(f"SELECT {', '.join(looks)} FROM {rows}")
    for column, power in zip(texts, found[1::2], strict=True):
        if power is not None:
            raise ValueError(
                f"{_named(duck, path)}: column {column!r} holds {power!r}, an id or label that a "
                "spreadsheet or a double shortened, so its last digits are lost; export the "
                "column as text"
            )
    whole = []
    for column in [c for c, ends in zip(texts, found[::2], strict=True) if ends]:
        value = values[column]
        absent = f"lower({value}) IN ('', 'nan', 'null', 'none', '<na>')"
        all_whole, largest = duck.row(
            f"""SELECT bool_and({absent} OR regexp_full_match({value}, '-?\\d+(\\.0+)?')),
                    max(try_cast(ltrim({value}, '-') AS DOUBLE)) FILTER (ends_with({value}, '.0'))
                FROM {rows}"""
        )
        if all_whole and largest is not None and largest >= EXACT_BELOW["double"]:
            raise ValueError(
                f"{_named(duck, path)}: column {column!r} holds whole doubles up to {largest:.0f}, "
                f"which are exact only below {EXACT_BELOW['double']:,}; write them as integers or "
                "text"
            )
        if all_whole:
            whole.append(column)
    return whole


#: What spreadsheets and doubles make of long numbers.
_POWER = r"\d(\.\d+)?[eE]\+\d+"


def _named(duck: Duck, path: Path) -> str:
    """Return the file that the rows of ``path`` came from."""
    if path.parent != duck.work:
        return str(path)
    return str(duck.row(f"SELECT {FILE} FROM read_parquet({files([path])}) LIMIT 1")[0])
