"""Judged queries from files: TSV, CSV, JSONL or Parquet with a header, and TREC qrels."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidar.config import EvalSetConfig, HeldOutConfig
from sidar.types import Catalogue, EvalSet, Prompt, Qrels

_QRELS = ("query_id", "item_id", "grade")


@dataclass(frozen=True)
class StoredSet:
    """An evaluation set with its role and what reading it left out."""

    evalset: EvalSet
    role: str
    topic_oracle: bool = False
    dropped: dict[str, int] = field(default_factory=dict)
    held_out: list[str] = field(default_factory=list)  # every query of the files, also those cut or without judgments
    trained_on: int = 0  # scored queries that read like a training query by the set's own rule; files only


def read_file_set(config: EvalSetConfig, catalogue: Catalogue, max_queries: int | None) -> StoredSet:
    """A set from files: TSV, CSV, JSONL or Parquet with a header, or TREC qrels (``query 0 item grade``).

    Judgments on items that the catalogue lacks are dropped and counted, then queries without any judgment left.
    ``max_queries`` caps simulated sets by a stable hash of the query id; judged (real) sets are never cut.
    Raises ``ValueError`` for a missing file or column, a repeated query id, or an empty set.
    """
    place = f"evaluate.sets {config.name}"
    queries = _read_columns(config.queries, ("query_id", "query"), ("history", "profile"), place)
    judged = _read_columns(config.qrels, _QRELS, (), place)
    ids = [str(i) for i in queries["query_id"]]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"{config.queries}: query_id {twice!r} occurs twice; give every query its own id")
    rows = rows_of(catalogue, [str(i) for i in judged["item_id"]])
    alive = (rows >= 0) & catalogue.alive[rows]
    qrels: Qrels = {}
    unknown = 0
    for known, query_id, item_id, grade in zip(alive, *(judged[c] for c in _QRELS), strict=True):
        if not known:
            unknown += 1
            continue
        try:
            qrels.setdefault(str(query_id), {})[str(item_id)] = float(grade)
        except (TypeError, ValueError):
            raise ValueError(f"{config.qrels}: grade {grade!r} of query {query_id!r} is no number") from None
    empty = ("",) * len(ids)
    parts = zip(ids, queries["query"], queries["history"] or empty, queries["profile"] or empty, strict=True)
    prompts = {i: Prompt(str(q or ""), _history(h, catalogue), str(p or "")) for i, q, h, p in parts if i in qrels}
    kept = _capped(list(prompts), max_queries if config.origin == "simulated" else None)
    if not kept:
        raise ValueError(
            f"evaluate.sets {config.name}: no query of {config.queries} has a judged item of the catalogue"
        )
    evalset = EvalSet(
        config.name, tuple(kept), tuple(prompts[i] for i in kept), {i: qrels[i] for i in kept}, config.origin
    )
    dropped = {"judgments_on_unknown_items": unknown, "queries_without_judgments": len(ids) - len(prompts)}
    held_out = [str(q) for q in queries["query"] if q]
    return StoredSet(evalset, config.role, config.topic_oracle, dropped, held_out)


def read_held_out(config: HeldOutConfig) -> list[str]:
    """Return the queries of a file of ``data.held_out``; raises ``ValueError`` for a missing file or column."""
    columns = _read_columns(config.queries, ("query",), (), "data.held_out")
    return [str(query) for query in columns["query"] if query]


def _capped(ids: list[str], limit: int | None) -> list[str]:
    """At most ``limit`` ids, chosen by hash and kept in their order."""
    if limit is None or len(ids) <= limit:
        return ids
    chosen = set(sorted(ids, key=lambda i: hashlib.md5(i.encode()).hexdigest())[:limit])
    return [i for i in ids if i in chosen]


def _history(value: str | Sequence[str] | None, catalogue: Catalogue) -> tuple[int, ...]:
    """Item ids as a list or as text separated by spaces → known rows."""
    ids = value.split() if isinstance(value, str) else [str(v) for v in value or ()]
    return tuple(int(r) for r in rows_of(catalogue, ids) if r >= 0) if ids else ()


def _read_columns(path: str, needed: tuple[str, ...], optional: tuple[str, ...], place: str) -> dict:
    """Columns of a small table as lists; absent optional ones are None. ``place`` is the config key for errors."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{place}: {path} does not exist")
    if file.suffix in (".parquet", ".pq"):
        table = pq.read_table(file).to_pydict()
    elif file.suffix in (".jsonl", ".ndjson"):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        table = {c: [line.get(c) for line in lines] for c in {k for line in lines for k in line}}
    else:
        lines_ = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        separator = "\t" if lines_ and "\t" in lines_[0] else "," if file.suffix == ".csv" else None
        cells = list(csv.reader(lines_)) if separator == "," else [line.split(separator) for line in lines_]
        if cells and needed[0] not in cells[0] and len(needed) == 3 and len(cells[0]) == 4:  # TREC: query 0 item grade
            table = {
                "query_id": [c[0] for c in cells],
                "item_id": [c[2] for c in cells],
                "grade": [c[3] for c in cells],
            }
        else:
            for number, row in enumerate(cells, start=1):
                if len(row) != len(cells[0]):
                    raise ValueError(f"{path}: line {number} has {len(row)} columns, its header {len(cells[0])}")
            table = {c: [row[n] for row in cells[1:]] for n, c in enumerate(cells[0])} if cells else {}
    missing = [c for c in needed if c not in table]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r} (it has {', '.join(table)}); want {', '.join(needed)}")
    return {c: table.get(c) for c in (*needed, *optional)}


def rows_of(catalogue: Catalogue, item_ids: list[str]) -> np.ndarray:
    """(n,) int32 rows, −1 = unknown; one hash join instead of ``Catalogue.rows``'s dict, which is large for large N."""
    ids = catalogue.table.column("item_id")
    found = pc.index_in(pa.array(item_ids, pa.string()), value_set=ids.combine_chunks())
    return pc.fill_null(found, -1).to_numpy().astype(np.int32)
