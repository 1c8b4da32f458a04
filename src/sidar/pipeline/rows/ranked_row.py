"""The ranker as a row of every table, and beside the smoothed memory on the validation day."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidar.answer.carry import RANKER
from sidar.answer.memory import Memory
from sidar.answer.smoothed import AnswerParams, SmoothedMemory
from sidar.baselines import DEPTH, Bm25, System
from sidar.baselines.channel import Kind
from sidar.config import Config
from sidar.data.dataset import Dataset
from sidar.embed import Embedder, load_items, query_side
from sidar.evaluate.measures.metrics import score_ranking
from sidar.evaluate.measures.truth import Truth
from sidar.evaluate.stats import paired_test
from sidar.index import PrefixIndex
from sidar.pipeline.rows.answer_log import Log
from sidar.ranker.answer import RankedAnswer
from sidar.ranker.features import FeatureMaker
from sidar.ranker.knowledge import ItemFacts, Known, log_shares
from sidar.ranker.store import Ranker
from sidar.types import EvalSet, Hits, Json, Prompt

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
    memory: Memory,
    secret: bytes,
) -> RankedAnswer:
    """Return the ranker in ``folder`` over ``memory``, as a bundle of these stages opens it."""
    catalogue, clicks = dataset.catalogue, dataset.priors().clicks
    shares = log_shares(PrefixIndex.load(inputs["index"]), clicks, catalogue.alive)
    known = Known(ItemFacts.of(catalogue), memory, secret, clicks, shares)
    ranker = Ranker.load(folder, "answer")
    vectors = np.asarray(load_items(inputs["embed"]))
    return RankedAnswer(ranker, FeatureMaker(ranker.columns, known, lexical, vectors))


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
    """Copy the ranker into ``out`` and set it beside the smoothed memory on the fitting requests,
    both with the counts of the days before.

    ``decode.fuse: auto`` answers with the ranker where the whole 95 % interval of its lead in
    nDCG@10 is above 0, else with the memory; so too where the log has no validation window.
    """
    for path in sorted(inputs["ranker"].glob(RANKER)):
        shutil.copyfile(path, out / path.name)
    alive = dataset.catalogue.alive
    ranked = open_ranked(out, inputs, dataset, lexical, log.before, log.secret)
    prompts = log.asked.prompts
    found = {name: channel.hits(prompts, DEPTH) for name, channel in channels.items()}
    vectors = query_side(embedder).encode([prompt.query for prompt in prompts])
    clicks = dataset.priors().clicks
    smoothed = SmoothedMemory(params, clicks, alive, log.before, log.secret)
    rows = {
        "memory": smoothed.rank([prompt.query for prompt in prompts], found, 10).hits.rows,
        "ranker": ranked.rank(prompts, vectors, found, 10).hits.rows,
    }
    values = _values(log, dataset, rows)
    test = paired_test(values["ranker"], values["memory"])
    means = {name: float(one.mean()) for name, one in values.items()}
    # clicks alone judge here, and a ranker of clicks loses where none were (docs/findings.md): a
    # lead that may be chance is no reason to leave the memory
    better = "ranker" if log.asked.held_out and test.low > 0 else "memory"
    fuse = better if cfg.decode.fuse == "auto" else cfg.decode.fuse
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
        },
    }
    line = (
        f"ranker nDCG@10 {means['ranker']:.3f}, smoothed memory {means['memory']:.3f} on "
        f"{len(prompts):,} requests ({test.effect:+.3f}, {test.low:+.3f} to {test.high:+.3f}): "
        f"the bundle answers with {fuse}"
    )
    if not log.asked.held_out:
        line += "\nWARNING: without a validation window nothing says which of the two is better"
    return Beside(facts, line)


def _values(log: Log, dataset: Dataset, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """(R,) nDCG@10 of each answer on the fitting requests; what was chosen is relevant."""
    ids, asked = dataset.catalogue.item_ids, log.asked
    qrels: dict[str, dict[str, float]] = {name: {} for name in asked.ids}
    for request, row in zip(asked.request.tolist(), asked.row.tolist(), strict=True):
        qrels[asked.ids[request]][ids[row]] = 1.0
    one = EvalSet("fitting requests", asked.ids, asked.prompts, qrels, "log")
    truth = Truth.of_catalogue(one.qrels, one.query_ids, dataset.catalogue, 0.0)
    return {name: score_ranking(truth, found, [MEASURE])[MEASURE] for name, found in rows.items()}
