"""The simulator from catalogue to files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.artifacts import sha256_file
from sidar.data.sample import judged_queries
from sidar.simulate import lexicon as lexicon_module
from sidar.simulate.behaviour import act, chances
from sidar.simulate.config import SimulatorConfig
from sidar.simulate.describe import marginals
from sidar.simulate.facts import read_facts
from sidar.simulate.grounded import Grounded, ground, write_grounded
from sidar.simulate.intents import IRRELEVANT, RELATED
from sidar.simulate.lexicon import load_lexicon
from sidar.simulate.log import Names, Page, Sink, events, truth
from sidar.simulate.schedule import DAY_US, Demand, Schedule, draw_schedule, first_moment
from sidar.simulate.shelf import Shelf
from sidar.simulate.shoppers import Taste, draw_shoppers
from sidar.types import Catalogue, Json, PathLike

_YEAR_US = 365 * DAY_US


def run(
    catalogue: Catalogue,
    config: SimulatorConfig,
    out: PathLike,
    *,
    avoid: Iterable[str] | None = None,
) -> Json:
    """Write a simulated log with known truth into the folder ``out``; returns what
    ``simulator.json`` holds.

    Files: ``catalogue.parquet`` (with ``created``), ``events.parquet``, ``users.parquet``,
    ``truth.parquet``, ``utility.parquet``, ``grounded_{train,valid,test}.{queries,qrels}.tsv``,
    ``simulator.json``. No query resembles one of ``avoid`` (default: the embedded sample's judged
    queries). Same catalogue, config and versions: same bytes.

    Raises ``ValueError`` when the catalogue grounds too few queries.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    words = load_lexicon()
    # one stream per part, so that a change in one leaves the others' draws alone
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(config.seed).spawn(6)]
    for_queries, for_users, for_launch, for_schedule, for_shelf, for_acts = streams
    facts = read_facts(catalogue, words)
    grounded = ground(
        facts, words, config.queries, judged_queries() if avoid is None else avoid, for_queries
    )
    demand = Demand(grounded, facts.department, config)
    who = draw_shoppers(config, demand.departments, demand.share, len(words.colours), for_users)
    taste = Taste.of(who, facts, words, config, for_users)
    launch = draw_launches(grounded, len(catalogue), config, for_launch)
    schedule = draw_schedule(config, grounded, demand, who, for_schedule)

    note = {"sidar.simulated": "true", "sidar.simulator_config": config.hash}
    names = Names(catalogue.item_ids, who.ids, np.asarray(grounded.queries, dtype=object))
    requests = {
        name: getattr(schedule, name) for name in ("ts", "user", "session", "query", "random")
    }
    homes = [facts.department[grounded.truths[i].exact[0]] for i in grounded.intent_of]
    # a retired item is never shown
    on_sale = np.where(catalogue.alive, launch, np.iinfo(np.int64).max)
    shelf = Shelf(catalogue, facts, grounded.queries, homes, on_sale, config.logger, for_shelf)
    codes = _Codes(grounded, len(catalogue))
    log, known = Sink(out / "events.parquet", note), Sink(out / "truth.parquet", note)
    for day in range(1, config.days + 1):
        of_day = np.flatnonzero(schedule.day == day)
        shown = shelf.show(schedule.query[of_day], schedule.ts[of_day], schedule.random[of_day])
        local, row, position = shown.flat()
        request = of_day[local]
        code = codes(grounded.intent_of[schedule.query[request]], row)
        liked = taste(schedule.user[request], row)
        chance = chances(code, liked, config.behaviour)
        page = Page(
            request,
            row,
            position,
            code,
            liked,
            chance,
            act(position, chance, config.behaviour, for_acts),
        )
        log.add(events(page, requests, names, facts.price, for_acts))
        known.add(truth(page, names))
        shelf.learn(row[page.acts.click])
    log.close()
    known.close()
    _write_utility(
        schedule, grounded, taste, launch, names, config, Sink(out / "utility.parquet", note)
    )
    _write_catalogue(catalogue, launch, config, for_launch, out / "catalogue.parquet", note)
    pq.write_table(who.table().replace_schema_metadata(note), out / "users.parquet")
    write_grounded(grounded, catalogue.item_ids, out)
    report = _report(catalogue, config, grounded, out)
    (out / "simulator.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _report(catalogue: Catalogue, config: SimulatorConfig, grounded: Grounded, out: Path) -> Json:
    """Return what the traffic was made from, and its marginals."""
    splits = ("train", "valid", "test")
    return {
        "simulated": True,
        "config": config.model_dump(),
        "config_hash": config.hash,
        "lexicon_hash": sha256_file(Path(lexicon_module.__file__).with_name("lexicon.yaml")),
        "catalogue_lineage": catalogue.lineage,
        "grounded_queries": {split: len(grounded.of_split(split)) for split in splits},
        "grounded_intents": {split: grounded.splits.count(split) for split in splits},
        "marginals": marginals(out),
    }


def draw_launches(
    grounded: Grounded, n_items: int, cfg: SimulatorConfig, rng: np.random.Generator
) -> np.ndarray:
    """(N,) µs of launch, 0 = before the log.

    Launched items are wanted by some logged intent, else nobody sees them.
    """
    wanted = [
        t.exact
        for t, split in zip(grounded.truths, grounded.splits, strict=True)
        if split == "train"
    ]
    candidates = np.unique(np.concatenate(wanted))
    chosen = rng.choice(
        candidates, size=min(round(cfg.launch_share * n_items), len(candidates)), replace=False
    )
    launch = np.zeros(n_items, dtype=np.int64)
    days = rng.uniform(cfg.launch_from_day - 1, cfg.days - 0.5, len(chosen))
    launch[chosen] = first_moment(cfg) + (days * DAY_US).astype(np.int64)
    return launch


class _Codes:
    """Grade codes of train intents (those that the log asks; they are numbered first), kept sparse:
    a table of all items would take gigabytes on a catalogue of a million."""

    def __init__(self, grounded: Grounded, n_items: int) -> None:
        n_train = grounded.splits.count("train")
        keys = [number * n_items + grounded.truths[number].rows for number in range(n_train)]
        codes = [grounded.truths[number].codes for number in range(n_train)]
        flat = np.concatenate(keys)
        order = np.argsort(flat)
        self._keys, self._codes, self._n_items = flat[order], np.concatenate(codes)[order], n_items

    def __call__(self, intent: np.ndarray, row: np.ndarray) -> np.ndarray:
        """(S,) int8 code of each pair of train intent and row; what no truth names
        is irrelevant.
        """
        wanted = intent * self._n_items + row
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where(self._keys[at] == wanted, self._codes[at], IRRELEVANT).astype(np.int8)


def _write_utility(
    schedule: Schedule,
    grounded: Grounded,
    taste: Taste,
    launch: np.ndarray,
    names: Names,
    cfg: SimulatorConfig,
    sink: Sink,
) -> None:
    """``utility.parquet``: for requests of the last two days, the true utility of every substitute
    or better that was on sale, shown or not: the target "true utility" of docs/evaluation.md."""
    for request in (np.flatnonzero(schedule.day == day) for day in (cfg.days - 1, cfg.days)):
        truths = [grounded.truths[i] for i in grounded.intent_of[schedule.query[request]]]
        keep = [t.codes < RELATED for t in truths]
        n = np.asarray([int(k.sum()) for k in keep])
        row = np.concatenate([t.rows[k] for t, k in zip(truths, keep, strict=True)])
        code = np.concatenate([t.codes[k] for t, k in zip(truths, keep, strict=True)])
        of = np.repeat(request, n)
        live = launch[row] <= schedule.ts[of]
        of, row, code = of[live], row[live], code[live]
        utility = chances(code, taste(schedule.user[of], row), cfg.behaviour).utility
        columns = {
            "request_id": pa.array([f"r{r:08d}" for r in of]),
            "item_id": pa.array(names.item, pa.string()).take(pa.array(row)),
            "utility": pa.array(utility, pa.float32()),
        }
        sink.add(pa.table(columns))
    sink.close()


def _write_catalogue(
    catalogue: Catalogue,
    launch: np.ndarray,
    cfg: SimulatorConfig,
    rng: np.random.Generator,
    path: Path,
    note: dict[str, str],
) -> None:
    """The catalogue with ``created``: the launch of new items, else the source's date before the
    log, else an earlier day of the last three years."""
    age = rng.uniform(DAY_US, 3 * _YEAR_US, len(catalogue)).astype(np.int64)
    invented = np.where(launch > 0, launch, first_moment(cfg) - age)
    begin = datetime.fromtimestamp(first_moment(cfg) / 1e6, tz=UTC)
    created = [
        known
        if known is not None and known < begin and not launch[row]
        else datetime.fromtimestamp(moment / 1e6, tz=UTC)
        for row, (moment, known) in enumerate(
            zip(invented.tolist(), catalogue.column("created"), strict=True)
        )
    ]
    table = catalogue.table
    at = table.schema.get_field_index("created")
    field = table.schema.field(at)
    table = table.set_column(at, field, pa.array(created, field.type))
    pq.write_table(table.replace_schema_metadata(note), path, compression="zstd")
