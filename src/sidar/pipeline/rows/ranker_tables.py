"""The tables that the ranker learns from and is chosen on: channels, candidates, features, and what
the smoothed answer says of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidar.answer.facts import GENERATIVE
from sidar.answer.fit import fit_answer
from sidar.answer.smoothed import AnswerParams, Posterior, SmoothedMemory, popularity
from sidar.baselines import DEPTH, System
from sidar.pipeline.rows.answering import fit
from sidar.pipeline.rows.ranker_parts import RankerParts, Window
from sidar.pipeline.runtime import progress
from sidar.ranker.fit import prior_of, table_of, unseen_copies
from sidar.ranker.knowledge import Known
from sidar.ranker.learner import Table
from sidar.ranker.requests import candidates, request_weights
from sidar.types import Hits, Request


@dataclass(frozen=True)
class Tables:
    """What is learnt from and chosen on; ``levels`` of SIDs that both know.

    ``params``: the constants of the smoothed answer that is built upon, ``posterior`` its answer
    to the validation requests; None = nothing is built upon.
    """

    train: Table
    valid: Table
    levels: int
    params: AnswerParams | None
    posterior: Posterior | None


def ranker_tables(parts: RankerParts, window: Window, work: Path) -> Tables:
    """Return the tables to learn from and to choose on."""
    cfg, dataset = parts.cfg, parts.dataset
    auxiliary = before = sft = None
    levels = 0
    clicks = dataset.priors().clicks
    if cfg.ranker.sft_steps:
        from sidar.pipeline.rows.auxiliary import train_before

        folder = train_before(cfg, parts.inputs, window.days[0].day, work / "sft")
        before = window.days[0].clicks
        auxiliary = parts.model("auxiliary", folder, before)
        sft = parts.model("sft", parts.inputs["sft"] / "model", clicks)
        levels = parts.index(before).n_levels
    asked = _Asked.of(parts, window.valid, sft)
    params = None
    if cfg.ranker.residual and len(parts.log.asked):
        params = _fitted(parts, asked)
    known = parts.known(None, clicks)
    if not window.held_out:
        known = parts.known(window.days[-1].day, window.days[-1].clicks)
    valid, posterior = _table(parts, window, asked, known, params, levels, learns=False)
    tables = []
    for day in window.days:
        of_day = _Asked.of(parts, day.requests, auxiliary)
        known = parts.known(day.day, day.clicks)
        tables.append(_table(parts, window, of_day, known, params, levels, learns=True)[0])
    train = unseen_copies(Table.joined(tables), levels)
    return Tables(train, valid, levels, params, posterior)


@dataclass(frozen=True)
class _Asked:
    """Requests and what each channel found for them."""

    requests: list[Request]
    found: dict[str, Hits]
    channels: dict[str, System]

    @classmethod
    def of(cls, parts: RankerParts, requests: list[Request], model: System | None) -> _Asked:
        """Ask every channel; ``model`` None = there is no language model."""
        channels: dict[str, System] = {**parts.base, **({GENERATIVE: model} if model else {})}
        prompts = [one.prompt for one in requests]
        found: dict[str, Hits] = {}
        for name, channel in channels.items():
            progress(f"{name}: {len(prompts):,} requests")
            # all that is served of a channel: an item that another one found may be deep in it
            found[name] = channel.hits(prompts, DEPTH)
        return cls(requests, found, channels)


def _fitted(parts: RankerParts, asked: _Asked) -> AnswerParams:
    """The constants of the smoothed answer over the same channels, fitted as the stage ``answer``
    does it: to the validation requests, with the counts of the days before.

    They are constants and no features: a training day's counts, popularity and beams stay those
    of the days before it.
    """
    clicks, alive = parts.dataset.priors().clicks, parts.items.alive
    place = {one.request_id: r for r, one in enumerate(asked.requests)}
    ids = parts.log.asked.ids
    if not all(one in place for one in ids):  # without a validation window they are others
        return fit(parts.log, asked.channels, clicks, alive).params
    at = [place[one] for one in ids]
    found = {name: hits.take(at) for name, hits in asked.found.items()}
    prior = popularity(clicks, alive)
    return fit_answer(found, parts.log.chosen, prior, int(alive.sum())).params


def _table(
    parts: RankerParts,
    window: Window,
    asked: _Asked,
    known: Known,
    params: AnswerParams | None,
    levels: int,
    *,
    learns: bool,
) -> tuple[Table, Posterior | None]:
    """Return the table of the requests, and the smoothed answer to them where one is built upon.

    A table to learn from also holds what the lists showed, and random items that nothing found.
    """
    options, requests, found = parts.cfg.ranker, asked.requests, asked.found
    prompts = [one.prompt for one in requests]
    remembered = [known.remembered(one.query, options.depth) for one in prompts]
    more = _more(parts, requests) if learns else [np.empty(0, np.int64)] * len(requests)
    posterior = None
    if params is not None:
        smoothed = SmoothedMemory(
            params, known.clicks, known.items.alive, known.memory, known.secret
        )
        posterior = smoothed.posterior([one.query for one in prompts], found)
        first = [posterior.best(q, options.depth) for q in range(len(prompts))]
        more = [np.concatenate(both) for both in zip(more, first, strict=True)]
    pairs = candidates(found, remembered, options.depth, more)
    weight = request_weights(requests, window.propensity if learns else None)
    maker, vectors = parts.maker(known, levels), parts.encode(requests)
    prior = None if posterior is None else prior_of(posterior, prompts, pairs)
    generative = found.get(GENERATIVE)
    return table_of(maker, requests, vectors, pairs, generative, weight, prior), posterior


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
