"""Small tables that people keep (judged queries, qrels, held-out queries): staged like a log, then
read whole.

A record that cannot be read is an error here, never a reject: one lost judgment changes a score.
"""

from __future__ import annotations

import contextlib
import gzip
import tempfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sidar.data.cleaning import clean
from sidar.data.duck import Duck, name, text
from sidar.data.readers.dialect import read_dialect
from sidar.data.readers.json_files import stage_lines
from sidar.data.readers.source import FILE, PLACE, Source, find_files
from sidar.data.readers.staging import stage_csv, stage_whole_lines
from sidar.data.readers.tabular import CSV, JSON, JSONL, PARQUET, SUFFIXES, open_files
from sidar.data.readers.typed import Roles, typed_rows

#: Endings of TREC qrels, which have no header.
TREC = (".trec", ".qrels", ".qrel", ".trec.gz", ".qrels.gz", ".qrel.gz")
#: Endings of delimited text besides those of a log; a small table often has none.
PLAIN = ("", ".txt", ".tab", ".dat")
TREC_FIELDS = ("query_id", "iteration", "item_id", "grade")
#: What others call the columns; the contract's own name comes first, then these in order.
ALIASES = {
    "query_id": ("query_id", "qid", "q_id", "queryid", "topic_id", "topic", "_id", "id"),
    "query": (
        "query",
        "query_text",
        "user_query",
        "search_query",
        "search_term",
        "keywords",
        "text",
    ),
    "item_id": (
        *(
            "item_id",
            "itemid",
            "product_id",
            "productid",
            "doc_id",
            "docid",
            "document_id",
            "corpus_id",
            "docno",
        ),
        *("object_id", "asin", "sku"),
    ),
    "grade": (
        "grade",
        "rating",
        "relevance",
        "label",
        "score",
        "rel",
        "judgment",
        "judgement",
        "gain",
    ),
    "history": ("history",),
    "profile": ("profile",),
}


@dataclass(frozen=True)
class SmallTable:
    """Columns by contract name, all of the same length; a column that the source lacks is not in
    ``columns``.
    """

    columns: dict[str, list[Any]]
    files: list[str]
    places: list[int]

    def __len__(self) -> int:
        return len(self.places)

    def where(self, row: int) -> str:
        """Return where a row stands, e.g. ``qrels.csv, record 3``; the header is record 1."""
        return f"{self.files[row]}, record {self.places[row]:,}"


def read_small(
    path: str,
    wanted: Sequence[str],
    needed: Sequence[str],
    option: str,
    columns: Mapping[str, str] | None = None,
    trec: bool = False,
) -> SmallTable:
    """Read the files of ``path`` (a file, folder or glob in any format of a log) into memory.

    ``wanted`` are contract columns, found by ``columns`` (contract column -> the source's own), by
    name, or by a name of :data:`ALIASES`.  ``trec`` also reads TREC qrels (``query 0 item grade``,
    no header).  Raises ``ValueError`` for a missing file or column and for a record that cannot be
    read; ``option`` is the config key to name.
    """
    if path and not Path(path).exists() and not any(c in path for c in "*?["):
        raise ValueError(f"{option}: {path} does not exist")
    found = find_files(path, (*SUFFIXES, *(TREC if trec else ())), option, option)
    if not any(file.stat().st_size for file in found):
        raise ValueError(f"{option}: {path} is empty; want the columns {', '.join(needed)}")
    source = Source("")
    with tempfile.TemporaryDirectory(prefix="sidar-table-") as work, Duck(work) as duck:
        relation = _open(duck, path, found, option, source, trec, columns or {})
        for reject in source.rejects[:1]:
            lost = sum(source.rejected.values())
            raise ValueError(
                f"{option}: {reject.file}, record {reject.place:,} cannot be read "
                f"({reject.reason}): {reject.raw.strip()[:200]!r}; {lost:,} such "
                f"record{'s' * (lost != 1)}. Correct the file"
            )
        chosen = _choose(
            duck, relation, wanted, needed, columns or {}, path, option, source.columns
        )
        picked = [
            f"{_value(duck, relation, column, own)} AS {name(column)}"
            for column, own in chosen.items()
        ]
        table = duck.table(
            f"SELECT {', '.join(picked)}, {FILE}, {PLACE} FROM {relation} ORDER BY {FILE}, {PLACE}"
        )
    read = table.to_pydict()
    return SmallTable({column: read[column] for column in chosen}, read[FILE], read[PLACE])


def _open(
    duck: Duck,
    path: str,
    found: list[Path],
    option: str,
    source: Source,
    trec: bool,
    mapped: Mapping[str, str],
) -> str:
    """Return the name of a view over all files, with FILE and PLACE."""
    full = [file for file in found if file.stat().st_size]
    headerless = [file for file in full if trec and _is_trec(file)]
    roles = _roles(
        duck, [file for file in full if file not in headerless], mapped, bool(headerless)
    )
    if not headerless and all(file.name.endswith((*SUFFIXES, *JSON)) for file in full):
        open_files(duck, path, roles.columns, option, "small_rows", source, roles)
        return "small_rows"
    for file in full:
        if (
            not file.name.endswith((*SUFFIXES, *TREC))
            and Path(file.name.removesuffix(".gz")).suffix not in PLAIN
        ):
            raise ValueError(
                f"{option}: {file} has none of the known endings "
                f"{', '.join((*SUFFIXES, *TREC, '.txt'))}"
            )
    staged = []
    for file in full:
        staged.append(
            _stage_trec(duck, file, source) if file in headerless else stage_csv(duck, file, source)
        )
    rows, names = typed_rows(duck, staged, roles)
    source.columns = names
    duck.run(f"CREATE OR REPLACE VIEW small_rows AS {rows}")
    return "small_rows"


def _roles(duck: Duck, paths: Sequence[Path], mapped: Mapping[str, str], headerless: bool) -> Roles:
    """Return the columns that are ``mapped`` or may be wanted, all of them where there is none, and
    what they are.

    Other columns may hold what is no text (BEIR's ``metadata``) and are not read.
    """
    known = {alias for names in ALIASES.values() for alias in names}
    prose = {alias for column in ("query", "profile") for alias in ALIASES[column]}
    names: dict[str, None] = dict.fromkeys(TREC_FIELDS) if headerless else {}
    for path in paths:
        names |= dict.fromkeys(_names(duck, path))
    own = list(mapped.values())
    dotted = [column for column in own if column not in names and column.partition(".")[0] in names]
    wanted = [column for column in names if column in own or _plain(column) in known]
    texts = {mapped[column] for column in ("query", "profile") if column in mapped}
    texts |= {column for column in wanted if _plain(column) in prose and column not in own}
    return Roles([*wanted, *dotted] or None, prose=frozenset(texts))


def _names(duck: Duck, path: Path) -> list[str]:
    """Return the names of a file's columns; of none where another step says what is
    wrong with it.
    """
    if path.name.endswith(PARQUET):
        with contextlib.suppress(pa.ArrowInvalid, OSError):
            return list(pq.read_schema(path).names)
        return []
    if path.name.endswith((*JSONL, *JSON)):
        lines = stage_lines(duck, path, Source(""))
        sql = (
            f"SELECT DISTINCT unnest(json_keys(line)) AS key FROM read_parquet({text(lines)}) "
            "ORDER BY key"
        )
        return [key for (key,) in duck.rows(sql)]
    if path.name.endswith(CSV) or Path(path.name.removesuffix(".gz")).suffix in PLAIN:
        return list(read_dialect(path).columns)
    return []


def _plain(column: str) -> str:
    """Return a column's name as aliases are written."""
    return column.strip().lower().replace("-", "_").replace(" ", "_")


def _is_trec(path: Path) -> bool:
    """Whether the first line is four fields of which the last is a number: ``q1 0 P100 2``."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            first = file.readline(1 << 16).decode("utf-8-sig", errors="replace")
        except (EOFError, OSError, zlib.error):  # staging says what is wrong with the file
            return False
    fields = first.split()
    if len(fields) != len(TREC_FIELDS):
        return False
    try:
        float(fields[-1])
    except ValueError:
        return False
    return True


def _stage_trec(duck: Duck, path: Path, source: Source) -> Path:
    """Stage TREC qrels; raises ``ValueError`` for the first line that has not four fields."""
    lines = stage_whole_lines(duck, path, source)
    fields = (
        "(SELECT *, regexp_split_to_array(trim(line), '\\s+') AS fields FROM "
        f"read_parquet({text(lines)}))"
    )
    wrong = (
        f"SELECT place, line FROM {fields} WHERE len(fields) <> {len(TREC_FIELDS)} ORDER BY "
        "place LIMIT 1"
    )
    for place, line in duck.rows(wrong):
        raise ValueError(
            f"{path}, record {place:,} is no TREC judgment (query 0 item grade): {line[:200]!r}"
        )
    picked = ", ".join(f"fields[{n}] AS {column}" for n, column in enumerate(TREC_FIELDS, start=1))
    target = duck.new_file()
    duck.export(f"SELECT {picked}, file AS {FILE}, place AS {PLACE} FROM {fields}", target)
    return target


def _choose(
    duck: Duck,
    relation: str,
    wanted: Sequence[str],
    needed: Sequence[str],
    columns: Mapping[str, str],
    path: str,
    option: str,
    every: Sequence[str],
) -> dict[str, str]:
    """Return ``{contract column: the source's own}`` for those of ``wanted`` that
    the source has.
    """
    have = [column for column in duck.columns(relation) if column not in (FILE, PLACE)]
    filled = _filled(duck, relation, have)
    chosen = {}
    for column in wanted:
        own = columns.get(column)
        if own is not None and own in have:
            chosen[column] = own
            continue
        if own is not None and (column in needed or column in ("history", "profile")):
            raise ValueError(
                f"{option}: columns.{column}: {path} has no column {own!r}; it has "
                f"{', '.join(every)}"
            )
        if found := _named(column, have, filled, taken=[*chosen.values(), *columns.values()]):
            if column not in found and len(found) > 1 and column != "query_id":
                raise ValueError(
                    f"{option}: {path}: {' and '.join(map(repr, found))} could both be {column}; "
                    f"name one of them, columns: {{{column}: {found[0]}}}"
                )
            chosen[column] = found[0]
    for column in needed:
        if column not in chosen:
            raise ValueError(
                f"{option}: {path} has no column {column!r} (it has {', '.join(every)}); want "
                f"{', '.join(needed)}. Name yours, e.g. columns: {{{column}: {every[0]}}}, or "
                "write a first line with the names if it has none"
            )
    return chosen


def _filled(duck: Duck, relation: str, have: Sequence[str]) -> set[str]:
    """Return the columns that have any value."""
    counts = duck.row(
        f"SELECT {', '.join(f'count({name(column)})' for column in have)} FROM {relation}"
    )
    return {column for column, count in zip(have, counts, strict=True) if count}


def _named(
    column: str, have: Sequence[str], filled: Collection[str], taken: Collection[str]
) -> list[str]:
    """Return the source's columns that are called ``column`` or one of its aliases, the likeliest
    first.
    """
    plain = {own: _plain(own) for own in have if own not in taken}
    order = [own for alias in ALIASES[column] for own, said in plain.items() if said == alias]
    if column in order:
        return [column]
    return [own for own in order if own in filled] or order[:1]


def _value(duck: Duck, relation: str, column: str, own: str) -> str:
    """SQL of a column as its reader wants it: ids trimmed, texts folded, histories as they are."""
    if column in ("query_id", "item_id"):
        return clean.present(own)
    if column in ("query", "profile"):
        return f"coalesce({clean.folded(name(own) + '::VARCHAR')}, '')"
    if column == "history" and duck.columns(relation)[own].endswith("[]"):
        return name(own)
    return f"{name(own)}::VARCHAR"
