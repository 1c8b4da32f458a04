"""The routes that search, and that tell what can be searched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated
from uuid import uuid4

import anyio
import anyio.to_thread
from fastapi import APIRouter, Body, Depends, Path
from fastapi.responses import JSONResponse, Response

from sidar.config.serve import ServeConfig
from sidar.serve.engine.queue import Answered
from sidar.serve.events import EventLog, Shown
from sidar.serve.events.buckets import bucket_of
from sidar.serve.events.log import now_us
from sidar.serve.http.access import Access
from sidar.serve.http.models import ServedModels
from sidar.serve.http.observe.logs import note_answer
from sidar.serve.http.observe.metrics import Metrics
from sidar.serve.http.observe.tracing import Spans, now_ns
from sidar.serve.http.responses import LIMITED, UNREADY, WRONG
from sidar.serve.http.schemas import BatchResponse, Info, ModelInfo, SearchResponse, WhyResponse
from sidar.serve.request import Limits, RequestError, SearchRequest
from sidar.serve.why import WhyRequest


@dataclass(frozen=True)
class Searches:
    """What a search goes through: limits, the model's queue, counters."""

    served: ServedModels
    limits: Limits
    config: ServeConfig
    metrics: Metrics
    log: EventLog | None = None
    spans: Spans | None = None

    async def search(self, request: SearchRequest) -> SearchResponse:
        """Answer one request."""
        self.limits.check(request)
        asked = await self._prepared(request)
        return self._response(await self._answered(asked), asked)

    async def why(self, request: SearchRequest, item_id: str) -> WhyResponse:
        """Tell the place of an item in the answer to a request."""
        self.limits.check(request)
        asked = await self._prepared(request)
        whole = WhyRequest(**dict(asked.request) | {"timeout_ms": None, "item_id": item_id})
        answered = await self._answered(replace(asked, request=whole))
        return WhyResponse.of(answered.answer, asked.label)

    async def batch(self, requests: Sequence[SearchRequest]) -> list[SearchResponse]:
        """Answer several requests at once; ``RequestError`` names the first that is wrong."""
        most = self.config.limits.batch
        if len(requests) > most:
            raise RequestError(f"{len(requests)} searches are above this server's limit of {most}")
        prepared = []
        for place, request in enumerate(requests):
            try:
                self.limits.check(request)
                prepared.append(await self._prepared(request))
                self.served.engines[prepared[-1].label].info.check(prepared[-1].request)
            except RequestError as error:
                raise RequestError(f"{place}: {error}") from None
        answers = await asyncio.gather(*map(self._answered, prepared))
        return [
            self._response(answered, asked)
            for answered, asked in zip(answers, prepared, strict=True)
        ]

    async def _answered(self, asked: _Prepared) -> Answered:
        began = now_ns()
        answered = await self.served.answer(asked.label, asked.request)
        if self.spans is not None:
            self.spans.answered(answered, asked.label, began, asked.request.query, asked.user)
        return answered

    async def _prepared(self, request: SearchRequest) -> _Prepared:
        """Complete a request by the user's bucket and history, and this server's deadline."""
        experiment = self.config.experiment
        user = "" if self.log is None else self.log.user(request.user_id)
        bucket = bucket_of(user or request.user_id or "", experiment)
        label = self.served.label_of(request.model or experiment.models.get(bucket))
        changes: dict[str, object] = {
            # the label is this server's, which need not be the one in the bundle
            "model": None,
            "timeout_ms": request.timeout_ms or self.config.timeout_ms,
        }
        if self.log is not None and request.user_id and not request.history:
            most = self.config.history
            changes["history"] = await anyio.to_thread.run_sync(
                self.log.history, request.user_id, most
            )
        return _Prepared(request.model_copy(update=changes), label, user, bucket)

    def _response(self, answered: Answered, asked: _Prepared) -> SearchResponse:
        if answered.answer.reason is not None:
            self.metrics.short.labels(answered.answer.reason).inc()
        explain = asked.request.explain
        response = SearchResponse.of(answered.answer, asked.label, answered.wait_ms, explain)
        response.request_id, response.bucket = uuid4().hex, asked.bucket
        note_answer(asked.request, response)
        if self.log is not None:
            self.log.show(_shown(response, asked))
        return response


@dataclass(frozen=True)
class _Prepared:
    """A request as it is searched, the label of its model, and the user's pseudonym and bucket."""

    request: SearchRequest
    label: str
    user: str
    bucket: str


def _shown(response: SearchResponse, asked: _Prepared) -> list[Shown]:
    """Return the impressions of an answer."""
    ts = now_us()
    return [
        Shown(
            request_id=response.request_id,
            ts=ts,
            user=asked.user,
            session_id="",
            query=response.query,
            bucket=response.bucket,
            item_id=hit.item_id,
            position=hit.rank,
            channels=" ".join(hit.channels),
        )
        for hit in response.hits
    ]


def search_routes(searches: Searches, access: Access) -> APIRouter:
    """Return the routes that search, and that tell what can be searched."""
    router = APIRouter(dependencies=[Depends(access.needs("read"))], responses=LIMITED | UNREADY)

    @router.post(
        "/v1/search",
        response_model=SearchResponse,
        responses=WRONG,
        summary="Search",
    )
    async def search(request: SearchRequest) -> Response:
        """The `k` best items for a query, with the Semantic ID and the log-probability of each
        level. Fewer than `k` are no error: `reason` says why.
        """
        response = await searches.search(request)
        return response.http(request.fields)

    @router.post(
        "/v1/search/batch",
        response_model=BatchResponse,
        responses=WRONG,
        summary="Several searches at once",
    )
    async def batch(requests: list[SearchRequest] = Body(embed=True)) -> JSONResponse:
        """Each search gets the answer that it would get alone; those that can be share a pass."""
        answers = await searches.batch(requests)
        bodies = [
            answer.body(request.fields) for answer, request in zip(answers, requests, strict=True)
        ]
        return JSONResponse({"answers": bodies})

    @router.post(
        "/v1/explain/{item_id}",
        responses=WRONG,
        summary="Why an item is, or is not, in an answer",
    )
    async def explain(
        item_id: Annotated[str, Path(max_length=256)], request: SearchRequest
    ) -> WhyResponse:
        """The level at which its Semantic ID fell out of the beam, against whom and by how much;
        or its place behind the last item that was returned.
        """
        return await searches.why(request, item_id)

    @router.get("/v1/info", summary="Models and example queries")
    async def info() -> Info:
        """Which models answer here, and queries to try."""
        served = searches.served
        first = served.engines[served.label_of(None)].info
        models = [ModelInfo.of(label, engine.info) for label, engine in served.engines.items()]
        return Info(models=models, examples=list(first.examples))

    return router
