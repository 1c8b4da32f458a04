"""A slow reading of random tables, written from the documented folding alone, and the tables.

A table is a list of parts; a part is one file of a format, with columns of Python values and the
physical type that stores them.  :func:`expected_text` says what a reader must make of one value,
:func:`refused_columns` which columns it must refuse.  Nothing here calls the readers.
"""

from __future__ import annotations

import datetime
import decimal
import gzip
import io
import json
import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

LABEL, PROSE, MEASURE, NESTED = "label", "prose", "measure", "nested"
TEXT_FORMATS = ("csv", "tsv", "csv.gz", "jsonl", "jsonl.gz", "ndjson")
FORMATS = ("parquet", "parquet", "parquet", *TEXT_FORMATS)
#: Ways of writing "no value" that count as none.
_BLANKS = " \t\n\r\x0b\x0c"
ABSENT = ("", "nan", "null", "none", "<na>")


@dataclass
class Column:
    """Values of one column of a part; ``kind`` is a key of :data:`KINDS`."""

    kind: str
    values: list[Any]


@dataclass
class Dialect:
    """How a delimited or JSON file is written."""

    delimiter: str = ","
    quote_all: bool = False
    backslash: bool = False
    mark: bool = False  # byte order mark
    windows: bool = False  # CRLF
    stated: bool = False  # a first line "sep=;"
    trailing: str = ""  # "", "rows" or "all": a delimiter at the end of lines
    nameless: bool = False  # a first column of row numbers without a name
    ascii: bool = False  # JSON escapes
    sparse: bool = False  # JSON leaves out keys of nulls


@dataclass
class Part:
    """One file."""

    format: str
    columns: dict[str, Column]
    dialect: Dialect = field(default_factory=Dialect)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())).values)

    def first_place(self) -> int:
        """Record number of the first row."""
        if self.format.startswith(("csv", "tsv")):
            return 2 + self.dialect.stated
        return 1


# ----- values ------------------------------------------------------------------------------------

_LETTERS = st.sampled_from([*"abzABZ019 éß中 .-_+/'", "\u00a0", "\U0001f600"])
_MARKS = st.sampled_from(
    [*'",;|\t\\', "\n", "\r\n", "\x85", "\u2028", "\x0b", "\x1c", "\\n", '\\"', '""']
)
_WORDS = st.text(_LETTERS, max_size=6)
_HARD = st.lists(st.one_of(_LETTERS, _MARKS), max_size=7).map("".join)
_NUMBERS_AS_TEXT = st.sampled_from(
    [
        "12.0",
        "13.0",
        "13",
        "007",
        "1.10",
        "-5.0",
        "12.00",
        "9007199254740993",
        "9007199254740993.0",
        "1.23457E+12",
        "1e5",
        "0x1F",
        "NaN",
        "null",
        "None",
        "",
        " 7.0",
        "7.0 ",
        "true",
        "2.0e3",
    ]
)
TEXTS = st.one_of(_WORDS, _HARD, _NUMBERS_AS_TEXT)
_WHOLE = st.one_of(
    st.integers(-50, 50).map(float),
    st.sampled_from(
        [0.0, -0.0, 12.0, 1e6, 123456789.0, 2.0**53 - 1, 2.0**53, 1.7e18, 1e22, 16777215.0]
    ),
)
_FRACTIONS = st.sampled_from([0.5, 1.25, -3.75, 1e-5, 1e300, math.inf, math.nan])
DOUBLES = st.one_of(_WHOLE, _WHOLE, _FRACTIONS)
WHOLE_SMALL = st.integers(-(10**6), 10**6).map(float)
MOMENTS = st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2100, 1, 1))


def _integers(bits: int, signed: bool = True) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.one_of(st.integers(max(low, -20), 100), st.integers(low, high), st.just(high))


def _decimals(digits: int, scale: int) -> st.SearchStrategy[decimal.Decimal]:
    limit = 10**digits - 1
    return st.integers(-limit, limit).map(lambda n: decimal.Decimal(n).scaleb(-scale, _EXACT))


_EXACT = decimal.Context(prec=80)


def _single(value: float) -> float:
    return float(np.float32(value)) if math.isfinite(value) and abs(value) < 1e38 else 0.0


@dataclass(frozen=True)
class Kind:
    """A physical type of Parquet and the values that it stores."""

    values: st.SearchStrategy[Any]
    array: Callable[[list[Any]], pa.Array]


def _as(arrow_type: pa.DataType) -> Callable[[list[Any]], pa.Array]:
    return lambda values: pa.array(values, arrow_type)


def _encoded(arrow_type: pa.DataType) -> Callable[[list[Any]], pa.Array]:
    return lambda values: pa.array(values, arrow_type).dictionary_encode()


def _utc(moment: datetime.datetime) -> datetime.datetime:
    return moment.replace(tzinfo=datetime.UTC)


def _rounded(moment: datetime.datetime) -> datetime.datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


KINDS: dict[str, Kind] = {
    **{
        f"int{bits}": Kind(_integers(bits), _as(getattr(pa, f"int{bits}")()))
        for bits in (8, 16, 32, 64)
    },
    **{
        f"uint{bits}": Kind(_integers(bits, False), _as(getattr(pa, f"uint{bits}")()))
        for bits in (8, 16, 32, 64)
    },
    "double": Kind(DOUBLES, _as(pa.float64())),
    "whole double": Kind(WHOLE_SMALL, _as(pa.float64())),
    "float": Kind(DOUBLES.map(_single), _as(pa.float32())),
    "half": Kind(
        st.integers(-2050, 2050).map(lambda n: float(np.float16(n))),
        lambda values: pa.array(
            [None if v is None else np.float16(v) for v in values], pa.float16()
        ),
    ),
    "bool": Kind(st.booleans(), _as(pa.bool_())),
    "decimal": Kind(_decimals(9, 2), _as(pa.decimal128(9, 2))),
    "wide decimal": Kind(_decimals(38, 10), _as(pa.decimal128(38, 10))),
    "whole decimal": Kind(_decimals(38, 0), _as(pa.decimal128(38, 0))),
    "time": Kind(MOMENTS, _as(pa.timestamp("us"))),
    "time in ns": Kind(MOMENTS, _as(pa.timestamp("ns"))),
    "time in ms": Kind(MOMENTS.map(_rounded), _as(pa.timestamp("ms"))),
    "time with zone": Kind(MOMENTS.map(_utc), _as(pa.timestamp("us", "UTC"))),
    "time in Berlin": Kind(
        MOMENTS.map(_rounded).map(_utc), _as(pa.timestamp("ms", "Europe/Berlin"))
    ),
    "date": Kind(st.dates(datetime.date(1990, 1, 1), datetime.date(2100, 1, 1)), _as(pa.date32())),
    "text": Kind(TEXTS, _as(pa.string())),
    "large text": Kind(TEXTS, _as(pa.large_string())),
    "words of a dictionary": Kind(TEXTS, _encoded(pa.string())),
    "integers of a dictionary": Kind(st.integers(0, 5), _encoded(pa.int64())),
    "binary": Kind(TEXTS.map(str.encode), _as(pa.binary())),
    "large binary": Kind(TEXTS.map(str.encode), _as(pa.large_binary())),
    "bytes of a dictionary": Kind(_WORDS.map(str.encode), _encoded(pa.binary())),
    "bad binary": Kind(st.sampled_from([b"P1", b"\xff\xfe", b"\xc3"]), _as(pa.binary())),
    "fixed binary": Kind(st.sampled_from([b"P001", b"0002"]), _as(pa.binary(4))),
    "list of texts": Kind(st.lists(_WORDS, max_size=3), _as(pa.list_(pa.string()))),
    "list of integers": Kind(st.lists(st.integers(0, 9), max_size=3), _as(pa.list_(pa.int32()))),
    "list of doubles": Kind(st.lists(WHOLE_SMALL, max_size=2), _as(pa.large_list(pa.float64()))),
    "list of two": Kind(
        st.lists(st.integers(0, 9), min_size=2, max_size=2), _as(pa.list_(pa.int16(), 2))
    ),
    "list of binary": Kind(
        st.lists(_WORDS.map(str.encode), max_size=2), _as(pa.list_(pa.binary()))
    ),
    "list of codes": Kind(st.nothing(), _as(pa.list_(pa.int32()))),
    "list of lists": Kind(
        st.lists(st.lists(_WORDS, max_size=2), max_size=2), _as(pa.list_(pa.list_(pa.string())))
    ),
    "struct": Kind(
        st.fixed_dictionaries({"name": _WORDS, "n": st.integers(0, 9)}),
        _as(pa.struct({"name": pa.string(), "n": pa.int64()})),
    ),
    "list of structs": Kind(
        st.lists(st.fixed_dictionaries({"name": _WORDS}), max_size=2),
        _as(pa.list_(pa.struct({"name": pa.string()}))),
    ),
    "map": Kind(
        st.dictionaries(st.sampled_from(["size", "color"]), _WORDS, max_size=2),
        lambda values: pa.array(
            [None if v is None else list(v.items()) for v in values],
            pa.map_(pa.string(), pa.string()),
        ),
    ),
    "null": Kind(st.none(), lambda values: pa.nulls(len(values))),
}
NESTED_KINDS = ("list of lists", "struct", "list of structs", "map")
LISTS = ("list of texts", "list of integers", "list of doubles", "list of two", "list of binary")
BINARY = ("binary", "large binary", "bytes of a dictionary", "bad binary", "fixed binary")
FLOATS = {"double": 2**53, "whole double": 2**53, "float": 2**24, "half": 2**11}
TEXT_KINDS = ("text", "large text", "words of a dictionary", *BINARY)
#: What JSON and CSV can hold.
JSON_KINDS = (
    "int64",
    "uint64",
    "double",
    "whole double",
    "bool",
    "text",
    "list of texts",
    "list of integers",
    "list of doubles",
    "list of lists",
    "struct",
    "list of structs",
    "null",
)
CSV_KINDS = ("int64", "double", "whole double", "bool", "text", "null")


# ----- what a reader must make of them -----------------------------------------------------------


def expected_text(value: Any, kind: str, written: str) -> Any:
    """Return a value as text before labels are folded; times as times; None for no value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if written == "csv":
        return csv_cell(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if written == "json":
            return value  # compared as a number: JSON has many spellings of one
        whole = math.isfinite(value) and value == int(value) and abs(value) < 1e18
        return str(int(value)) if whole else value
    if isinstance(value, decimal.Decimal):
        return str(int(value)) if value == int(value) else f"{value:f}"
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        parts = [expected_text(element, "", written) for element in value]
        return ", ".join(json_number(part) for part in parts if part is not None)
    if isinstance(value, (datetime.datetime, datetime.date, dict)):
        return value
    return str(value)


def json_number(part: Any) -> str:
    """Return a text, or a double as JSON writes it."""
    return repr(part) if isinstance(part, float) else str(part)


def csv_cell(value: Any) -> str:
    """Return what a table writer puts into a cell; integers of columns with nulls
    became doubles.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value if isinstance(value, str) else str(value)


def label_texts(part: Part, column: Column) -> list[Any]:
    """Return a label column's texts: "12.0" means 12 where all values are whole numbers."""
    texts = texts_of(part, column)
    if not _is_written_text(part, column):
        return texts
    listed = [text for text in texts if not _absent(text)]
    # an object is no text, so a column with one is not all whole numbers
    if any(not isinstance(text, str) for text in listed):
        return texts
    if any(text.rstrip().endswith(".0") for text in listed) and all(map(_whole, listed)):
        return [text if _absent(text) else re.sub(r"\.0+$", "", text.strip()) for text in texts]
    return texts


def texts_of(part: Part, column: Column) -> list[Any]:
    return [
        _spelled(expected_text(value, column.kind, _family(part)), part) for value in column.values
    ]


def _spelled(text: Any, part: Part) -> Any:
    return _json_double(text) if isinstance(text, float) and _family(part) == "json" else text


def _json_double(value: float) -> str:
    """Return a double as JSON's shortest spelling, with an exponent from 1e21 on."""
    if abs(value) < 1e21:
        return np.format_float_positional(value, trim="0")
    return repr(value).replace("e+", "e")


def is_nested(part: Part, column: Column) -> bool:
    """Return whether a column holds lists, structs or maps."""
    return _family(part) != "csv" and column.kind in (*LISTS, *NESTED_KINDS)


def _is_written_text(part: Part, column: Column) -> bool:
    return _family(part) != "parquet" or column.kind in TEXT_KINDS


def _absent(text: Any) -> bool:
    if text is None or isinstance(text, str):
        return text is None or text.strip(_BLANKS).lower() in ABSENT
    return False


def _whole(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]+(\.0+)?", text.strip(_BLANKS)) is not None


def _family(part: Part) -> str:
    return "parquet" if part.format == "parquet" else "json" if "j" in part.format else "csv"


def refused(part: Part, column: Column, role: str) -> bool:
    """Return whether a reader must refuse a column of a part."""
    there = [v for v in column.values if v is not None]
    family = _family(part)
    if role != NESTED and column.kind in NESTED_KINDS and there:
        return not (
            family == "json"
            and column.kind in ("list of lists", "list of structs")
            and not any(there)
        )
    if role == NESTED and is_nested(part, column):
        return False
    if column.kind in BINARY and family == "parquet":
        for value in there:
            try:
                value.decode()
            except UnicodeDecodeError:
                return True
    numbers = [v for v in there if isinstance(v, float) and math.isfinite(v)]
    if family == "parquet" and column.kind in FLOATS and role != MEASURE and numbers:
        whole = all(v == int(v) for v in numbers)
        if whole and max(map(abs, numbers)) >= FLOATS[column.kind]:
            return True
    if role in (LABEL, NESTED) and _is_written_text(part, column):
        written = texts_of(part, column)
        texts = [text for text in written if isinstance(text, str) and not _absent(text)]
        if family == "json" and role == LABEL and any(abs(number) >= 1e21 for number in numbers):
            return True
        if any(re.fullmatch(r"\d(\.\d+)?[eE]\+\d+", text.strip()) for text in texts):
            return True
        if texts and all(map(_whole, texts)):
            doubles = [text.strip().lstrip("-") for text in texts if text.rstrip().endswith(".0")]
            return any(float(text) >= 2**53 for text in doubles)
    return False


def case_twins(parts: list[Part]) -> list[str]:
    """Return columns whose names differ from another's in case alone."""
    names = {column for part in parts for column in part.columns}
    lower = [column.lower() for column in names]
    return [column for column in names if lower.count(column.lower()) > 1]


# ----- writing -----------------------------------------------------------------------------------


def write_part(part: Part, folder: Path, name: str) -> Path:
    """Write a part to ``folder``/``name``.<format>."""
    path = folder / f"{name}.{part.format}"
    if part.format == "parquet":
        arrays = [KINDS[column.kind].array(column.values) for column in part.columns.values()]
        pq.write_table(pa.table(arrays, names=list(part.columns)), path)
        return path
    text = _json_lines(part) if "j" in part.format else _delimited(part)
    data = ("\ufeff" if part.dialect.mark else "").encode() + text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if part.format.endswith(".gz") else data)
    return path


def _json_lines(part: Part) -> str:
    out = io.StringIO()
    for row in range(len(part)):
        record = {name: _json_value(column.values[row]) for name, column in part.columns.items()}
        if part.dialect.sparse:
            record = {key: value for key, value in record.items() if value is not None}
        out.write(json.dumps(record, ensure_ascii=part.dialect.ascii))
        out.write("\r\n" if part.dialect.windows else "\n")
    return out.getvalue()


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _delimited(part: Part) -> str:
    d = part.dialect
    end = "\r\n" if d.windows else "\n"
    header = list(part.columns)
    rows = [
        [csv_cell(column.values[row]) for column in part.columns.values()]
        for row in range(len(part))
    ]
    lines = [f"sep={d.delimiter}"] if d.stated else []
    for n, row in enumerate([header, *rows]):
        cells = [_cell(cell, d, d.quote_all or len(row) == 1) for cell in row]
        if d.nameless:
            cells.insert(0, "" if n == 0 else str(n - 1))
        if d.trailing == "all" or (d.trailing == "rows" and n):
            cells.append("")
        lines.append(d.delimiter.join(cells))
    return end.join(lines) + end


def _cell(cell: str, d: Dialect, quoted: bool) -> str:
    if not quoted and not any(mark in cell for mark in (d.delimiter, '"', "\n", "\r")):
        return cell
    if d.backslash:
        return '"' + cell.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return '"' + cell.replace('"', '""') + '"'


# ----- what later steps make of texts ------------------------------------------------------------


def present(value: Any) -> str | None:
    """Return an id or a text without what stands at its ends; None where nothing is left."""
    if value is None:
        return None
    text = str(value).strip(_BLANKS)
    if not text.isascii():
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
        while text and _is_blank(text[0]):
            text = text[1:]
        while text and _is_blank(text[-1]):
            text = text[:-1]
    return None if text.lower() in ABSENT else text


def prose(value: Any) -> str | None:
    """Return a present text with white space and controls folded to single spaces."""
    text = present(value)
    if text is None:
        return None
    shown = "".join(c for c in text if unicodedata.category(c) != "Cf")
    folded = " ".join("".join(" " if _is_blank(c) else c for c in shown).split())
    return folded or None


def _is_blank(character: str) -> bool:
    return character in _BLANKS or unicodedata.category(character)[0] in "CZ"


def printed(value: Any, kind: str) -> Any:
    """Return a value of :func:`label_texts` as text: times and fractions in their
    usual spelling.
    """
    if isinstance(value, datetime.datetime):
        text = value.replace(tzinfo=None).isoformat(" ")
        text = text.rstrip("0") if "." in text else text
        return text + ("+00" if value.tzinfo else "")
    if isinstance(value, float):
        return str(np.float32(value)) if kind in ("float", "half") else repr(value)
    return None if value is None else str(value)
