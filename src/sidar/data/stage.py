"""The data stage: catalogue and log in, everything that training and evaluation read out."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from sidar.config import Config, HeldOutConfig
from sidar.data.catalogue import open_catalogue, save_catalogue
from sidar.data.cleaning.clean import DAY_US
from sidar.data.cleaning.quarantine import Quarantine, Stopped, write_quarantine
from sidar.data.duck import Duck, text
from sidar.data.judgments.evalsets import make_sets, read_files, write_sets
from sidar.data.judgments.heldout import held_out_files, hold_out
from sidar.data.judgments.judged import read_held_out
from sidar.data.log import LogFacts, validate_log, without_log
from sidar.data.products import load_catalogue
from sidar.data.requests import cuts, write_requests
from sidar.data.training import health
from sidar.data.training.examples import write_lists, write_sft
from sidar.data.training.priors import count_priors
from sidar.data.training.propensity import measure_propensities
from sidar.data.training.related import keep_related
from sidar.data.training.splits import Split, check_unit, check_windows, resolve_split
from sidar.data.users import unmatched, write_users
from sidar.types import Catalogue, Json, PathLike

#: The file of rows that were refused; it is also left by a stop.
QUARANTINE = "quarantine.parquet"


def build(cfg: Config, out: PathLike, previous: PathLike | None = None) -> Json:
    """Read, check and group everything into the folder ``out``; returns the report that it also
    writes.

    ``previous`` is an earlier data folder of the same shop: its row numbering is continued.  Facts
    about the evaluation sets and the held-out files are returned as ``eval`` and ``held_out`` and
    written into ``eval/``, not into ``report.json``.  Raises ``ValueError`` that names the file or
    config key when the input cannot be used; the rows that were refused until then stand in
    ``quarantine.parquet``, the warnings in the message.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    work = out / ".work"
    shutil.rmtree(work, ignore_errors=True)
    try:
        with Duck(work, cfg.events.memory, cfg.threads) as duck:
            found = _Found()
            try:
                report = _build(duck, cfg, out, previous, found)
            except ValueError as error:
                stopped = [error.quarantine] if isinstance(error, Stopped) else []
                write_quarantine([*found.quarantines, *stopped], out / QUARANTINE)
                raise ValueError(
                    "\n".join([str(error), *(f"WARNING: {each}" for each in found.warnings)])
                ) from error
    except duckdb.OutOfMemoryException as error:
        raise ValueError(
            f"events.memory: {cfg.events.memory} is too little for this log; raise it ({error})"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    facts = {key: value for key, value in report.items() if key not in ("eval", "held_out")}
    (out / "report.json").write_text(json.dumps(facts, indent=1, default=str) + "\n")
    (out / "eval" / "held_out.json").write_text(json.dumps(report["held_out"], indent=1) + "\n")
    return report


@dataclass
class _Found:
    """What reading found so far, for the report and for a stop."""

    quarantines: list[Quarantine] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Read:
    """The user's files, read and checked: what later steps group."""

    catalogue: Catalogue
    bad_items: Quarantine
    facts: LogFacts
    bad_events: Quarantine
    split: Split
    users: int


@dataclass(frozen=True)
class _Grouped:
    """The log as requests: their counts, and how many queries and requests were held out."""

    requests: dict[str, int]
    held_out: list[HeldOutConfig]


def _build(duck: Duck, cfg: Config, out: Path, previous: PathLike | None, found: _Found) -> Json:
    """Write everything into ``out`` and return the report."""
    read = _read(duck, cfg, out, previous, found)
    # before the long part, so that a broken file is found early
    files = read_files(cfg, read.catalogue)
    grouped = _group(duck, cfg, out, read, found)
    lists, sft = _write_training(duck, cfg, out, read)
    requests = out / "requests.parquet"
    notes = [health.NO_LOG]
    if cfg.has_log:
        warnings, notes = health.of_windows(duck, read.split, requests)
        found.warnings += [
            *warnings,
            *health.of_lists(cfg, lists),
            *health.of_reranking(duck, cfg, requests),
        ]
    sets = make_sets(duck, cfg, files, out, read.split, read.catalogue)
    listed = write_sets(sets, out / "eval")
    quarantined = write_quarantine(found.quarantines, out / QUARANTINE)
    return {
        "warnings": found.warnings,
        "notes": notes,
        **_report_of_files(read),
        "quarantined": quarantined,
        "split": read.split.report(),
        "requests": grouped.requests,
        "sft": sft,
        "lists": lists,
        "eval": listed,
        "held_out": [held.model_dump() for held in grouped.held_out],
    }


def _read(duck: Duck, cfg: Config, out: Path, previous: PathLike | None, found: _Found) -> _Read:
    """Read catalogue, log and users, and cut the log into windows."""
    old = None if previous is None else open_catalogue(Path(previous) / "catalogue.arrow")
    catalogue, bad_items = load_catalogue(duck, cfg, old)
    found.quarantines.append(bad_items)
    log = out / "interactions.parquet"
    found.warnings += bad_items.unread
    facts, bad_events, split = _read_log(duck, cfg, catalogue, log, found)
    catalogue = keep_clicked(duck, cfg, catalogue, log, split)
    save_catalogue(catalogue, out / "catalogue.arrow")
    users = write_users(duck, cfg, out / "users.parquet")
    found.quarantines += [users.quarantine] if users.quarantine else []
    found.warnings += [*users.warnings, *unmatched(duck, cfg, log)]
    return _Read(catalogue, bad_items, facts, bad_events, split, users.users)


def _read_log(
    duck: Duck, cfg: Config, catalogue: Catalogue, log: Path, found: _Found
) -> tuple[LogFacts, Quarantine, Split]:
    """Read the log into ``log`` and cut it into windows; an empty one where there is none."""
    check_unit(cfg.split)
    if not cfg.has_log:
        if cfg.catalogue.clicked_within_days is not None:
            raise ValueError(
                "catalogue.clicked_within_days needs a log, and events.path is empty; remove it"
            )
        return (*without_log(log), Split.of_no_log())
    facts, bad_events = validate_log(duck, cfg, catalogue, log)
    found.quarantines.append(bad_events)
    found.warnings += [*facts.warnings, *health.of_log(duck, cfg, facts, log)]
    moments = cuts(duck, cfg.split, log, facts) if cfg.split.unit == "fraction" else None
    return facts, bad_events, resolve_split(cfg.split, facts, moments)


def _group(duck: Duck, cfg: Config, out: Path, read: _Read, found: _Found) -> _Grouped:
    """Write ``requests.parquet``, in which requests of held-out queries are marked."""
    log, requests = out / "interactions.parquet", out / "requests.parquet"
    held_out = held_out_files(cfg)
    held: dict[str, list[str]] = {"near": [], "exact": []}
    for one in held_out:
        held[one.match] += read_held_out(one)
    near = hold_out(duck, f"read_parquet({text(log)})", held["near"], held["exact"])
    grouped = write_requests(duck, cfg, log, read.facts, read.split, requests)
    if cfg.split.history == "related":
        keep_related(requests, read.catalogue)
    found.warnings += grouped.warnings()
    splits = dict(
        duck.rows(
            f"SELECT split, count(*) FROM read_parquet({text(requests)}) GROUP BY 1 ORDER BY 1"
        )
    )
    dropped = _held_out_requests(duck, read.split, requests)
    if cfg.has_log:
        check_windows(read.split, {**splits, "train": splits.get("train", 0) + dropped})
    counts = {
        "total": grouped.requests,
        **splits,
        "repeated_events": grouped.repeated_events,
        "repeated_ids": grouped.repeated_ids,
        "shared_ids": grouped.shared_ids,
        "events_of_filtered_items": grouped.filtered_events,
        "held_out_queries_in_log": near,
        "held_out_requests_dropped": dropped,
    }
    return _Grouped(counts, held_out)


def _write_training(duck: Duck, cfg: Config, out: Path, read: _Read) -> tuple[Json, int]:
    """Write priors, SFT rows and preference lists; return facts of the lists, and how many rows."""
    requests = out / "requests.parquet"
    priors = count_priors(duck, requests, len(read.catalogue))
    priors.save(out / "priors.parquet")
    sft = write_sft(duck, requests, out / "sft.parquet")
    if not cfg.has_log:  # an empty file of lists, whose negatives nothing asks for
        preference = cfg.preference.model_copy(update={"negatives": "sampled", "debias": "none"})
        cfg = cfg.model_copy(update={"preference": preference})
    propensities = None
    if cfg.preference.debias == "ips":
        propensities = measure_propensities(duck, requests, read.facts)
    path = out / "lists.parquet"
    n_lists = write_lists(duck, cfg, requests, read.facts, priors, path, propensities)
    lists = _list_facts(duck, path, n_lists)
    if propensities is not None:
        lists["propensities"] = propensities.report()
    return lists, sft


def _report_of_files(read: _Read) -> Json:
    """Return what the report says of catalogue, log and users."""
    catalogue, facts = read.catalogue, read.facts
    return {
        "catalogue": {
            **read.bad_items.report(),
            "items": len(catalogue),
            "alive": int(catalogue.alive.sum()),
            "lineage": catalogue.lineage,
            "warnings": read.bad_items.unread,
        },
        "events": {
            **read.bad_events.report(),
            "used": facts.rows,
            "actions": facts.actions,
            "without_request_id": facts.without_request,
            "days": facts.days,
            "first_day_us": facts.day0,
            "notes": facts.notes,
            "warnings": facts.warnings,
            "unmapped_actions": facts.unmapped,
        },
        "users": read.users,
    }


def _held_out_requests(duck: Duck, split: Split, requests: Path) -> int:
    """Number of requests that would train if their query were not held out."""
    training = "" if split.unit == "leave_one_out" else f" AND ts < {split.train_until}"
    relation = f"read_parquet({text(requests)}) SEMI JOIN held_out USING (query)"
    return int(duck.row(f"SELECT count(*) FROM {relation} WHERE split = 'none'{training}")[0])


def keep_clicked(
    duck: Duck, cfg: Config, catalogue: Catalogue, log: Path, split: Split
) -> Catalogue:
    """Apply ``catalogue.clicked_within_days``; leaves the table ``dead_rows (row)`` of what it took
    out.

    Items without a click in the last n training days become tombstones: their rows stay, their
    events no longer count. (RAD-DPO's catalogue is the items clicked within two months [seed].)
    """
    days = cfg.catalogue.clicked_within_days
    if days is None:
        duck.run("CREATE OR REPLACE TABLE dead_rows AS SELECT 0 AS row WHERE false")
        return catalogue
    if split.unit == "leave_one_out":
        raise ValueError(
            "catalogue.clicked_within_days needs split.unit: day, time or fraction; leave-one-out "
            "has no training days"
        )
    window = f"ts < {split.train_until} AND ts >= {split.train_until - days * DAY_US}"
    clicked = duck.table(
        f"SELECT DISTINCT row FROM read_parquet({text(log)}) WHERE action > 0 AND {window}"
    )
    rows = pa.array(range(len(catalogue)), pa.int32())
    keep = pc.and_(
        catalogue.table.column("alive"),
        pc.is_in(rows, value_set=clicked.column("row").combine_chunks()),
    )
    if not pc.any(keep).as_py():
        raise ValueError(
            f"catalogue.clicked_within_days: {days} leaves no item; raise it or remove it"
        )
    duck.register("dead_now", pa.table({"row": rows}).filter(pc.invert(keep)))
    duck.run("CREATE OR REPLACE TABLE dead_rows AS SELECT row FROM dead_now")
    index = catalogue.table.schema.get_field_index("alive")
    table = catalogue.table.set_column(index, catalogue.table.schema.field(index), keep)
    return Catalogue(table, catalogue.lineage)


def _list_facts(duck: Duck, path: Path, lists: int) -> Json:
    mean, empty = duck.row(
        "SELECT avg(len(negatives)), count(*) FILTER (len(negatives) = 0) FROM "
        f"read_parquet({text(path)})"
    )
    return {"total": lists, "mean_negatives": round(mean or 0.0, 3), "without_negatives": empty}
