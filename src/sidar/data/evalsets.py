"""Evaluation sets: judged queries from files, and targets observed in the log on the validation and test days.

Stored as ``eval/<set>.queries.parquet``, ``eval/<set>.qrels.parquet`` and one ``eval/sets.json``.  Slices per query:
``popularity`` (head, torso, tail, cold: that of its most popular target on training days, so a query is cold only when
all its targets are) and ``query`` (seen, unseen: the same normalised text in a training request).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidar.config import Config
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
    dropped: dict[str, int] = field(default_factory=dict)
    held_out: list[str] = field(default_factory=list)  # every query of the files, also those cut or without judgments


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
            found.append(StoredSet(EvalSet(name, tuple(qrels), prompts, qrels, origin=cfg.events.origin), role))
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
    trained = f"SELECT DISTINCT query FROM read_parquet({text(requests)}) WHERE split = 'train'"
    duck.run(f"CREATE OR REPLACE TABLE trained_queries AS SELECT DISTINCT {normalised('query')} FROM ({trained})")
    listed: list[dict[str, object]] = []
    for stored in sets:
        evalset = stored.evalset
        seen = _seen(duck, [p.query for p in evalset.prompts])
        queries = pa.table(
            {
                "query_id": evalset.query_ids,
                "query": [p.query for p in evalset.prompts],
                "history": [list(p.history) for p in evalset.prompts],
                "profile": [p.profile for p in evalset.prompts],
                "slice_popularity": _popularity(evalset, catalogue, labels, priors.clicks),
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
                "dropped": stored.dropped,
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


def _seen(duck: Duck, queries: list[str]) -> list[str]:
    """ "seen" or "unseen" for each query."""
    duck.register("asked", pa.table({"n": pa.array(range(len(queries)), pa.int64()), "query": queries}))
    seen = {n for (n,) in duck.rows(f"SELECT n FROM asked WHERE {normalised('query')} IN (FROM trained_queries)")}
    return ["seen" if n in seen else "unseen" for n in range(len(queries))]


def _popularity(evalset: EvalSet, catalogue: Catalogue, labels: np.ndarray, clicks: np.ndarray) -> list[str]:
    """(Q,) label of each query's most clicked best-graded item."""
    best = [(i, item) for i, qrels in evalset.qrels.items() for item, g in qrels.items() if g == max(qrels.values())]
    rows = rows_of(catalogue, [item for _, item in best])
    chosen: dict[str, int] = {}
    for (query_id, _), row in zip(best, rows, strict=True):
        if query_id not in chosen or clicks[row] > clicks[chosen[query_id]]:
            chosen[query_id] = int(row)
    return [str(labels[chosen[i]]) for i in evalset.query_ids]


def rows_of(catalogue: Catalogue, item_ids: list[str]) -> np.ndarray:
    """(n,) int32 rows, −1 = unknown; one hash join instead of ``Catalogue.rows``'s dict, which is large for large N."""
    ids = catalogue.table.column("item_id")
    found = pc.index_in(pa.array(item_ids, pa.string()), value_set=ids.combine_chunks())
    return pc.fill_null(found, -1).to_numpy().astype(np.int32)
