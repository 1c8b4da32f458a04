"""Evaluation sets: judged queries from files, and targets observed in the log on the validation and test days.

Stored as ``eval/<set>.queries.parquet``, ``eval/<set>.qrels.parquet`` and one ``eval/sets.json``.  Slices per query:
``popularity`` (head, torso, tail, cold: that of its most popular target on training days, so a query is cold only when
all its targets are) and ``query`` (seen, unseen: the same normalised text in a training request).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.config import Config, EvalSetConfig
from sidar.data.duck import Duck, text
from sidar.data.heldout import normalised
from sidar.data.priors import Priors
from sidar.data.splits import Split
from sidar.types import Catalogue, EvalSet, PathLike, Prompt, Qrels

QUERIES_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("query", pa.string()),
        ("history", pa.list_(pa.int32())),
        ("profile", pa.string()),
        ("slice_popularity", pa.string()),
        ("slice_query", pa.string()),
    ]
)
QRELS_SCHEMA = pa.schema([("query_id", pa.string()), ("item_id", pa.string()), ("grade", pa.float64())])
#: What makes a shown item a target of a log set: SQL over ``action``, and whether only the randomised bucket counts.
TARGETS = {"click": ("action >= 1", False), "order": ("action = 3", False), "random_click": ("action >= 1", True)}
_TARGET_NAMES = {"click": "clicks", "order": "orders", "random_click": "random-clicks"}


@dataclass(frozen=True)
class StoredSet:
    """An evaluation set with its role and what reading it left out."""

    evalset: EvalSet
    role: str
    topic_oracle: bool = False
    dropped: dict[str, int] | None = None


def read_file_set(config: EvalSetConfig, catalogue: Catalogue, max_queries: int | None) -> StoredSet:
    """A set from files: TSV, CSV, JSONL or Parquet with a header, or TREC qrels (``query 0 item grade``).

    Judgments on items that the catalogue lacks are dropped and counted, then queries without any judgment left.
    ``max_queries`` caps simulated sets by a stable hash of the query id; judged (real) sets are never cut.
    Raises ``ValueError`` for a missing file or column, a repeated query id, or an empty set.
    """
    queries = _read_columns(config.queries, ("query_id", "query"), ("history", "profile"), config)
    judged = _read_columns(config.qrels, ("query_id", "item_id", "grade"), (), config)
    ids = [str(i) for i in queries["query_id"]]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"{config.queries}: query_id {twice!r} occurs twice; give every query its own id")
    known = _alive_ids(catalogue)
    qrels: Qrels = {}
    unknown = 0
    for query_id, item_id, grade in zip(judged["query_id"], judged["item_id"], judged["grade"], strict=True):
        if str(item_id) not in known:
            unknown += 1
            continue
        try:
            qrels.setdefault(str(query_id), {})[str(item_id)] = float(grade)
        except (TypeError, ValueError):
            raise ValueError(f"{config.qrels}: grade {grade!r} of query {query_id!r} is no number") from None
    empty = ("",) * len(ids)
    rows = zip(ids, queries["query"], queries["history"] or empty, queries["profile"] or empty, strict=True)
    prompts = {i: Prompt(str(q or ""), _history(h, catalogue), str(p or "")) for i, q, h, p in rows if i in qrels}
    kept = _capped(list(prompts), max_queries if config.origin == "simulated" else None)
    if not kept:
        raise ValueError(
            f"evaluate.sets {config.name}: no query of {config.queries} has a judged item of the catalogue"
        )
    evalset = EvalSet(
        config.name, tuple(kept), tuple(prompts[i] for i in kept), {i: qrels[i] for i in kept}, config.origin
    )
    dropped = {"judgments_on_unknown_items": unknown, "queries_without_judgments": len(ids) - len(prompts)}
    return StoredSet(evalset, config.role, config.topic_oracle, dropped)


def log_sets(duck: Duck, cfg: Config, requests: Path, split: Split, catalogue: Catalogue) -> list[StoredSet]:
    """Sets of the log: one per target of ``evaluate.targets`` and role, named ``day<k>-clicks`` and so on.

    A query is one request with at least one target, with its user's history and profile; grades are 1. At most
    ``evaluate.max_queries`` of them, chosen by a stable hash of the request id. Targets that never occur give no set.
    """
    found = []
    limit = "" if cfg.evaluate.max_queries is None else f"LIMIT {cfg.evaluate.max_queries}"
    for role, day in (("valid", split.valid_day), ("test", split.test_day)):
        prefix = f"day{day}" if split.unit == "day" else f"last-{role}"
        for target in dict.fromkeys(cfg.evaluate.targets):
            condition, random_only = TARGETS[target]
            bucket = "AND bucket = 'random'" if random_only else ""
            hits = f"list_filter(range(1, len(rows) + 1), lambda i: {condition.replace('action', 'actions[i]')})"
            table = duck.table(
                f"""SELECT request_id, query, history, profile, list_transform(hits, lambda i: rows[i]) AS targets
                    FROM (SELECT *, {hits} AS hits FROM read_parquet({text(requests)}) WHERE split = '{role}' {bucket}
                          QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY user_id) = 1)
                    WHERE len(hits) > 0 AND (query <> '' OR len(history) > 0)
                    ORDER BY md5(request_id), request_id {limit}"""
            ).to_pylist()
            if not table:
                continue
            items = catalogue.table.column("item_id")
            qrels = {r["request_id"]: {items[row].as_py(): 1.0 for row in r["targets"]} for r in table}
            prompts = tuple(Prompt(r["query"], tuple(r["history"]), r["profile"]) for r in table)
            name = f"{prefix}-{_TARGET_NAMES[target]}"
            found.append(StoredSet(EvalSet(name, tuple(qrels), prompts, qrels, origin="log"), role))
    return found


def write_sets(
    duck: Duck, sets: list[StoredSet], requests: Path, priors: Priors, catalogue: Catalogue, folder: Path
) -> list[dict[str, object]]:
    """Write all sets with their slices into ``folder``; returns what ``sets.json`` says."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [s.evalset.name for s in sets]
    for name in names:
        if names.count(name) > 1 or not name or set(name) & set('/\\:*?"<>| '):
            raise ValueError(f"evaluate.sets: {name!r} is taken or no file name; give every set its own plain name")
    labels = priors.popularity()
    listed: list[dict[str, object]] = []
    for stored in sets:
        evalset = stored.evalset
        seen = _seen(duck, [p.query for p in evalset.prompts], requests)
        popularity = [_most_popular(evalset.qrels[i], catalogue, labels, priors.clicks) for i in evalset.query_ids]
        queries = pa.table(
            {
                "query_id": evalset.query_ids,
                "query": [p.query for p in evalset.prompts],
                "history": [list(p.history) for p in evalset.prompts],
                "profile": [p.profile for p in evalset.prompts],
                "slice_popularity": popularity,
                "slice_query": seen,
            },
            schema=QUERIES_SCHEMA,
        )
        pairs = [(i, item, g) for i in evalset.query_ids for item, g in evalset.qrels[i].items()]
        qrels = pa.table(dict(zip(QRELS_SCHEMA.names, map(list, zip(*pairs, strict=True)), strict=True)), QRELS_SCHEMA)
        pq.write_table(queries, folder / f"{evalset.name}.queries.parquet")
        pq.write_table(qrels, folder / f"{evalset.name}.qrels.parquet")
        listed.append(
            {
                "name": evalset.name,
                "origin": evalset.origin,
                "role": stored.role,
                "topic_oracle": stored.topic_oracle,
                "queries": len(evalset),
                "judgments": len(pairs),
                "dropped": stored.dropped or {},
            }
        )
    (folder / "sets.json").write_text(json.dumps(listed, indent=1) + "\n")
    return listed


def read_sets(folder: PathLike, role: str | None = None) -> list[EvalSet]:
    """The stored sets of a role (all when None), in the order of ``sets.json``."""
    folder = Path(folder)
    sets = []
    for said in json.loads((folder / "sets.json").read_text()):
        if role is not None and said["role"] != role:
            continue
        queries = pq.read_table(folder / f"{said['name']}.queries.parquet").to_pydict()
        qrels: Qrels = {i: {} for i in queries["query_id"]}
        for i, item, grade in zip(
            *pq.read_table(folder / f"{said['name']}.qrels.parquet").to_pydict().values(), strict=True
        ):
            qrels[i][item] = grade
        parts = zip(queries["query"], queries["history"], queries["profile"], strict=True)
        prompts = tuple(Prompt(q, tuple(h), p) for q, h, p in parts)
        slices = {n: np.asarray(queries[f"slice_{n}"], dtype=object) for n in ("popularity", "query")}
        sets.append(EvalSet(said["name"], tuple(queries["query_id"]), prompts, qrels, said["origin"], slices))
    return sets


def _seen(duck: Duck, queries: list[str], requests: Path) -> list[str]:
    """ "seen" or "unseen" for each query."""
    duck.register("asked", pa.table({"n": pa.array(range(len(queries)), pa.int64()), "query": queries}))
    known = f"SELECT {normalised('query')} FROM read_parquet({text(requests)}) WHERE split = 'train'"
    seen = {n for (n,) in duck.rows(f"SELECT n FROM asked WHERE {normalised('query')} IN ({known})")}
    return ["seen" if n in seen else "unseen" for n in range(len(queries))]


def _most_popular(graded: dict[str, float], catalogue: Catalogue, labels: np.ndarray, clicks: np.ndarray) -> str:
    best = max(graded.values())
    rows = catalogue.rows(item for item, grade in graded.items() if grade == best)
    return str(labels[rows[clicks[rows].argmax()]])


def _capped(ids: list[str], limit: int | None) -> list[str]:
    """At most ``limit`` ids, chosen by hash and kept in their order."""
    if limit is None or len(ids) <= limit:
        return ids
    chosen = set(sorted(ids, key=lambda i: hashlib.md5(i.encode()).hexdigest())[:limit])
    return [i for i in ids if i in chosen]


def _alive_ids(catalogue: Catalogue) -> set[str]:
    return set(catalogue.item_ids[catalogue.alive])


def _history(value: object, catalogue: Catalogue) -> tuple[int, ...]:
    """Item ids as a list or as text separated by spaces → known rows."""
    ids = value.split() if isinstance(value, str) else [str(v) for v in value or ()]  # type: ignore[attr-defined]
    return tuple(int(r) for r in catalogue.rows(ids) if r >= 0)


def _read_columns(path: str, needed: tuple[str, ...], optional: tuple[str, ...], config: EvalSetConfig) -> dict:
    """Columns of a small table as lists; absent optional ones are None."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"evaluate.sets {config.name}: {path} does not exist")
    if file.suffix in (".parquet", ".pq"):
        table = pq.read_table(file).to_pydict()
    elif file.suffix in (".jsonl", ".ndjson"):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        table = {c: [line.get(c) for line in lines] for c in {k for line in lines for k in line}}
    else:
        lines_ = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        separator = "\t" if lines_ and "\t" in lines_[0] else "," if file.suffix == ".csv" else None
        cells = [line.split(separator) for line in lines_]
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
