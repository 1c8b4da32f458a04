"""Logged requests that a ranker learns from: who was shown what, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sidar.answer.memory import ACTION_WEIGHT
from sidar.data.duck import Duck, text
from sidar.data.training.propensity import DEEPEST
from sidar.ranker.features import Pairs
from sidar.types import Hits, Prompt, Request

#: µs of a day.
DAY_US = 86_400_000_000


def training_days(duck: Duck, requests: Path, count: int) -> list[int]:
    """Return the last ``count`` days (since 1970) of the training requests, rising.

    The first day of the log is none of them: before it nothing is known. Raises ``ValueError``
    where no other day is left.
    """
    found = duck.rows(
        f"SELECT DISTINCT ts // {DAY_US} AS day FROM read_parquet({text(requests)}) "
        "WHERE split = 'train' ORDER BY day"
    )
    days = [int(day) for (day,) in found][1:]
    if not days:
        raise ValueError(
            "ranker.enabled is true, but the training window of the log has requests of one day "
            "alone; the ranker learns from the last day with what the days before say, so give it "
            "a longer log or set ranker.enabled to false"
        )
    return days[-count:]


def chosen_requests(duck: Duck, requests: Path, where: str, most: int) -> list[Request]:
    """Return at most ``most`` requests with a choice that ``where`` (SQL) admits, by hash.

    Requests without query and history have nothing to be ranked by and are left out.
    """
    table = duck.table(
        f"""SELECT request_id, ts, user_id, query, history, profile, rows, positions, actions, day,
                bucket
            FROM read_parquet({text(requests)})
            WHERE ({where}) AND list_max(actions) > 0 AND (query <> '' OR len(history) > 0)
            QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY user_id) = 1
            ORDER BY md5(request_id), request_id LIMIT {most}"""
    )
    return [
        Request(
            r["request_id"],
            r["ts"],
            r["user_id"],
            Prompt(r["query"], tuple(r["history"]), r["profile"] or ""),
            tuple(r["rows"]),
            tuple(r["positions"]),
            tuple(r["actions"]),
            day=r["day"],
            bucket=r["bucket"] or "",
        )
        for r in table.to_pylist()
    ]


def clicks_before(duck: Duck, requests: Path, day: int, n_items: int) -> np.ndarray:
    """Return (N,) int64: in how many training requests before ``day`` (since 1970) an item was
    clicked or more.
    """
    counted = duck.table(
        f"""SELECT row, count(*) AS clicks
            FROM (SELECT unnest(rows) AS row, unnest(actions) AS action
                  FROM read_parquet({text(requests)})
                  WHERE split = 'train' AND ts // {DAY_US} < {day})
            WHERE action > 0 GROUP BY row"""
    )
    clicks = np.zeros(n_items, np.int64)
    clicks[counted.column("row").to_numpy()] = counted.column("clicks").to_numpy()
    return clicks


def request_weights(requests: Sequence[Request], propensity: np.ndarray | None) -> np.ndarray:
    """Return (R,) weights of mean 1: the mean of 1 / p(position) over what each request chose.

    ``propensity`` (positions,) = :meth:`Propensities.weights`, None = all weigh 1. With one choice,
    which most requests have, this is the weighting of Joachims et al. 2017 by pairs; an unknown
    position weighs 1.
    """
    if propensity is None or not len(requests):
        return np.ones(len(requests))
    found = []
    for request in requests:
        chosen = [
            propensity[min(position, DEEPEST)] if position > 0 else 1.0
            for position, action in zip(request.positions, request.actions, strict=True)
            if action > 0
        ]
        found.append(float(np.mean(chosen)))
    weights = np.array(found)
    return weights / weights.mean()


def candidates(
    channels: Mapping[str, Hits],
    remembered: Sequence[np.ndarray],
    depth: int,
    more: Sequence[np.ndarray] | None = None,
) -> Pairs:
    """Return each request's candidates by rising row: the first ``depth`` items of every channel,
    the ``remembered`` rows of its query, and ``more``.
    """
    found = []
    for r, rows in enumerate(remembered):
        parts = [hits.rows[r, :depth] for hits in channels.values()]
        parts += [rows] if more is None else [rows, more[r]]
        joined = np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)
        found.append(joined[joined >= 0].astype(np.int64))
    return Pairs.of(found)


def labels_of(pairs: Pairs, requests: Sequence[Request]) -> np.ndarray:
    """Return (P,) int64 labels: 3 order, 2 cart, 1 click, 0 anything else."""
    labels = np.zeros(len(pairs.rows), np.int64)
    for r, request in enumerate(requests):
        at = pairs.of_request(r)
        actions = dict(zip(request.rows, request.actions, strict=True))
        labels[at] = [max(actions.get(row, 0), 0) for row in pairs.rows[at].tolist()]
    return labels


def own_counts(tiers: Mapping[int, int]) -> dict[int, float]:
    """Return what a request with these choices {row: action} added to the counts of its query."""
    return {row: ACTION_WEIGHT[action] for row, action in tiers.items() if action in ACTION_WEIGHT}
