"""Small logs of experiments, and the sums of `sidar ab` counted again event by event."""

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.ab.metrics import COLUMNS

DAY = 86_400_000_000
#: Midnight of 2026-11-02, UTC.
START = 1_793_577_600_000_000


def event(user, action, item="i1", *, request="r1", day=0, second=0, **more):
    """One row of a log; ``second`` counts from the day's midnight."""
    return {
        "ts": START + day * DAY + second * 1_000_000,
        "user_id": user,
        "request_id": request,
        "item_id": item,
        "action": action,
        **more,
    }


def write_log(path, events):
    """Write events as Parquet; columns that no event has are absent, but value and dwell_s are null
    (as numbers they are read faster than as text).
    """
    columns = dict.fromkeys(key for one in events for key in one)
    table = {c: [one.get(c) for one in events] for c in columns}
    for quantity in ("value", "dwell_s"):
        table[quantity] = pa.array([one.get(quantity) for one in events], pa.float64())
    pq.write_table(pa.table(table), path)
    return path


def shop_log(path, users=600, lift=0.0, seed=0, days=4, before=0, **names):
    """An experiment of two buckets with a planted lift of clicks and orders.

    Days before 0 have no bucket.  Users alternate between the buckets a and b.
    """
    rng = np.random.default_rng(seed)
    bucket_names = (names.get("a", "a"), names.get("b", "b"))
    events = []
    for user in range(users):
        taste = rng.uniform(0.4, 1.6)
        for day in range(-before, days):
            if day > 0 and rng.random() < 0.3:
                continue
            bucket = bucket_names[user % 2] if day >= 0 else ""
            up = 1 + lift * (user % 2) * (day >= 0)
            request = f"r{user}/{day}"
            for place in range(5):
                item, second = f"i{place}", int(rng.integers(0, 80_000))
                about = {"request": request, "day": day, "bucket": bucket}
                events.append(event(f"u{user}", "impression", item, second=second, **about))
                if rng.random() < 0.2 * taste * up:
                    seconds = float(rng.gamma(2, 10))
                    events.append(
                        event(
                            f"u{user}", "click", item, second=second + 5, dwell_s=seconds, **about
                        )
                    )
                    if rng.random() < 0.3:
                        price = float(rng.lognormal(2, 0.4))
                        events.append(
                            event(
                                f"u{user}", "order", item, second=second + 60, value=price, **about
                            )
                        )
    return write_log(path, events)


def slow_sums(events):
    """``{user: {column: sum}}`` by the definitions of docs/ab.md, one event at a time."""
    # repeats of one event count once
    kept = {
        (e["user_id"], e["ts"], e["request_id"], e["item_id"], e["action"], e.get("value"),
         e.get("dwell_s")): e
        for e in events
    }.values()  # fmt: skip
    sums = defaultdict(lambda: dict.fromkeys(COLUMNS, 0.0))
    first = {}
    for e in kept:
        key = e["user_id"], e["request_id"], e["item_id"], e["action"]
        first[key] = min(first.get(key, e["ts"]), e["ts"])
        of = sums[e["user_id"]]
        if e["action"] == "order":
            of["gmv"] += e.get("value") or 0.0
            of["unpriced"] += e.get("value") is None
        of["dwell"] += e.get("dwell_s") or 0.0
    for (user, request, item, action), ts in first.items():
        of = sums[user]
        of["shown"] += action == "impression"
        of["orders"] += action == "order"
        if action == "click":
            shown = (user, request, item, "impression") in first
            of["clicks" if shown else "unseen_clicks"] += 1
        if action == "order":
            of["clicked_orders"] += any(
                other[0] == user and other[2] == item and other[3] == "click" and at <= ts
                for other, at in first.items()
            )
    return dict(sums)
