"""The rows of a table that stand for what a shop has, and for what is served."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidar.answer.memory import Memory
from sidar.answer.serving import GENERATIVE, params_of, read_facts
from sidar.answer.smoothed import AnswerParams, Pooled, SmoothedMemory
from sidar.baselines import DEPTH, Bm25, Dense
from sidar.config import Config
from sidar.data import open_dataset
from sidar.data.duck import Duck
from sidar.data.priors import Priors
from sidar.embed import Embedder, load_items, query_side
from sidar.evaluate.systems import System, TextSystem
from sidar.pipeline.answer_log import fitting_requests, run_key, usable_requests
from sidar.types import EvalSet, Hits, Prompt


class AnswerSystem:
    """The served answer as a row: the channels' results and the memory as one distribution (sidar.answer.smoothed)."""

    kind = "fusion"

    def __init__(self, name: str, channels: Mapping[str, System], model: SmoothedMemory, about: str = "") -> None:
        self.name, self.about = name, about
        self._channels, self._model = dict(channels), model

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        found = {name: channel.hits(prompts, DEPTH) for name, channel in self._channels.items()}
        return self._model.rank([prompt.query for prompt in prompts], found, k).hits


class MemoryFirst:
    """The click table as a row: what was chosen for the query by falling count, then the ranking of ``backoff``."""

    name = "memory"
    kind = "baseline"

    def __init__(
        self, memory: Memory, secret: bytes, alive: np.ndarray, half_life: float, of: str = "bm25+dense+prior"
    ) -> None:
        self._memory, self._secret, self._alive, self.half_life, self.of = memory, secret, alive, half_life, of

    @property
    def about(self) -> str:
        return f"what was chosen for the query, half-life {self.half_life:g} days, then the tuned {self.of}"

    def over(self, prompts: Sequence[Prompt], backoff: Hits, k: int) -> Hits:
        """Return the counted items of each prompt's query, then those of ``backoff`` that are not among them."""
        rows = np.full((len(prompts), k), -1, np.int32)
        for q, prompt in enumerate(prompts):
            known, counts = self._memory.counts(prompt.query, self._secret, self.half_life, self._alive)
            place = {int(row): at for at, row in enumerate(backoff.rows[q].tolist()) if row >= 0}
            last = len(place)
            # equal counts in the order of the back-off, then by row
            order = sorted(range(len(known)), key=lambda i: (-counts[i], place.get(int(known[i]), last), known[i]))
            first = known[order]
            rest = backoff.rows[q][(backoff.rows[q] >= 0) & ~np.isin(backoff.rows[q], first)]
            found = np.concatenate([first, rest])[:k]
            rows[q, : len(found)] = found
        scores = np.where(rows >= 0, np.arange(k, 0, -1), 0).astype(np.float32)
        return Hits(rows, scores)


class CandidatePrior:
    """Popularity as a channel of fusions: the items that the other channels return, by training popularity.

    It is no row of its own (``scored``): the row ``popularity`` is the same list for every query.
    """

    name = "prior"
    kind = "baseline"
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
        return Hits(ranked, np.where(ranked >= 0, np.take_along_axis(scores, order, 1), 0).astype(np.float32))


@dataclass
class AnswerRows:
    """The rows that stand for what a shop has and for what is served: ``systems`` and rows over the results of others.

    ``tune_on``: the requests on which weights of reranking were chosen for the served model, and are for the others.
    """

    systems: dict[str, System]
    composed: list[MemoryFirst]
    tune_on: EvalSet | None = None

    def tuning_of(self, valid: Sequence[EvalSet], most: int) -> tuple[Sequence[EvalSet], int]:
        """The sets to choose a weight of reranking on, and how many queries of each; ``valid`` without a log."""
        if self.tune_on is None or not len(self.tune_on):
            return valid, most
        return [self.tune_on], len(self.tune_on)


def answer_rows(
    cfg: Config, run: Path, systems: Mapping[str, System], embedder: Embedder, priors: Priors
) -> AnswerRows:
    """Make the rows ``answer``, ``answer-without-lm`` and ``memory``, and the channel ``prior``, as they are served.

    ``systems``: the other rows, of which the served model, reranked or not, is the answer's generative channel.
    """
    from sidar.pipeline.rerank import Reranked

    facts = read_facts(run / "answer")
    dataset = open_dataset(run / "data")
    catalogue = dataset.catalogue
    dense = next((name for name in ("dense", "dense-ivf") if name in systems), None)
    rows: dict[str, System] = {}
    if dense is not None:
        rows["prior"] = CandidatePrior(priors.prior, [systems["bm25"], systems[dense]])
    tune_on = None
    if facts["fuse"] != "none" or facts.get("rerank"):
        with Duck(run / ".answer-work", cfg.events.memory, cfg.threads) as duck:
            asked = fitting_requests(duck, usable_requests(duck, run / "data"), catalogue.alive, cfg.memory.requests)
        shutil.rmtree(run / ".answer-work", ignore_errors=True)
        tune_on = asked.eval_set(catalogue)
    label = facts.get("label", "")
    served = systems.get(f"{label}+rerank")
    if facts.get("rerank") and isinstance(served, Reranked):
        served.weight = float(facts["rerank"]["weight"])
    if facts["fuse"] == "none":
        return AnswerRows(rows, [], tune_on)
    secret = run_key(cfg)
    memory = Memory.load(run / "answer").check(secret, catalogue.lineage, str(run / "answer"))
    lexical = TextSystem("bm25", Bm25.load(run / "answer"))
    base: dict[str, System] = {"bm25": lexical, "dense": dense_channel(run, embedder, catalogue.alive)}
    model = systems.get(f"{label}+rerank" if facts["reranked"] else label)

    def row(name: str, key: str, channels: Mapping[str, System]) -> AnswerSystem:
        params = params_of(facts, key)
        smoothed = SmoothedMemory(params, priors.clicks, catalogue.alive, memory, secret)
        return AnswerSystem(name, channels, smoothed, describe(params))

    if model is not None:  # the caller may score other models alone
        rows["answer"] = row("answer", "fit", {**base, GENERATIVE: model})
    rows["answer-without-lm"] = row("answer-without-lm", "without_generative", base)
    of = "+".join(("bm25", dense or "dense", "prior"))
    first = MemoryFirst(memory, secret, catalogue.alive, facts["memory_half_life"] or float("inf"), of)
    return AnswerRows(rows, [first], tune_on)


def describe(params: AnswerParams) -> str:
    """The fitted constants in one line."""
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in params.weights.items())
    return f"kappa {params.kappa:.2g}, half-life {params.half_life:.1f} days, weights {weights}"


def dense_channel(run: Path, embedder: Embedder, alive: np.ndarray) -> System:
    """The dense channel of the answer: the run's encoder as it is, searched exactly, as a bundle searches."""
    return TextSystem("dense", Dense(load_items(run / "embed"), query_side(embedder), alive=alive))
