"""``sidar memory``: count a day's log into the memory of a bundle that serves, and look a query up
in it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np

from sidar.answer.count import count_memory
from sidar.answer.facts import params_of, read_facts
from sidar.answer.key import bundle_key
from sidar.answer.memory import Memory
from sidar.config import Config
from sidar.data.cleaning.clean import DAY_US
from sidar.data.day_log import SPLIT, write_day_requests
from sidar.data.duck import Duck, text
from sidar.data.log import LogFacts
from sidar.data.training.propensity import Propensities, measure_propensities
from sidar.serve.bundle import ANSWER, open_bundle
from sidar.types import Catalogue, PathLike


@dataclass(frozen=True)
class Update:
    """What an update read and changed; ``days`` since 1970, rising."""

    days: tuple[int, ...]
    requests: int
    queries: int
    entries_before: int
    entries_after: int
    unknown_items: int
    malformed: int
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """The update in words."""
        return [
            (
                f"{describe_days(self.days)}: {self.requests:,} requests, {self.queries:,} queries "
                "with a choice"
            ),
            f"{self.entries_before:,} entries before, {self.entries_after:,} now",
            (
                f"left out: {self.unknown_items:,} events of unknown or retired items, "
                f"{self.malformed:,} malformed rows"
            ),
            *(f"WARNING: {warning}" for warning in self.warnings),
        ]


@dataclass(frozen=True)
class Remembered:
    """One item that was chosen for a query: its decayed ``count``, the ``weight`` behind it, and on
    how many days.
    """

    item_id: str
    title: str
    count: float
    weight: float
    days: int
    alive: bool


def update_memory(cfg: Config, bundle: PathLike) -> Update:
    """Count the log ``cfg.events`` and put its days in the place of the same days in the memory of
    ``bundle``.

    Items are those of the bundle's catalogue.  Nothing is trained, and the same log twice leaves
    the same bytes. Raises ``ValueError`` where the bundle has no memory, its key is missing, or the
    log cannot be used.
    """
    bundle = Path(bundle)
    memory, secret, catalogue = _open(bundle, cfg.memory.key_file)
    with tempfile.TemporaryDirectory(prefix="sidar-memory-") as folder:
        requests = Path(folder) / "requests.parquet"
        try:
            with Duck(Path(folder) / "work", cfg.events.memory, cfg.threads) as duck:
                facts, grouped, bad = write_day_requests(duck, cfg, catalogue, requests)
                weights = (
                    _propensities(duck, requests, facts) if memory.facts.debias == "ips" else None
                )
                days = days_of(duck, requests)
                _check_clock(days)
                counted = count_memory(
                    duck,
                    requests,
                    (SPLIT,),
                    secret,
                    catalogue.lineage,
                    propensities=weights,
                    last_day=days[-1],
                )
        except duckdb.OutOfMemoryException as error:
            raise ValueError(
                f"events.memory: {cfg.events.memory} is too little for this log; raise it ({error})"
            ) from error
    after = memory.with_days(counted, np.asarray(days))
    after.save(bundle / ANSWER)
    return Update(
        days=tuple(days),
        requests=grouped.requests,
        queries=counted.n_queries,
        entries_before=len(memory),
        entries_after=len(after),
        unknown_items=bad.unknown,
        malformed=bad.bad,
        warnings=tuple(facts.warnings),
    )


def remembered(bundle: PathLike, query: str) -> list[Remembered]:
    """Return what the memory of ``bundle`` holds of ``query``, the highest decayed count first.

    Raises ``ValueError`` where the bundle has no memory or its key is missing.
    """
    memory, secret, catalogue = _open(Path(bundle))
    half_life = params_of(read_facts(Path(bundle) / ANSWER)).half_life
    rows, counts = memory.counts(query, secret, half_life)
    _, weights = memory.counts(query, secret)
    entries = memory.rows[memory.entries(query, secret)]
    found = []
    for row, count, weight in zip(rows.tolist(), counts.tolist(), weights.tolist(), strict=True):
        card = catalogue.item(row)
        days = int((entries == row).sum())
        found.append(
            Remembered(
                card["item_id"], card["title"], count, weight, days, bool(catalogue.alive[row])
            )
        )
    return sorted(found, key=lambda item: -item.count)


def days_of(duck: Duck, requests: Path) -> list[int]:
    """Return the days since 1970 (UTC) of the requests in ``requests.parquet``, rising."""
    found = duck.rows(
        f"SELECT DISTINCT ts // {DAY_US} AS day FROM read_parquet({text(requests)}) ORDER BY day"
    )
    return [int(day) for (day,) in found]


def describe_days(days: Sequence[int]) -> str:
    """Name ``days`` since 1970 by date: one, or the first and the last."""
    dates = [
        datetime.fromtimestamp(day * DAY_US / 1_000_000, UTC).strftime("%Y-%m-%d") for day in days
    ]
    if len(dates) == 1:
        return dates[0]
    return f"{len(dates)} days, {dates[0]} to {dates[-1]}"


def _open(bundle: Path, key_file: str = "") -> tuple[Memory, bytes, Catalogue]:
    """The memory of a bundle, its key, and the catalogue whose rows it counts."""
    opened = open_bundle(bundle)
    if opened.fuse == "none":
        raise ValueError(
            f"{bundle} holds no memory; make it from a log with clicks and decode.fuse=memory"
        )
    secret = bundle_key(bundle, key_file=key_file)
    memory = Memory.load(bundle / ANSWER).check(secret, opened.catalogue.lineage, str(bundle))
    return memory, secret, opened.catalogue


def _propensities(duck: Duck, requests: Path, facts: LogFacts) -> Propensities:
    try:
        return measure_propensities(duck, requests, facts)
    except ValueError as error:
        raise ValueError(str(error).replace("preference.debias", "memory.debias")) from error


def _check_clock(days: Sequence[int]) -> None:
    """Refuse a log of the future: ages count from the newest day, so one such event would fade
    every other count.
    """
    today = int(datetime.now(UTC).timestamp() * 1_000_000) // DAY_US
    if days[-1] > today + 1:
        raise ValueError(
            f"the log has events of {describe_days(days[-1:])}, which is after today; every older "
            "count would fade by the days between. Remove them, or see events.ts_unit"
        )
