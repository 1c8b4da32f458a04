"""From events to users: who is in which bucket, and the sums of every user's events per day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

from sidar.ab.assign import Agreement, agreement, buckets
from sidar.ab.events import CLICK, IMPRESSION, ORDER
from sidar.ab.metrics import COLUMNS
from sidar.data.cleaning.clean import DAY_US
from sidar.data.duck import Duck, text

#: Share of users in several buckets above which buckets were not drawn by user. [ours]
MANY_CROSSED = 0.2
Crossing = Literal["drop", "first", "error"]


@dataclass(frozen=True)
class Design:
    """What the experimenter planned. ``start`` and ``end`` are µs UTC; before ``start`` lies the
    pre-period.

    ``experiment`` and ``shares`` are the name and the shares of the hash (:mod:`sidar.ab.assign`).
    """

    names: tuple[str, ...] = ()  # buckets to compare, the control first; empty = those of the log
    control: str = ""
    start: int | None = None
    end: int | None = None
    crossing: Crossing = "drop"
    experiment: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DayRows:
    """Sums of a user's events of one day: (R,) users, days from 0, and ``{column: (R,)}``."""

    user: np.ndarray
    day: np.ndarray
    sums: dict[str, np.ndarray]


@dataclass(frozen=True)
class UserLog:
    """U users of an experiment; ``bucket`` (U,) counts in ``names``, whose first is the control.

    ``before`` holds the same sums from before the start, (U,) each; None without a pre-period.
    """

    names: tuple[str, ...]
    bucket: np.ndarray
    joined: np.ndarray  # (U,) day of the first event in the experiment
    days: DayRows
    n_days: int
    before: dict[str, np.ndarray] | None
    crossed: int  # users in several buckets
    agreement: Agreement | None

    def totals(self) -> dict[str, np.ndarray]:
        """Return the sums over all days, (U,) for every column."""
        return {
            column: np.bincount(self.days.user, values, minlength=len(self.bucket))
            for column, values in self.days.sums.items()
        }


def read_users(duck: Duck, design: Design, first_ts: int, last_ts: int) -> UserLog:
    """Reduce ``ab_events`` to the users of an experiment and leave the table ``ab_users (user_id,
    number, bucket, since)``.

    A user's events count from the first that names a bucket on, whether they name it again or not.
    Raises ``ValueError`` that says what to do where there are no users, no buckets or only one, or
    where users change buckets.
    """
    start, end = _period(design, first_ts, last_ts)
    _require_users(duck)
    period = f"user_id <> '' AND ts >= {start} AND ts < {end}"
    check = _seat(duck, design, period)
    crossed = _drop_crossing(duck, design)
    return _reduce(duck, _names(duck, design), design, (start, end), last_ts, crossed, check)


def read_everyone(duck: Duck, design: Design, first_ts: int, last_ts: int) -> UserLog:
    """Reduce ``ab_events`` to all its users, as one bucket: what a plan is made from."""
    start, end = _period(design, first_ts, last_ts)
    _require_users(duck)
    duck.run(
        f"""CREATE OR REPLACE TABLE seats AS
            SELECT user_id, 'all' AS bucket, min(ts) AS since FROM ab_events
            WHERE user_id <> '' AND ts >= {start} AND ts < {end} GROUP BY user_id"""
    )
    return _reduce(duck, ("all",), design, (start, end), last_ts)


def _period(design: Design, first_ts: int, last_ts: int) -> tuple[int, int]:
    """Return the first moment of the experiment and the first after it, µs."""
    start = first_ts // DAY_US * DAY_US if design.start is None else design.start
    end = last_ts + 1 if design.end is None else design.end
    if not start < end:
        raise ValueError(
            "the experiment ends before it starts, or starts after the log's last event; check "
            "--from and --to"
        )
    return start, end


def _require_users(duck: Duck) -> None:
    if not duck.rows("SELECT 1 FROM ab_events WHERE user_id <> '' LIMIT 1"):
        raise ValueError(
            "no event has a user_id, and an experiment is measured per user; map your column with "
            "events.columns.user_id=<yours>, or use ids of devices or sessions"
        )


def _reduce(
    duck: Duck,
    names: tuple[str, ...],
    design: Design,
    period: tuple[int, int],
    last_ts: int,
    crossed: int = 0,
    check: Agreement | None = None,
) -> UserLog:
    """Return the users of ``seats`` in the buckets ``names`` with the sums of their events."""
    start, end = period
    listed = ", ".join(text(name) for name in names)
    duck.run(
        f"""CREATE OR REPLACE TABLE ab_users AS
            SELECT user_id, (row_number() OVER (ORDER BY user_id) - 1)::BIGINT AS number,
                list_position([{listed}], bucket) - 1 AS bucket, since
            FROM seats WHERE bucket IN ({listed})"""
    )
    table = duck.table(
        f"SELECT bucket, (since - {start}) // {DAY_US} AS joined FROM ab_users ORDER BY number"
    )
    bucket, joined = (table.column(c).to_numpy().astype(np.int64) for c in ("bucket", "joined"))
    inside = "SELECT e.* EXCLUDE (bucket), number FROM ab_events e JOIN ab_users USING (user_id)"
    days = _day_rows(duck, f"{inside} WHERE ts >= since AND ts < {end}", start)
    before = None
    if design.start is not None:
        earlier = _day_rows(duck, f"{inside} WHERE ts < {start}", start)
        if len(earlier.user):
            before = _before(earlier, len(bucket))
    n_days = int((min(end, last_ts + 1) - 1 - start) // DAY_US) + 1
    return UserLog(names, bucket, joined, days, n_days, before, crossed, check)


def _before(earlier: DayRows, users: int) -> dict[str, np.ndarray]:
    """Return the sums of the pre-period, and whether a user was seen in it at all."""
    sums = {
        column: np.bincount(earlier.user, values, minlength=users)
        for column, values in earlier.sums.items()
    }
    seen = np.zeros(users)
    seen[earlier.user] = 1.0
    return {**sums, "seen": seen}


def _seat(duck: Duck, design: Design, period: str) -> Agreement | None:
    """Leave the table ``seats (user_id, bucket, since, held)``; ``held`` counts a user's buckets.

    A log without buckets is seated by the hash, where the design names one; a log with buckets is
    checked against it.
    """
    logged = f"{period} AND bucket <> ''"
    if design.names:
        logged += f" AND bucket IN ({', '.join(text(name) for name in design.names)})"
    duck.run(
        f"""CREATE OR REPLACE TABLE seats AS
            SELECT user_id, arg_min(bucket, ts) AS bucket, min(ts) AS since,
                count(DISTINCT bucket) AS held
            FROM ab_events WHERE {logged} GROUP BY user_id"""
    )
    seated = duck.row("SELECT count(*) FROM seats")[0] > 0
    if not seated and design.experiment:
        duck.run(
            f"""CREATE OR REPLACE TABLE seats AS
                SELECT user_id, min(ts) AS since, 1 AS held FROM ab_events WHERE {period}
                GROUP BY user_id"""
        )
        users = duck.table("SELECT user_id FROM seats").column("user_id")
        drawn = buckets(users.to_pylist(), design.experiment, design.shares)
        hashed = pa.table({"user_id": users, "bucket": pa.array(drawn, pa.string())})
        duck.register("hashed_seats", hashed)
        duck.run(
            "CREATE OR REPLACE TABLE seats AS SELECT * FROM seats JOIN hashed_seats USING (user_id)"
        )
        return None
    if not seated:
        raise ValueError(_no_bucket(duck, design, period))
    if not design.experiment:
        return None
    users = duck.table("SELECT user_id, bucket FROM seats WHERE held = 1")
    return agreement(
        users.column("user_id").to_pylist(),
        users.column("bucket").to_pylist(),
        design.experiment,
        design.shares,
    )


def _no_bucket(duck: Duck, design: Design, period: str) -> str:
    """Return why nobody is in a bucket, and what to do."""
    rows = duck.rows(
        f"SELECT DISTINCT bucket FROM ab_events WHERE {period} AND bucket <> '' ORDER BY 1 LIMIT 10"
    )
    if rows and design.names:
        return (
            f"--buckets {','.join(design.names)}: no event of the experiment is in them; its "
            f"buckets are {', '.join(row[0] for row in rows)}"
        )
    return (
        "no event of the experiment names a bucket; map your column with "
        "events.columns.bucket=<yours>, read one log per bucket with --events a=a.parquet "
        "--events b=b.parquet, or name the experiment whose hash draws buckets: --experiment "
        "<name> --shares a=50,b=50"
    )


def _drop_crossing(duck: Duck, design: Design) -> int:
    """Apply the policy for users in several buckets and return their number."""
    users, crossed = duck.row("SELECT count(*), count(*) FILTER (held > 1) FROM seats")
    if not crossed:
        return 0
    counted = f"{crossed:,} of {users:,} users ({crossed / users:.1%}) are in several buckets"
    if design.crossing == "error":
        raise ValueError(f"{counted}; leave them out with --crossing drop")
    if crossed > MANY_CROSSED * users:
        raise ValueError(
            f"{counted}: buckets seem to be drawn by request, not by user. Compare buckets that "
            "are drawn by user (--buckets a,b), say when the experiment ran (--from, --to), or "
            "interleave two rankings and compare them within requests (docs/ab.md)"
        )
    if design.crossing == "drop":
        duck.run("DELETE FROM seats WHERE held > 1")
    return int(crossed)


def _names(duck: Duck, design: Design) -> tuple[str, ...]:
    """Return the buckets, the control first."""
    rows = duck.rows("SELECT bucket, count(*) FROM seats GROUP BY 1 ORDER BY 1")
    there = [row[0] for row in rows]
    missing = [name for name in design.names or design.shares if name not in there]
    if missing:  # of all buckets of the log, not only of those that were asked for
        logged = duck.rows("SELECT DISTINCT bucket FROM ab_events WHERE bucket <> ''")
        buckets = sorted({*there, *(row[0] for row in logged)})
        raise ValueError(f"bucket {missing[0]!r} has no users; the log has {', '.join(buckets)}")
    names = list(design.names or design.shares)
    if not design.names:
        names += [name for name in there if name not in names]
    if len(names) < 2:
        raise ValueError(
            f"all {rows[0][1]:,} users are in one bucket, {there[0]!r}, and a comparison needs "
            "two; check events.columns.bucket and --buckets. To learn how many users an "
            "experiment would need, use --plan"
        )
    if design.control and design.control not in names:
        raise ValueError(f"--control {design.control}: no such bucket; want {', '.join(names)}")
    control = design.control or names[0]
    return (control, *(name for name in names if name != control))


def _day_rows(duck: Duck, events: str, start: int) -> DayRows:
    """Return the sums per user and day of ``events``, a query with the column ``number``.

    An item counts once in a request: shown, clicked, ordered on the day of its first such event.
    Values and dwell times of different events add up.
    """
    duck.run(f"CREATE OR REPLACE TEMP VIEW ab_inside AS {events}")
    first = ", ".join(
        f"min(ts) FILTER (action = {code}) AS {column}"
        for code, column in ((IMPRESSION, "shown"), (CLICK, "clicked"), (ORDER, "ordered"))
    )
    table = duck.table(
        f"""
        WITH pairs AS (SELECT number, request, item_id, {first} FROM ab_inside GROUP BY ALL),
        -- an order in a later request, such as from the basket, follows the click on its item
        clicks AS (SELECT number, item_id, min(clicked) AS clicked FROM pairs GROUP BY ALL),
        parts AS (
            SELECT number, shown AS ts, 1 AS shown FROM pairs WHERE shown IS NOT NULL
            UNION ALL BY NAME
            SELECT number, clicked AS ts, 1 AS clicks FROM pairs
                WHERE clicked IS NOT NULL AND shown IS NOT NULL
            UNION ALL BY NAME
            SELECT number, ordered AS ts, 1 AS orders FROM pairs WHERE ordered IS NOT NULL
            UNION ALL BY NAME
            SELECT p.number, p.ordered AS ts, 1 AS clicked_orders
                FROM pairs p JOIN clicks c ON p.number = c.number AND p.item_id = c.item_id
                WHERE p.ordered >= c.clicked
            UNION ALL BY NAME
            SELECT number, clicked AS ts, 1 AS unseen_clicks FROM pairs
                WHERE clicked IS NOT NULL AND shown IS NULL
            UNION ALL BY NAME
            SELECT number, ts, value AS gmv, (value IS NULL)::INT AS unpriced FROM ab_inside
                WHERE action = {ORDER}
            UNION ALL BY NAME
            SELECT number, ts, dwell_s AS dwell FROM ab_inside WHERE dwell_s IS NOT NULL)
        SELECT number, (ts - {start}) // {DAY_US} AS day,
            {", ".join(f"coalesce(sum({c}), 0)::DOUBLE AS {c}" for c in COLUMNS)}
        FROM parts GROUP BY ALL ORDER BY day, number"""
    )
    columns: dict[str, np.ndarray] = {name: table.column(name).to_numpy() for name in COLUMNS}
    user = table.column("number").to_numpy().astype(np.int64)
    return DayRows(user, table.column("day").to_numpy().astype(np.int64), columns)


def check_design(names: Sequence[str], control: str) -> None:
    """Raise ``ValueError`` where the names of the buckets repeat or do not hold the control."""
    if len(set(names)) != len(names):
        raise ValueError(f"--buckets {','.join(names)} names a bucket twice")
    if control and names and control not in names:
        raise ValueError(f"--control {control} is none of --buckets {','.join(names)}")
