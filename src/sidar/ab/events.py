"""Reading the events of an experiment, by the readers and column names of every other log.

What stands here is independent of buckets: several sources become one table ``ab_events``, with the
rows that could not be used counted.  Everything stays inside DuckDB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from glob import has_magic
from pathlib import Path
from typing import Any

from sidar.config import Config
from sidar.data.cleaning.quarantine import Quarantine
from sidar.data.duck import Duck, files, text
from sidar.data.log import typed_events
from sidar.data.readers import open_events
from sidar.types import ACTIONS

IMPRESSION, CLICK, _, ORDER = range(len(ACTIONS))


@dataclass(frozen=True)
class LogFile:
    """A file, folder or glob of events; ``bucket`` is the bucket of all of them, where one is
    given.
    """

    path: str
    bucket: str = ""


@dataclass
class EventFacts:
    """What reading left, and what is missing in what it left."""

    rows: int = 0
    used: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    actions: dict[str, int] = field(default_factory=dict)
    without_user: int = 0
    without_bucket: int = 0
    with_channels: int = 0
    first_ts: int = 0
    last_ts: int = 0
    notes: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """Return everything but the notes, as JSON has it."""
        facts = {name: value for name, value in vars(self).items() if name != "notes"}
        return {**facts, "malformed": dict(self.malformed), "ignored": dict(self.ignored)}


def parse_file(argument: str) -> LogFile:
    """Return the log that ``PATH`` or ``BUCKET=PATH`` names; a path that is there is a path."""
    before, sep, after = argument.partition("=")
    if not sep or Path(argument).exists() or has_magic(before) or "/" in before:
        return LogFile(argument)
    return LogFile(after, before)


def read_events(duck: Duck, cfg: Config, sources: Sequence[LogFile]) -> EventFacts:
    """Leave the table ``ab_events`` on ``duck`` and return what was read and what was left out.

    Columns: ``ts, user_id, request, item_id, action, value, dwell_s, bucket, channels``.
    ``request`` is the request id; where the log has none, session and query stand for it. Raises
    ``ValueError`` where more than ``events.bad_rows`` of the rows of a source are malformed, and
    where no row can be used.
    """
    facts = EventFacts()
    staged = [_stage(duck, cfg, source, facts) for source in sources]
    # repeats of one event count once
    request = "coalesce(request_id, concat(session_id, '/', query))"
    duck.run(
        f"""CREATE OR REPLACE TABLE ab_events AS
            SELECT ts, user_id, {request} AS request, item_id, action, value, dwell_s, bucket,
                max(channels) AS channels
            FROM read_parquet({files(staged)}) WHERE verdict IS NULL GROUP BY ALL"""
    )
    per_action = ", ".join(f"count(*) FILTER (action = {code})" for code in range(len(ACTIONS)))
    row = duck.row(
        f"""SELECT count(*), count(*) FILTER (user_id = ''), count(*) FILTER (bucket = ''),
            count(channels), min(ts), max(ts), {per_action} FROM ab_events"""
    )
    facts.used = row[0]
    if not facts.used:
        raise ValueError(_no_row(facts))
    facts.without_user, facts.without_bucket, facts.with_channels = row[1:4]
    facts.first_ts, facts.last_ts = row[4:6]
    facts.actions = dict(zip(ACTIONS, row[6:], strict=True))
    return facts


def _no_row(facts: EventFacts) -> str:
    """Return why no row can be used, and what to do."""
    reason = f"none of {facts.rows:,} rows of the log is usable"
    if facts.ignored:
        named = ", ".join(f"{name} ({count:,})" for name, count in facts.ignored.most_common(5))
        reason += f"; their actions are not mapped: {named}. Map them with events.actions"
    return f"{reason}; check events.path, events.columns and events.format"


def _stage(duck: Duck, cfg: Config, source: LogFile, facts: EventFacts) -> Path:
    """Write the rows of one source with their verdicts to a file of the work folder; count them."""
    events = cfg.events.model_copy(update={"path": source.path})
    cfg = cfg.model_copy(update={"events": events})
    raw = open_events(duck, events)
    duck.run(f"CREATE OR REPLACE VIEW raw_events AS {raw.sql}")
    notes: list[str] = []
    typed = typed_events(duck, cfg, raw, notes)
    facts.notes += [note for note in notes if note not in facts.notes]
    quarantine = Quarantine(f"events {source.path}")
    quarantine.refuse(raw)
    bucket = text(source.bucket) if source.bucket else "bucket"
    path = duck.new_file()
    # typing is dear, so it is done once, and the verdicts are counted in its result
    duck.export(
        f"""SELECT ts, user_id, session_id, request_id, query, item_id, action, value, dwell_s,
            {bucket} AS bucket, channels, verdict, said FROM ({typed})""",
        path,
    )
    ignored = "CASE WHEN verdict = 'ignored' THEN said END"
    for verdict, label, count in duck.rows(
        f"SELECT verdict, {ignored}, count(*) FROM read_parquet({files([path])}) GROUP BY ALL"
    ):
        quarantine.total += count
        if verdict == "ignored":
            facts.ignored[label] += count
        elif verdict is not None:
            quarantine.malformed[verdict] += count
    facts.rows += quarantine.total
    facts.malformed.update(quarantine.malformed)
    quarantine.check(cfg.events.bad_rows, "events.bad_rows")
    return path
