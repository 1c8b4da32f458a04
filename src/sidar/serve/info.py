"""What a served bundle says of itself, and what it decides about a request without its model."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

from sidar.filters import FacetCount
from sidar.serve.browse.views import BrowseRequest
from sidar.serve.plan import Defaults, SearchPlan
from sidar.serve.request import SearchRequest
from sidar.serve.results import Result, SearchAnswer
from sidar.serve.why import WhyRequest
from sidar.types import Json


@dataclass(frozen=True)
class BundleInfo:
    """Hash, sizes and defaults of a bundle; ``version`` counts the live changes of its catalogue
    since then.
    """

    hash: str
    items: int
    codebook_sizes: tuple[int, ...]
    examples: tuple[str, ...]
    version: int
    defaults: Defaults
    report: str = ""  # file of the run's evaluation report; empty where there is none

    def to_json(self) -> Json:
        """Return the facts as JSON has them."""
        return asdict(self)

    @classmethod
    def of_json(cls, facts: Mapping[str, object]) -> BundleInfo:
        """Read what :meth:`to_json` wrote."""
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_python(dict(facts))

    def check(self, request: SearchRequest) -> None:
        """Raise ``RequestError`` where the bundle cannot answer as asked."""
        self.defaults.plan(request)

    def kind(self, request: SearchRequest) -> Hashable:
        """Return what requests of one pass must share; None = this one is answered alone."""
        plan = self.defaults.plan(request)
        alone = request.explain or isinstance(request, (WhyRequest, BrowseRequest))
        return None if alone else plan.kind

    def too_late(self, request: SearchRequest) -> SearchAnswer:
        """Return the answer without items to a request whose deadline passed before its search
        ended.
        """
        notes = self.defaults.plan(request).notes(request.query, 0, "deadline")
        return replace(self.without_items(request), reason="deadline", notes=tuple(notes))

    def browsed(
        self,
        request: SearchRequest,
        plan: SearchPlan,
        results: list[Result],
        facets: dict[str, tuple[FacetCount, ...]],
    ) -> SearchAnswer:
        """Return the answer to a filter without a query."""
        assert plan.allowed is not None
        reason = plan.reason(len(results), plan.allowed.n)
        notes = plan.notes(request.query, len(results), reason)
        return replace(
            self.without_items(request),
            results=results,
            reason=reason,
            notes=("without a query the allowed items come by popularity", *notes),
            exact=True,
            allowed=plan.allowed.n,
            facets=facets,
        )

    def without_items(self, request: SearchRequest) -> SearchAnswer:
        """Return what an answer says of the request and of the bundle."""
        plan = self.defaults.plan(request)
        return SearchAnswer(
            query=request.query,
            results=[],
            requested=request.k,
            beam=plan.width,
            timing_ms={},
            rerank=plan.weight,
            fuse=plan.fuse,
            exact=plan.exact,
            bundle=self.hash,
            catalogue_version=self.version,
        )


class Searcher(Protocol):
    """What a server asks of a model: :class:`sidar.Retriever`, or one in another process."""

    @property
    def info(self) -> BundleInfo:
        """What the model's bundle says of itself, as it is now."""
        ...

    def answer(self, requests: Sequence[SearchRequest], /) -> list[SearchAnswer]:
        """Answer requests of one kind in one pass."""
        ...


@runtime_checkable
class LiveModel(Protocol):
    """What a server asks of a model whose catalogue changes
    (:class:`sidar.serve.live.searcher.LiveSearcher`). Changes return the catalogue's version.
    """

    def put(self, items: Sequence[Mapping[str, Any]]) -> int:
        """Add items, or replace them whole."""
        ...

    def patch(self, changes: Mapping[str, Json]) -> int:
        """Change fields that need no new vector."""
        ...

    def retire(self, item_ids: Sequence[str]) -> int:
        """Take items out of every answer."""
        ...

    def catch_up(self) -> None:
        """Search what was written down since, by a model over another bundle."""
        ...
