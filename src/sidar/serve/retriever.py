"""The façade: text in, ranked items out.

``Retriever.load("runs/shop/bundle").search("t towels kitchen", k=10)``
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np

from sidar.config import DecodeConfig
from sidar.filters import Filter, read_filter
from sidar.precision import DecodePrecision, resolve_device
from sidar.serve.browse.browser import Browser
from sidar.serve.browse.views import BrowseRequest
from sidar.serve.bundle import open_bundle
from sidar.serve.bundle.encoder import Vectors, open_vectors
from sidar.serve.bundle.report import report_of
from sidar.serve.cards import Cards
from sidar.serve.cuts import beam_levels
from sidar.serve.decoding import item_shares, stored_decoding
from sidar.serve.filtering import Allowed, FilterIndex
from sidar.serve.fused import FusedAnswer, open_fused
from sidar.serve.history import History
from sidar.serve.info import BundleInfo
from sidar.serve.parts import CatalogueParts
from sidar.serve.plan import Defaults, SearchPlan
from sidar.serve.ranked import Ranking
from sidar.serve.request import RequestError, SearchOptions, SearchRequest, readable
from sidar.serve.results import Result, SearchAnswer
from sidar.serve.trace import DeadlineError, PrefixStats, Stopwatch, TracingScorer
from sidar.serve.why import DEEPEST, WhyRequest, fell_out, row_of, why
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
        precision: DecodePrecision = "auto",
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
        self.examples, self.rerank, self.report = tuple(examples), rerank, ""
        self.decode = decode or DecodeConfig()
        self.exact = self.decode.exact
        model.use(index)
        if vectors is not None and model.geometry is not None:
            model.prompts.reader = vectors.read
        self._scorer = LmScorer(model, precision=precision)
        self._search_in(CatalogueParts(index, sids, catalogue, vectors, fused))

    def _search_in(self, parts: CatalogueParts, same_index: bool = False) -> None:
        """Search in ``parts`` from now on; ``same_index``: what is made of the index stays."""
        from sidar.decode import Trie

        index, catalogue = parts.index, parts.catalogue
        self.parts, self.index, self.sids, self.catalogue = parts, index, parts.sids, catalogue
        self.vectors, self.fused = parts.vectors, parts.fused
        self._prefix_stats = PrefixStats(index, catalogue)
        # the index may be older than a retirement
        self.allowed = None if catalogue.alive.all() else catalogue.alive
        if not same_index:
            self.trie = Trie(index, self._scorer.device)
            self.shares = item_shares(index, self.allowed, self.decode)
        cards = Cards(catalogue, parts.sids, self.model.vocab.variable_length)
        self._ranking = Ranking(index, cards, self.shares, self.allowed, parts.vectors, parts.fused)
        self.filters = FilterIndex(catalogue, index, self.trie, self.shares, parts.columns)
        self._n_live = int(catalogue.alive.sum())
        stats = self._prefix_stats
        self._browser = Browser(index, self.sids, catalogue, stats, self.filters)

    def over(self, parts: CatalogueParts) -> Retriever:
        """Return a retriever of the same weights over another catalogue; this one stays."""
        other = copy.copy(self)
        same_index = parts.index is self.index
        if not same_index:
            other.model = self.model.over(parts.index)
            other._scorer = self._scorer.reading(other.model)
        other._search_in(parts, same_index)
        return other

    @classmethod
    def load(
        cls,
        bundle: PathLike,
        device: str = "cpu",
        precision: DecodePrecision = "auto",
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
        shop = cls(
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
        shop.report = report_of(opened)
        return shop

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
        ``filter``: only items that it allows, as JSON or in one line (docs/filters.md); an empty
        query then returns them by popularity.
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
            report=self.report,
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
        filter: Filter | Mapping[str, Any] | str | None = None,
    ) -> Hits:
        """Ranked catalogue rows (Q, k) of many prompts, −1 = none; searched together in batches.

        ``filter``: of all prompts; only items that it allows.
        """
        allowed = None if filter is None else self.filters.allowed(read_filter(filter))
        exact = self.exact if exact is None else exact
        width = self.info.defaults.width(k, beam)
        plan = SearchPlan(k, width, exact, None).within(allowed)
        tokens = self.model.prompts.encode_batch(prompts, self.sids)
        beams = self._decode(self._scorer, tokens, [plan] * len(tokens))
        rows = None if allowed is None else [allowed.rows] * len(tokens)
        return self._ranking.items(beams, k, rows)

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
        plan = SearchPlan(beam, beam, exact, None)
        return self._decode(self._scorer, tokens, [plan] * len(tokens))

    # ------------------------------------------------------------------ how

    def answer(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer several requests, those of one kind (:attr:`SearchPlan.kind`) in one pass.

        Each gets the items that it would get alone.  ``RequestError`` where this bundle cannot
        answer one as asked.
        """
        defaults = self.info.defaults
        plans = [defaults.plan(request).within(self._allowed(request)) for request in requests]
        passes: dict[Hashable, list[int]] = {}
        for place, (request, plan) in enumerate(zip(requests, plans, strict=True)):
            # the beams of one query alone are remembered
            alone = _browses(request, plan) or self.info.kind(request) is None
            kind = ("alone", place) if alone else plan.kind
            passes.setdefault(kind, []).append(place)
        answers: dict[int, SearchAnswer] = {}
        for places in passes.values():
            first, plan = requests[places[0]], plans[places[0]]
            if isinstance(first, BrowseRequest):
                some = [self._look(first, plan)]
            elif isinstance(first, WhyRequest):
                some = [self._explain_item(first, plan)]
            elif _browses(first, plan):
                some = [self._browse(first, plan)]
            else:
                some = self._pass([requests[i] for i in places], [plans[i] for i in places])
            answers.update(zip(places, some, strict=True))
        return [answers[place] for place in range(len(requests))]

    def _allowed(self, request: SearchRequest) -> Allowed | None:
        return self.filters.allowed(request.filter)

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
            beams = self._decode(scorer, tokens, plans)
        except DeadlineError:
            return [self.info.too_late(request) for request in requests]
        clock.lap("decode")
        traced = requests[0].explain
        ranked = self._ranking.rank(prompts, tokens, beams, plans, explained=traced)
        explained = []
        if traced:
            sids, allowed = [hit.sid for hit in ranked.results[0]], plans[0].allowed
            explained = beam_levels(scorer, beams, sids, self.index, self._prefix_stats, allowed)
        clock.lap("cards")

        timing = clock.timing(scorer.prefill_seconds) | ranked.spent
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
                    exact=plan.exact or plan.covers,
                    allowed=None if plan.allowed is None else plan.allowed.n,
                    facets=self.filters.facets(request.facets, plan.allowed),
                    bundle=self.hash,
                    catalogue_version=self.parts.version,
                )
            )
        return answers

    def _browse(self, request: SearchRequest, plan: SearchPlan) -> SearchAnswer:
        """Answer with the most popular allowed items: there is nothing that a model could read."""
        assert plan.allowed is not None
        results = self._ranking.popular(plan.allowed.rows, min(request.k, len(self)))
        facets = self.filters.facets(request.facets, plan.allowed)
        return self.info.browsed(request, plan, results, facets)

    def _look(self, request: BrowseRequest, plan: SearchPlan) -> SearchAnswer:
        """Answer with what is asked of the catalogue; no model takes part."""
        view = self._browser.view(request, plan.allowed)
        return replace(
            self.info.without_items(request),
            allowed=self._n_live if plan.allowed is None else plan.allowed.n,
            facets=self.filters.facets(request.facets, plan.allowed),
            view=view,
        )

    def _explain_item(self, request: WhyRequest, plan: SearchPlan) -> SearchAnswer:
        """Answer a request of one item's place: the search with its beam, ranked deeper."""
        row = row_of(self.catalogue, self.sids, request.item_id)
        if plan.allowed is not None and not plan.allowed.rows[row]:
            raise RequestError(f"item_id: the filter rules {request.item_id!r} out")
        plan = plan.beam_of(DEEPEST)
        history = History.of(self.catalogue, request.history).rows
        prompts = [Prompt(readable(request.query), history, readable(request.profile))]
        tokens = self.model.prompts.encode_batch(prompts, self.sids)
        scorer = TracingScorer(self._scorer, remember=True)
        beams = self._decode(scorer, tokens, [plan])
        ranked = self._ranking.rank(prompts, tokens, beams, [plan]).results[0]
        sid = self.sids.tuple_of(row)
        lost = fell_out(sid, scorer, beams)
        answer = why(self.catalogue.item(row), sid, request.k, ranked, lost)
        return replace(self.info.without_items(request), why=answer)

    def _decode(
        self, scorer: Scorer, tokens: Sequence[Encoded], plans: Sequence[SearchPlan]
    ) -> Beams:
        """Search for all of ``tokens`` together, with a plan for each; all are exact, or none."""
        from sidar.decode import beam_search, exact_search

        widths = [plan.width for plan in plans]
        masks = [None if plan.allowed is None else plan.allowed.masks for plan in plans]
        trie = self.trie.within(masks)
        if not (plans and plans[0].exact):
            return beam_search(scorer, tokens, trie, widths)
        # with a filter the best SIDs need not be those of the best allowed items
        best = [None if plan.allowed is None else plan.allowed.best for plan in plans]
        return exact_search(scorer, tokens, trie, widths, bonuses=best)


def _browses(request: SearchRequest, plan: SearchPlan) -> bool:
    """Whether there is a filter alone, and neither a query nor a user to read."""
    return plan.allowed is not None and request.says_nothing
