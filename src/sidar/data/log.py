"""Validating a log: raw columns → ``interactions.parquet``
(:data:`~sidar.types.INTERACTIONS_SCHEMA`, sorted by ts).

Every row gets one verdict, in this order: *ignored* (its action is not mapped; UBI logs are full of
those), malformed (missing or bad ts, missing item, missing action, bad position), *unknown item*
(retired ones too), or good. Two passes over columnar input and one external sort, all inside
DuckDB: the log is never in Python's memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.config import Config
from sidar.data.cleaning import clean
from sidar.data.cleaning.advice import unknown_items, unmapped_actions, unread_values
from sidar.data.cleaning.quarantine import Quarantine, Stopped, restored
from sidar.data.duck import Duck, name, text
from sidar.data.readers import open_events
from sidar.data.readers.source import Source
from sidar.types import ACTIONS, INTERACTIONS_SCHEMA, Catalogue

#: Spellings that need no mapping; ``events.actions`` adds to them and overrides them. (A "view" is
#: not among them: it is an impression in some shops and the product page in others.)
COMMON_ACTIONS = {
    **{action: action for action in ACTIONS},
    "add_to_cart": "cart",
    "purchase": "order",
}


@dataclass(frozen=True)
class LogFacts:
    """What the later steps need to know of a validated log.

    ``day0`` is the first day's midnight (µs UTC).
    """

    rows: int
    day0: int
    last_ts: int
    actions: dict[str, int]
    without_request: int  # rows without request_id
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unmapped: str = ""  # what to say of actions that nothing maps

    @property
    def days(self) -> int:
        """Days from the first to the last event, both counted."""
        return (self.last_ts - self.day0) // clean.DAY_US + 1


def validate_log(
    duck: Duck, cfg: Config, catalogue: Catalogue, out: Path
) -> tuple[LogFacts, Quarantine]:
    """Write ``out`` and return what was found and what was left out.

    Raises ``ValueError`` when more than ``events.bad_rows`` of the rows are malformed or no row is
    usable.
    """
    source = open_events(duck, cfg.events)
    duck.run(f"CREATE OR REPLACE VIEW raw_events AS {source.sql}")
    ids = catalogue.table.column("item_id")
    rows = np.arange(len(catalogue), dtype=np.int32)
    duck.register(
        "item_rows", pa.table({"item_id": ids, "row": rows}).filter(catalogue.table.column("alive"))
    )
    notes: list[str] = []
    duck.run(f"CREATE OR REPLACE VIEW judged_events AS {_judged(duck, cfg, source, notes)}")

    quarantine = Quarantine(f"events {cfg.events.path}")
    quarantine.refuse(source)
    seen = {"rows": 0, "without": 0}
    actions = dict.fromkeys(ACTIONS, 0)
    first: list[int] = []
    last: list[int] = []
    unread: dict[str, list[tuple]] = {column: [] for column in _QUANTITIES}
    for verdict, label, file, count, low, high, without, *values in duck.rows(
        f"""SELECT verdict,
               CASE WHEN verdict = 'ignored' THEN said WHEN verdict IS NULL THEN action::VARCHAR
               END AS label,
               CASE WHEN verdict IS NOT NULL THEN file END AS file, count(*), min(ts), max(ts),
               count(*) FILTER (request_id IS NULL), {_unread_counts()}
           FROM judged_events GROUP BY ALL"""
    ):
        quarantine.total += count
        if verdict is None:
            actions[ACTIONS[int(label)]] += count
            seen["rows"], seen["without"] = seen["rows"] + count, seen["without"] + without
            first.append(low)
            last.append(high)
            for i, column in enumerate(_QUANTITIES):
                unread[column].append(tuple(values[3 * i : 3 * i + 3]))
        elif verdict == "ignored":
            quarantine.ignored[label] += count
        elif verdict == "unknown item":
            quarantine.unknown += count
        else:
            quarantine.malformed[verdict] += count
            quarantine.files[file] += count
    dropped = (
        "('ignored')" if cfg.events.unknown_items == "quarantine" else "('ignored', 'unknown item')"
    )
    if quarantine.bad or quarantine.unknown:
        _export_bad(duck, f"verdict NOT IN {dropped}", quarantine, source)
    quarantine.check(cfg.events.bad_rows, "events.bad_rows")
    unmapped = unmapped_actions(quarantine.ignored)
    if not seen["rows"]:
        raise Stopped(
            f"{quarantine.source}: none of {quarantine.total:,} rows is usable: "
            f"{quarantine.unknown:,} name items that the catalogue lacks, "
            f"{sum(quarantine.ignored.values()):,} have actions that are not mapped "
            f"({', '.join(list(quarantine.ignored)[:5]) or 'none'}); check events.columns.item_id "
            "and events.actions"
            + (f". {unmapped[0].upper()}{unmapped[1:]}" if unmapped else "")
            + (f". {said}" if (said := unknown_items(duck, quarantine, catalogue)) else ""),
            quarantine,
        )
    good = """SELECT ts, user_id, session_id, request_id, query, row, position, action, value,
        dwell_s, bucket
              FROM judged_events WHERE verdict IS NULL ORDER BY ts, request_id, row, action,
              position"""
    duck.export(good, out)
    day0 = min(first) // clean.DAY_US * clean.DAY_US
    warnings = [said] if (said := unknown_items(duck, quarantine, catalogue)) else []
    warnings += _unread(cfg, source, unread)
    return LogFacts(
        seen["rows"], day0, max(last), actions, seen["without"], notes, warnings, unmapped
    ), quarantine


def without_log(out: Path) -> tuple[LogFacts, Quarantine]:
    """Write ``out`` without any row and return its facts: the shop has no log yet."""
    pq.write_table(INTERACTIONS_SCHEMA.empty_table(), out)
    return LogFacts(0, 0, 0, dict.fromkeys(ACTIONS, 0), 0), Quarantine("events (no log)")


#: Quantities of an event that may be there and unreadable, and what they are read as.
_QUANTITIES = {"value": "number", "dwell_s": "number of seconds"}


def _unread_counts() -> str:
    """SQL for each quantity: rows where it cannot be read, rows where it can, the first of those
    where it cannot.
    """
    return ", ".join(
        f"count({column}_unread), count({column}), "
        f"arg_min({{value: {column}_unread, file: file, place: place}}, (file, place)) "
        f"FILTER ({column}_unread IS NOT NULL)"
        for column in _QUANTITIES
    )


def _unread(cfg: Config, source: Source, unread: Mapping[str, list[tuple]]) -> list[str]:
    """Return what to tell of quantities of usable rows that are there and could not be read."""
    said = []
    for column, wanted in _QUANTITIES.items():
        count, read = (sum(each[i] for each in unread[column]) for i in range(2))
        if count:
            firsts = [first for _, _, first in unread[column] if first is not None]
            first = min(firsts, key=lambda each: (each["file"], each["place"]))
            own = cfg.events.columns.get(column, column)
            option = "events.decimal" if cfg.events.decimal == "." else ""
            said.append(unread_values(source, own, wanted, count, count + read, first, option))
    return said


def hashed_user(column: str, cfg: Config) -> str:
    """SQL of the user's pseudonym: 16 hex digits of sha256(``privacy.salt``, user id); NULL stays
    NULL.

    Deterministic, so that a daily rebuild keeps its users.  With the default empty salt anyone who
    can list the user ids can hash them too: set a secret ``privacy.salt`` where that matters.
    """
    if not cfg.privacy.hash_users:
        return column
    return f"left(sha256({text(f'sidar user {cfg.privacy.salt}:')} || {column}), 16)"


def pseudonym(user_id: str, salt: str) -> str:
    """Return the pseudonym of one user, as :func:`hashed_user` makes it of a column."""
    return sha256(f"sidar user {salt}:{user_id}".encode()).hexdigest()[:16]


def action_codes(overrides: Mapping[str, str]) -> dict[str, int]:
    """``{spelling in lower case: action code}``; raises ``ValueError`` for a target that is no
    action.
    """
    known = {**COMMON_ACTIONS, **{k.lower(): v for k, v in overrides.items()}}
    wrong = {k: v for k, v in known.items() if v not in ACTIONS}
    if wrong:
        spelling, target = next(iter(wrong.items()))
        raise ValueError(f"events.actions.{spelling}: {target!r} is none of {', '.join(ACTIONS)}")
    return {spelling: ACTIONS.index(action) for spelling, action in known.items()}


def typed_events(duck: Duck, cfg: Config, source: Source, notes: list[str]) -> str:
    """Return SQL of the view ``raw_events`` with typed columns and a ``verdict``, NULL for good
    rows.

    No catalogue is asked: of the verdicts, *unknown item* is missing. ``channels`` is text as the
    source wrote it, NULL where there is none; ``item_id`` is the source's. Adds to ``notes`` how
    columns were read.
    """
    types = duck.columns("raw_events")
    unit: str = cfg.events.ts_unit
    calendar = unit == "auto" and not source.clock
    counted = None if unit == "auto" else unit
    if counted is None:
        counted = source.clock or clean.time_unit(duck, "SELECT ts FROM raw_events", "ts")
    if counted is not None:  # None: every time is a date in text
        notes.append(
            f"numeric timestamps are read as {counted}"
            + (" on the source's own clock" if source.clock else "")
        )
    unit = counted or "us"
    ts = clean.micros("ts", types["ts"], unit)
    codes = action_codes({**source.actions, **cfg.events.actions})
    cases = " ".join(f"WHEN {text(spelling)} THEN {code}" for spelling, code in codes.items())
    if not duck.rows("SELECT 1 FROM raw_events WHERE action IS NOT NULL LIMIT 1"):
        notes.append("no action column: every row is read as a click")
        said = "'click'"
    else:
        said = "lower(trim(action::VARCHAR))"
    # readers of other formats know their own origin
    later = " + 1" if cfg.events.format == "tabular" and cfg.events.first_position == 0 else ""
    quantities = {c: clean.number(c, types[c], cfg.events.decimal) for c in _QUANTITIES}
    read = ", ".join(
        (
            f"{value} AS {column}, CASE WHEN ({value}) IS NULL THEN {clean.present(column)} END AS "
            f"{column}_unread"
        )
        for column, value in quantities.items()
    )
    channels = clean.present("channels") if "channels" in types else "NULL::VARCHAR"
    bad_time = f"WHEN NOT ({clean.calendar('ts')}) THEN 'ts outside 1990-2100'" if calendar else ""
    return f"""
        WITH typed AS (
            SELECT {ts} AS ts, {clean.present("ts")} AS ts_said,
                coalesce({hashed_user(clean.present("user_id"), cfg)}, '') AS user_id,
                coalesce({clean.present("session_id")}, '') AS session_id,
                {clean.present("request_id")} AS request_id,
                coalesce({clean.folded("query::VARCHAR")}, '') AS query,
                {clean.present("item_id")} AS item_id,
                {clean.present("position")} AS position_said, try_cast({name("position")}
                AS DOUBLE){later} AS spot,
                {said} AS said, (CASE {said} {cases} END)::TINYINT AS action,
                {read}, coalesce({clean.present("bucket")}, '') AS bucket,
                {channels} AS channels, file, place
            FROM raw_events)
        SELECT *, CASE WHEN action IS NULL AND said <> '' THEN 'ignored'
            WHEN action IS NULL THEN 'missing action'
                WHEN ts IS NULL AND ts_said IS NULL THEN 'missing ts'
                WHEN ts IS NULL THEN 'bad ts' {bad_time}
                WHEN item_id IS NULL THEN 'missing item_id'
                WHEN spot IS NULL AND position_said IS NOT NULL THEN 'bad position'
                WHEN NOT coalesce(spot, 0) BETWEEN 0
                AND 1e9 OR spot <> trunc(spot) THEN 'bad position' END AS verdict
        FROM typed"""


def _judged(duck: Duck, cfg: Config, source: Source, notes: list[str]) -> str:
    """Return SQL of the raw events with the rows of their items and the verdict of every row."""
    unknown = "CASE WHEN item_rows.row IS NULL THEN 'unknown item' END"
    return f"""
        SELECT ts, user_id, session_id, request_id, query, item_rows.row, coalesce(spot,
        0)::INTEGER AS position,
            action, value, dwell_s, value_unread, dwell_s_unread, bucket, said, ts_said,
            position_said, item_id,
            file, place, coalesce(verdict, {unknown}) AS verdict
        FROM ({typed_events(duck, cfg, source, notes)}) LEFT JOIN item_rows USING (item_id)"""


def _export_bad(duck: Duck, where: str, quarantine: Quarantine, source: Source) -> None:
    """Write the refused rows; their raw form leaves the user out, hashed or not."""
    raw = (
        "{ts: ts_said, request_id: request_id, query: query, item_id: item_id, position: "
        "position_said, action: said}"
    )
    bad = (
        f"SELECT file, place, verdict AS reason, to_json({raw})::VARCHAR AS raw FROM "
        f"judged_events WHERE {where}"
    )
    part = duck.work / "bad-events.parquet"
    duck.export(f"{restored(duck, bad, source)} ORDER BY file, place", part)
    quarantine.parts.append(part)
