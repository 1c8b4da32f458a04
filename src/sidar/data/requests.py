"""Grouping a validated log into requests with the user's history before each, streamed shard by
shard.

A shard holds all events of its users, so a request and everything that its user did before it are
always together; the number of shards grows with the log, a shard's size does not.  All of it is
DuckDB under a memory cap.

*Request*: events with the same user and ``request_id``.  An id under which one user was shown
several lists (a counter that starts again in each session or day) is split: by query, and where a
list is shown in another session or 12 hours after the last event; clicks and orders stay with the
list before them.  Events without one are a request while the same user, session and query go on
without a gap of 30 minutes; without user and session each stands alone. *Shown item*: one per
request, with its smallest known position and its highest action, so repeated events and several
actions on one item count once, and an item clicked in the list is never also a negative of it.
*History*: the items that the user clicked, carted or ordered strictly before the request's first
event, one entry per request and item at the moment of its first such action, oldest first.  Nothing
of the request itself can be in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from sidar.config import Config, SplitConfig
from sidar.data.duck import Duck, files, text
from sidar.data.log import LogFacts
from sidar.data.training.splits import Split
from sidar.types import ACTIONS

#: Events of one shard, about; bounds the memory of grouping.
SHARD_EVENTS = 1_500_000
#: A longer silence starts a new request where the log has no request ids.
GAP_US = 30 * 60 * 1_000_000
#: A list shown after a longer silence under the same request id is another request. [ours]
REPEAT_US = 12 * 3600 * 1_000_000

COLUMNS = (
    "request_id, ts, day, user_id, session_id, query, bucket, profile, history, rows, "
    "positions, actions, split"
)


@dataclass(frozen=True)
class RequestFacts:
    """Counts of the grouped log."""

    requests: int
    shards: int
    repeated_events: int  # same request, item and action again
    filtered_events: int  # of items that catalogue.clicked_within_days took out
    repeated_ids: int = 0  # request ids under which one user was shown several lists
    split_into: int = 0  # the requests that they became
    shared_ids: int = 0  # request ids that several users have

    def warnings(self) -> list[str]:
        """Say how many request ids do not name one request."""
        said = []
        if self.repeated_ids:
            said.append(
                f"{self.repeated_ids:,} request ids stand for several requests of one user "
                f"(another query, session or day) and were split into {self.split_into:,} "
                "requests; give every list an id of its own, or leave the ids out, and events are "
                "grouped by user, session, query and time"
            )
        if self.shared_ids:
            said.append(
                f"{self.shared_ids:,} request ids occur with more than one user (or with and "
                "without a user id); the events of each are a request of its own"
            )
        return said


def write_requests(
    duck: Duck,
    cfg: Config,
    log: Path,
    facts: LogFacts,
    split: Split,
    out: Path,
    *,
    shard_events: int = SHARD_EVENTS,
) -> RequestFacts:
    """Write ``requests.parquet`` (columns in :data:`COLUMNS`), by ts within a shard.

    Reads the tables ``users (user_id, profile)``, ``dead_rows (row)`` and ``held_out (query)`` on
    ``duck``; a training request with a query of ``held_out`` gets split ``none``.
    """
    alive = f"SELECT * FROM read_parquet({text(log)}) WHERE row NOT IN (SELECT row FROM dead_rows)"
    parts: list[Path] = []
    repeated = requests = kept = repeated_ids = split_into = 0
    for shard in _shards(duck, alive, facts, shard_events):
        again_used = _find_repeated(duck, shard, facts)
        duck.run(f"CREATE OR REPLACE TEMP TABLE shown AS {_shown(shard, facts, again_used > 0)}")
        if again_used:
            later = (
                f"SELECT DISTINCT user_id, key FROM shown WHERE regexp_matches(key, '{_PART}\\d+$')"
            )
            repeated_ids += again_used
            split_into += again_used + int(duck.row(f"SELECT count(*) FROM ({later})")[0])
        again, events = duck.row(
            "SELECT coalesce(sum(events - kinds), 0)::BIGINT, coalesce(sum(events), 0) FROM shown"
        )
        repeated, kept = repeated + again, kept + int(events)
        parts.append(duck.work / f"requests-{len(parts)}.parquet")
        requests += duck.export(_requests(cfg, split), parts[-1])
    duck.run("DROP TABLE shown")
    _concatenate(parts, out)
    shared = (
        f"SELECT request_id FROM ({alive}) WHERE request_id IS NOT NULL GROUP BY 1 HAVING "
        "min(user_id) <> max(user_id)"
    )
    shared_ids = int(duck.row(f"SELECT count(*) FROM ({shared})")[0])
    return RequestFacts(
        requests, len(parts), repeated, facts.rows - kept, repeated_ids, split_into, shared_ids
    )


def cuts(
    duck: Duck, config: SplitConfig, log: Path, facts: LogFacts, *, shard_events: int = SHARD_EVENTS
) -> tuple[int, int]:
    """Return the first moments (µs) of validation and test for ``split.unit: fraction``.

    The last ``test_fraction`` of the requests in the order of their first event test,
    ``valid_fraction`` before them validate; shares are rounded to whole requests, at least one.  A
    cut lies between two moments: requests of the same moment stay together, in the later window.
    Raises ``ValueError`` where a window would be empty.
    """
    times = duck.work / "times"
    times.mkdir()
    for number, shard in enumerate(
        _shards(duck, f"SELECT * FROM read_parquet({text(log)})", facts, shard_events)
    ):
        shown = _shown(shard, facts, _find_repeated(duck, shard, facts) > 0)
        sql = f"SELECT min(ts) AS ts FROM ({shown}) GROUP BY user_id, key"
        duck.export(sql, times / f"{number}.parquet")
    moments = f"read_parquet({files(sorted(times.iterdir()))})"
    total, first = duck.row(f"SELECT count(*), min(ts) FROM {moments}")
    test = max(1, round(total * config.test_fraction))
    valid = max(1, round(total * config.valid_fraction)) if config.valid_fraction else 0

    def moment(from_the_end: int) -> int:
        place = max(total - from_the_end, 0)
        return int(duck.row(f"SELECT ts FROM {moments} ORDER BY ts LIMIT 1 OFFSET {place}")[0])

    test_from, valid_from = moment(test), moment(test + valid)
    shutil.rmtree(times)
    if valid_from <= first or (valid and valid_from == test_from):
        raise ValueError(
            f"the log has {total:,} request(s), so the last {test:,} test (split.test_fraction "
            f"{config.test_fraction:g}) and {valid:,} before them validate (split.valid_fraction "
            f"{config.valid_fraction:g}); requests of the same moment stay together, and that "
            f"leaves nothing for {'training' if valid_from <= first else 'validation'}. Change the "
            "two shares or take another split.unit"
        )
    return valid_from, test_from


def _shards(duck: Duck, source: str, facts: LogFacts, shard_events: int) -> Iterator[str]:
    """Yield SQL of the events of each shard; all events of a user are in one."""
    shards = max(1, -(-facts.rows // shard_events))
    if shards == 1:
        yield source
        return
    key = (
        "CASE WHEN user_id <> '' THEN user_id WHEN request_id IS NOT NULL THEN request_id ELSE "
        "session_id || query END"
    )
    columns = "ts, user_id, session_id, request_id, query, row, position, action, bucket"
    folder = duck.work / "shards"
    sql = f"SELECT {columns}, hash({key}) % {shards} AS shard FROM ({source})"
    duck.export(sql, folder, ", PARTITION_BY (shard)")
    for shard in range(shards):
        if inside := sorted((folder / f"shard={shard}").glob("*.parquet")):
            yield f"SELECT * FROM read_parquet({files(inside)}, hive_partitioning = false)"
    shutil.rmtree(folder, ignore_errors=True)


#: What the keys of the second and later requests under one id end with, before a number.
_PART = "/part-"


def _find_repeated(duck: Duck, source: str, facts: LogFacts) -> int:
    """Leave the table ``repeated_ids (user_id, request_id)``: ids under which one user was shown
    several lists.
    """
    start = _start(facts)
    duck.run(
        f"""CREATE OR REPLACE TEMP TABLE repeated_ids AS
            SELECT user_id, request_id FROM ({source}) WHERE action = {start}
            AND request_id IS NOT NULL
            GROUP BY ALL
            HAVING min(lower(nullif(query, ''))) <> max(lower(nullif(query, '')))
                OR min(nullif(session_id, '')) <> max(nullif(session_id,
                '')) OR max(ts) - min(ts) > {REPEAT_US}"""
    )
    return int(duck.row("SELECT count(*) FROM repeated_ids")[0])


def _start(facts: LogFacts) -> int:
    """The action that begins a list: the impression, or in logs without any the least action that
    there is.
    """
    return next((code for code, action in enumerate(ACTIONS) if facts.actions.get(action)), 0)


def _parted(source: str, facts: LogFacts) -> str:
    """The events of ``repeated_ids`` with a ``key`` for each request: the id, then the id with
    ``/part-2`` and on.
    """
    start = _start(facts)
    # without a user the session stands for it: several people may be under one id at a time
    owner = "user_id, request_id, CASE WHEN user_id = '' THEN session_id END"
    order = "ORDER BY ts, action, row"
    before = f"OVER (PARTITION BY user_id, request_id {order} ROWS UNBOUNDED PRECEDING)"
    after = (
        f"OVER (PARTITION BY user_id, request_id {order} ROWS BETWEEN CURRENT ROW AND "
        "UNBOUNDED FOLLOWING)"
    )
    same = f"WINDOW same AS (PARTITION BY {owner}, asked {order})"
    fresh = f"""action = {start} AND (ts - lag(ts) OVER same > {REPEAT_US}
        OR (session_id <> '' AND nullif(lag(session_id) OVER same, '') <> session_id))"""
    return f"""
        WITH again AS (SELECT * FROM ({source}) SEMI JOIN repeated_ids USING (user_id, request_id)),
        -- the queries that lists were shown for; a click's own query counts only where it is one
        lists AS (
            SELECT DISTINCT user_id, request_id, lower(query) AS asked FROM again
            WHERE action = {start} AND query <> ''),
        named AS (
            SELECT again.*, lists.asked AS said FROM again LEFT JOIN lists
                ON again.user_id = lists.user_id AND again.request_id = lists.request_id
                AND lower(again.query) = lists.asked),
        filled AS (
            SELECT * EXCLUDE (said), coalesce(last_value(said IGNORE NULLS) {before},
                first_value(said IGNORE NULLS) {after}) AS asked
            FROM named),
        runs AS (
            SELECT *, max(CASE WHEN fresh THEN ts END) OVER same AS started
            FROM (SELECT *, coalesce({fresh}, false) AS fresh FROM filled {same}) {same}),
        dated AS (SELECT *, min(ts) OVER (PARTITION BY {owner}, asked, started) AS first_ts
        FROM runs),
        numbered AS (
            SELECT *, dense_rank() OVER (PARTITION BY user_id, request_id
                ORDER BY first_ts, asked, CASE WHEN user_id = '' THEN session_id END,
                started) AS part
            FROM dated)
        SELECT * EXCLUDE (asked, fresh, started, first_ts, part),
            CASE WHEN part = 1 THEN request_id ELSE concat(request_id, '{_PART}', part) END AS key
        FROM numbered"""


def _shown(source: str, facts: LogFacts, repeated: bool) -> str:
    """One row per request and item; ``repeated`` says that the table
    ``repeated_ids`` is not empty.
    """
    if repeated:
        once = (
            f"SELECT *, request_id AS key FROM ({source}) ANTI JOIN repeated_ids USING "
            "(user_id, request_id)"
        )
        source = f"{once} UNION ALL BY NAME ({_parted(source, facts)})"
    else:
        source = f"SELECT *, request_id AS key FROM ({source})"
    events = source
    if facts.without_request:
        alone = "user_id = '' AND session_id = ''"
        same = (
            "WINDOW same AS (PARTITION BY user_id, session_id, query, request_id IS NULL ORDER "
            "BY ts)"
        )
        fresh = f"{alone} OR coalesce(ts - lag(ts) OVER same > {GAP_US}, true)"
        name = (
            f"concat_ws('/', user_id, session_id, query, CASE WHEN {alone} THEN row END, started)"
        )
        events = f"""
            SELECT * REPLACE (coalesce(key, 'auto-' || left(md5({name}), 16)) AS key)
            FROM (SELECT *, max(CASE WHEN fresh THEN ts END) OVER same AS started
                  FROM (SELECT *, {fresh} AS fresh FROM ({source}) {same}) {same})"""
    return f"""
        SELECT user_id, key, row, max(action) AS action,
            coalesce(min(position) FILTER (position > 0), 0) AS position,
            min(ts) AS ts, min(ts) FILTER (action > 0) AS engaged_at,
            max(query) AS query, max(session_id) AS session_id, max(bucket) AS bucket,
            count(*) AS events, bit_count(bit_or(1 << action)) AS kinds
        FROM ({events}) GROUP BY user_id, key, row"""


def _requests(cfg: Config, split: Split) -> str:
    """Requests of the temporary table ``shown``."""
    length = cfg.split.max_history
    # known positions first; without one the order is a seeded shuffle, not the catalogue's
    order = f"position = 0, position, hash(row, key, {cfg.seed}), row"
    return f"""
        WITH grouped AS (
            SELECT user_id, key, min(ts) AS ts, max(query) AS query, max(session_id) AS session_id,
                max(bucket) AS bucket, max(action) > 0 AS engaged,
                list({{row: row, position: position, action: action}} ORDER BY {order}) AS items
            FROM shown GROUP BY user_id, key),
        walk AS (  -- after each engagement, the user's last ones
            SELECT user_id, engaged_at, list(row) OVER (PARTITION BY user_id ORDER BY engaged_at,
            key, row
                ROWS BETWEEN {max(length - 1, 0)} PRECEDING AND CURRENT ROW) AS tail,
                row_number() OVER (PARTITION BY user_id, engaged_at ORDER BY key DESC, row DESC)
                AS newest
            FROM shown WHERE engaged_at IS NOT NULL AND user_id <> ''),
        placed AS (
            SELECT grouped.*, {split.day("grouped.ts")} AS day,
            {"coalesce(tail, [])" if length else "[]"} AS history
            FROM grouped ASOF LEFT JOIN (SELECT * FROM walk WHERE newest = 1) AS walk
                ON grouped.user_id = walk.user_id AND grouped.ts > walk.engaged_at),
        ranked AS (
            SELECT *, sum(engaged::INT) OVER (PARTITION BY user_id) AS total,
                sum(engaged::INT) OVER (PARTITION BY user_id ORDER BY ts DESC, key DESC) AS back
                FROM placed),
        labelled AS (SELECT *, {split.label()} AS split
        FROM {"ranked" if split.unit == "leave_one_out" else "placed"})
        SELECT key AS request_id, ts, day, user_id, session_id, query, bucket, coalesce(profile,
        '') AS profile,
            history::INTEGER[] AS history,
            list_transform(items, lambda i: i.row)::INTEGER[] AS rows,
            list_transform(items, lambda i: i.position)::INTEGER[] AS positions,
            list_transform(items, lambda i: i.action)::TINYINT[] AS actions,
            CASE WHEN split = 'train' AND held_out.query IS NOT NULL THEN 'none' ELSE split
            END AS split
        FROM labelled LEFT JOIN users USING (user_id) LEFT JOIN held_out USING (query)
        ORDER BY ts, request_id, user_id"""


def _concatenate(parts: list[Path], out: Path) -> None:
    if len(parts) == 1:
        shutil.move(parts[0], out)
        return
    with pq.ParquetWriter(out, pq.read_schema(parts[0])) as writer:
        for part in parts:
            file = pq.ParquetFile(part)
            for group in range(file.num_row_groups):
                writer.write_table(file.read_row_group(group))
            part.unlink()
