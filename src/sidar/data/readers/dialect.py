"""The dialect of a delimited file: delimiter and column names from its whole head, quotes
respected.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sidar.data.readers.source import refuse_case_twins

DELIMITERS = "\t;|,"
#: How much of a file is looked at, in bytes and in records.
_HEAD, _RECORDS = 1 << 20, 1000


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is cut; ``skipped`` lines stand before its header."""

    columns: tuple[str, ...]
    delimiter: str
    skipped: int = 0
    # columns that the header does not name, such as a data frame's row numbers
    nameless: tuple[str, ...] = ()


def opened(path: Path) -> IO[bytes]:
    """Open a file for its unpacked bytes."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]  # GzipFile reads bytes, too
    return path.open("rb")


def read_dialect(path: Path, keys: Collection[str] = ()) -> Dialect:
    """Return the dialect of a file with a header.

    The delimiter is the one whose header has most of ``keys``, then the one that cuts most records
    of the head into as many fields as the header, then the one with most fields.  A column without
    a name is called ``column 3`` by its place, also one that only a delimiter at the end of each
    line makes.  Raises ``ValueError`` where there is no header, a name stands twice, or each record
    has one field more than the header.
    """
    with opened(path) as f:
        try:
            raw = f.read(_HEAD)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is no readable gzip file: {error}") from error
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path} is UTF-16; save it as UTF-8")
    if raw.startswith(b"PAR1"):
        raise ValueError(f"{path} is a Parquet file; name it .parquet")
    if b"\0" in raw[:2]:
        raise ValueError(f"{path} is no UTF-8 text (it looks like UTF-16); save it as UTF-8")
    text = raw.decode("utf-8-sig", errors="replace")
    stated, skipped = "", 0
    first, _, rest = text.partition("\n")
    # as Excel writes and reads it
    if first.rstrip("\r").lower() in [f"sep={mark}" for mark in DELIMITERS]:
        stated, text, skipped = first.rstrip("\r")[4:], rest, 1
    best: tuple[tuple, str, list[list[str]]] | None = None
    escapes = (None, "\\") if '\\"' in text else (None,)
    for delimiter, escape in itertools.product(stated or DELIMITERS, escapes):
        records = _records(text, delimiter, escape, whole=len(raw) < _HEAD)
        if records:
            score = _score(records, keys)
            if best is None or score > best[0]:
                best = score, delimiter, records
    start = text.lstrip("\r\n").splitlines()[0][:120] if text.strip() else ""
    if best is None:
        raise ValueError(f"{path}: its first line is no header of distinct column names: {start!r}")
    _, delimiter, (header, *records) = best
    columns = _names(header, records, path)
    if not any(name.strip() for name in header) or len(set(columns)) < len(columns):
        raise ValueError(f"{path}: its first line is no header of distinct column names: {start!r}")
    refuse_case_twins(columns, str(path))
    nameless = [
        name
        for name, written in itertools.zip_longest(columns, header, fillvalue="")
        if name and not written.strip()
    ]
    return Dialect(columns, delimiter, skipped, tuple(nameless))


def _records(text: str, delimiter: str, escape: str | None, whole: bool) -> list[list[str]]:
    """Return the first records; blank lines are none, and a record that the head cuts short is left
    out.
    """
    records: list[list[str]] = []
    lines = io.StringIO(text, newline="")
    try:
        for record in csv.reader(
            lines, delimiter=delimiter, escapechar=escape, doublequote=escape is None
        ):
            if record:
                records.append(record)
            if len(records) > _RECORDS:
                return records
    except csv.Error:
        return records
    return records if whole or len(records) < 2 else records[:-1]


def _score(records: list[list[str]], keys: Collection[str]) -> tuple:
    header, *rest = records
    width = len(header)
    fitting = sum(_fits(record, header) for record in rest) / max(len(rest), 1)
    return len(set(header) & set(keys)), width > 1, round(fitting, 1), width


def _fits(record: list[str], header: list[str]) -> bool:
    """Return whether a record has the header's columns, give or take an empty one at the end."""
    extra = len(record) - len(header)
    return extra == 0 or (extra == 1 and not record[-1]) or (extra == -1 and not header[-1])


def _names(header: list[str], records: list[list[str]], path: Path) -> tuple[str, ...]:
    """Return a name for each column that the records have."""
    names = [
        name if name.strip() else f"column {place}" for place, name in enumerate(header, start=1)
    ]
    longer = [record for record in records if len(record) == len(header) + 1]
    shorter = [record for record in records if len(record) == len(header) - 1]
    if 2 * len(longer) > len(records):
        if any(record[-1] for record in longer):
            raise ValueError(
                f"{path}: its header has {len(header)} columns and its records have "
                f"{len(header) + 1}, so values would "
                "shift; name the first column of row numbers too, or quote values that hold the "
                "delimiter"
            )
        names.append(f"column {len(names) + 1}")
    elif 2 * len(shorter) > len(records) and not header[-1].strip():
        names.pop()
    return tuple(names)
