"""The façade: text in, ranked items out.

``Retriever.load("runs/shop/bundle").search("t towels kitchen", k=10)``
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np

from sidar.baselines import DEPTH
from sidar.config import DecodeConfig
from sidar.precision import Precision, resolve_device
from sidar.serve.bundle import open_bundle
from sidar.serve.bundle.encoder import Vectors, open_vectors
from sidar.serve.cards import Cards
from sidar.serve.decoding import item_shares, stored_decoding
from sidar.serve.fused import FusedAnswer, open_fused
from sidar.serve.plan import Defaults, SearchPlan
from sidar.serve.request import SearchOptions, SearchRequest, readable
from sidar.serve.results import Result, SearchAnswer
from sidar.serve.trace import Level, PrefixStats, Stopwatch, TracingScorer, levels
from sidar.types import Catalogue, Hits, PathLike, Prompt, SemanticIds

if TYPE_CHECKING:
    from sidar.decode import Beams
    from sidar.decode.protocol import Scorer
    from sidar.index import PrefixIndex
    from sidar.lm import SidLM
    from sidar.lm.prompts import Encoded


@dataclass(frozen=True)
class _History:
    """Rows of the ids that are known, the ids that are not, and a note about those."""

    rows: tuple[int, ...] = ()
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Ranked:
    """The results of each query, and the (Q,) decayed counts of what was chosen for it before."""

    results: list[list[Result]]
    seen: np.ndarray


class Retriever:
    """A model, an index and a catalogue that fit; make one with :meth:`load`, or from parts in
    memory.

    Not safe for concurrent calls: the caller holds a lock (``serve`` does).
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
        from sidar.decode import Trie
        from sidar.lm.scorer import LmScorer

        self.model, self.index, self.sids, self.catalogue = model, index, sids, catalogue
        self.beam, self.label, self.hash = beam, label, hash
        self.examples = tuple(examples)
        self.vectors, self.rerank, self.fused = vectors, rerank, fused
        model.use(index)
        if vectors is not None and model.geometry is not None:
            model.prompts.reader = vectors.read
        self._scorer = LmScorer(model, precision=precision)
        self.trie = Trie(index, self._scorer.device)
        self._prefix_stats = PrefixStats(index, catalogue)
        self._cards = Cards(catalogue, sids, model.vocab.variable_length)
        # the index may be older than a retirement
        self.allowed = None if catalogue.alive.all() else catalogue.alive
        decode = decode or DecodeConfig()
        self.exact = decode.exact
        self.shares = item_shares(index, self.allowed, decode)

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
            return self._answer([query.query], query)[0]
        queries = [query] if isinstance(query, str) else query
        request = SearchRequest.of(queries[0] if queries else "", k, **options)
        answers = self._answer(queries, request)
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

    def check(self, request: SearchRequest) -> None:
        """Raise ``RequestError`` where this bundle cannot answer as asked."""
        self._defaults().plan(request)

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
        return self._items(self.beams(prompts, self._defaults().width(k, beam), exact=exact), k)

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

    def _answer(self, queries: Sequence[str], request: SearchRequest) -> list[SearchAnswer]:
        """Answer queries of one user together, each as ``request`` with that query.

        ``request.explain`` wants one query alone.
        """
        plan = self._defaults().plan(request)
        history = self._history(request.history)
        clock = Stopwatch()
        profile = readable(request.profile)
        prompts = [Prompt(readable(query), history.rows, profile) for query in queries]
        tokens = self.model.prompts.encode_batch(prompts, self.sids)
        clock.lap("prompt")
        scorer = TracingScorer(self._scorer, remember=request.explain)
        beams = self._decode(scorer, tokens, plan.width, plan.exact)
        clock.lap("decode")
        ranked = self._rank(prompts, tokens, beams, plan, request.k)
        explained = self._levels(scorer, beams, ranked.results[0]) if request.explain else []
        clock.lap("cards")

        timing = clock.timing(scorer.prefill_seconds)
        masses = np.minimum(np.exp(beams.scores).sum(1), 1.0)
        return [
            SearchAnswer(
                query=query,
                results=results,
                beam=plan.width,
                timing_ms=timing,
                notes=(*history.notes, *plan.notes(query, len(results), request.k)),
                ignored_history=history.ignored,
                levels=explained,
                mass=mass,
                rerank=plan.weight,
                fuse=plan.fuse,
                seen=seen,
                exact=plan.exact,
                bundle=self.hash,
            )
            for query, results, mass, seen in zip(
                queries, ranked.results, masses.tolist(), ranked.seen.tolist(), strict=True
            )
        ]

    def _defaults(self) -> Defaults:
        has_items = self.vectors is not None and self.vectors.items is not None
        return Defaults(
            label=self.label,
            beam=self.beam,
            exact=self.exact,
            weight=self.rerank if has_items else None,
            reranks=self.rerank is not None,
            fused=self.fused,
            sids=len(self.index),
        )

    def _history(self, item_ids: Sequence[str]) -> _History:
        if not item_ids:
            return _History()
        rows = self.catalogue.rows(item_ids)
        known = tuple(int(row) for row in rows if row >= 0)
        ignored = tuple(item_id for item_id, row in zip(item_ids, rows, strict=True) if row < 0)
        if not ignored:
            return _History(known)
        note = (
            f"{len(ignored)} history ids are not in the catalogue and were left out: "
            f"{', '.join(ignored[:5])}"
        )
        return _History(known, ignored, (note,))

    def _decode(self, scorer: Scorer, tokens: Sequence[Encoded], width: int, exact: bool) -> Beams:
        from sidar.decode import beam_search, exact_search

        search: Any = exact_search if exact else beam_search
        return search(scorer, tokens, self.trie, width)

    def _rank(
        self,
        prompts: Sequence[Prompt],
        tokens: Sequence[Encoded],
        beams: Beams,
        plan: SearchPlan,
        k: int,
    ) -> _Ranked:
        """Return the k best items of each query, from the beams alone or fused."""
        k = min(k, len(self))
        depth = k if plan.fused is None else DEPTH
        vectors = cosine = None
        if plan.weight is not None or plan.fused is not None:
            vectors = self._query_vectors(prompts, tokens)
        if plan.weight is None or vectors is None:
            hits = self._items(beams, depth)
        else:
            hits, cosine = self._reranked(beams, vectors, depth, plan.weight)
        places = range(len(prompts))
        if plan.fused is None or vectors is None:
            cards = [self._cards.of_hits(hits, place, cosine) for place in places]
            return _Ranked(cards, np.zeros(len(prompts)))
        channels = plan.fused.channels([prompt.query for prompt in prompts], vectors, hits)
        answer = plan.fused.rank(prompts, vectors, channels, k, plan.fuse)
        cards = [self._cards.of_answer(answer, channels, hits, place) for place in places]
        return _Ranked(cards, answer.seen)

    def _items(self, beams: Beams, k: int) -> Hits:
        from sidar.decode import to_hits

        return to_hits(beams, self.index, k, shares=self.shares, allowed=self.allowed)

    def _reranked(
        self, beams: Beams, queries: np.ndarray, k: int, weight: float
    ) -> tuple[Hits, np.ndarray]:
        """The k best of all items that the beams reach, and the cosine of each;
        ``queries`` (Q, D).
        """
        from sidar.decode.rerank import Pool

        assert self.vectors is not None
        assert self.vectors.items is not None
        pool = Pool.of(
            beams, self.index, queries, self.vectors.items, shares=self.shares, allowed=self.allowed
        )
        order, _ = pool.order(weight)
        return pool.ranked(weight, k), np.take_along_axis(pool.cosine, order, 1)[:, :k]

    def _query_vectors(self, prompts: Sequence[Prompt], tokens: Sequence[Encoded]) -> np.ndarray:
        """(Q, D) vectors of the queries, as they are held against item vectors."""
        assert self.vectors is not None
        read = [token.vector for token in tokens if token.vector is not None]
        # the model's own reading will do
        if self.vectors.same and len(read) == len(tokens) and read:
            return np.stack(read)
        return self.vectors.search([prompt.query for prompt in prompts])

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
