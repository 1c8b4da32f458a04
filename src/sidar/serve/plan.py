"""How a request is searched in one bundle: what it asks for, and the bundle's defaults for the
rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidar.serve.fused import FusedAnswer
from sidar.serve.request import MAX_QUERY, RequestError, SearchRequest


@dataclass(frozen=True)
class SearchPlan:
    """``width`` of the beam; ``weight`` of the cosine, None = the beams decide alone; ``fused``:
    the channels and the memory to answer from, None = the model alone; ``fuse`` says how: none,
    memory or ranker.
    """

    width: int
    exact: bool
    weight: float | None
    fused: FusedAnswer | None
    fuse: str = "none"

    def notes(self, query: str, returned: int, k: int) -> list[str]:
        """Return notes on what was read, and returned, less of than was asked."""
        notes = []
        if len(query) > MAX_QUERY:
            notes.append(
                f"the query has {len(query):,} characters; the first {MAX_QUERY:,} were read"
            )
        if returned < k:
            beam, catalogue = f"the {self.width} SIDs of the beam hold", "the catalogue holds"
            where = beam if self.fused is None else catalogue
            notes.append(f"{returned} of {k} items: {where} no more")
        return notes


@dataclass(frozen=True)
class Defaults:
    """What a bundle can do, and does where a request does not say.

    ``weight`` of the cosine, None = it has none or no item vectors; ``reranks``: whether searches
    are reranked; ``sids``: how many the index holds.
    """

    label: str
    beam: int
    exact: bool
    weight: float | None
    reranks: bool
    fused: FusedAnswer | None
    sids: int

    def plan(self, request: SearchRequest) -> SearchPlan:
        """Return how ``request`` is searched; :class:`RequestError` where this bundle cannot."""
        if request.model not in (None, self.label):
            raise RequestError(f"model: this one is {self.label!r}, not {request.model!r}")
        fused = self._fusion(request)
        rerank = request.rerank if fused is None else fused.reranked
        return SearchPlan(
            width=self.width(request.k, request.beam),
            exact=self.exact if request.exact is None else request.exact,
            weight=self._weight(rerank),
            fused=fused,
            fuse="none" if fused is None else request.fuse or fused.default,
        )

    def width(self, k: int, beam: int | None) -> int:
        """Return the width of the beam: at least ``k``, at most the SIDs that there are."""
        asked = self.beam if beam is None else beam
        if k < 1 or asked < 1:
            raise ValueError(f"k and beam must be at least 1, got k={k}, beam={asked}")
        return max(1, min(max(asked, k), self.sids))

    def _fusion(self, request: SearchRequest) -> FusedAnswer | None:
        if request.fuse == "none":
            return None
        if request.fuse is None:
            # a fused answer reranks as it was fitted, so a request that says how asks the model
            return self.fused if request.rerank is None else None
        if request.fuse == "ranker" and (self.fused is None or self.fused.ranked is None):
            raise RequestError(
                "fuse: this bundle holds no ranker; make it from a log with clicks and "
                "ranker.enabled=true"
            )
        if self.fused is None:
            raise RequestError(
                "fuse: this bundle holds no memory; make it from a log with clicks and "
                "decode.fuse=memory"
            )
        if request.rerank is not None:
            raise RequestError("rerank: a fused answer reranks as it was fitted; leave rerank out")
        return self.fused

    def _weight(self, rerank: bool | None) -> float | None:
        if not (self.reranks if rerank is None else rerank):
            return None
        if self.weight is None:
            raise RequestError(
                "rerank: this bundle has no weight to rerank by; make it with decode.rerank=dense "
                "from a log with query texts"
            )
        return self.weight
