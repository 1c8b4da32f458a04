"""The façade: text in, ranked items out.

``Retriever.load("runs/shop/bundle").search("t towels kitchen", k=10)``
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from sidar.baselines import DEPTH
from sidar.config import DecodeConfig
from sidar.data.normalise import fold_text
from sidar.precision import Precision, resolve_device
from sidar.serve.bundle import open_bundle
from sidar.serve.bundle.encoder import Vectors, open_vectors
from sidar.serve.fused import FusedAnswer, open_fused
from sidar.serve.trace import Level, PrefixStats, TracingScorer, levels, sid_text
from sidar.types import Catalogue, Hits, PathLike, Prompt, SemanticIds

if TYPE_CHECKING:
    from sidar.answer.smoothed import Answer
    from sidar.decode import Beams
    from sidar.index import PrefixIndex
    from sidar.index.shares import ItemShares
    from sidar.lm import SidLM
    from sidar.lm.prompts import Encoded

#: Longest query, in characters, that is read at all; the model then reads its first
#: ``max_prompt_tokens`` tokens.
MAX_QUERY = 4096


@dataclass(frozen=True)
class Result:
    """One item.

    Answered by the model alone, ``score`` = log π(SID | prompt) + log of the item's share inside
    its SID, plus weight · ``cosine`` of query and item where reranked.  Fused with the memory,
    ``score`` = log P(item | query, user). ``probability`` is π of the SID either way, = exp Σ
    ``level_logp``; None, and no ``level_logp``, where only other channels found the item.
    ``level_logp`` has one entry per code, and where SIDs have several lengths one more for the end
    of a shorter one.
    """

    rank: int  # from 1
    item_id: str
    title: str
    brand: str
    price: float | None
    image_url: str
    category: tuple[str, ...]
    score: float
    probability: float | None
    sid: tuple[int, ...]
    level_logp: tuple[float, ...]
    sid_text: str
    cosine: float | None = None  # only where reranked
    count: float | None = None  # only where fused: decayed count of this item for this query
    # only where fused: which channels found it (memory, bm25, dense, generative)
    channels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """An answer and how it came about. ``notes`` say in words where the request was not taken as it
    stood.

    ``mass``: the probability of all SIDs that the search wrote, together. ``rerank``: weight of the
    cosine, None = not reranked. ``fuse``: ``none`` or ``memory``; ``seen``: decayed count of all
    that was chosen for the query before.
    """

    query: str
    results: list[Result]
    beam: int
    # prompt, prefill, decode, cards, total; of all queries answered together
    timing_ms: dict[str, float]
    notes: tuple[str, ...] = ()
    ignored_history: tuple[str, ...] = ()
    levels: list[Level] = field(default_factory=list)
    mass: float = 0.0
    rerank: float | None = None
    fuse: str = "none"
    seen: float = 0.0
    exact: bool = False  # the best ``beam`` SIDs of all, not what a beam of that width found


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
        stored = opened.config.get("decode", {})
        # a bundle of an older version goes on answering with the width that it was made for
        beam = int(stored.get("search_beam", stored.get("beam", DecodeConfig().beam)))
        decode = DecodeConfig(
            **{name: stored[name] for name in DecodeConfig.model_fields if name in stored}
        )
        if "search_beam" in stored:  # as it answered: SIDs listed whole, never exactly
            decode.item_share, decode.exact = "none", False
        model = SidLM.from_pretrained(Path(bundle) / "model", device=resolve_device(device))
        wanted = model.geometry is not None or opened.rerank is not None or opened.fuse != "none"
        vectors = open_vectors(bundle, device) if wanted else None
        fused = None
        if opened.fuse != "none" and vectors is not None:
            fused = open_fused(opened, vectors, memory_key)
        return cls(
            model,
            opened.index,
            opened.sids,
            opened.catalogue,
            beam=beam,
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
    def search(
        self,
        query: str,
        k: int = 10,
        *,
        history: Sequence[str] = (),
        profile: str = "",
        beam: int | None = None,
        exact: bool | None = None,
        rerank: bool | None = None,
        fuse: str | None = None,
    ) -> list[Result]: ...

    @overload
    def search(
        self,
        query: list[str],
        k: int = 10,
        *,
        history: Sequence[str] = (),
        profile: str = "",
        beam: int | None = None,
        exact: bool | None = None,
        rerank: bool | None = None,
        fuse: str | None = None,
    ) -> list[list[Result]]: ...

    def search(
        self,
        query: str | list[str],
        k: int = 10,
        *,
        history: Sequence[str] = (),
        profile: str = "",
        beam: int | None = None,
        exact: bool | None = None,
        rerank: bool | None = None,
        fuse: str | None = None,
    ) -> list[Result] | list[list[Result]]:
        """The ``k`` best items for ``query``, or for each of several queries (of one user) decoded
        together.

        ``history``: ids of the items that the user touched before, oldest first; unknown ones are
        left out with a warning. Fewer than ``k`` results come back when the catalogue, or the beam,
        holds fewer. An empty query is allowed: then history and profile, or nothing, decide.
        ``beam`` defaults to the bundle's and is raised to ``k``.  ``exact``: find the true top by
        best-first search, or not; None = as the bundle was made (``decode.exact``). ``rerank``:
        order everything that the beam reaches by log π + weight · cosine (decode/rerank.py), or
        not; None = as the bundle was made. ``ValueError`` where the bundle has no weight. ``fuse``:
        ``memory`` = what was chosen for this query before, smoothed with every channel
        (docs/answer.md); ``none`` = the model alone; None = as the bundle was made, or ``none``
        where ``rerank`` is given.
        """
        queries = [query] if isinstance(query, str) else query
        answers = self._answer(
            queries, k, history, profile, beam, exact, explain=False, rerank=rerank, fuse=fuse
        )
        if answers and answers[0].ignored_history:
            warnings.warn(answers[0].notes[0], stacklevel=2)
        return (
            answers[0].results if isinstance(query, str) else [answer.results for answer in answers]
        )

    def explain(
        self,
        query: str,
        k: int = 10,
        *,
        history: Sequence[str] = (),
        profile: str = "",
        beam: int | None = None,
        exact: bool | None = None,
        levels: bool = True,
        rerank: bool | None = None,
        fuse: str | None = None,
    ) -> Explanation:
        """As :meth:`search`, with the beams level by level (unless ``levels`` is False), the time
        of each phase, and notes in words instead of warnings."""
        return self._answer(
            [query], k, history, profile, beam, exact, explain=levels, rerank=rerank, fuse=fuse
        )[0]

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
        return self._items(self.beams(prompts, self._width(k, beam), exact=exact), k)

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
        return self._decode(
            self._scorer, self.model.prompts.encode_batch(prompts, self.sids), beam, exact
        )

    # ------------------------------------------------------------------ how

    def _width(self, k: int, beam: int | None) -> int:
        wanted = self.beam if beam is None else beam
        if k < 1 or wanted < 1:
            raise ValueError(f"k and beam must be at least 1, got k={k}, beam={wanted}")
        return max(1, min(max(wanted, k), len(self.index)))

    def _decode(self, scorer: Any, tokens: list[list[int]], width: int, exact: bool) -> Beams:
        from sidar.decode import beam_search, exact_search

        if exact:
            return exact_search(scorer, tokens, self.trie, width)
        return beam_search(scorer, tokens, self.trie, width)

    def _items(self, beams: Beams, k: int) -> Hits:
        from sidar.decode import to_hits

        return to_hits(beams, self.index, k, shares=self.shares, allowed=self.allowed)

    def _answer(
        self,
        queries: list[str],
        k: int,
        history: Sequence[str],
        profile: str,
        beam: int | None,
        exact: bool | None,
        explain: bool,
        rerank: bool | None,
        fuse: str | None,
    ) -> list[Explanation]:
        """Answer queries of one user together; ``explain`` wants one query alone."""
        fused = self._fused(fuse, rerank)
        if fused is not None:
            rerank = fused.reranked
        width, weight = self._width(k, beam), self._weight(rerank)
        exact = self.exact if exact is None else exact
        rows, ignored, notes = self._history(history)
        clock = [time.perf_counter()]
        prompts = [Prompt(readable(query), rows, readable(profile)) for query in queries]
        tokens = self.model.prompts.encode_batch(prompts, self.sids)
        clock.append(time.perf_counter())
        watch = TracingScorer(self._scorer, remember=explain)
        beams = self._decode(watch, tokens, width, exact)
        clock.append(time.perf_counter())
        depth = min(k, len(self)) if fused is None else DEPTH
        vectors = None if weight is None and fused is None else self._query_vectors(prompts, tokens)
        if weight is None or vectors is None:
            hits, cosine = self._items(beams, depth), None
        else:
            hits, cosine = self._reranked(beams, vectors, depth, weight)
        seen = np.zeros(len(queries))
        if fused is None or vectors is None:
            results = [self._results(hits, i, cosine) for i in range(len(queries))]
        else:
            channels = fused.channels([prompt.query for prompt in prompts], vectors, hits)
            answer = fused.rank([prompt.query for prompt in prompts], channels, min(k, len(self)))
            results = [self._fused_results(answer, channels, hits, i) for i in range(len(queries))]
            seen = answer.seen
        shown: list[Level] = []
        if explain:
            found = zip(
                beams.codes[0],
                beams.lengths[0],
                beams.level_logp[0].astype(float).cumsum(-1),
                strict=True,
            )
            ends = {tuple(c[:n].tolist()): float(logp[n - 1]) for c, n, logp in found if n}
            shown = levels(
                watch.paths | ends,
                [r.sid for r in results[0]],
                self.index,
                self._prefix_stats,
                watch.ends,
            )
        clock.append(time.perf_counter())
        prompt, decode, cards = (1000 * (after - before) for before, after in pairwise(clock))
        prefill = 1000 * watch.prefill_seconds
        timing = {"prompt": prompt, "prefill": prefill, "decode": decode - prefill, "cards": cards}
        timing["total"] = sum(timing.values())
        answers = []
        masses = np.minimum(np.exp(beams.scores).sum(1), 1.0)
        how = "none" if fused is None else "memory"
        for query, result, mass, before in zip(
            queries, results, masses.tolist(), seen.tolist(), strict=True
        ):
            said = list(notes)
            if len(query) > MAX_QUERY:
                said.append(
                    f"the query has {len(query):,} characters; the first {MAX_QUERY:,} were read"
                )
            if len(result) < k:
                where = (
                    f"the {width} SIDs of the beam hold" if fused is None else "the catalogue holds"
                )
                said.append(f"{len(result)} of {k} items: {where} no more")
            explained = Explanation(
                query,
                result,
                width,
                timing,
                tuple(said),
                ignored,
                shown,
                mass,
                weight,
                how,
                before,
                exact,
            )
            answers.append(explained)
        return answers

    def _fused(self, fuse: str | None, rerank: bool | None) -> FusedAnswer | None:
        """What the answer is fused from in this search; None = the model alone."""
        if fuse is None:
            return self.fused if rerank is None else None
        if fuse == "none":
            return None
        if fuse != "memory":
            raise ValueError(
                f"fuse: {fuse!r} is not served; this version answers with 'memory' or 'none'"
            )
        if self.fused is None:
            raise ValueError(
                "fuse: this bundle holds no memory; make it from a log with clicks and "
                "decode.fuse=memory"
            )
        if rerank is not None:
            raise ValueError(
                "rerank: an answer fused with the memory reranks as it was fitted; leave rerank out"
            )
        return self.fused

    def _weight(self, rerank: bool | None) -> float | None:
        """The weight of the cosine in this search; None = the beams decide alone."""
        if rerank is False or (rerank is None and self.rerank is None):
            return None
        if self.rerank is None or self.vectors is None or self.vectors.items is None:
            raise ValueError(
                "this bundle has no weight to rerank by; make it with decode.rerank=dense from a "
                "log with query texts"
            )
        return self.rerank

    def _query_vectors(self, prompts: Sequence[Prompt], tokens: Sequence[Encoded]) -> np.ndarray:
        """(Q, D) vectors of the queries, as they are held against item vectors."""
        assert self.vectors is not None
        read = [token.vector for token in tokens if token.vector is not None]
        # the model's own reading will do
        if self.vectors.same and len(read) == len(tokens) and read:
            return np.stack(read)
        return self.vectors.search([prompt.query for prompt in prompts])

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

    def _history(
        self, item_ids: Sequence[str]
    ) -> tuple[tuple[int, ...], tuple[str, ...], list[str]]:
        """Rows of the known ids; the unknown ids; and a note about them."""
        if not item_ids:
            return (), (), []
        rows = self.catalogue.rows(item_ids)
        ignored = tuple(item_id for item_id, row in zip(item_ids, rows, strict=True) if row < 0)
        note = (
            f"{len(ignored)} history ids are not in the catalogue and were left out: "
            f"{', '.join(ignored[:5])}"
        )
        return tuple(int(row) for row in rows if row >= 0), ignored, [note] if ignored else []

    def _results(self, hits: Hits, query: int, cosine: np.ndarray | None = None) -> list[Result]:
        assert hits.sids is not None
        assert hits.level_logp is not None
        results = []
        for place, row in enumerate(hits.rows[query]):
            if row < 0:
                break
            found = self._result(
                place + 1, int(row), float(hits.scores[query, place]), hits.level_logp[query, place]
            )
            results.append(
                found if cosine is None else replace(found, cosine=float(cosine[query, place]))
            )
        return results

    def _fused_results(
        self, answer: Answer, channels: Mapping[str, Hits], written: Hits, query: int
    ) -> list[Result]:
        """The results of one query of a fused answer; ``written``: what the beams reached."""
        assert written.level_logp is not None
        place_of = {int(row): place for place, row in enumerate(written.rows[query]) if row >= 0}
        reached = {name: set(hits.rows[query].tolist()) for name, hits in channels.items()}
        results = []
        for place, row in enumerate(answer.hits.rows[query].tolist()):
            if row < 0:
                break
            score = float(np.log(max(answer.probability[query, place], 1e-300)))
            at = place_of.get(row)
            steps = None if at is None else written.level_logp[query, at]
            count = float(answer.counts[query, place])
            names = [
                *(["memory"] if count > 0 else []),
                *(name for name, rows in reached.items() if row in rows),
            ]
            found = self._result(place + 1, row, score, steps)
            results.append(replace(found, count=count, channels=tuple(names)))
        return results

    def _result(self, rank: int, row: int, score: float, level_logp: np.ndarray | None) -> Result:
        """The card of one item; ``level_logp`` (L,) None = the beams did not reach it."""
        card = self.catalogue.item(row)
        sid = self.sids.tuple_of(row)
        steps = len(sid) + (self.model.vocab.variable_length and len(sid) < self.sids.n_levels)
        return Result(
            rank=rank,
            item_id=card["item_id"],
            title=card["title"] or "",
            brand=card["brand"] or "",
            price=card["price"],
            image_url=card["image_url"] or "",
            category=tuple(card["category"] or ()),
            score=score,
            probability=None if level_logp is None else float(np.exp(level_logp.sum())),
            sid=sid,
            level_logp=() if level_logp is None else tuple(float(x) for x in level_logp[:steps]),
            sid_text=sid_text(sid),
        )


def item_shares(
    index: PrefixIndex, alive: np.ndarray | None, decode: DecodeConfig
) -> ItemShares | None:
    """The shares that ``decode`` asks for, over the live items; None = SIDs are listed whole."""
    from sidar.index.shares import ItemShares

    if decode.item_share == "none":
        return None
    return ItemShares.of(
        index,
        alive,
        rule=decode.item_share,
        pseudo=decode.share_pseudo,
        temperature=decode.share_temperature,
    )


def readable(text: str) -> str:
    """User text, folded as the log's: at most :data:`MAX_QUERY` characters, lone surrogates
    replaced.
    """
    return fold_text(text[:MAX_QUERY].encode("utf-8", "replace").decode("utf-8"))
