"""The rows of a table that stand for what a shop has, and for what is served."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidar.answer.facts import GENERATIVE, params_of, read_facts
from sidar.answer.memory import Memory
from sidar.answer.smoothed import AnswerParams, Pooled, SmoothedMemory
from sidar.baselines import DEPTH, Bm25, Fusion, System
from sidar.baselines.channel import Kind
from sidar.config import Config
from sidar.data import open_dataset
from sidar.data.duck import Duck
from sidar.data.training.priors import Priors
from sidar.embed import Embedder
from sidar.evaluate.systems import TextSystem
from sidar.pipeline.rows.answer_log import fitting_requests, read_log, run_key, usable_requests
from sidar.pipeline.rows.answer_texts import requests_without_log
from sidar.pipeline.rows.dense_rows import served_dense
from sidar.pipeline.rows.memory_row import MemoryFirst, MemoryRow, fit_memory_row
from sidar.pipeline.rows.ranked_row import RankerSystem, open_ranked
from sidar.ranker.store import Ranker
from sidar.types import Catalogue, EvalSet, Hits, Json, Prompt


class AnswerSystem(System):
    """The served answer as a row: the channels' results and the memory as one distribution
    (sidar.answer.smoothed).
    """

    kind: Kind = "fusion"
    about: str = ""

    def __init__(
        self, name: str, channels: Mapping[str, System], model: SmoothedMemory, about: str = ""
    ) -> None:
        self.name, self.about = name, about
        self._channels, self._model = dict(channels), model

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        found = {name: channel.hits(prompts, DEPTH) for name, channel in self._channels.items()}
        return self._model.rank([prompt.query for prompt in prompts], found, k).hits


class MemorySystem(System):
    """The row ``memory``: the click table over the answer's BM25, its dense channel and the prior
    of what both return.

    ``channels`` are these three, ``fusion`` weighs them; all constants are chosen on the requests
    that the answer is fitted to (pipeline/rows/memory_row.py).
    """

    name = "memory"

    def __init__(self, table: MemoryFirst, channels: Sequence[System], fusion: Fusion) -> None:
        self._table, self._channels, self._fusion = table, channels, fusion

    @property
    def about(self) -> str:
        named = zip(self._channels, self._fusion.weights, strict=True)
        parts = " + ".join(f"{weight:g} {channel.name}" for channel, weight in named)
        return (
            f"what was chosen for the query, half-life {self._table.half_life:g} days, then "
            f"{parts} ({self._fusion.method}), with the answer's BM25 and tuned on its requests"
        )

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        backoff = self._fusion([channel.hits(prompts, DEPTH) for channel in self._channels])
        return self._table.over(prompts, backoff, k)


class CandidatePrior(System):
    """Popularity as a channel of fusions: the items that the other channels return, by training
    popularity.

    It is no row of its own (``scored``): the row ``popularity`` is the same list for every query.
    """

    name = "prior"
    scored = False

    def __init__(self, prior: np.ndarray, channels: Sequence[System]) -> None:
        self._prior, self._channels = prior, channels

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        return self.over([channel.hits(prompts, DEPTH) for channel in self._channels])

    def over(self, found: Sequence[Hits]) -> Hits:
        """All items of ``found`` by falling prior, ties by lower row."""
        rows = Pooled.of(found).rows
        scores = np.where(rows >= 0, self._prior[np.maximum(rows, 0)], -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")
        ranked = np.take_along_axis(rows, order, 1).astype(np.int32)
        return Hits(
            ranked,
            np.where(ranked >= 0, np.take_along_axis(scores, order, 1), 0).astype(np.float32),
        )


@dataclass
class AnswerRows:
    """The rows that stand for what a shop has and for what is served.

    ``tune_on``: the requests on which weights of reranking were chosen for the served model, and
    are for the others.
    """

    systems: dict[str, System]
    tune_on: EvalSet | None = None

    def tuning_of(self, valid: Sequence[EvalSet], most: int) -> tuple[Sequence[EvalSet], int]:
        """The sets to choose a weight of reranking on, and how many queries of each; ``valid``
        without a log.
        """
        if self.tune_on is None or not len(self.tune_on):
            return valid, most
        return [self.tune_on], len(self.tune_on)


def answer_rows(
    cfg: Config,
    inputs: Mapping[str, Path],
    systems: Mapping[str, System],
    embedder: Embedder,
    priors: Priors,
    work: Path,
) -> AnswerRows:
    """Make the rows ``answer``, ``answer-without-lm``, ``memory`` and, where one is fitted,
    ``ranker``, and the channel ``prior``, as they are served.

    ``systems``: the other rows, of which the served model, reranked or not, is the answer's
    generative channel.
    """
    from sidar.pipeline.rows.rerank import Reranked

    facts = read_facts(inputs["answer"])
    catalogue = open_dataset(inputs["data"]).catalogue
    rows: dict[str, System] = {}
    dense = next((name for name in ("dense", "dense-ivf") if name in systems), None)
    if dense is not None and cfg.has_log:  # without clicks all items are as popular
        rows["prior"] = CandidatePrior(priors.prior, [systems["bm25"], systems[dense]])
    tune_on = None
    if facts["fuse"] != "none" or facts.get("rerank"):
        tune_on = _tuning_requests(cfg, inputs["data"], catalogue, work)
    served = systems.get(f"{facts.get('label', '')}+rerank")
    if facts.get("rerank") and isinstance(served, Reranked):
        served.weight = float(facts["rerank"]["weight"])
    if facts["fuse"] != "none":
        rows |= _fused_rows(cfg, inputs, facts, systems, embedder, priors, work)
    return AnswerRows(rows, tune_on)


def _tuning_requests(cfg: Config, data: Path, catalogue: Catalogue, work: Path) -> EvalSet:
    """Return the requests that the answer was fitted to, as a set to choose weights on."""
    if (asked := requests_without_log(cfg, data)) is not None:
        return asked.eval_set(catalogue)
    with Duck(work, cfg.events.memory, cfg.threads) as duck:
        requests = usable_requests(duck, data)
        asked = fitting_requests(duck, requests, catalogue.alive, cfg.memory.requests)
    shutil.rmtree(work, ignore_errors=True)
    return asked.eval_set(catalogue)


def _fused_rows(
    cfg: Config,
    inputs: Mapping[str, Path],
    facts: Json,
    systems: Mapping[str, System],
    embedder: Embedder,
    priors: Priors,
    work: Path,
) -> dict[str, System]:
    """Return the rows that count what was chosen: the answer with and without the model, and the
    click table.
    """
    catalogue = open_dataset(inputs["data"]).catalogue
    secret, folder = run_key(cfg), inputs["answer"]
    memory = Memory.load(folder).check(secret, catalogue.lineage, str(folder))
    lexical = Bm25.load(folder)
    base: dict[str, System] = {
        "bm25": TextSystem("bm25", lexical),
        "dense": served_dense(inputs, embedder, catalogue.alive),
    }

    def smoothed(key: str) -> SmoothedMemory:
        params = params_of(facts, key)
        return SmoothedMemory(params, priors.clicks, catalogue.alive, memory, secret)

    def row(name: str, key: str, channels: Mapping[str, System]) -> AnswerSystem:
        model = smoothed(key)
        return AnswerSystem(name, channels, model, describe(model.params))

    rows: dict[str, System] = {}
    label = facts["label"]
    model = systems.get(f"{label}+rerank" if facts["reranked"] else label)
    if model is not None:  # the caller may score other models alone
        rows["answer"] = row("answer", "fit", {**base, GENERATIVE: model})
        if Ranker.files(folder, "answer"):
            dataset = open_dataset(inputs["data"])
            ranked = open_ranked(folder, inputs, dataset, lexical, smoothed("fit"))
            rows["ranker"] = RankerSystem({**base, GENERATIVE: model}, ranked, embedder)
    rows["answer-without-lm"] = row("answer-without-lm", "without_generative", base)
    if not cfg.has_log:  # no click table
        return rows
    channels = [*base.values(), CandidatePrior(priors.prior, list(base.values()))]
    chosen = MemoryRow.read(facts)
    if chosen is None:  # an answer of an older version
        log = read_log(cfg, inputs["data"], secret, work)
        results = [channel.hits(log.asked.prompts, DEPTH) for channel in channels]
        chosen = fit_memory_row(log, results, catalogue)
    table = MemoryFirst(memory, secret, catalogue.alive, chosen.half_life)
    rows["memory"] = MemorySystem(table, channels, chosen.fusion)
    return rows


def describe(params: AnswerParams) -> str:
    """The fitted constants in one line."""
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in params.weights.items())
    return f"kappa {params.kappa:.2g}, half-life {params.half_life:.1f} days, weights {weights}"
