"""Counting a log's requests into a :class:`~sidar.answer.memory.Memory`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from sidar.answer.memory import ACTION_WEIGHT, Memory, MemoryFacts, key_check, keys_of
from sidar.data.cleaning.clean import DAY_US
from sidar.data.duck import Duck, text
from sidar.data.training.propensity import DEEPEST, Propensities

#: Who counts once a day: the user, or where none is known the session, or the request alone.
_WHO = (
    "CASE WHEN user_id <> '' THEN 'u' || user_id WHEN session_id <> '' THEN 's' || session_id "
    "ELSE 'r' || request_id END"
)


def count_memory(
    duck: Duck,
    requests: Path,
    splits: Sequence[str],
    secret: bytes,
    lineage: str,
    *,
    min_users: int = 1,
    propensities: Propensities | None = None,
    last_day: int | None = None,
) -> Memory:
    """Count the requests of ``splits`` in ``requests.parquet``.

    ``propensities``: a choice at position k weighs min(1 / p(k), 10) more (``memory.debias: ips``);
    an unknown position weighs 1.  ``last_day``: from which ages count, default the last day of
    those requests.
    """
    duck.run(
        "CREATE OR REPLACE TEMP TABLE chosen AS "
        f"{_chosen(duck, requests, splits, secret, propensities)}"
    )
    table = duck.table(
        """WITH once AS (SELECT key, row, day, who, max(weight) AS weight FROM chosen GROUP BY ALL),
             pairs AS (SELECT key, row, count(DISTINCT who) AS users FROM chosen GROUP BY ALL)
           SELECT key, row, day, sum(weight) AS weight, any_value(users) AS users
           FROM once JOIN pairs USING (key, row) GROUP BY key, row, day ORDER BY key, row, day"""
    )
    total, squares, last = duck.row(
        """SELECT coalesce(sum(weight), 0), coalesce(sum(weight * weight), 0), coalesce(max(day), 0)
           FROM (SELECT max(weight) AS weight, day FROM chosen GROUP BY key, row, day, who)"""
    )
    duck.run("DROP TABLE chosen")
    facts = MemoryFacts(
        lineage=lineage,
        last_day=int(last) if last_day is None else last_day,
        key=key_check(secret),
        min_users=min_users,
        debias="none" if propensities is None else "ips",
        effective_n=float(total * total / squares) if squares else 0.0,
    )
    return Memory.of(table, facts)


def without_request(
    duck: Duck,
    requests: Path,
    splits: Sequence[str],
    secret: bytes,
    request_ids: Sequence[str],
    propensities: Propensities | None = None,
) -> pa.Table:
    """Return what each of ``request_ids`` alone adds: (request_id, key, row, day, weight) to be
    subtracted for it.

    Leaving a request out of the counts takes away its weight only where no other request of the
    same user, query, item and day weighs as much.
    """
    duck.run(
        "CREATE OR REPLACE TEMP TABLE chosen AS "
        f"{_chosen(duck, requests, splits, secret, propensities)}"
    )
    duck.register("left_out", pa.table({"request_id": pa.array(request_ids, pa.string())}))
    table = duck.table(
        """WITH best AS (SELECT *, coalesce(max(weight) OVER (PARTITION BY key, row, day, who
                             ORDER BY request_id ROWS BETWEEN UNBOUNDED PRECEDING
                             AND UNBOUNDED FOLLOWING
                             EXCLUDE CURRENT ROW), 0) AS others FROM chosen)
           SELECT request_id, key, row, day, weight - others AS weight
           FROM best SEMI JOIN left_out USING (request_id)
           WHERE weight > others ORDER BY request_id, key, row, day"""
    )
    duck.run("DROP TABLE chosen")
    return table


def _chosen(
    duck: Duck,
    requests: Path,
    splits: Sequence[str],
    secret: bytes,
    propensities: Propensities | None,
) -> str:
    """SQL of (request_id, key, row, day, who, weight): every item that a request chose, by its
    highest action.
    """
    source = f"read_parquet({text(requests)})"
    named = ", ".join(text(split) for split in splits)
    wanted = f"split IN ({named}) AND query <> ''"
    asked = [query for (query,) in duck.rows(f"SELECT DISTINCT query FROM {source} WHERE {wanted}")]
    duck.register("query_keys", keys_of(asked, secret))
    cases = " ".join(f"WHEN {action} THEN {weight}" for action, weight in ACTION_WEIGHT.items())
    weight = f"CASE action {cases} END"
    if propensities is not None:
        factors = propensities.weights()
        factors[0] = 1.0
        listed = "[" + ", ".join(f"{factor:.9g}" for factor in np.maximum(factors, 1.0)) + "]"
        weight = f"{weight} * {listed}[least(position, {DEEPEST}) + 1]"
    return f"""
        SELECT request_id, key, row, day, who, ({weight})::DOUBLE AS weight
        FROM (SELECT request_id, query, ts // {DAY_US} AS day, {_WHO} AS who, unnest(rows) AS row,
                  unnest(actions) AS action, unnest(positions) AS position
              FROM {source} WHERE {wanted})
        JOIN query_keys USING (query) WHERE action > 0"""
