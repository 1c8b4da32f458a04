"""A bundle's fused answer: lexical and dense channels beside the model's hits, the memory, and the
learned ranker where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sidar.answer.facts import GENERATIVE, dense_probes, params_of, read_facts
from sidar.answer.key import bundle_key
from sidar.answer.memory import Memory
from sidar.answer.origins import origins
from sidar.answer.smoothed import Answer, SmoothedMemory
from sidar.baselines import DEPTH, Bm25, Dense, LiveBm25
from sidar.baselines.dense import VectorChannel
from sidar.index import PrefixIndex
from sidar.ranker.answer import RankedAnswer
from sidar.ranker.features import FeatureMaker, Lexical
from sidar.ranker.knowledge import ItemFacts, Known, log_shares
from sidar.ranker.store import Ranker
from sidar.serve.bundle import ANSWER, Bundle
from sidar.serve.bundle.encoder import Vectors
from sidar.serve.trace import Stopwatch
from sidar.types import Catalogue, Hits, Json, Prompt


@dataclass(frozen=True)
class FusedAnswer:
    """Everything but the model that a fused answer reads; ``reranked``: the generative channel is
    reranked first; ``default``: how it is fused where a request does not say, ``memory`` or
    ``ranker``; ``ranked`` None = the bundle holds no ranker.
    """

    lexical: Bm25 | LiveBm25
    dense: VectorChannel
    model: SmoothedMemory
    reranked: bool
    ranked: RankedAnswer | None = None
    default: str = "memory"

    def channels(
        self,
        queries: Sequence[str],
        vectors: np.ndarray,
        generative: Hits,
        allowed: np.ndarray | None = None,
        clock: Stopwatch | None = None,
    ) -> dict[str, Hits]:
        """Return the results of every channel that the answer was fitted with; ``vectors`` (Q, D)
        of the queries, ``allowed`` (N,) bool: only these rows.

        ``generative`` is restricted already. ``clock`` takes the time of each channel.
        """
        clock = clock or Stopwatch()
        results = {GENERATIVE: generative}
        results["bm25"] = self.lexical.search(queries, DEPTH, allowed=allowed)
        clock.lap("bm25")
        results["dense"] = self.dense.search_vectors(vectors, DEPTH, allowed=allowed)
        clock.lap("dense")
        return {name: results[name] for name in self.model.params.channels}

    def rank(
        self,
        prompts: Sequence[Prompt],
        vectors: np.ndarray,
        channels: Mapping[str, Hits],
        k: int,
        fuse: str,
        allowed: np.ndarray | None = None,
    ) -> Answer:
        """Return the k best items of each prompt under ``fuse``; ``vectors`` (Q, D) of the
        queries, ``allowed`` (N,) bool: only these rows, to which ``channels`` are restricted.
        """
        if fuse == "ranker":
            assert self.ranked is not None  # by the plan of the request
            return self.ranked.rank(prompts, vectors, channels, k, allowed)
        return self.model.rank([prompt.query for prompt in prompts], channels, k, allowed)

    def origins(
        self,
        answer: Answer,
        channels: Mapping[str, Hits],
        query: int,
        fuse: str,
        allowed: np.ndarray | None = None,
    ) -> list[tuple[tuple[str, float], ...]]:
        """Return where each item of one query of :meth:`rank`'s answer comes from; nothing for the
        order of the ranker, whose score is no sum of channels.
        """
        if fuse == "ranker":
            return []
        live = self.model.alive if allowed is None else self.model.alive & allowed
        return origins(self.model.params, answer, channels, query, int(live.sum()))


def open_fused(opened: Bundle, vectors: Vectors, memory_key: bytes | None = None) -> FusedAnswer:
    """Open the fused answer of a bundle.

    Raises ``ValueError`` without the key of its memory, and where the memory was made with another
    key or for another catalogue.
    """
    secret = bundle_key(opened.folder, memory_key)
    folder, catalogue = opened.folder / ANSWER, opened.catalogue
    facts = read_facts(folder)
    memory = Memory.load(folder).check(secret, catalogue.lineage, str(folder))
    counts = training_clicks(opened.index, len(catalogue))
    model = SmoothedMemory(params_of(facts), counts, catalogue.alive, memory, secret)
    dense = _open_dense(folder, vectors, catalogue)
    lexical = Bm25.load(folder, catalogue.alive)
    ranked = None
    if Ranker.files(folder, "answer"):
        assert vectors.items is not None  # every fused bundle has them
        ranker = Ranker.load(folder, "answer")
        ranked = ranked_answer(ranker, model, opened.index, catalogue, lexical, vectors.items)
    return FusedAnswer(lexical, dense, model, facts["reranked"], ranked, opened.fuse)


def ranked_answer(
    ranker: Ranker,
    model: SmoothedMemory,
    index: PrefixIndex,
    catalogue: Catalogue,
    lexical: Lexical,
    items: np.ndarray,
) -> RankedAnswer:
    """Return the answer of a fitted ranker over a catalogue; ``items`` (N, D) vectors."""
    assert model.memory is not None  # every fused bundle has one
    shares = log_shares(index, model.counts, catalogue.alive)
    known = Known(ItemFacts.of(catalogue), model.memory, model.secret, model.counts, shares)
    return RankedAnswer(ranker, FeatureMaker(ranker.columns, known, lexical, items), model)


def changed_ranking(
    before: RankedAnswer,
    model: SmoothedMemory,
    index: PrefixIndex | None,
    alive: np.ndarray,
    changed: Mapping[int, Json],
    lexical: Lexical,
    items: np.ndarray,
) -> RankedAnswer:
    """Return the answer of a ranker over a catalogue with ``changed`` items by row; ``alive`` (N,)
    and ``items`` (N, D) of all; ``index`` None = no SID has moved.
    """
    known = before.maker.known
    facts = known.items.changed(alive, changed)
    log_share = known.log_share
    if index is not None:
        log_share = log_shares(index, model.counts, alive)
    known = replace(known, items=facts, clicks=model.counts, log_share=log_share)
    maker = FeatureMaker(before.maker.columns, known, lexical, items)
    return RankedAnswer(before.ranker, maker, model)


def training_clicks(index: PrefixIndex, n_items: int) -> np.ndarray:
    """(N,) training clicks by row, as the index keeps them; indexes of older versions keep only
    their prior, log(1 + clicks).
    """
    if index.counts is not None:
        return index.counts
    return np.zeros(n_items) if index.prior is None else np.expm1(index.prior)


def _open_dense(folder: Path, vectors: Vectors, catalogue: Catalogue) -> VectorChannel:
    """The dense channel as the answer was fitted with it: through the index in the bundle, or
    exact.
    """
    from sidar.index.dual_view import DualViewIndex, Probed

    assert vectors.items is not None
    nprobe = dense_probes(read_facts(folder))
    if nprobe is None:
        return Dense(vectors.items, _Encoder(vectors.search), alive=catalogue.alive)
    return Probed(DualViewIndex.load(folder, vectors.items, alive=catalogue.alive), nprobe)


@dataclass(frozen=True)
class _Encoder:
    """A function from texts to vectors as the encoder of a dense channel."""

    read: Callable[[Sequence[str]], np.ndarray]

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        return self.read(texts)
