"""Queries that the page offers before the first search."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from sidar.types import Catalogue

#: An example query was typed by at least so many users.
EXAMPLE_USERS = 5
#: Items whose categories are counted where the log has no such query.
CATEGORY_SAMPLE = 100_000


def example_queries(
    data: Path, catalogue: Catalogue, n: int = 8, min_users: int = EXAMPLE_USERS
) -> list[str]:
    """Return the training log's most common queries, else names of the largest categories.

    Only queries that at least ``min_users`` different users typed: a bundle must not repeat what
    one person wrote.
    """
    return _common_queries(data, n, min_users) or _large_categories(catalogue, n)


def _common_queries(data: Path, n: int, min_users: int) -> list[str]:
    requests = data / "requests.parquet"
    needed = {"query", "user_id", "split"}
    if not requests.is_file() or not needed <= set(pq.read_schema(requests).names):
        return []
    import duckdb

    with duckdb.connect() as db:
        rows = db.execute(
            "select query, count(distinct user_id) as users from read_parquet(?) where split = "
            "'train' and query <> '' group by query having users >= ? order by users desc, "
            "query limit ?",
            [str(requests), min_users, n],
        ).fetchall()
    return [query for query, _ in rows]


def _large_categories(catalogue: Catalogue, n: int) -> list[str]:
    paths = catalogue.table.column("category").slice(0, CATEGORY_SAMPLE).to_pylist()
    leaves = Counter(path[-1] for path in paths if path)
    largest = sorted(leaves, key=lambda leaf: (-leaves[leaf], leaf))[:n]
    return [name.lower() for name in largest]
