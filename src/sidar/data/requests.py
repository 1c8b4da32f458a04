"""Grouping a validated log into requests with the user's history before each, streamed shard by shard.

A shard holds all events of its users, so a request and everything that its user did before it are always together;
the number of shards grows with the log, a shard's size does not.  All of it is DuckDB under a memory cap.

*Request*: events with the same user and ``request_id``.  Events without one are a request while the same user, session
and query go on without a gap of 30 minutes; without user and session each stands alone.
*Shown item*: one per request, with its smallest known position and its highest action, so repeated events and several
actions on one item count once, and an item clicked in the list is never also a negative of it.
*History*: the items that the user clicked, carted or ordered strictly before the request's first event, one entry per
request and item at the moment of its first such action, oldest first.  Nothing of the request itself can be in it.
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
from sidar.data.splits import Split

#: Events of one shard, about; bounds the memory of grouping.
SHARD_EVENTS = 1_500_000
#: A longer silence starts a new request where the log has no request ids.
GAP_US = 30 * 60 * 1_000_000

COLUMNS = "request_id, ts, day, user_id, session_id, query, bucket, profile, history, rows, positions, actions, split"


@dataclass(frozen=True)
class RequestFacts:
    """Counts of the grouped log."""

    requests: int
    shards: int
    repeated_events: int  # same request, item and action again
    filtered_events: int  # of items that catalogue.clicked_within_days took out


def write_requests(
    duck: Duck, cfg: Config, log: Path, facts: LogFacts, split: Split, out: Path, *, shard_events: int = SHARD_EVENTS
) -> RequestFacts:
    """Write ``requests.parquet`` (columns in :data:`COLUMNS`), by ts within a shard.

    Reads the tables ``users (user_id, profile)``, ``dead_rows (row)`` and ``held_out (query)`` on ``duck``; a training
    request with a query of ``held_out`` gets split ``none``.
    """
    alive = f"SELECT * FROM read_parquet({text(log)}) WHERE row NOT IN (SELECT row FROM dead_rows)"
    parts: list[Path] = []
    repeated = requests = kept = 0
    for shard in _shards(duck, alive, facts, shard_events):
        duck.run(f"CREATE OR REPLACE TEMP TABLE shown AS {_shown(shard, facts)}")
        again, events = duck.row("SELECT coalesce(sum(events - kinds), 0)::BIGINT, coalesce(sum(events), 0) FROM shown")
        repeated, kept = repeated + again, kept + int(events)
        parts.append(duck.work / f"requests-{len(parts)}.parquet")
        requests += duck.export(_requests(cfg, split), parts[-1])
    duck.run("DROP TABLE shown")
    _concatenate(parts, out)
    return RequestFacts(requests, len(parts), repeated, facts.rows - kept)


def cuts(
    duck: Duck, config: SplitConfig, log: Path, facts: LogFacts, *, shard_events: int = SHARD_EVENTS
) -> tuple[int, int]:
    """Return the first moments (µs) of validation and test for ``split.unit: fraction``.

    The last ``test_fraction`` of the requests in the order of their first event test, ``valid_fraction`` before them
    validate; shares are rounded to whole requests, at least one.  A cut lies between two moments: requests of the
    same moment stay together, in the later window.  Raises ``ValueError`` where a window would be empty.
    """
    times = duck.work / "times"
    times.mkdir()
    for number, shard in enumerate(_shards(duck, f"SELECT * FROM read_parquet({text(log)})", facts, shard_events)):
        sql = f"SELECT min(ts) AS ts FROM ({_shown(shard, facts)}) GROUP BY user_id, key"
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
            f"{config.valid_fraction:g}); requests of the same moment stay together, and that leaves nothing for "
            f"{'training' if valid_from <= first else 'validation'}. Change the two shares or take another split.unit"
        )
    return valid_from, test_from


def _shards(duck: Duck, source: str, facts: LogFacts, shard_events: int) -> Iterator[str]:
    """Yield SQL of the events of each shard; all events of a user are in one."""
    shards = max(1, -(-facts.rows // shard_events))
    if shards == 1:
        yield source
        return
    key = (
        "CASE WHEN user_id <> '' THEN user_id WHEN request_id IS NOT NULL THEN request_id ELSE session_id || query END"
    )
    columns = "ts, user_id, session_id, request_id, query, row, position, action, bucket"
    folder = duck.work / "shards"
    sql = f"SELECT {columns}, hash({key}) % {shards} AS shard FROM ({source})"
    duck.export(sql, folder, ", PARTITION_BY (shard)")
    for shard in range(shards):
        if inside := sorted((folder / f"shard={shard}").glob("*.parquet")):
            yield f"SELECT * FROM read_parquet({files(inside)}, hive_partitioning = false)"
    shutil.rmtree(folder, ignore_errors=True)


def _shown(source: str, facts: LogFacts) -> str:
    """One row per request and item."""
    events = f"SELECT *, request_id AS key FROM ({source})"
    if facts.without_request:
        alone = "user_id = '' AND session_id = ''"
        same = "WINDOW same AS (PARTITION BY user_id, session_id, query, request_id IS NULL ORDER BY ts)"
        fresh = f"{alone} OR coalesce(ts - lag(ts) OVER same > {GAP_US}, true)"
        name = f"concat_ws('/', user_id, session_id, query, CASE WHEN {alone} THEN row END, started)"
        events = f"""
            SELECT *, coalesce(request_id, 'auto-' || left(md5({name}), 16)) AS key
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
            SELECT user_id, engaged_at, list(row) OVER (PARTITION BY user_id ORDER BY engaged_at, key, row
                ROWS BETWEEN {max(length - 1, 0)} PRECEDING AND CURRENT ROW) AS tail,
                row_number() OVER (PARTITION BY user_id, engaged_at ORDER BY key DESC, row DESC) AS newest
            FROM shown WHERE engaged_at IS NOT NULL AND user_id <> ''),
        placed AS (
            SELECT grouped.*, {split.day("grouped.ts")} AS day, {"coalesce(tail, [])" if length else "[]"} AS history
            FROM grouped ASOF LEFT JOIN (SELECT * FROM walk WHERE newest = 1) AS walk
                ON grouped.user_id = walk.user_id AND grouped.ts > walk.engaged_at),
        ranked AS (
            SELECT *, sum(engaged::INT) OVER (PARTITION BY user_id) AS total,
                sum(engaged::INT) OVER (PARTITION BY user_id ORDER BY ts DESC, key DESC) AS back FROM placed),
        labelled AS (SELECT *, {split.label()} AS split FROM {"ranked" if split.unit == "leave_one_out" else "placed"})
        SELECT key AS request_id, ts, day, user_id, session_id, query, bucket, coalesce(profile, '') AS profile,
            history::INTEGER[] AS history,
            list_transform(items, lambda i: i.row)::INTEGER[] AS rows,
            list_transform(items, lambda i: i.position)::INTEGER[] AS positions,
            list_transform(items, lambda i: i.action)::TINYINT[] AS actions,
            CASE WHEN split = 'train' AND held_out.query IS NOT NULL THEN 'none' ELSE split END AS split
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
