"""The façade: text in, ranked items out.

``Retriever.load("runs/shop/bundle").search("t towels kitchen", k=10)``
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from sidar.bundle import open_bundle
from sidar.bundle_encoder import Vectors, open_vectors
from sidar.config import DecodeConfig
from sidar.explain import Level, Signposts, Watch, levels, sid_text
from sidar.precision import Precision, resolve_device
from sidar.types import Catalogue, Hits, PathLike, Prompt, SemanticIds

if TYPE_CHECKING:
    from sidar.decode import Beams
    from sidar.index import PrefixIndex
    from sidar.index.shares import ItemShares
    from sidar.lm import SidLM
    from sidar.lm.prompts import Encoded

#: Longest query, in characters, that is read at all; the model then reads its first ``max_prompt_tokens`` tokens.
MAX_QUERY = 4096


@dataclass(frozen=True)
class Result:
    """One item. ``score`` = log π(SID | prompt) + log of the item's share inside its SID; Σ ``level_logp`` = log π.

    Reranked, weight · ``cosine`` of query and item is added; ``probability`` is π of the SID either way.
    ``level_logp`` has one entry per code, and where SIDs have several lengths one more for the end of a shorter one.
    """

    rank: int  # from 1
    item_id: str
    title: str
    brand: str
    price: float | None
    image_url: str
    category: tuple[str, ...]
    score: float
    probability: float
    sid: tuple[int, ...]
    level_logp: tuple[float, ...]
    sid_text: str
    cosine: float | None = None  # only where reranked


@dataclass(frozen=True)
class Explanation:
    """An answer and how it came about. ``notes`` say in words where the request was not taken as it stood.

    ``mass``: the probability of all SIDs that the search wrote, together. ``rerank``: weight of the cosine, None = not
    reranked.
    """

    query: str
    results: list[Result]
    beam: int
    timing_ms: dict[str, float]  # prompt, prefill, decode, cards, total; of all queries answered together
    notes: tuple[str, ...] = ()
    ignored_history: tuple[str, ...] = ()
    levels: list[Level] = field(default_factory=list)
    mass: float = 0.0
    rerank: float | None = None


class Retriever:
    """A model, an index and a catalogue that fit; make one with :meth:`load`, or from parts in memory.

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
    ) -> None:
        """``vectors``: the encoder, for a model that reads sentence vectors and for reranking; ``rerank``: weight of
        the dense score in every search that does not say otherwise, None = the beams decide alone.  ``decode`` says how
        items share the probability of their SID."""
        from sidar.decode import Trie
        from sidar.lm.scorer import LmScorer

        self.model, self.index, self.sids, self.catalogue = model, index, sids, catalogue
        self.beam, self.label, self.hash = beam, label, hash
        self.examples = tuple(examples)
        self.vectors, self.rerank = vectors, rerank
        model.use(index)
        if vectors is not None and model.geometry is not None:
            model.prompts.reader = vectors.read
        self._scorer = LmScorer(model, precision=precision)
        self.trie = Trie(index, self._scorer.device)
        self._signposts = Signposts(index, catalogue)
        self.allowed = None if catalogue.alive.all() else catalogue.alive  # the index may be older than a retirement
        decode = decode or DecodeConfig()
        self.shares = item_shares(index, self.allowed, decode)

    @classmethod
    def load(
        cls,
        bundle: PathLike,
        device: str = "cpu",
        precision: Precision = "auto",
        *,
        verify: bool = False,
    ) -> Retriever:
        """Open a bundle folder; a part that does not fit the others is a ``ValueError`` naming both hashes.

        ``device`` auto: a GPU where torch sees one, else the CPU. ``precision`` auto: bf16 where the device computes in
        it, else fp32. ``verify`` re-hashes every file first.
        """
        from sidar.lm import SidLM

        opened = open_bundle(bundle, verify=verify)
        stored = opened.config.get("decode", {})
        # a bundle of an older version goes on answering with the width that it was made for
        beam = int(stored.get("search_beam", stored.get("beam", DecodeConfig().beam)))
        decode = DecodeConfig(**{name: stored[name] for name in DecodeConfig.model_fields if name in stored})
        model = SidLM.from_pretrained(Path(bundle) / "model", device=resolve_device(device))
        wanted = model.geometry is not None or opened.rerank is not None
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
            vectors=open_vectors(bundle, device) if wanted else None,
            rerank=None if opened.rerank is None else float(opened.rerank["weight"]),
            decode=decode,
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
        exact: bool = False,
        rerank: bool | None = None,
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
        exact: bool = False,
        rerank: bool | None = None,
    ) -> list[list[Result]]: ...

    def search(
        self,
        query: str | list[str],
        k: int = 10,
        *,
        history: Sequence[str] = (),
        profile: str = "",
        beam: int | None = None,
        exact: bool = False,
        rerank: bool | None = None,
    ) -> list[Result] | list[list[Result]]:
        """The ``k`` best items for ``query``, or for each of several queries (of one user) decoded together.

        ``history``: ids of the items that the user touched before, oldest first; unknown ones are left out with a
        warning. Fewer than ``k`` results come back when the catalogue, or the beam, holds fewer. An empty query is
        allowed: then history and profile, or nothing, decide.
        ``beam`` defaults to the bundle's and is raised to ``k``; ``exact`` finds the true top by best-first search.
        ``rerank``: order everything that the beam reaches by log π + weight · cosine (decode/rerank.py), or not; None =
        as the bundle was made. ``ValueError`` where the bundle holds no item vectors.
        """
        queries = [query] if isinstance(query, str) else query
        answers = self._answer(queries, k, history, profile, beam, exact, explain=False, rerank=rerank)
        if answers and answers[0].ignored_history:
            warnings.warn(answers[0].notes[0], stacklevel=2)
        return answers[0].results if isinstance(query, str) else [answer.results for answer in answers]

    def explain(
        self,
        query: str,
        k: int = 10,
        *,
        history: Sequence[str] = (),
        profile: str = "",
        beam: int | None = None,
        exact: bool = False,
        levels: bool = True,
        rerank: bool | None = None,
    ) -> Explanation:
        """As :meth:`search`, with the beams level by level (unless ``levels`` is False), the time of each phase, and
        notes in words instead of warnings."""
        return self._answer([query], k, history, profile, beam, exact, explain=levels, rerank=rerank)[0]

    # ------------------------------------------------------------------ for evaluation: rows, no ids

    def hits(self, prompts: Sequence[Prompt], k: int, beam: int | None = None, *, exact: bool = False) -> Hits:
        """Ranked catalogue rows (Q, k) of many prompts, −1 = none; searched together in batches."""
        return self._items(self.beams(prompts, self._width(k, beam), exact=exact), k)

    def sid_ranking(self, prompts: Sequence[Prompt], beam: int, *, exact: bool = False) -> np.ndarray:
        """(Q, W) int64 SID numbers of the index, best first, −1 = none; W ≤ beam."""
        return self.beams(prompts, beam, exact=exact).sids

    def beams(self, prompts: Sequence[Prompt], beam: int, *, exact: bool = False) -> Beams:
        """Both of the above from one search: cut ``sids``, or expand with :func:`sidar.decode.to_hits`."""
        return self._decode(self._scorer, self.model.prompts.encode_batch(prompts, self.sids), beam, exact)

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
        exact: bool,
        explain: bool,
        rerank: bool | None,
    ) -> list[Explanation]:
        """Answer queries of one user together; ``explain`` wants one query alone."""
        width, weight = self._width(k, beam), self._weight(rerank)
        rows, ignored, notes = self._history(history)
        clock = [time.perf_counter()]
        prompts = [Prompt(readable(query), rows, readable(profile)) for query in queries]
        tokens = self.model.prompts.encode_batch(prompts, self.sids)
        clock.append(time.perf_counter())
        watch = Watch(self._scorer, remember=explain)
        beams = self._decode(watch, tokens, width, exact)
        clock.append(time.perf_counter())
        if weight is None:
            hits, cosine = self._items(beams, min(k, len(self))), None
        else:
            hits, cosine = self._reranked(beams, prompts, tokens, min(k, len(self)), weight)
        results = [self._results(hits, i, cosine) for i in range(len(queries))]
        shown: list[Level] = []
        if explain:
            found = zip(beams.codes[0], beams.lengths[0], beams.level_logp[0].astype(float).cumsum(-1), strict=True)
            ends = {tuple(c[:n].tolist()): float(logp[n - 1]) for c, n, logp in found if n}
            shown = levels(watch.paths | ends, [r.sid for r in results[0]], self.index, self._signposts, watch.ends)
        clock.append(time.perf_counter())
        prompt, decode, cards = (1000 * (after - before) for before, after in pairwise(clock))
        prefill = 1000 * watch.prefill_seconds
        timing = {"prompt": prompt, "prefill": prefill, "decode": decode - prefill, "cards": cards}
        timing["total"] = sum(timing.values())
        answers = []
        masses = np.minimum(np.exp(beams.scores).sum(1), 1.0)
        for query, result, mass in zip(queries, results, masses.tolist(), strict=True):
            said = list(notes)
            if len(query) > MAX_QUERY:
                said.append(f"the query has {len(query):,} characters; the first {MAX_QUERY:,} were read")
            if len(result) < k:
                said.append(f"{len(result)} of {k} items: the {width} SIDs of the beam hold no more")
            answers.append(Explanation(query, result, width, timing, tuple(said), ignored, shown, mass, weight))
        return answers

    def _weight(self, rerank: bool | None) -> float | None:
        """The weight of the cosine in this search; None = the beams decide alone."""
        if rerank is False or (rerank is None and self.rerank is None):
            return None
        if self.rerank is None or self.vectors is None or self.vectors.items is None:
            raise ValueError("this bundle holds no item vectors to rerank by; make it with decode.rerank=dense")
        return self.rerank

    def _reranked(
        self, beams: Beams, prompts: Sequence[Prompt], tokens: Sequence[Encoded], k: int, weight: float
    ) -> tuple[Hits, np.ndarray]:
        """The k best of all items that the beams reach, and the cosine of each."""
        from sidar.decode.rerank import Pool

        assert self.vectors is not None
        assert self.vectors.items is not None
        read = [token.vector for token in tokens if token.vector is not None]
        if self.vectors.same and len(read) == len(tokens):  # the model's own reading will do
            queries = np.stack(read)
        else:
            queries = self.vectors.search([prompt.query for prompt in prompts])
        pool = Pool.of(beams, self.index, queries, self.vectors.items, shares=self.shares, allowed=self.allowed)
        order, _ = pool.order(weight)
        return pool.ranked(weight, k), np.take_along_axis(pool.cosine, order, 1)[:, :k]

    def _history(self, item_ids: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...], list[str]]:
        """Rows of the known ids; the unknown ids; and a note about them."""
        if not item_ids:
            return (), (), []
        rows = self.catalogue.rows(item_ids)
        ignored = tuple(item_id for item_id, row in zip(item_ids, rows, strict=True) if row < 0)
        note = f"{len(ignored)} history ids are not in the catalogue and were left out: {', '.join(ignored[:5])}"
        return tuple(int(row) for row in rows if row >= 0), ignored, [note] if ignored else []

    def _results(self, hits: Hits, query: int, cosine: np.ndarray | None = None) -> list[Result]:
        assert hits.sids is not None
        assert hits.level_logp is not None
        results = []
        for place, row in enumerate(hits.rows[query]):
            if row < 0:
                break
            card = self.catalogue.item(row)
            sid = tuple(int(code) for code in hits.sids[query, place] if code >= 0)
            score = float(hits.scores[query, place])
            steps = len(sid) + (self.model.vocab.variable_length and len(sid) < len(hits.sids[query, place]))
            results.append(
                Result(
                    rank=place + 1,
                    item_id=card["item_id"],
                    title=card["title"] or "",
                    brand=card["brand"] or "",
                    price=card["price"],
                    image_url=card["image_url"] or "",
                    category=tuple(card["category"] or ()),
                    score=score,
                    probability=float(np.exp(hits.level_logp[query, place].sum())),
                    sid=sid,
                    level_logp=tuple(float(x) for x in hits.level_logp[query, place, :steps]),
                    sid_text=sid_text(sid),
                    cosine=None if cosine is None else float(cosine[query, place]),
                )
            )
        return results


def item_shares(index: PrefixIndex, alive: np.ndarray | None, decode: DecodeConfig) -> ItemShares | None:
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
    """User text as a tokenizer can take it: at most :data:`MAX_QUERY` characters, lone surrogates replaced."""
    return text[:MAX_QUERY].encode("utf-8", "replace").decode("utf-8")
