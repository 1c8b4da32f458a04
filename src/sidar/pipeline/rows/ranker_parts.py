"""What the ranker learns from and is chosen on, and what its features are made from.

Features of day d read counts, clicks and a language model of the days before d.  The SID table, the
item vectors and the few constants of BM25 and of the smoothed answer are the run's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from sidar.baselines import Bm25, System
from sidar.config import Config
from sidar.data.dataset import Dataset
from sidar.data.duck import Duck
from sidar.data.training.propensity import measure_propensities
from sidar.embed import Embedder, load_embedder, load_items, query_side
from sidar.evaluate.systems import TextSystem
from sidar.index import PrefixIndex
from sidar.pipeline.rows.answer_log import Log, usable_requests
from sidar.pipeline.rows.answering import tuned_lexical
from sidar.pipeline.rows.dense_rows import answer_dense
from sidar.pipeline.rows.generative import GenerativeSystem
from sidar.pipeline.runtime import device
from sidar.ranker.columns import all_columns
from sidar.ranker.features import FeatureMaker
from sidar.ranker.knowledge import ItemFacts, Known, before_day, log_shares
from sidar.ranker.requests import DAY_US, chosen_requests, clicks_before, training_days
from sidar.sid import load_sids
from sidar.types import Json, Request

#: One request in so many of those to learn from is held out where the log has no validation window.
HELD_OUT = 5


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
