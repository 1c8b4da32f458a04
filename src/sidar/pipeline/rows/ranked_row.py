"""The ranker as a row of every table, and beside the smoothed memory on the validation day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidar.answer.smoothed import AnswerParams, SmoothedMemory
from sidar.baselines import DEPTH, Bm25, System
from sidar.baselines.channel import Kind
from sidar.config import Config
from sidar.data.cleaning.normalise import normalise_query
from sidar.data.dataset import Dataset
from sidar.embed import Embedder, load_items, query_side
from sidar.evaluate.measures.metrics import score_ranking
from sidar.evaluate.measures.truth import Truth
from sidar.evaluate.stats import paired_test
from sidar.index import PrefixIndex
from sidar.pipeline.rows.answer_log import Log
from sidar.ranker.answer import RankedAnswer
from sidar.ranker.features import FeatureMaker, Pairs, hide_query
from sidar.ranker.fit import prior_of
from sidar.ranker.knowledge import ItemFacts, Known, log_shares
from sidar.ranker.learner import CUT
from sidar.ranker.residual import SHRINKAGES
from sidar.ranker.shrinking import choose, groups_of
from sidar.ranker.store import Ranker
from sidar.types import Hits, Json, Prompt

#: What the two answers are compared by.
MEASURE = "ndcg@10"


class RankerSystem(System):
    """The row ``ranker``: the items that any channel found, in the order of the learned ranker."""

    name = "ranker"
    kind: Kind = "fusion"

    def __init__(
        self, channels: Mapping[str, System], model: RankedAnswer, embedder: Embedder
    ) -> None:
        self._channels, self._model = dict(channels), model
        self._encode = query_side(embedder).encode

    @property
    def about(self) -> str:
        ranker = self._model.ranker
        beams = "" if ranker.reads_beams else ", without the features of beams"
        return (
            f"the first {ranker.facts['depth']} items of {', '.join(self._channels)} and memory by "
            f"{ranker.learner.name} of {ranker.facts['requests']:,} requests{beams}"
        )

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        found = {name: channel.hits(prompts, DEPTH) for name, channel in self._channels.items()}
        vectors = self._encode([prompt.query for prompt in prompts])
        return self._model.rank(prompts, vectors, found, k).hits


def open_ranked(
    folder: Path,
    inputs: Mapping[str, Path],
    dataset: Dataset,
    lexical: Bm25,
    smoothed: SmoothedMemory,
) -> RankedAnswer:
    """Return the ranker in ``folder`` beside the ``smoothed`` answer and over its memory, as a
    bundle of these stages opens it.
    """
    catalogue, clicks = dataset.catalogue, dataset.priors().clicks
    assert smoothed.memory is not None  # every fused run has one
    shares = log_shares(PrefixIndex.load(inputs["index"]), clicks, catalogue.alive)
    items = ItemFacts.of(catalogue)
    known = Known(items, smoothed.memory, smoothed.secret, clicks, shares)
    ranker = Ranker.load(folder, "answer")
    vectors = np.asarray(load_items(inputs["embed"]))
    return RankedAnswer(ranker, FeatureMaker(ranker.columns, known, lexical, vectors), smoothed)


@dataclass(frozen=True)
class Beside:
    """What the comparison decided: ``facts`` for ``answer.json``, and its line of the summary."""

    facts: Json
    summary: str


def beside_ranker(
    cfg: Config,
    inputs: Mapping[str, Path],
    dataset: Dataset,
    log: Log,
    embedder: Embedder,
    channels: Mapping[str, System],
    lexical: Bm25,
    params: AnswerParams,
    out: Path,
) -> Beside:
    """Write the ranker into ``out`` and set it beside the smoothed memory on the fitting requests,
    both with the counts of the days before.

    How much of a learner is added to the smoothed answer is chosen here again, with the channels
    that are served.  ``decode.fuse: auto`` answers with the ranker where the whole 95 % interval of
    its lead in nDCG@10 is above 0, else with the memory; so too where the log has no validation
    window.
    """
    clicks = dataset.priors().clicks
    before = SmoothedMemory(params, clicks, dataset.catalogue.alive, log.before, log.secret)
    ranked = open_ranked(inputs["ranker"], inputs, dataset, lexical, before)
    prompts = log.asked.prompts
    found = {name: channel.hits(prompts, DEPTH) for name, channel in channels.items()}
    vectors = query_side(embedder).encode([prompt.query for prompt in prompts])
    if ranked.ranker.shrinkage is not None and log.asked.held_out:
        ranked = _shrunk(ranked, log, dataset, found, vectors)
    ranked.ranker.save(out)
    smoothed = before.rank([prompt.query for prompt in prompts], found, CUT)
    ours = ranked.rank(prompts, vectors, found, CUT).hits.rows
    values = {
        "memory": _values(log, dataset, smoothed.hits.rows),
        "ranker": _values(log, dataset, ours),
    }
    queries = np.array([normalise_query(prompt.query) for prompt in prompts], str)
    labels = np.unique(queries, return_inverse=True)[1]
    test = paired_test(values["ranker"], values["memory"], labels)
    means = {name: float(one.mean()) for name, one in values.items()}
    # clicks alone judge here, and a ranker of clicks loses where none were (docs/findings.md): a
    # lead that may be chance is no reason to leave the memory
    better = "ranker" if log.asked.held_out and test.low > 0 else "memory"
    fuse = better if cfg.decode.fuse == "auto" else cfg.decode.fuse
    shrinkage = ranked.ranker.shrinkage
    facts: Json = {
        "fuse": fuse,
        "ranker": {
            MEASURE: means["ranker"],
            f"memory_{MEASURE}": means["memory"],
            "effect": test.effect,
            "low": test.low,
            "high": test.high,
            "requests": len(prompts),
            "better": better,
            "shrinkage": None if shrinkage is None else shrinkage.to_json(),
        },
    }
    line = (
        f"ranker nDCG@10 {means['ranker']:.3f}, smoothed memory {means['memory']:.3f} on "
        f"{len(prompts):,} requests ({test.effect:+.3f}, {test.low:+.3f} to {test.high:+.3f}): "
        f"the bundle answers with {fuse}"
    )
    if shrinkage is not None:
        line += (
            f"\nof the ranker, {shrinkage.seen:g} is added to the smoothed answer of queries that "
            f"were asked before, {shrinkage.unseen:g} to that of others"
        )
    if not log.asked.held_out:
        line += "\nWARNING: without a validation window nothing says which of the two is better"
    return Beside(facts, line)


def _shrunk(
    ranked: RankedAnswer,
    log: Log,
    dataset: Dataset,
    found: Mapping[str, Hits],
    vectors: np.ndarray,
) -> RankedAnswer:
    """Return the same answer with the λ that the fitting requests choose for these channels."""
    prompts = log.asked.prompts
    posterior = ranked.smoothed.posterior([prompt.query for prompt in prompts], found)
    first = ranked.first(posterior, range(len(prompts)), CUT)
    pairs = ranked.candidates(prompts, found, more=first)
    prior = prior_of(posterior, prompts, pairs)
    values, ranker = [], ranked.ranker
    features = ranked.features(prompts, vectors, found, pairs)
    hidden = hide_query(features, ranker.columns)
    for logs, table in ((prior.logs, features), (prior.unseen, hidden)):
        gains = ranker.scores(table)
        under = [_best(pairs, logs + one * gains) for one in SHRINKAGES]
        values.append(np.stack([_values(log, dataset, rows) for rows in under]))
    chosen = choose(*groups_of(values[0], values[1], prior.seen, prior.queries))
    return RankedAnswer(ranker.with_shrinkage(chosen), ranked.maker, ranked.smoothed)


def _best(pairs: Pairs, scores: np.ndarray) -> np.ndarray:
    """(R, CUT) rows of the best candidates of each request by ``scores`` (P,), −1 past the end."""
    rows = np.full((len(pairs), CUT), -1, np.int32)
    for r in range(len(pairs)):
        at = pairs.of_request(r)
        best = pairs.rows[at][np.argsort(-scores[at], kind="stable")[:CUT]]
        rows[r, : len(best)] = best
    return rows


def _values(log: Log, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """(R,) nDCG@10 of ``rows`` (R, k) on the fitting requests; what was chosen is relevant."""
    ids, asked = dataset.catalogue.item_ids, log.asked
    qrels: dict[str, dict[str, float]] = {name: {} for name in asked.ids}
    for request, row in zip(asked.request.tolist(), asked.row.tolist(), strict=True):
        qrels[asked.ids[request]][ids[row]] = 1.0
    truth = Truth.of_catalogue(qrels, asked.ids, dataset.catalogue, 0.0)
    return score_ranking(truth, rows, [MEASURE])[MEASURE]
