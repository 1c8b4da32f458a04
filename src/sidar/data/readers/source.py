"""What every reader hands over: a SQL view of the raw rows under contract names, and what it had to
refuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sidar.data.duck import Duck, name

#: Contract columns of a raw catalogue and of a raw log, as readers name them. ``channels`` (which
#: channels delivered a shown item) is read by online experiments alone (sidar.ab).
ITEM_COLUMNS = (
    "item_id",
    "title",
    "text",
    "category",
    "brand",
    "price",
    "image_url",
    "in_stock",
    "created",
    "attributes",
)
EVENT_COLUMNS = (
    "ts",
    "user_id",
    "session_id",
    "request_id",
    "query",
    "item_id",
    "position",
    "action",
    "value",
    "dwell_s",
    "bucket",
    "channels",
)
#: Columns of times and quantities, of lists and structs, and of free text; the others hold ids and
#: labels.
MEASURES = frozenset({"ts", "position", "value", "dwell_s", "price", "created"})
NESTED = frozenset({"category", "attributes", "channels"})
PROSE = frozenset({"title", "text", "brand", "image_url", "query", "bucket"})
#: What staged tables call a row's file and record number, so that a source may have columns "file"
#: and "place".
FILE, PLACE = "sidar_file", "sidar_place"
#: Rejected records of one file that are kept with their text; all of them are counted.
KEPT_REJECTS = 10_000


@dataclass(frozen=True)
class Reject:
    """A record that could not even be split into columns."""

    file: str
    place: int
    reason: str
    raw: str


@dataclass
class Source:
    """Raw rows. ``sql`` selects the contract columns plus ``file`` (text) and ``place`` (record
    number, 1-based).

    ``place`` counts readable records only where a text file had rejects; ``shifts`` (file,
    provisional places after which a reject stood) lets the quarantine restore true record numbers.
    ``rejected`` counts per file and reason.
    """

    sql: str
    rejects: list[Reject] = field(default_factory=list)
    rejected: dict[tuple[str, str], int] = field(default_factory=dict)
    shifts: list[tuple[str, np.ndarray]] = field(default_factory=list)
    clock: str = ""  # "s", "ms", "us": ts are numbers on the source's own clock, not calendar time
    # all columns of the files, also those that are not taken
    columns: list[str] = field(default_factory=list)
    # those that no header names, such as a data frame's row numbers
    nameless: set[str] = field(default_factory=set)
    # the format's own action names; events.actions overrides
    actions: dict[str, str] = field(default_factory=dict)

    def refuse(self, file: str, reason: str, count: int) -> None:
        """Count records that could not be cut."""
        self.rejected[file, reason] = self.rejected.get((file, reason), 0) + count

    def record(self, file: str, place: int) -> int:
        """Return the record number, as an editor counts, of the row at ``place``."""
        return place + sum(int((at < place).sum()) for name_, at in self.shifts if name_ == file)


def find_files(path: str, suffixes: Sequence[str], what: str, option: str) -> list[Path]:
    """The files that ``path`` (a file, a folder or a glob) names, sorted.

    A folder gives its files with one of ``suffixes``; raises ``ValueError`` naming the config key
    when there is none.
    """
    if not path:
        raise ValueError(f"{option} is empty; name the {what} file, folder or glob there")
    here = Path(path)
    if here.is_file():
        return [here]
    if here.is_dir():
        found = [
            p for p in sorted(here.rglob("*")) if p.is_file() and p.name.endswith(tuple(suffixes))
        ]
        found = [
            p
            for p in found
            if not any(part.startswith((".", "_")) for part in p.relative_to(here).parts)
        ]
    else:
        pieces = here.parts
        first = next(
            (i for i, piece in enumerate(pieces) if any(c in piece for c in "*?[")), len(pieces)
        )
        root = Path(*pieces[:first]) if first else Path(".")
        found = (
            sorted(p for p in root.glob("/".join(pieces[first:])) if p.is_file())
            if first < len(pieces)
            else []
        )
    if not found:
        raise ValueError(
            f"{option}: {path} names no {what} file ({', '.join(suffixes)}); check the path"
        )
    return found


def refuse_case_twins(columns: Iterable[str], where: str) -> None:
    """Raise ``ValueError`` for two columns whose names differ in case alone: SQL takes them for
    one.
    """
    seen: dict[str, str] = {}
    for column in columns:
        twin = seen.setdefault(column.lower(), column)
        if twin != column:
            raise ValueError(
                f"{where}: columns {twin!r} and {column!r} differ only in case; rename one of them"
            )


def select_columns(
    duck: Duck,
    relation: str,
    columns: Mapping[str, str],
    wanted: Sequence[str],
    required: Sequence[str],
    option: str,
    every: Sequence[str] = (),
) -> str:
    """SQL that renames the source's columns to contract names; absent optional ones become NULL.

    ``columns`` maps contract column to the source's own. Raises ``ValueError`` that lists what the
    source has (``every``, where the relation holds only the columns that are wanted).
    """
    have = duck.columns(relation)
    unknown = [c for c in columns if c not in wanted]
    if unknown:
        raise ValueError(
            f"{option}: {unknown[0]!r} is not a contract column; choose from {', '.join(wanted)}"
        )
    parts = []
    for column in wanted:
        own = columns.get(column, column)
        if own in have:
            parts.append(f"{name(own)} AS {name(column)}")
        elif column in columns or column in required:
            named = [c for c in every or have if c not in (FILE, PLACE)]
            near = [repr(c) for c in named if c.strip().lower() == own.strip().lower()]
            raise ValueError(
                (
                    f"{option}.{column}: no column {own!r}; the source has {', '.join(named)}. Map "
                    f"it as {column}: "
                )
                + (near[0] if near else "<yours>")
            )
        else:
            parts.append(f"NULL::VARCHAR AS {name(column)}")
    return f"SELECT {', '.join(parts)}, {FILE} AS file, {PLACE} AS place FROM {relation}"
