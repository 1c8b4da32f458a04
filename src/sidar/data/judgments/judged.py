"""Judged queries from files in any format of a log: CSV, TSV, JSONL or Parquet with a header, and
TREC qrels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidar.config import EvalSetConfig, HeldOutConfig
from sidar.data.cleaning.categories import parsed
from sidar.data.readers.small import SmallTable, read_small
from sidar.types import Catalogue, EvalSet, Prompt, Qrels

_COLUMNS = ("query_id", "query", "history", "profile", "item_id", "grade")
#: Share of a set's judgments that name nothing above which it is said at once. [ours]
MANY_UNKNOWN = 0.1


@dataclass(frozen=True)
class StoredSet:
    """An evaluation set with its role and what reading it left out."""

    evalset: EvalSet
    role: str
    topic_oracle: bool = False
    dropped: dict[str, int] = field(default_factory=dict)
    # every query of the files, also those cut or without judgments
    held_out: list[str] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    # scored queries that read like a training query by the set's own rule; files only
    trained_on: int = 0


def read_file_set(
    config: EvalSetConfig, catalogue: Catalogue, max_queries: int | None
) -> StoredSet:
    """A set from files: queries (``query_id, query``) and qrels (``query_id, item_id, grade``), or
    both in one file.

    Without query ids in either file the query's text is its id.  Judgments on items that the
    catalogue lacks and of queries that the set lacks are dropped and counted, then queries without
    any judgment left.  ``max_queries`` caps simulated sets by a stable hash of the query id; judged
    (real) sets are never cut. Raises ``ValueError`` for a missing file or column, a record that
    cannot be read, a repeated query id, an item that is judged twice for one query, a grade that is
    no finite number, or an empty set.
    """
    place = f"evaluate.sets {config.name}"
    if unmeant := [column for column in config.columns if column not in _COLUMNS]:
        raise ValueError(f"{place}: columns.{unmeant[0]} is none of {', '.join(_COLUMNS)}")
    wanted = ("query_id", "query", "history", "profile")
    queries = read_small(config.queries, wanted, ("query",), place, config.columns)
    qrels_path = config.qrels or config.queries
    qrels_wanted = ("query_id", "query", "item_id", "grade")
    judged = read_small(
        qrels_path, qrels_wanted, ("item_id", "grade"), place, config.columns, trec=True
    )
    key = _key(queries, judged, config, qrels_path, place)
    texts, rows = _queries(queries, key, place, repeats=qrels_path == config.queries)
    grades = _grades(judged, key, place)

    known_items = _known(catalogue, [item for _, item in grades])
    qrels: Qrels = {}
    no_item, no_query = [], []
    for (query_id, item_id), known in zip(grades, known_items, strict=True):
        if query_id not in texts:
            no_query.append(query_id)
        elif not known:
            no_item.append(item_id)
        else:
            qrels.setdefault(query_id, {})[item_id] = grades[query_id, item_id]
    warnings = [
        *_unknown(
            len(grades),
            no_item,
            catalogue.table.column("item_id")[0].as_py(),
            "items",
            "the catalogue",
        ),
        *_unknown(
            len(grades), no_query, next(iter(texts), ""), "queries", "the set's queries file"
        ),
    ]
    history, lost = _histories(queries, rows, catalogue)
    profiles = queries.columns.get("profile") or [""] * len(queries)
    prompts = {
        i: Prompt(texts[i], history[i], str(profiles[rows[i]] or "")) for i in texts if i in qrels
    }
    kept = _capped(list(prompts), max_queries if config.origin == "simulated" else None)
    if not kept:
        reason = "; ".join(warnings) or f"it has {len(grades):,} judgments"
        raise ValueError(
            f"{place}: no query of {config.queries} has a judged item of the catalogue: {reason}"
        )
    evalset = EvalSet(
        config.name,
        tuple(kept),
        tuple(prompts[i] for i in kept),
        {i: qrels[i] for i in kept},
        config.origin,
    )
    dropped = {
        "judgments_on_unknown_items": len(no_item),
        "judgments_of_unknown_queries": len(no_query),
        "queries_without_judgments": len(texts) - len(prompts),
        "history_items_unknown": len(lost),
    }
    warnings += _worthless(evalset, lost, catalogue)
    held_out = [query for query in texts.values() if query]
    said = tuple(f"{place}: {each}" for each in warnings)
    return StoredSet(evalset, config.role, config.topic_oracle, dropped, held_out, said)


def read_held_out(config: HeldOutConfig) -> list[str]:
    """Return the queries of a file of ``data.held_out``; raises ``ValueError`` for a missing file
    or column.
    """
    table = read_small(config.queries, ("query",), ("query",), "data.held_out", config.columns)
    return [query for query in table.columns["query"] if query]


def _key(
    queries: SmallTable, judged: SmallTable, config: EvalSetConfig, qrels_path: str, place: str
) -> str:
    """Return the column that joins queries and judgments: ``query_id``, or ``query`` where neither
    file has ids.
    """
    with_ids = [
        path
        for path, table in ((config.queries, queries), (qrels_path, judged))
        if "query_id" in table.columns
    ]
    if len(with_ids) == 2:
        return "query_id"
    if "query" in judged.columns and "query" in queries.columns:
        return "query"
    lacking = qrels_path if "query_id" not in judged.columns else config.queries
    raise ValueError(
        f"{place}: {lacking} has no column 'query_id'; name yours as columns: {{query_id: "
        "<yours>}, or give both files a column query, whose text is the id then"
    )


def _queries(
    table: SmallTable, key: str, place: str, repeats: bool
) -> tuple[dict[str, str], dict[str, int]]:
    """Return ``{id: text}`` and ``{id: row}``; ``repeats`` allows a query's row once for each of
    its judgments.
    """
    texts: dict[str, str] = {}
    rows: dict[str, int] = {}
    for row, (query_id, text) in enumerate(
        zip(table.columns[key], table.columns["query"], strict=True)
    ):
        if not query_id:
            raise ValueError(f"{place}: {table.where(row)} has no {key}")
        if query_id in texts and not repeats:
            raise ValueError(
                f"{place}: query_id {query_id!r} occurs twice ({table.where(rows[query_id])}; "
                f"{table.where(row)}); give every query its own id"
            )
        if texts.setdefault(query_id, text) != text:
            raise ValueError(
                f"{place}: query_id {query_id!r} has two texts, {texts[query_id]!r} "
                f"({table.where(rows[query_id])}) and {text!r} ({table.where(row)})"
            )
        rows.setdefault(query_id, row)
    return texts, rows


def _grades(table: SmallTable, key: str, place: str) -> dict[tuple[str, str], float]:
    """Return the grade of each judged pair of query and item, in the file's order."""
    grades: dict[tuple[str, str], float] = {}
    first: dict[tuple[str, str], int] = {}
    columns = (table.columns[key], table.columns["item_id"], table.columns["grade"])
    for row, (query_id, item_id, said) in enumerate(zip(*columns, strict=True)):
        for column, value in ((key, query_id), ("item_id", item_id)):
            if not value:
                raise ValueError(f"{place}: {table.where(row)} has no {column}")
        try:
            grade = float(said)
        except (TypeError, ValueError):
            grade = math.nan
        if not math.isfinite(grade):
            raise ValueError(
                f"{place}: {table.where(row)}: grade {said!r} of query {query_id!r} is no finite "
                "number; write labels as numbers, the most relevant highest"
            )
        pair = (query_id, item_id)
        if pair in grades:
            same = "the same grade" if grades[pair] == grade else f"{grades[pair]:g} and {grade:g}"
            raise ValueError(
                f"{place}: item {item_id!r} is judged twice for query {query_id!r} ({same}): "
                f"{table.where(first[pair])} and {table.where(row)}; keep one judgment of each pair"
            )
        grades[pair], first[pair] = grade, row
    return grades


def _known(catalogue: Catalogue, item_ids: list[str]) -> np.ndarray:
    """(n,) bool: the item is in the catalogue and alive."""
    rows = rows_of(catalogue, item_ids)
    return (rows >= 0) & catalogue.alive[rows]


def _unknown(judgments: int, unknown: list[str], example: str, kind: str, side: str) -> list[str]:
    """Say, with an id of either side, that many judgments name something that the
    other side lacks.
    """
    if len(unknown) <= MANY_UNKNOWN * judgments:
        return []
    return [
        f"{len(unknown):,} of {judgments:,} judgments name {kind} that {side} does not have, e.g. "
        f"{unknown[0]!r} (an id there is {example!r}); they are not used"
    ]


def _histories(
    table: SmallTable, rows: dict[str, int], catalogue: Catalogue
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Return ``{query id: known rows of its history}`` and the items of histories that the
    catalogue lacks.
    """
    values = table.columns.get("history")
    if values is None:
        return dict.fromkeys(rows, ()), []
    ids = {query_id: _history(values[row]) for query_id, row in rows.items()}
    flat = [item for items in ids.values() for item in items]
    found = iter(rows_of(catalogue, flat)) if flat else iter(())
    lost: list[str] = []
    known: dict[str, tuple[int, ...]] = {}
    for query_id, items in ids.items():
        places = [(item, int(next(found))) for item in items]
        lost += [item for item, row in places if row < 0]
        known[query_id] = tuple(row for _, row in places if row >= 0)
    return known, lost


def _history(value: str | Sequence[str] | None) -> list[str]:
    """Item ids as a list, as a list written as JSON, Python or numpy text, or as text separated by
    spaces.
    """
    if isinstance(value, str) and value.lstrip().startswith(("[", "(", "array(")):
        listed = parsed(value)
        value = listed if isinstance(listed, list) else value
    return value.split() if isinstance(value, str) else [str(item) for item in value or ()]


def _worthless(evalset: EvalSet, lost: list[str], catalogue: Catalogue) -> list[str]:
    """Say what makes a set, or a part of it, decide nothing."""
    said = []
    empty = [
        i for i, prompt in zip(evalset.query_ids, evalset.prompts, strict=True) if not prompt.query
    ]
    if empty:
        said.append(
            f"{len(empty):,} of {len(evalset):,} queries have no text, e.g. query_id {empty[0]!r}"
        )
    best = [max(grades.values()) for grades in evalset.qrels.values()]
    without = sum(grade <= 0 for grade in best)
    if without == len(best):
        said.append(
            "no judgment has a grade above 0, so nothing counts as relevant and every score is 0"
        )
    elif without > len(best) / 2:
        said.append(
            f"{without:,} of {len(best):,} queries have no grade above 0, so nothing counts as "
            "relevant there"
        )
    if lost and not any(prompt.history for prompt in evalset.prompts):
        said.append(
            f"no item of the column history is in the catalogue, e.g. {lost[0]!r} (an id there is "
            f"{catalogue.table.column('item_id')[0].as_py()!r}); want ids separated by spaces"
        )
    return said


def _capped(ids: list[str], limit: int | None) -> list[str]:
    """At most ``limit`` ids, chosen by hash and kept in their order."""
    if limit is None or len(ids) <= limit:
        return ids
    chosen = set(sorted(ids, key=lambda i: hashlib.md5(i.encode()).hexdigest())[:limit])
    return [i for i in ids if i in chosen]


def rows_of(catalogue: Catalogue, item_ids: list[str]) -> np.ndarray:
    """(n,) int32 rows, −1 = unknown; one hash join instead of ``Catalogue.rows``'s dict, which is
    large for large N.
    """
    ids = catalogue.table.column("item_id")
    found = pc.index_in(pa.array(item_ids, pa.string()), value_set=ids.combine_chunks())
    return pc.fill_null(found, -1).to_numpy().astype(np.int32)
