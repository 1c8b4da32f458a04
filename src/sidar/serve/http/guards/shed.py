"""A search that would miss its deadline is refused before anything else is done for it.

In a flood nearly every request is one of these, and what each costs is taken from those that are
answered: routing and its checks take longer than reading the body and asking the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sidar.config.serve import ServeConfig
from sidar.serve.engine import OverloadedError
from sidar.serve.http.errors import later
from sidar.serve.http.models import NotReadyError, ServedModels
from sidar.serve.request import RequestError, SearchRequest

PATH = "/v1/search"


@dataclass(frozen=True)
class Shed:
    """ASGI middleware that answers 503 with ``Retry-After`` where requests wait and one more would
    be refused; :class:`~sidar.serve.http.guards.bodies.BodyLimit` stands around it and has read the
    body.

    Whatever else is wrong with a request, its route says.
    """

    app: ASGIApp
    served: ServedModels
    config: ServeConfig

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or not self._is_busy:
            await self.app(scope, receive, send)
            return
        message = await receive()
        refused = self._refusal(message.get("body", b""))
        if refused is None:
            await self.app(scope, _Again(message, receive), send)
            return
        # metrics go by route
        scope["route"] = SimpleNamespace(path=PATH)
        await later(str(refused), refused.retry_after)(scope, receive, send)

    @property
    def _is_busy(self) -> bool:
        # a user's bucket may choose another model
        by_bucket = bool(self.config.experiment.models)
        return not by_bucket and any(engine.waiting for engine in self.served.engines.values())

    def _refusal(self, body: bytes) -> OverloadedError | None:
        try:
            request = SearchRequest.model_validate_json(body)
            engine = self.served.engines.get(self.served.label_of(request.model))
            limit = request.timeout_ms or self.config.timeout_ms
            if engine is not None:
                engine.check(request.model_copy(update={"model": None, "timeout_ms": limit}))
        except OverloadedError as error:
            return error
        except (ValidationError, RequestError, NotReadyError):
            return None
        return None


@dataclass
class _Again:
    """Hands out a message that was received already, then whatever else the client sends."""

    message: Message | None
    receive: Receive

    async def __call__(self) -> Message:
        if self.message is None:
            return await self.receive()
        message, self.message = self.message, None
        return message
