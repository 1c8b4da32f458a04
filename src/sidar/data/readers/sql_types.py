"""Types of columns, and SQL that reads a value of each as text."""

from __future__ import annotations

import pyarrow as pa
from duckdb.sqltypes import DuckDBPyType

from sidar.data.duck import name

#: Whole numbers from here on are no longer told apart by the type.
EXACT_BELOW = {"half": 2**11, "float": 2**24, "double": 2**53}
_INTEGERS = (
    "tinyint",
    "smallint",
    "integer",
    "bigint",
    "utinyint",
    "usmallint",
    "uinteger",
    "ubigint",
    "hugeint",
)
RECORDS = ("struct", "map", "union")
LISTS = ("list", "array")


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column holds text, or bytes that may be some."""
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner)) or is_binary(kind)


def is_binary(kind: pa.DataType) -> bool:
    """Return whether a column holds bytes."""
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_binary(inner)
        or pa.types.is_large_binary(inner)
        or pa.types.is_fixed_size_binary(inner)
    )


def text_of_text(value: str, kind: pa.DataType) -> str:
    """Return SQL of a text column as text; bytes that are no text are NULL, and are refused
    elsewhere.
    """
    return f"TRY(decode({value}))" if is_binary(kind) else value


def trimmed(value: str) -> str:
    """Return SQL of a text without ASCII's white space at its ends."""
    return f"trim({value}, ' ' || chr(9) || chr(10) || chr(11) || chr(12) || chr(13))"


def kind_of(sql_type: DuckDBPyType) -> str:
    """Return "number", "time" or "text"; empty for a column of nulls."""
    if sql_type.id in (*_INTEGERS, *EXACT_BELOW, "decimal", "uhugeint"):
        return "number"
    if sql_type.id.startswith("timestamp") or sql_type.id == "date":
        return "time"
    return "" if sql_type.id == "null" else "text"


def is_printable(sql_type: DuckDBPyType) -> bool:
    """Return whether a type is a scalar or a list of scalars."""
    if sql_type.id in LISTS:
        return _element(sql_type).id not in (*LISTS, *RECORDS)
    return sql_type.id not in RECORDS


def _element(sql_type: DuckDBPyType) -> DuckDBPyType:
    return children(sql_type)["child"]


def children(sql_type: DuckDBPyType) -> dict[str, DuckDBPyType]:
    """Return the inner types of a list, struct or map by name."""
    return {key: kind for key, kind in sql_type.children if isinstance(kind, DuckDBPyType)}


def shown_type(sql_type: DuckDBPyType) -> str:
    """Return a type in words that a reader of Parquet files knows."""
    words = {"double": "whole doubles", "float": "whole floats", "blob": "binary"}
    return words.get(sql_type.id, f"values of type {str(sql_type).replace(chr(34), '')}")


def as_text(value: str, sql_type: DuckDBPyType) -> str:
    """Return SQL of a scalar as text, or of a list of scalars as text joined by ", "."""
    if sql_type.id in LISTS:
        if not is_printable(sql_type):  # checked: every value is null
            return "NULL::VARCHAR"
        element = _element(sql_type)
        return (
            f"array_to_string(list_transform({value}::{element}[], lambda e: "
            f"{as_text('e', element)}), ', ')"
        )
    if sql_type.id in EXACT_BELOW:
        whole = f"isfinite({value}) AND {value} = trunc({value}) AND abs({value}) < 1e18"
        return (
            f"CASE WHEN {whole} THEN {value}::BIGINT::VARCHAR WHEN NOT isnan({value}) THEN "
            f"{value}::VARCHAR END"
        )
    if sql_type.id == "decimal":
        return (
            f"CASE WHEN {value} = trunc({value}) THEN trunc({value})::DECIMAL(38, 0)::VARCHAR "
            f"ELSE {value}::VARCHAR END"
        )
    if sql_type.id == "blob":
        return f"TRY(decode({value}))"
    return "NULL::VARCHAR" if sql_type.id in (*RECORDS, "null") else f"{value}::VARCHAR"


def readable(value: str, sql_type: DuckDBPyType, depth: int = 0) -> str:
    """Return SQL of a nested value with binary as text all the way down."""
    inner = f"e{depth}"
    if sql_type.id == "blob":
        return f"coalesce(TRY(decode({value})), {value}::VARCHAR)"
    if sql_type.id in LISTS:
        element = _element(sql_type)
        return (
            f"list_transform({value}::{element}[], lambda {inner}: "
            f"{readable(inner, element, depth + 1)})"
        )
    if sql_type.id == "struct":
        fields = [
            (field, readable(f"{value}.{name(field)}", kind, depth))
            for field, kind in children(sql_type).items()
        ]
        packed = ", ".join(f"{name(field)} := {converted}" for field, converted in fields)
        return f"CASE WHEN {value} IS NOT NULL THEN struct_pack({packed}) END"
    if sql_type.id == "map":
        kinds = children(sql_type)
        entry = ", ".join(
            f"{part} := {readable(f'{inner}.{part}', kinds[part], depth + 1)}"
            for part in ("key", "value")
        )
        return (
            f"map_from_entries(list_transform(map_entries({value}), lambda {inner}: "
            f"struct_pack({entry})))"
        )
    return value
