"""One query, two sides: the models of a server, and the bundles that it has loaded beside them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from sidar.serve.engine import Engine
from sidar.serve.http.access import Access
from sidar.serve.http.bundles import Bundles
from sidar.serve.http.models import ServedModels
from sidar.serve.http.responses import LIMITED, UNREADY, WRONG
from sidar.serve.http.schemas import SearchResponse
from sidar.serve.request import Limits, RequestError, SearchRequest


class Side(BaseModel):
    """What can stand on a side of a comparison."""

    name: str
    state: str = Field(
        description="active, previous or loaded for a bundle of serve.bundles; model for another."
    )
    bundle: str = Field(description="Its hash.")
    items: int
    codebook_sizes: list[int]


class SideList(BaseModel):
    """Everything that this server can compare."""

    sides: list[Side]


class Comparison(BaseModel):
    """A search, and the names of the two sides that answer it; its ``model`` is not read."""

    model_config = ConfigDict(extra="forbid")

    sides: tuple[str, str]
    request: SearchRequest


class Compared(BaseModel):
    """The answers of both sides, in their order."""

    answers: list[SearchResponse]


@dataclass(frozen=True)
class Comparisons:
    """Answers one request from two engines at once."""

    served: ServedModels
    bundles: Bundles
    limits: Limits
    timeout_ms: int | None = None

    def engines(self) -> dict[str, tuple[str, Engine]]:
        """Return state and engine by name: bundles that are loaded, then the other models.

        The first model is what the active bundle answers as, so it has the bundle's name.
        """
        states = {one.name: one.state for one in self.bundles.states().bundles}
        sides = {name: (states[name], engine) for name, engine in self.bundles.loaded.items()}
        for label in list(self.served.engines)[1:]:
            sides.setdefault(label, ("model", self.served.engines[label]))
        return sides

    async def compare(self, comparison: Comparison) -> list[SearchResponse]:
        """Return the answers of both sides; ``RequestError`` names a side that is not here."""
        self.limits.check(comparison.request)
        engines = self.engines()
        for name in comparison.sides:
            if name not in engines:
                raise RequestError(
                    f"sides: there is no {name!r} here; this server can compare "
                    f"{', '.join(engines)}; load a bundle of serve.bundles first"
                )
        timeout = comparison.request.timeout_ms or self.timeout_ms
        request = comparison.request.model_copy(update={"model": None, "timeout_ms": timeout})
        asked = ServedModels(engines={name: engine for name, (_, engine) in engines.items()})
        waits = [asked.answer(name, request) for name in comparison.sides]
        answered = await asyncio.gather(*waits)
        return [
            SearchResponse.of(one.answer, name, one.wait_ms, request.explain)
            for name, one in zip(comparison.sides, answered, strict=True)
        ]


def comparison_routes(comparisons: Comparisons, access: Access) -> APIRouter:
    """Return the routes that compare two bundles, or models, on one query."""
    router = APIRouter(
        prefix="/v1/compare",
        dependencies=[Depends(access.needs("read"))],
        responses=LIMITED | UNREADY,
    )

    @router.get("", summary="What can be compared")
    async def sides() -> SideList:
        """Models of this server, and bundles of `serve.bundles` that are loaded."""
        return SideList(
            sides=[
                Side(
                    name=name,
                    state=state,
                    bundle=engine.info.hash,
                    items=engine.info.items,
                    codebook_sizes=list(engine.info.codebook_sizes),
                )
                for name, (state, engine) in comparisons.engines().items()
            ]
        )

    @router.post("", response_model=Compared, responses=WRONG, summary="One query, two sides")
    async def compare(comparison: Comparison) -> JSONResponse:
        """The answers of both. Nothing is kept of the search."""
        answers = await comparisons.compare(comparison)
        fields = comparison.request.fields
        return JSONResponse({"answers": [answer.body(fields) for answer in answers]})

    return router
