"""The façade: text in, ranked items out.

``Retriever.load("runs/shop/bundle").search("t towels kitchen", k=10)``
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np

from sidar.config import DecodeConfig
from sidar.precision import Precision, resolve_device
from sidar.serve.bundle import open_bundle
from sidar.serve.bundle.encoder import Vectors, open_vectors
from sidar.serve.cards import Cards
from sidar.serve.decoding import item_shares, stored_decoding
from sidar.serve.fused import FusedAnswer, open_fused
from sidar.serve.history import History
from sidar.serve.info import BundleInfo
from sidar.serve.parts import CatalogueParts
from sidar.serve.plan import Defaults, SearchPlan
from sidar.serve.ranked import Ranking
from sidar.serve.request import RequestError, SearchOptions, SearchRequest, readable
from sidar.serve.results import Result, SearchAnswer
from sidar.serve.trace import (
    DeadlineError,
    Level,
    PrefixStats,
    Stopwatch,
    TracingScorer,
    levels,
)
from sidar.serve.why import DEEPEST, WhyRequest, fell_out, why
from sidar.types import Catalogue, Hits, PathLike, Prompt, SemanticIds

if TYPE_CHECKING:
    from sidar.decode import Beams
    from sidar.decode.protocol import Scorer
    from sidar.index import PrefixIndex
    from sidar.lm import SidLM
    from sidar.lm.prompts import Encoded


class Retriever:
    """A model, an index and a catalogue that fit; make one with :meth:`load`, or from parts in
    memory.

    A retriever never changes. Calls from several threads are safe and gain nothing: each uses all
    cores (``serve`` joins what comes in at a time).
    """

    def __init__(
        self,
        model: SidLM,
        index: PrefixIndex,
        sids: SemanticIds,
        catalogue: Catalogue,
        *,
        beam: int = 128,
        precision: Precision = "auto",
        label: str = "model",
        hash: str = "",
        examples: Sequence[str] = (),
        vectors: Vectors | None = None,
        rerank: float | None = None,
        decode: DecodeConfig | None = None,
        fused: FusedAnswer | None = None,
    ) -> None:
        """``vectors``: the encoder, for a model that reads sentence vectors and for reranking;
        ``rerank``: weight of the dense score in every search that does not say otherwise, None =
        the beams decide alone.  ``decode`` says how items share the probability of their SID, and
        whether searches are exact that do not say so; ``fused``: the channels and the memory that
        the answer is fused from.
        """
        from sidar.lm.scorer import LmScorer

        self.model, self.beam, self.label, self.hash = model, beam, label, hash
        self.examples, self.rerank = tuple(examples), rerank
        self.decode = decode or DecodeConfig()
        self.exact = self.decode.exact
        model.use(index)
        if vectors is not None and model.geometry is not None:
            model.prompts.reader = vectors.read
        self._scorer = LmScorer(model, precision=precision)
        self._search_in(CatalogueParts(index, sids, catalogue, vectors, fused))

    def _search_in(self, parts: CatalogueParts) -> None:
        from sidar.decode import Trie

        index, catalogue = parts.index, parts.catalogue
        self.parts, self.index, self.sids, self.catalogue = parts, index, parts.sids, catalogue
        self.vectors, self.fused = parts.vectors, parts.fused
        self.trie = Trie(index, self._scorer.device)
        self._prefix_stats = PrefixStats(index, catalogue)
        # the index may be older than a retirement
        self.allowed = None if catalogue.alive.all() else catalogue.alive
        self.shares = item_shares(index, self.allowed, self.decode)
        cards = Cards(catalogue, parts.sids, self.model.vocab.variable_length)
        self._ranking = Ranking(index, cards, self.shares, self.allowed, parts.vectors, parts.fused)
        self._n_live = int(catalogue.alive.sum())

    def over(self, parts: CatalogueParts) -> Retriever:
        """Return a retriever of the same weights over another catalogue; this one stays."""
        other = copy.copy(self)
        other.model = self.model.over(parts.index)
        other._scorer = self._scorer.reading(other.model)
        other._search_in(parts)
        return other

    @classmethod
    def load(
        cls,
        bundle: PathLike,
        device: str = "cpu",
        precision: Precision = "auto",
        *,
        verify: bool = False,
        memory_key: bytes | None = None,
    ) -> Retriever:
        """Open a bundle folder; a part that does not fit the others is a ``ValueError`` naming both
        hashes.

        ``memory_key``: the secret of the bundle's memory, default ``SIDAR_MEMORY_KEY`` or
        ``memory.key`` beside the bundle; ``ValueError`` where the bundle answers from its memory
        and there is none.

        ``device`` auto: a GPU where torch sees one, else the CPU. ``precision`` auto: bf16 where
        the device computes in it, else fp32. ``verify`` re-hashes every file first.
        """
        from sidar.lm import SidLM

        opened = open_bundle(bundle, verify=verify)
        decode = stored_decoding(opened)
        model = SidLM.from_pretrained(opened.folder / "model", device=resolve_device(device))
        fuses = opened.fuse != "none"
        encodes = fuses or model.geometry is not None or opened.rerank is not None
        vectors = open_vectors(bundle, device) if encodes else None
        fused = None
        if fuses and vectors is not None:
            fused = open_fused(opened, vectors, memory_key)
        return cls(
            model,
            opened.index,
            opened.sids,
            opened.catalogue,
            beam=decode.beam,
            precision=decode.precision if precision == "auto" else precision,
            label=opened.label,
            hash=opened.hash,
            examples=opened.examples,
            vectors=vectors,
            rerank=None if opened.rerank is None else float(opened.rerank["weight"]),
            decode=decode,
            fused=fused,
        )

    def __len__(self) -> int:
        return len(self.catalogue)

    # ------------------------------------------------------------------ for people

    @overload
    def search(self, query: SearchRequest) -> SearchAnswer: ...

    @overload
    def search(self, query: str, k: int = 10, **options: Unpack[SearchOptions]) -> list[Result]: ...

    @overload
    def search(
        self, query: list[str], k: int = 10, **options: Unpack[SearchOptions]
    ) -> list[list[Result]]: ...

    def search(
        self,
        query: SearchRequest | str | list[str],
        k: int = 10,
        **options: Unpack[SearchOptions],
    ) -> SearchAnswer | list[Result] | list[list[Result]]:
        """Return the ``k`` best items for ``query``, or for each of several queries (of one user)
        decoded together.

        A :class:`SearchRequest` in the place of the query is the whole request, and its answer a
        :class:`SearchAnswer`.

        ``history``: ids of the items that the user touched before, oldest first; unknown ones are
        left out with a warning. Fewer than ``k`` results come back when the catalogue, or the beam,
        holds fewer. An empty query is allowed: then history and profile, or nothing, decide.
        ``beam`` defaults to the bundle's and is raised to ``k``.  ``exact``: find the true top by
        best-first search, or not; None = as the bundle was made (``decode.exact``). ``rerank``:
        order everything that the beam reaches by log π + weight · cosine (decode/rerank.py), or
        not; None = as the bundle was made. ``ValueError`` where the bundle has no weight. ``fuse``:
        ``memory`` = what was chosen for this query before, smoothed with every channel
        (docs/answer.md); ``ranker`` = the order of the learned ranker (docs/ranker.md); ``none`` =
        the model alone; None = as the bundle was made, or ``none`` where ``rerank`` is given.
        """
        if isinstance(query, SearchRequest):
            if options or k != 10:
                raise TypeError("a SearchRequest holds its options; give it alone")
            return self.answer([query])[0]
        queries = [query] if isinstance(query, str) else query
        request = SearchRequest.of(queries[0] if queries else "", k, **options)
        answers = self.answer([request.model_copy(update={"query": text}) for text in queries])
        if answers and answers[0].ignored_history:
            warnings.warn(answers[0].notes[0], stacklevel=2)
        results = [answer.results for answer in answers]
        return results[0] if isinstance(query, str) else results

    def explain(
        self, query: str, k: int = 10, *, levels: bool = True, **options: Unpack[SearchOptions]
    ) -> SearchAnswer:
        """As :meth:`search`, with the beams level by level (unless ``levels`` is False), the time
        of each phase, and notes in words instead of warnings."""
        return self.search(SearchRequest.of(query, k, explain=levels, **options))

    @property
    def info(self) -> BundleInfo:
        """What the bundle says of itself, and does where a request does not say."""
        has_items = self.vectors is not None and self.vectors.items is not None
        defaults = Defaults(
            label=self.label,
            beam=self.beam,
            exact=self.exact,
            weight=self.rerank if has_items else None,
            reranks=self.rerank is not None,
            fuse="none" if self.fused is None else self.fused.default,
            fused_reranks=self.fused is not None and self.fused.reranked,
            sids=len(self.index),
            ranks=self.fused is not None and self.fused.ranked is not None,
        )
        return BundleInfo(
            hash=self.hash,
            items=len(self),
            codebook_sizes=tuple(self.index.codebook_sizes),
            examples=self.examples,
            version=self.parts.version,
            defaults=defaults,
        )

    # ------------------------------------------------------------------ for evaluation: rows, no
    # ids

    def hits(
        self,
        prompts: Sequence[Prompt],
        k: int,
        beam: int | None = None,
        *,
        exact: bool | None = None,
    ) -> Hits:
        """Ranked catalogue rows (Q, k) of many prompts, −1 = none; searched together in batches."""
        beams = self.beams(prompts, self.info.defaults.width(k, beam), exact=exact)
        return self._ranking.items(beams, k)

    def sid_ranking(
        self, prompts: Sequence[Prompt], beam: int, *, exact: bool | None = None
    ) -> np.ndarray:
        """(Q, W) int64 SID numbers of the index, best first, −1 = none; W ≤ beam."""
        return self.beams(prompts, beam, exact=exact).sids

    def beams(self, prompts: Sequence[Prompt], beam: int, *, exact: bool | None = None) -> Beams:
        """Both of the above from one search: cut ``sids``, or expand with
        :func:`sidar.decode.to_hits`.
        """
        exact = self.exact if exact is None else exact
        tokens = self.model.prompts.encode_batch(prompts, self.sids)
        return self._decode(self._scorer, tokens, beam, exact)

    # ------------------------------------------------------------------ how

    def answer(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer several requests, those of one kind (:attr:`SearchPlan.kind`) in one pass.

        Each gets the items that it would get alone.  ``RequestError`` where this bundle cannot
        answer one as asked.
        """
        defaults = self.info.defaults
        plans = [defaults.plan(request) for request in requests]
        passes: dict[Hashable, list[int]] = {}
        for place, (request, plan) in enumerate(zip(requests, plans, strict=True)):
            # the beams of one query alone are remembered
            alone = request.explain or isinstance(request, WhyRequest)
            kind = ("alone", place) if alone else plan.kind
            passes.setdefault(kind, []).append(place)
        answers: dict[int, SearchAnswer] = {}
        for places in passes.values():
            first = requests[places[0]]
            if isinstance(first, WhyRequest):
                answers[places[0]] = self._explain_item(first, plans[places[0]])
                continue
            some = self._pass([requests[i] for i in places], [plans[i] for i in places])
            answers.update(zip(places, some, strict=True))
        return [answers[place] for place in range(len(requests))]

    def _pass(
        self, requests: Sequence[SearchRequest], plans: Sequence[SearchPlan]
    ) -> list[SearchAnswer]:
        """Answer requests whose plans are of one kind; only one alone may be explained."""
        clock = Stopwatch()
        histories = [History.of(self.catalogue, request.history) for request in requests]
        prompts = [
            Prompt(readable(request.query), history.rows, readable(request.profile))
            for request, history in zip(requests, histories, strict=True)
        ]
        tokens = self.model.prompts.encode_batch(prompts, self.sids)
        clock.lap("prompt")
        scorer = TracingScorer(self._scorer, requests[0].explain, clock.end_of(requests))
        try:
            widths = [plan.width for plan in plans]
            beams = self._decode(scorer, tokens, widths, plans[0].exact)
        except DeadlineError:
            return [self.info.too_late(request) for request in requests]
        clock.lap("decode")
        ranked = self._ranking.rank(prompts, tokens, beams, plans)
        traced = requests[0].explain
        explained = self._levels(scorer, beams, ranked.results[0]) if traced else []
        clock.lap("cards")

        timing = clock.timing(scorer.prefill_seconds)
        masses = np.minimum(np.exp(beams.scores).sum(1), 1.0)
        answers = []
        for place, (request, plan) in enumerate(zip(requests, plans, strict=True)):
            results, history = ranked.results[place], histories[place]
            reason = plan.reason(len(results), self._n_live)
            answers.append(
                SearchAnswer(
                    query=request.query,
                    results=results,
                    requested=request.k,
                    reason=reason,
                    beam=plan.width,
                    timing_ms=timing,
                    notes=(*history.notes, *plan.notes(request.query, len(results), reason)),
                    ignored_history=history.ignored,
                    levels=explained,
                    mass=float(masses[place]),
                    rerank=plan.weight,
                    fuse=plan.fuse,
                    seen=float(ranked.seen[place]),
                    exact=plan.exact,
                    bundle=self.hash,
                    catalogue_version=self.parts.version,
                )
            )
        return answers

    def _explain_item(self, request: WhyRequest, plan: SearchPlan) -> SearchAnswer:
        """Answer a request of one item's place: the search with its beam, ranked deeper."""
        row = self._row_of(request.item_id)
        plan = plan.beam_of(DEEPEST)
        history = History.of(self.catalogue, request.history).rows
        prompts = [Prompt(readable(request.query), history, readable(request.profile))]
        tokens = self.model.prompts.encode_batch(prompts, self.sids)
        scorer = TracingScorer(self._scorer, remember=True)
        beams = self._decode(scorer, tokens, plan.width, exact=False)
        ranked = self._ranking.rank(prompts, tokens, beams, [plan]).results[0]
        sid = self.sids.tuple_of(row)
        lost = fell_out(sid, scorer, beams)
        answer = why(self.catalogue.item(row), sid, request.k, ranked, lost)
        return replace(self.info.without_items(request), why=answer)

    def _row_of(self, item_id: str) -> int:
        """The row of a live item that has an SID; ``RequestError`` where there is none."""
        row = int(self.catalogue.rows([item_id])[0])
        if row < 0:
            raise RequestError(f"item_id: the catalogue has no {item_id!r}")
        if not self.catalogue.alive[row]:
            raise RequestError(f"item_id: {item_id!r} is retired, so no search returns it")
        if not self.sids.lengths[row]:
            raise RequestError(f"item_id: {item_id!r} has no Semantic ID, so no beam reaches it")
        return row

    def _decode(
        self, scorer: Scorer, tokens: Sequence[Encoded], width: int | Sequence[int], exact: bool
    ) -> Beams:
        from sidar.decode import beam_search, exact_search

        search: Any = exact_search if exact else beam_search
        return search(scorer, tokens, self.trie, width)

    def _levels(
        self, scorer: TracingScorer, beams: Beams, results: Sequence[Result]
    ) -> list[Level]:
        """The beams of the first query level by level, with the SIDs that they ended at."""
        running = beams.level_logp[0].astype(float).cumsum(-1)
        ends = {
            tuple(codes[:length].tolist()): float(logp[length - 1])
            for codes, length, logp in zip(beams.codes[0], beams.lengths[0], running, strict=True)
            if length
        }
        sids = [result.sid for result in results]
        return levels(scorer.paths | ends, sids, self.index, self._prefix_stats, scorer.ends)
