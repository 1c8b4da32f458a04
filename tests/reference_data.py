"""Slow twins of the data stage: plain Python over lists of dicts, written from the definitions in
the docstrings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from sidar.data.cleaning.normalise import normalise_query

GAP_US = 30 * 60 * 1_000_000


def group_requests(
    log: pa.Table, max_history: int, n_positions_first: bool = True
) -> dict[tuple[str, str], dict[str, Any]]:
    """``{(user, request): {ts, query, items: {row: (position, action)}, history: [rows]}}``; every
    row has an id.
    """
    requests: dict[tuple[str, str], dict[str, Any]] = {}
    # user -> (request, row) -> first moment
    engaged: dict[str, dict[tuple[str, int], int]] = defaultdict(dict)
    for event in log.to_pylist():
        key = (event["user_id"], event["request_id"])
        request = requests.setdefault(
            key, {"ts": event["ts"], "query": event["query"], "items": {}}
        )
        request["ts"] = min(request["ts"], event["ts"])
        position, action = request["items"].get(event["row"], (0, 0))
        known = [p for p in (position, event["position"]) if p > 0]
        request["items"][event["row"]] = (min(known, default=0), max(action, event["action"]))
        if event["action"] > 0 and event["user_id"]:
            item = (event["request_id"], event["row"])
            engaged[event["user_id"]][item] = min(
                engaged[event["user_id"]].get(item, event["ts"]), event["ts"]
            )
    for (user, _), request in requests.items():
        past = sorted(
            (ts, name, row) for (name, row), ts in engaged[user].items() if ts < request["ts"]
        )
        request["history"] = [row for _, _, row in past][-max_history:] if max_history else []
    return requests


def best_first(items: dict[int, tuple[int, int]]) -> list[int]:
    """Positives: highest tier first, inside a tier known positions in order."""
    positives = [
        (-action, position == 0, position, row)
        for row, (position, action) in items.items()
        if action > 0
    ]
    return [row for *_, row in sorted(positives)]


def sessions(events: list[tuple[str, str, str, int]]) -> list[list[int]]:
    """Groups of event indices: the same (user, session, query) without a gap over 30 minutes."""
    by_key: dict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)
    for index, (user, session, query, ts) in enumerate(events):
        by_key[user, session, query].append((ts, index))
    groups = []
    for moments in by_key.values():
        moments.sort()
        for place, (ts, index) in enumerate(moments):
            if place == 0 or ts - moments[place - 1][0] > GAP_US:
                groups.append([])
            groups[-1].append(index)
    return groups


def jaccard(a: str, b: str) -> float:
    """Of the lower-case word sets of two ASCII queries."""
    left, right = set(a.lower().split()), set(b.lower().split())
    return len(left & right) / max(len(left | right), 1)


def seen_or_unseen(
    query: str, requests: list[dict[str, Any]], earlier: Callable[[dict[str, Any]], bool]
) -> str:
    """The label of ``query``; ``requests`` are rows of requests.parquet, ``earlier`` says which
    come before.
    """
    if not query.strip():
        return "no query"

    def key(text: str) -> str:
        return normalise_query(text) or " ".join(text.casefold().split())

    for request in requests:
        answered = any(action in (1, 2, 3) for action in request["actions"])
        if (
            earlier(request)
            and answered
            and request["query"]
            and key(request["query"]) == key(query)
        ):
            return "seen"
    return "unseen"
