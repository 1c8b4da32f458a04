"""How a request is searched in one bundle: what it asks for, and the bundle's defaults for the
rest.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from sidar.serve.filtering import Allowed
from sidar.serve.request import MAX_QUERY, RequestError, SearchRequest


@dataclass(frozen=True)
class SearchPlan:
    """``k`` items from a beam of ``width``; ``weight`` of the cosine, None = the beams decide
    alone; ``fuse``: ``none`` = the model alone, ``memory`` or ``ranker`` = all channels.

    ``allowed``: what the filter allows, None = there is none; ``covers``: the beam holds all that
    it allows, so that nothing is given up.
    """

    k: int
    width: int
    exact: bool
    weight: float | None
    fuse: str = "none"
    allowed: Allowed | None = None
    covers: bool = False

    @property
    def fused(self) -> bool:
        """Whether the answer is made from all channels."""
        return self.fuse != "none"

    @property
    def kind(self) -> Hashable:
        """What requests must share to be searched in one pass.

        Rows of a narrow beam are padded to the widest of the pass, so widths differ by less than a
        factor of two.
        """
        return (self.width - 1).bit_length(), self.exact, self.weight, self.fuse

    def within(self, allowed: Allowed | None) -> SearchPlan:
        """Return the same search among what a filter allows.

        Where little more survives than the beam holds, the beam is made to hold it all.
        """
        if allowed is None:
            return self
        covering = allowed.covering(self.width)
        if covering is not None:
            return replace(self, width=covering, exact=False, allowed=allowed, covers=True)
        return replace(self, width=min(self.width, allowed.live.n_sids), allowed=allowed)

    def reason(self, returned: int, live: int) -> str | None:
        """Return why fewer than ``k`` items came back: ``filter_allows_<n>`` where all n came,
        ``catalogue`` where it has no more than its ``live`` items, ``beam`` where the beam reached
        no more; None where none are missing.
        """
        if returned >= self.k:
            return None
        if self.allowed is not None and returned >= self.allowed.n:
            return f"filter_allows_{self.allowed.n}"
        return "catalogue" if self.fused or returned >= live else "beam"

    def notes(self, query: str, returned: int, reason: str | None) -> list[str]:
        """Return notes on what was read, and returned, less of than was asked."""
        notes = []
        if len(query) > MAX_QUERY:
            notes.append(
                f"the query has {len(query):,} characters; the first {MAX_QUERY:,} were read"
            )
        where = {
            "beam": f"the {self.width} SIDs of the beam hold no more",
            "catalogue": "the catalogue holds no more",
            "deadline": "the deadline passed before the search ended",
        }
        if self.allowed is not None:
            where[f"filter_allows_{self.allowed.n}"] = "the filter allows no more"
        if reason in where:
            notes.append(f"{returned} of {self.k} items: {where[reason]}")
        return notes

    def beam_of(self, most: int) -> SearchPlan:
        """Return the same search with a beam, never exact, that lists up to ``most`` items."""
        return replace(self, exact=False, k=max(self.k, most))


@dataclass(frozen=True)
class Defaults:
    """What a bundle can do, and does where a request does not say.

    ``weight`` of the cosine, None = it has none or no item vectors; ``reranks``: whether searches
    are reranked; ``fuse``: how it fuses, ``none`` where it holds no memory; ``ranks``: whether it
    holds a ranker; ``fused_reranks``: whether fused answers are reranked; ``sids``: how many the
    index holds.
    """

    label: str
    beam: int
    exact: bool
    weight: float | None
    reranks: bool
    fuse: str
    fused_reranks: bool
    sids: int
    ranks: bool = False

    def plan(self, request: SearchRequest) -> SearchPlan:
        """Return how ``request`` is searched; :class:`RequestError` where this bundle cannot."""
        if request.model not in (None, self.label):
            raise RequestError(f"model: this one is {self.label!r}, not {request.model!r}")
        fuse = self._fusion(request)
        rerank = request.rerank if fuse == "none" else self.fused_reranks
        return SearchPlan(
            k=request.k,
            width=self.width(request.k, request.beam),
            exact=self.exact if request.exact is None else request.exact,
            weight=self._weight(rerank),
            fuse=fuse,
        )

    def width(self, k: int, beam: int | None) -> int:
        """Return the width of the beam: at least ``k``, at most the SIDs that there are."""
        asked = self.beam if beam is None else beam
        if k < 1 or asked < 1:
            raise ValueError(f"k and beam must be at least 1, got k={k}, beam={asked}")
        return max(1, min(max(asked, k), self.sids))

    def _fusion(self, request: SearchRequest) -> str:
        if request.fuse == "none":
            return "none"
        if request.fuse is None:
            # a fused answer reranks as it was fitted, so a request that says how asks the model
            return self.fuse if request.rerank is None else "none"
        if request.fuse == "ranker" and not self.ranks:
            raise RequestError(
                "fuse: this bundle holds no ranker; make it from a log with clicks and "
                "ranker.enabled=true"
            )
        if self.fuse == "none":
            raise RequestError(
                "fuse: this bundle holds no memory; make it from a log with clicks and "
                "decode.fuse=memory"
            )
        if request.rerank is not None:
            raise RequestError("rerank: a fused answer reranks as it was fitted; leave rerank out")
        return request.fuse

    def _weight(self, rerank: bool | None) -> float | None:
        if not (self.reranks if rerank is None else rerank):
            return None
        if self.weight is None:
            raise RequestError(
                "rerank: this bundle has no weight to rerank by; make it with decode.rerank=dense "
                "from a log with query texts"
            )
        return self.weight
