"""The toy shop: 64 items in 8 shelves and an eight-day log, the smallest world in which every stage
has work to do.

Tests, documentation and demos share it.  Everything is a pure function of its arguments; nothing is
read from disk. The log is simulated: examination falls with the position, clicks follow relevance
and the shopper's own brand.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.data.catalogue import found
from sidar.data.toy_shelves import JUDGED, SHELVES
from sidar.types import (
    ACTIONS,
    CATALOGUE_SCHEMA,
    INTERACTIONS_SCHEMA,
    Catalogue,
    EvalSet,
    PathLike,
    Prompt,
)

DAY_US = 86_400_000_000
#: Midnight (UTC) of the toy log's first day, in µs: 2026-01-05, a Monday.
FIRST_DAY = 1_767_571_200_000_000
DAYS = 8
N_USERS = 24


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """The 64 products; row = 8 · shelf + place.

    Eight prices and four brands are missing, as in real feeds.
    """
    columns: dict[str, list[object]] = {name: [] for name in CATALOGUE_SCHEMA.names}
    for shelf, (path, noun, products) in enumerate(SHELVES):
        for place, (title, brand, price, colour, material) in enumerate(products):
            launched = place == len(products) - 1
            facts = {"colour": colour, "material": material}
            values: dict[str, object] = {
                "item_id": f"T{shelf}{place:02d}",
                "title": title,
                "text": f"{title}. A {colour} {noun} made of {material}.",
                "category": list(path),
                "brand": brand,
                "price": price,
                "image_url": None,
                "in_stock": (shelf + place) % 11 != 0,
                "created": FIRST_DAY + (4 * DAY_US if launched else -30 * DAY_US),
                "attributes": json.dumps(facts),
                "alive": True,
            }
            for name, value in values.items():
                columns[name].append(value)
    return found(pa.table(columns, schema=CATALOGUE_SCHEMA))


def log_queries() -> dict[str, int]:
    """``{query: shelf}`` of all queries that shoppers type in the log, most frequent first within a
    shelf.
    """
    queries: dict[str, int] = {}
    for shelf, (_, noun, products) in enumerate(SHELVES):
        colours = dict.fromkeys(c for _, _, _, c, _ in products if c and c != "multicolour")
        brands = dict.fromkeys(b for _, b, _, _, _ in products if b)
        for query in (
            noun,
            *(f"{c} {noun}" for c in colours),
            *(f"{b.lower()} {noun}" for b in brands),
        ):
            queries[query] = shelf
    return queries


def grade(query: str, row: int, shelf: int) -> float:
    """Graded relevance of ``row``: 0 off the shelf, .1 on it, up to 1 with the share of query words
    it answers.
    """
    item = catalogue().item(row)
    if row // 8 != shelf:
        return 0.0
    words = set(query.split())
    said = set(f"{item['title']} {item['brand']} {item['text']}".lower().replace(".", "").split())
    return round(0.1 + 0.9 * len(words & said) / len(words), 3)


@lru_cache(maxsize=4)
def events(requests_per_day: int = 48, seed: int = 0) -> pa.Table:
    """The raw log as a shop would export it: contract columns with ``item_id`` and the action's
    name.

    Every request shows eight items: seven of the query's shelf ordered by noisy relevance and one
    stray item; one request in ten is in random order (``bucket`` "random").
    """
    rng = np.random.default_rng(seed)
    items, queries = catalogue(), log_queries()
    texts = list(queries)
    share = 1.0 / (1.0 + np.arange(len(texts)) % 7)
    share /= share.sum()
    brands, ids = items.column("brand"), items.item_ids
    favourite = [str(b) for b in rng.choice(sorted({b for b in brands if b}), N_USERS)]
    names = (
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
    )
    columns: dict[str, list[object]] = {name: [] for name in (*names, "bucket")}

    def write(*values: object) -> None:
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)

    for day in range(1, DAYS + 1):
        moments = np.sort(rng.integers(6 * 3600, 23 * 3600, requests_per_day))
        for number, second in enumerate(moments):
            ts = FIRST_DAY + (day - 1) * DAY_US + int(second) * 1_000_000
            user, query = int(rng.integers(N_USERS)), texts[int(rng.choice(len(texts), p=share))]
            shelf = queries[query]
            pool = np.arange(8 * shelf, 8 * shelf + (8 if day >= 5 else 7))
            utility = np.array([grade(query, int(r), shelf) for r in pool])
            utility += 0.3 * np.array([brands[r] == favourite[user] for r in pool])
            shown = pool[np.argsort(-(utility + rng.normal(0, 0.15, len(pool))), kind="stable")][:7]
            stray = int(rng.integers(64))  # from another shelf, and never one of its late launches
            stray = stray if stray // 8 != shelf and stray % 8 != 7 else (8 * shelf + 8) % 64
            shown = np.insert(shown, int(rng.integers(3, 8)), stray)
            bucket = "random" if number % 10 == 9 else ""
            if bucket:
                rng.shuffle(shown)
            request, session = f"d{day}r{number:03d}", f"d{day}u{user:02d}"
            for position, row in enumerate(map(int, shown), start=1):
                key = (f"user{user:02d}", session, request, query, ids[row], position)
                write(ts, *key, "impression", None, None, bucket)
                liking = grade(query, row, shelf) + 0.3 * (brands[row] == favourite[user])
                if rng.random() < liking * 0.6 / position**0.5:
                    write(
                        ts + position * 4_000_000,
                        *key,
                        "click",
                        None,
                        float(5 + rng.integers(90)),
                        bucket,
                    )
                    if rng.random() < 0.35:
                        write(
                            ts + position * 4_000_000 + 60_000_000, *key, "cart", None, None, bucket
                        )
                        if rng.random() < 0.5:
                            price = items.item(row)["price"]
                            write(
                                ts + position * 4_000_000 + 240_000_000,
                                *key,
                                "order",
                                price,
                                None,
                                bucket,
                            )
    return pa.table(columns).sort_by("ts")


def interactions() -> pa.Table:
    """The same log validated: :data:`~sidar.types.INTERACTIONS_SCHEMA`, item rows and action codes,
    sorted by ts.
    """
    raw = events()
    return (
        pa.table(
            {
                **{n: raw.column(n) for n in raw.column_names if n not in ("item_id", "action")},
                "row": pa.array(catalogue().rows(raw.column("item_id").to_pylist())),
                "action": pa.array(
                    [ACTIONS.index(a) for a in raw.column("action").to_pylist()], pa.int8()
                ),
            }
        )
        .select(INTERACTIONS_SCHEMA.names)
        .cast(INTERACTIONS_SCHEMA)
    )


def users() -> pa.Table:
    """One profile per shopper: ``user_id, age_group, home``; two shoppers have none."""
    known = range(N_USERS - 2)
    ages, homes = ("18-29", "30-44", "45-64"), ("flat", "house", None)
    return pa.table(
        {
            "user_id": [f"user{u:02d}" for u in known],
            "age_group": [ages[u % 3] for u in known],
            "home": pa.array([homes[u % 3 - u % 2] for u in known], pa.string()),
        }
    )


def judged(role: str = "test") -> EvalSet:
    """Queries nobody typed with graded truth: 8 of role ``test``, 4 of role ``valid``."""
    queries = JUDGED[role]
    ids = tuple(f"{role}{i}" for i in range(len(queries)))
    items = catalogue().item_ids
    qrels = {
        i: {str(items[row]): grade(query, row, shelf) for row in range(8 * shelf, 8 * shelf + 8)}
        for i, (query, shelf) in zip(ids, queries.items(), strict=True)
    }
    return EvalSet(
        f"toy-{role}", ids, tuple(Prompt(query) for query in queries), qrels, origin="simulated"
    )


def write_inputs(folder: PathLike) -> dict[str, Path]:
    """Write the shop's files into ``folder``: catalogue, events, users (Parquet) and the judged
    sets (TSV).

    Returns ``{name: path}`` with the keys ``catalogue, events, users`` and
    ``{valid,test}.{queries,qrels}``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.parquet" for name in ("catalogue", "events", "users")}
    pq.write_table(catalogue().table.drop_columns(["alive"]), paths["catalogue"])
    pq.write_table(events(), paths["events"])
    pq.write_table(users(), paths["users"])
    for role in JUDGED:
        judgments = judged(role)
        pairs = zip(judgments.query_ids, judgments.prompts, strict=True)
        lines = [
            f"{i}\t{item}\t{g}"
            for i, graded in judgments.qrels.items()
            for item, g in graded.items()
        ]
        for kind, head, body in (
            ("queries", "query_id\tquery", [f"{i}\t{p.query}" for i, p in pairs]),
            ("qrels", "query_id\titem_id\tgrade", lines),
        ):
            paths[f"{role}.{kind}"] = folder / f"judged_{role}.{kind}.tsv"
            paths[f"{role}.{kind}"].write_text("\n".join([head, *body]) + "\n")
    return paths
