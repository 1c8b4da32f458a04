"""The stage ``ranker``: learn to rank from the last training days, with what the days before them
say, and choose on the validation day.

Features of day d read counts, clicks and a language model of the days before d.  The SID table, the
item vectors and the few constants of BM25 are the run's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from sidar.answer.facts import GENERATIVE
from sidar.baselines import DEPTH, Bm25, System
from sidar.config import Config
from sidar.data import open_dataset
from sidar.data.dataset import Dataset
from sidar.data.duck import Duck
from sidar.data.training.propensity import measure_propensities
from sidar.embed import Embedder, load_embedder, load_items, query_side
from sidar.evaluate.systems import TextSystem
from sidar.index import PrefixIndex
from sidar.pipeline.rows.answer_log import Log, read_log, run_key, usable_requests
from sidar.pipeline.rows.answering import tuned_lexical
from sidar.pipeline.rows.dense_rows import answer_dense
from sidar.pipeline.rows.generative import GenerativeSystem
from sidar.pipeline.rows.shown_lists import ShownLists
from sidar.pipeline.runtime import device, progress
from sidar.ranker.calibration import Calibration
from sidar.ranker.columns import all_columns
from sidar.ranker.diagnosis import diagnose, page_of
from sidar.ranker.features import FeatureMaker
from sidar.ranker.fit import fit_ranker, table_of, unseen_copies
from sidar.ranker.knowledge import ItemFacts, Known, before_day, log_shares
from sidar.ranker.learner import Table
from sidar.ranker.requests import (
    DAY_US,
    candidates,
    chosen_requests,
    clicks_before,
    request_weights,
    training_days,
)
from sidar.ranker.store import Ranker
from sidar.sid import load_sids
from sidar.types import Hits, Json, Request

#: One request in so many of those to learn from is held out where the log has no validation window.
HELD_OUT = 5
#: Stem of the files of the diagnosis.
DIAGNOSIS = "diagnosis"


@dataclass(frozen=True)
class Day:
    """The requests of one day with what was known before it; ``clicks`` (N,) of the days before."""

    day: int
    requests: list[Request]
    clicks: np.ndarray


@dataclass(frozen=True)
class Window:
    """What the ranker learns from, day by day, and the requests of the validation window.

    ``propensity`` (positions,) 1 / p by position, None = nothing is weighted; ``held_out`` False =
    the log has no validation window, and ``valid`` are requests of the days themselves.
    """

    days: list[Day]
    valid: list[Request]
    propensity: np.ndarray | None
    held_out: bool


def read_window(cfg: Config, dataset: Dataset, work: Path) -> Window:
    """Read the requests that the ranker learns from and is chosen on."""
    options = cfg.ranker
    with Duck(work, cfg.events.memory, cfg.threads) as duck:
        requests = usable_requests(duck, dataset.folder)
        days = []
        for day in training_days(duck, requests, options.days):
            where = f"split = 'train' AND ts // {DAY_US} = {day}"
            found = chosen_requests(duck, requests, where, -(-options.requests // options.days))
            clicks = clicks_before(duck, requests, day, len(dataset.catalogue))
            days.append(Day(day, found, clicks))
        valid = chosen_requests(duck, requests, "split = 'valid'", cfg.memory.requests)
        propensity = _propensity(duck, cfg, requests, dataset.report)
    if not any(day.requests for day in days):
        raise ValueError(
            "ranker.enabled is true, but the last training day has no request with a query or a "
            "history and a choice, so there is nothing to learn from; set ranker.days to more days "
            "or ranker.enabled to false"
        )
    if valid:
        return Window(days, valid, propensity, held_out=True)
    last = days[-1]
    kept = [one for place, one in enumerate(last.requests) if place % HELD_OUT]
    held = last.requests[::HELD_OUT]
    return Window([*days[:-1], Day(last.day, kept, last.clicks)], held, propensity, held_out=False)


def _propensity(duck: Duck, cfg: Config, requests: Path, report: Json) -> np.ndarray | None:
    """(positions,) 1 / p by position where the config or the log asks for it, else None."""
    if cfg.ranker.debias == "none":
        return None
    try:
        facts = SimpleNamespace(actions=report["events"]["actions"])
        return measure_propensities(duck, requests, facts).weights()
    except ValueError as error:
        if cfg.ranker.debias == "ips":
            raise ValueError(str(error).replace("preference.debias", "ranker.debias")) from error
        return None


@dataclass(frozen=True)
class RankerParts:
    """What the features of every day are made from, each opened when it is first asked for."""

    cfg: Config
    inputs: Mapping[str, Path]
    dataset: Dataset
    log: Log

    @cached_property
    def items(self) -> ItemFacts:
        return ItemFacts.of(self.dataset.catalogue)

    @cached_property
    def embedder(self) -> Embedder:
        return load_embedder(self.cfg.embed, device(self.cfg))

    @cached_property
    def lexical(self) -> Bm25:
        """BM25 with the constants that the stage ``answer`` chooses on the same requests."""
        catalogue = self.dataset.catalogue
        return tuned_lexical(Bm25(catalogue), self.log.asked, catalogue)

    @cached_property
    def base(self) -> dict[str, System]:
        """The channels that need no model."""
        alive = self.dataset.catalogue.alive
        dense, _, _ = answer_dense(self.cfg, self.inputs["embed"], self.embedder, alive)
        return {"bm25": TextSystem("bm25", self.lexical), "dense": dense}

    @cached_property
    def vectors(self) -> np.ndarray:
        return np.asarray(load_items(self.inputs["embed"]))

    def index(self, clicks: np.ndarray) -> PrefixIndex:
        """Return the prefix index with the counts (N,) of the days before."""
        sids = load_sids(self.inputs["sid"] / "sids.parquet", self.dataset.catalogue.item_ids)
        return PrefixIndex.build(sids, np.log1p(clicks), clicks)

    def known(self, day: int | None, clicks: np.ndarray) -> Known:
        """Return what is known before ``day`` (since 1970; None = the validation window)."""
        memory = self.log.before if day is None else before_day(self.log.before, day)
        shares = log_shares(self.index(clicks), clicks, self.items.alive)
        return Known(self.items, memory, self.log.secret, clicks, shares)

    def encode(self, requests: Sequence[Request]) -> np.ndarray:
        """(R, D) vectors of the requests' queries."""
        return query_side(self.embedder).encode([one.prompt.query for one in requests])

    def maker(self, known: Known, levels: int) -> FeatureMaker:
        """Return what computes all features of SIDs of ``levels`` levels."""
        return FeatureMaker(all_columns(levels), known, self.lexical, self.vectors)

    def model(self, name: str, folder: Path, clicks: np.ndarray) -> GenerativeSystem:
        """Return a trained model as a channel, with the shares of ``clicks`` (N,)."""
        catalogue = self.dataset.catalogue
        return GenerativeSystem(
            name,
            folder,
            self.index(clicks),
            load_sids(self.inputs["sid"] / "sids.parquet", catalogue.item_ids),
            catalogue,
            self.cfg.decode,
            device(self.cfg),
            query_side(self.embedder, self.cfg.sid.view).encode,
        )


def ranker(cfg: Config, inputs: Mapping[str, Path], out: Path, work: Path) -> Json:
    """Write ``ranker-answer.*``, ``ranker-reward.*``, ``memory.parquet`` of the training days, BM25
    and ``diagnosis.*`` into ``out``.

    With ``ranker.sft_steps`` a second language model is trained on the days before those that the
    ranker learns from; interrupted work is continued.
    """
    dataset = open_dataset(inputs["data"])
    log = read_log(cfg, inputs["data"], run_key(cfg), work / "log")
    window = read_window(cfg, dataset, work / "window")
    parts = RankerParts(cfg, inputs, dataset, log)
    train, valid, levels = ranker_tables(parts, window, work)
    rankers, reports = fit_rankers(parts, window, train, valid, levels)
    for one in rankers.values():
        one.save(out)
    (out / f"{DIAGNOSIS}.json").write_text(json.dumps(reports, indent=1) + "\n")
    (out / f"{DIAGNOSIS}.md").write_text(page_of(reports))
    log.before.save(out)
    parts.lexical.save(out)
    return _report(rankers, window)


def ranker_tables(parts: RankerParts, window: Window, work: Path) -> tuple[Table, Table, int]:
    """Return the tables to learn from and to choose on, and the levels of SIDs that they know."""
    cfg, dataset = parts.cfg, parts.dataset
    auxiliary = before = None
    levels = 0
    if cfg.ranker.sft_steps:
        from sidar.pipeline.rows.auxiliary import train_before

        auxiliary = train_before(cfg, parts.inputs, window.days[0].day, work / "sft")
        before = window.days[0].clicks
        levels = parts.index(before).n_levels
    tables = []
    for day in window.days:
        model = None
        if auxiliary is not None and before is not None:
            model = parts.model("auxiliary", auxiliary, before)
        known = parts.known(day.day, day.clicks)
        tables.append(_table(parts, window, day.requests, known, model, levels, learns=True))
    clicks = dataset.priors().clicks
    model = None
    if auxiliary is not None:
        model = parts.model("sft", parts.inputs["sft"] / "model", clicks)
    if window.held_out:
        known = parts.known(None, clicks)
    else:
        known = parts.known(window.days[-1].day, window.days[-1].clicks)
    valid = _table(parts, window, window.valid, known, model, levels, learns=False)
    return unseen_copies(Table.joined(tables), levels), valid, levels


def _table(
    parts: RankerParts,
    window: Window,
    requests: list[Request],
    known: Known,
    model: System | None,
    levels: int,
    *,
    learns: bool,
) -> Table:
    """Return the table of ``requests``; one to learn from also holds what the lists showed, and
    random items that nothing found.
    """
    options = parts.cfg.ranker
    prompts = [one.prompt for one in requests]
    channels: dict[str, System] = {**parts.base, **({GENERATIVE: model} if model else {})}
    found: dict[str, Hits] = {}
    for name, channel in channels.items():
        progress(f"{name}: {len(prompts):,} requests")
        # all that is served of a channel: an item that another channel found may be deep in it
        found[name] = channel.hits(prompts, DEPTH)
    remembered = [known.remembered(one.query, options.depth) for one in prompts]
    more = _more(parts, requests) if learns else None
    pairs = candidates(found, remembered, options.depth, more)
    weight = request_weights(requests, window.propensity if learns else None)
    maker = parts.maker(known, levels)
    vectors = parts.encode(requests)
    return table_of(maker, requests, vectors, pairs, found.get(GENERATIVE), weight)


def _more(parts: RankerParts, requests: Sequence[Request]) -> list[np.ndarray]:
    """The live items that each request was shown, and a few random ones."""
    alive = parts.items.alive
    live = np.flatnonzero(alive)
    draw = np.random.default_rng([parts.cfg.seed, 17])
    count = min(parts.cfg.ranker.random_items, len(live))
    found = []
    for one in requests:
        shown = np.asarray(one.rows, np.int64)
        found.append(np.concatenate([shown[alive[shown]], draw.choice(live, count)]))
    return found


def fit_rankers(
    parts: RankerParts, window: Window, train: Table, valid: Table, levels: int
) -> tuple[dict[str, Ranker], dict[str, Json]]:
    """Fit the ranker of the answer and that of the reward, calibrate both on what the validation
    window showed, and diagnose them there.
    """
    cfg = parts.cfg
    known = parts.known(None, parts.dataset.priors().clicks)
    lists = ShownLists.of(window.valid, parts.items.alive)
    prompts, vectors = [one.prompt for one in window.valid], parts.encode(window.valid)
    rankers: dict[str, Ranker] = {}
    reports: dict[str, Json] = {}
    for use in ("answer", "reward"):
        one = fit_ranker(
            cfg.ranker, use, levels, train, valid, seed=cfg.seed, threads=cfg.threads or 1
        )
        maker = FeatureMaker(one.columns, known, parts.lexical, parts.vectors)
        # beams of the shown items are not asked for: they are NaN, as for what no beam reaches
        scores = one.scores(maker.table(prompts, vectors, lists.pairs))
        calibration = Calibration.fit(scores, lists.chosen)
        reports[use] = diagnose(lists.shown(parts, window.valid, scores))
        facts = {
            "requests": sum(len(day.requests) for day in window.days),
            "held_out": window.held_out,
            "debias": "none" if window.propensity is None else "ips",
            "days": [day.day for day in window.days],
            "sft_steps": cfg.ranker.sft_steps,
            "embed": cfg.embed.model_dump(mode="json"),
            "key_file": cfg.memory.key_file,
            "calibration": [calibration.slope, calibration.offset],
        }
        rankers[use] = Ranker(one.use, one.levels, one.learner, {**one.facts, **facts})
    return rankers, reports


def _report(rankers: Mapping[str, Ranker], window: Window) -> Json:
    """What the stage prints, and what its manifest says."""
    learnt = sum(len(day.requests) for day in window.days)
    lines = [
        f"learnt from {learnt:,} requests of {len(window.days)} day(s), chosen on "
        f"{len(window.valid):,}; debias {rankers['answer'].facts['debias']}"
    ]
    for use, one in rankers.items():
        worth = ", ".join(
            f"{name} {value:.3f}"
            for name, value in one.facts["valid_ndcg@10"].items()
            if value is not None
        )
        lines.append(f"{use}: {one.learner.name} of nDCG@10 {worth or 'not measured'}")
    if not window.held_out:
        lines.append(
            "WARNING: there is no validation window, so the ranker was chosen on a fifth of the "
            "requests of its own last day"
        )
    shapes = {
        "requests": learnt,
        "valid_requests": len(window.valid),
        "learner": {use: one.learner.name for use, one in rankers.items()},
        "levels": rankers["answer"].levels,
    }
    return {"summary": "\n".join(lines), "shapes": shapes}
