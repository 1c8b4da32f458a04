"""The marginals of a simulated log: what it is calibrated to, and what a reader
should check first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidar.types import Json, PathLike

_POSITIONS = (1, 2, 3, 5, 10, 15, 20)


def marginals(folder: PathLike) -> Json:
    """Measured from the files of ``simulate.run``; shares lie in [0, 1] and are of what their name
    says.

    Raises ``ValueError`` when the folder holds no simulated log.
    """
    folder = Path(folder)
    if not (folder / "events.parquet").is_file():
        raise ValueError(f"{folder} holds no events.parquet; make one with sidar.simulate.run")
    events = pq.read_table(
        folder / "events.parquet",
        columns=["ts", "user_id", "session_id", "request_id", "query", "item_id", "action"],
    )
    truth = pq.read_table(folder / "truth.parquet")
    count = {
        action: int(pc.sum(pc.equal(events["action"], action)).as_py() or 0)
        for action in _actions(events)
    }
    clicks, shown = count.get("click", 0), truth.num_rows
    by_request = truth.group_by("request_id").aggregate([("clicked", "any"), ("clicked", "count")])
    position, clicked = truth["position"].to_numpy(), truth["clicked"].to_numpy()
    exact = truth["relevance"].to_numpy() == 1.0
    return {
        "requests": by_request.num_rows,
        "users": pc.count_distinct(events["user_id"]).as_py(),
        "distinct_queries": pc.count_distinct(events["query"]).as_py(),
        "shown_per_request": shown / by_request.num_rows,
        "clicks": clicks,
        "ctr": clicks / shown,
        "ctr_by_position": {
            str(k): float(clicked[position == k].mean())
            for k in _POSITIONS
            if (position == k).any()
        },
        "requests_with_click": float(
            pc.mean(pc.cast(by_request["clicked_any"], pa.float64())).as_py()
        ),
        "carts_per_click": count.get("cart", 0) / max(clicks, 1),
        "orders_per_click": count.get("order", 0) / max(clicks, 1),
        "sessions_with_cart": _sessions_with(events, "cart"),
        "sessions_with_order": _sessions_with(events, "order"),
        "exact_share_of_shown": float(exact.mean()),
        "exact_share_of_clicks": float(exact[clicked].mean()) if clicks else 0.0,
        "pseudo_negative_share": float(exact[~clicked].mean()),
        "taste_gap_of_clicks": _gap(truth["taste"].to_numpy()[exact], clicked[exact]),
        "query_zipf_exponent": _zipf(events),
        "head_query_share": _head(events),
        "cold": _cold(folder, events),
    }


def describe(folder: PathLike) -> Json:
    """Print :func:`marginals`, one per line, under a line that says that the log is simulated; and
    return them.
    """
    found = marginals(folder)
    print(f"SIMULATED log in {folder}")
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {part:.4g}" for key, part in value.items())
        print(f"  {name:22} {value:.4g}" if isinstance(value, float) else f"  {name:22} {value}")
    return found


def _actions(events: pa.Table) -> list[str]:
    return pc.unique(events["action"]).to_pylist()


def _sessions_with(events: pa.Table, action: str) -> float:
    acted = events.filter(pc.equal(events["action"], action))
    return (
        pc.count_distinct(acted["session_id"]).as_py()
        / pc.count_distinct(events["session_id"]).as_py()
    )


def _gap(taste: np.ndarray, clicked: np.ndarray) -> float:
    """Mean taste of clicked minus of unclicked exact items: how much the user, beyond the query,
    decides.
    """
    return (
        float(taste[clicked].mean() - taste[~clicked].mean())
        if clicked.any() and not clicked.all()
        else 0.0
    )


def _requests_per_query(events: pa.Table) -> np.ndarray:
    """(queries,) distinct requests of each query text, most frequent first."""
    pairs = events.group_by(["request_id", "query"]).aggregate([])
    return -np.sort(
        -pairs.group_by("query").aggregate([("request_id", "count")])["request_id_count"].to_numpy()
    )


def _zipf(events: pa.Table) -> float:
    """Slope of log frequency over log rank, over queries asked at least twice (ranks of singletons
    are arbitrary).
    """
    counts = _requests_per_query(events)
    counts = counts[counts >= 2]
    if len(counts) < 3:
        return 0.0
    return float(-np.polyfit(np.log(np.arange(len(counts)) + 1), np.log(counts), 1)[0])


def _head(events: pa.Table) -> float:
    """Share of requests that the most frequent tenth of the queries makes."""
    counts = _requests_per_query(events)
    return float(counts[: max(1, len(counts) // 10)].sum() / counts.sum())


def _cold(folder: Path, events: pa.Table) -> dict[str, float]:
    """Items launched during the log: their share of the catalogue, and of clicks on the log's last
    day.
    """
    catalogue = pq.read_table(folder / "catalogue.parquet", columns=["item_id", "created"])
    begin = pc.min(events["ts"]).as_py()
    launched = pc.greater(pc.cast(catalogue["created"], pa.int64()), begin)
    cold = catalogue.filter(launched)["item_id"].combine_chunks()
    last = events.filter(pc.greater(events["ts"], pc.max(events["ts"]).as_py() - 86_400_000_000))
    clicks = last.filter(pc.equal(last["action"], "click"))["item_id"]
    share = pc.mean(pc.cast(pc.is_in(clicks, value_set=cold), pa.float64())).as_py() or 0.0
    return {
        "items": len(cold),
        "share_of_items": len(cold) / catalogue.num_rows,
        "share_of_last_day_clicks": share,
    }
