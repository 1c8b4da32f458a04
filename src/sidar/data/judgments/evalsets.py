"""Evaluation sets: judged queries from files, and targets observed in the log's validation and test
windows.

The evaluate stage builds them from the config as it stands (:func:`build_sets`); the data stage
also stores them as ``eval/<set>.queries.parquet``, ``eval/<set>.qrels.parquet`` and one
``eval/sets.json``.  Slices per query: ``popularity`` (head, torso, tail, cold: that of its most
popular target in training, so a query is cold only when all its targets are) and ``query``: *seen*
where a request before the window of the set's role had a click, cart or order for a query of the
same normal form, else *unseen*; *no query* for a request without a text.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.config import Config, HeldOutConfig
from sidar.data.catalogue import open_catalogue
from sidar.data.cleaning.normalise import query_key
from sidar.data.duck import Duck, text
from sidar.data.judgments.heldout import found_in, rule_of
from sidar.data.judgments.judged import StoredSet, read_file_set, rows_of
from sidar.data.training.priors import Priors
from sidar.data.training.splits import Split
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
QRELS_SCHEMA = pa.schema(
    [("query_id", pa.string()), ("item_id", pa.string()), ("grade", pa.float64())]
)
#: What makes a shown item a target of a log set: SQL over ``action``, and whether only the
#: randomised bucket counts.
TARGETS = {
    "click": ("action >= 1", False),
    "order": ("action = 3", False),
    "random_click": ("action >= 1", True),
}
_TARGET_NAMES = {"click": "clicks", "order": "orders", "random_click": "random-clicks"}


def build_sets(cfg: Config, folder: PathLike) -> list[StoredSet]:
    """Return the sets that ``evaluate.*`` asks for now, from the config's files and a finished data
    folder.

    Raises ``ValueError`` for a file that cannot be used, or two sets of one name.
    """
    folder = Path(folder)
    report = json.loads((folder / "report.json").read_text())
    split = Split.from_report(report["split"], report["events"]["first_day_us"])
    catalogue = open_catalogue(folder / "catalogue.arrow")
    files = read_files(cfg, catalogue)
    with tempfile.TemporaryDirectory() as work, Duck(work, cfg.events.memory, cfg.threads) as duck:
        return make_sets(duck, cfg, files, folder, split, catalogue)


def read_files(cfg: Config, catalogue: Catalogue) -> list[StoredSet]:
    """Return the sets of ``evaluate.sets``, without slices; one with a ``tuning_share`` is two."""
    sets = []
    for each in cfg.evaluate.sets:
        stored = read_file_set(each, catalogue, cfg.evaluate.max_queries)
        sets += tuning_and_test(stored, each.tuning_share) if each.tuning_share else [stored]
    return sets


def tuning_and_test(stored: StoredSet, share: float) -> list[StoredSet]:
    """Cut a set in two by a stable hash of the query: ``<name>-tuning`` of role ``valid`` with
    ``share`` of its queries, and the rest under its name.

    A query's half depends on its normal form alone, so it stays where it is when others are added.
    Raises ``ValueError`` where one of the two would be empty.
    """
    evalset = stored.evalset
    tunes = np.array([_hashed(prompt.query) < share for prompt in evalset.prompts])
    if tunes.all() or not tunes.any():
        raise ValueError(
            f"evaluate.sets {evalset.name}: tuning_share {share:g} of {len(evalset)} queries "
            "leaves nothing to tune on or nothing to report; name more queries, or two sets"
        )

    def part(name: str, chosen: np.ndarray) -> EvalSet:
        places = np.flatnonzero(chosen).tolist()
        ids = tuple(evalset.query_ids[i] for i in places)
        prompts = tuple(evalset.prompts[i] for i in places)
        return replace(
            evalset,
            name=name,
            query_ids=ids,
            prompts=prompts,
            qrels={i: evalset.qrels[i] for i in ids},
        )

    tuning = replace(
        stored, evalset=part(f"{evalset.name}-tuning", tunes), role="valid", warnings=()
    )
    return [tuning, replace(stored, evalset=part(evalset.name, ~tunes))]


def _hashed(query: str) -> float:
    """Return a number from 0 to 1 that depends on the query's normal form alone."""
    return int.from_bytes(hashlib.sha256(query_key(query).encode()).digest()[:8], "big") / 2**64


def make_sets(
    duck: Duck,
    cfg: Config,
    files: Sequence[StoredSet],
    folder: Path,
    split: Split,
    catalogue: Catalogue,
) -> list[StoredSet]:
    """Return ``files`` and the log's sets with their slices; ``folder`` holds
    requests and priors.
    """
    requests, priors = folder / "requests.parquet", Priors.load(folder / "priors.parquet")
    trained = f"(SELECT query FROM read_parquet({text(requests)}) WHERE split = 'train')"
    sets = []
    for each in files:
        queries = [prompt.query for prompt in each.evalset.prompts]
        again = found_in(duck, trained, queries, rule_of(each.evalset.origin))
        sets.append(replace(each, trained_on=sum(query in again for query in queries)))
    sets += log_sets(duck, cfg, requests, split, catalogue)
    names = [each.evalset.name for each in sets]
    for name in names:
        if names.count(name) > 1 or not name or set(name) & set('/\\:*?"<>| '):
            raise ValueError(
                f"evaluate.sets: {name!r} is taken or no file name; give every set its own plain "
                "name"
            )
    labels = priors.popularity()
    seen = {role: _seen_keys(duck, requests, split, role, sets) for role in ("valid", "test")}
    sliced = []
    for each in sets:
        slices = {
            "popularity": np.asarray(
                _popularity(each.evalset, catalogue, labels, priors.clicks), dtype=object
            ),
            "query": np.asarray(
                [_seen(p.query, seen[each.role]) for p in each.evalset.prompts], dtype=object
            ),
        }
        sliced.append(replace(each, evalset=replace(each.evalset, slices=slices)))
    return sliced


def held_out_advice(cfg: Config, sets: Sequence[StoredSet]) -> str:
    """Return a warning for file sets whose queries training has seen, with the line that holds them
    out; else "".
    """
    leaking = [each for each in sets if each.trained_on]
    if not leaking:
        return ""
    wanted = list(cfg.data.held_out or [])
    for each in cfg.evaluate.sets:
        if each.queries not in [held.queries for held in wanted]:
            wanted.append(
                HeldOutConfig(
                    queries=each.queries, match=rule_of(each.origin), columns=each.columns
                )
            )
    counts = "; ".join(
        f"{each.evalset.name}: {each.trained_on:,} of {len(each.evalset):,}" for each in leaking
    )
    line = ", ".join(_held_out_line(held) for held in wanted)
    return (
        f"queries of evaluation sets were not held out of training ({counts} read like a training "
        "query), so their figures are too high; name them in data.held_out and train "
        f"again:\ndata: {{held_out: [{line}]}}"
    )


def _held_out_line(held: HeldOutConfig) -> str:
    """One entry of ``data.held_out`` as YAML."""
    columns = ", ".join(f"{column}: {own}" for column, own in held.columns.items())
    return (
        f"{{queries: {held.queries}, match: "
        f"{held.match}{f', columns: {{{columns}}}' if columns else ''}}}"
    )


def log_sets(
    duck: Duck, cfg: Config, requests: Path, split: Split, catalogue: Catalogue
) -> list[StoredSet]:
    """Sets of the log: one per target of ``evaluate.targets`` and role, named ``day8-clicks`` and
    so on.

    A query is one request with at least one target, with its user's history and profile; grades are
    1. At most ``evaluate.max_queries`` of them, chosen by a stable hash of the request id. Targets
    that never occur give no set.
    """
    found = []
    limit = "" if cfg.evaluate.max_queries is None else f"LIMIT {cfg.evaluate.max_queries}"
    for role in ("valid", "test") if split.validates else ("test",):
        for target in dict.fromkeys(cfg.evaluate.targets):
            condition, random_only = TARGETS[target]
            bucket = "AND bucket = 'random'" if random_only else ""
            hits = (
                "list_filter(range(1, len(rows) + 1), lambda i: "
                f"{condition.replace('action', 'actions[i]')})"
            )
            table = duck.table(
                f"""SELECT request_id, query, history, profile, list_transform(hits,
                    lambda i: rows[i]) AS targets
                    FROM (SELECT * REPLACE (CASE WHEN nth = 1 THEN request_id
                    ELSE concat(request_id, '/user-', nth) END
                              AS request_id), {hits} AS hits
                          FROM (SELECT *, row_number() OVER (
                                PARTITION BY request_id ORDER BY user_id) AS nth
                                FROM read_parquet({text(requests)})
                                WHERE split = '{role}' {bucket}))
                    WHERE len(hits) > 0 AND (query <> '' OR len(history) > 0)
                    ORDER BY md5(request_id), request_id {limit}"""
            ).to_pylist()
            if not table:
                continue
            items = catalogue.table.column("item_id")
            qrels = {
                r["request_id"]: {items[row].as_py(): 1.0 for row in r["targets"]} for r in table
            }
            prompts = tuple(Prompt(r["query"], tuple(r["history"]), r["profile"]) for r in table)
            name = f"{split.prefix(role)}-{_TARGET_NAMES[target]}"
            found.append(
                StoredSet(
                    EvalSet(name, tuple(qrels), prompts, qrels, origin=cfg.events.origin), role
                )
            )
    return found


def write_sets(sets: Sequence[StoredSet], folder: Path) -> list[dict[str, object]]:
    """Write all sets into ``folder``; returns what ``sets.json`` says."""
    folder.mkdir(parents=True, exist_ok=True)
    listed: list[dict[str, object]] = []
    for stored in sets:
        evalset = stored.evalset
        queries = pa.table(
            {
                "query_id": evalset.query_ids,
                "query": [p.query for p in evalset.prompts],
                "history": [list(p.history) for p in evalset.prompts],
                "profile": [p.profile for p in evalset.prompts],
                "slice_popularity": evalset.slices["popularity"].tolist(),
                "slice_query": evalset.slices["query"].tolist(),
            },
            schema=QUERIES_SCHEMA,
        )
        pairs = [(i, item, g) for i in evalset.query_ids for item, g in evalset.qrels[i].items()]
        qrels = pa.table(
            dict(zip(QRELS_SCHEMA.names, map(list, zip(*pairs, strict=True)), strict=True)),
            QRELS_SCHEMA,
        )
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
                "trained_on": stored.trained_on,
                "warnings": list(stored.warnings),
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
            *pq.read_table(folder / f"{said['name']}.qrels.parquet").to_pydict().values(),
            strict=True,
        ):
            qrels[i][item] = grade
        parts = zip(queries["query"], queries["history"], queries["profile"], strict=True)
        prompts = tuple(Prompt(q, tuple(h), p) for q, h, p in parts)
        slices = {
            n: np.asarray(queries[f"slice_{n}"], dtype=object) for n in ("popularity", "query")
        }
        sets.append(
            EvalSet(
                said["name"], tuple(queries["query_id"]), prompts, qrels, said["origin"], slices
            )
        )
    return sets


def _seen_keys(
    duck: Duck, requests: Path, split: Split, role: str, sets: Sequence[StoredSet]
) -> set[str]:
    """Keys of the queries of ``role`` that an earlier request asked and answered with a click, cart
    or order.

    Only the keys that are asked for are kept, so that memory does not grow with the log's distinct
    queries.
    """
    asked = {
        query_key(prompt.query)
        for each in sets
        if each.role == role
        for prompt in each.evalset.prompts
    }
    earlier = f"""SELECT DISTINCT query FROM read_parquet({text(requests)})
        WHERE query <> '' AND list_max(actions) > 0 AND {split.before(role)}"""
    keys: set[str] = set()
    for batch in duck.batches(earlier):
        keys.update(asked.intersection(map(query_key, batch.column("query").to_pylist())))
    return keys


def _seen(query: str, keys: set[str]) -> str:
    if not query.strip():
        return "no query"
    return "seen" if query_key(query) in keys else "unseen"


def _popularity(
    evalset: EvalSet, catalogue: Catalogue, labels: np.ndarray, clicks: np.ndarray
) -> list[str]:
    """(Q,) label of each query's most clicked best-graded item."""
    best = [
        (i, item)
        for i, qrels in evalset.qrels.items()
        for item, g in qrels.items()
        if g == max(qrels.values())
    ]
    rows = rows_of(catalogue, [item for _, item in best])
    chosen: dict[str, int] = {}
    for (query_id, _), row in zip(best, rows, strict=True):
        if query_id not in chosen or clicks[row] > clicks[chosen[query_id]]:
            chosen[query_id] = int(row)
    return [str(labels[chosen[i]]) for i in evalset.query_ids]
