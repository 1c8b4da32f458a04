"""The models behind a server: loaded while it is already up, exchanged while it answers."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.to_thread

from sidar.serve.engine import ClosedError, Engine, Observer
from sidar.serve.engine.queue import Answered
from sidar.serve.info import Searcher
from sidar.serve.request import RequestError, SearchRequest

LOGGER = logging.getLogger("sidar.serve")
#: By label: a model, or the copies of one.
Models = Mapping[str, Searcher | Sequence[Searcher]]


class NotReadyError(Exception):
    """Models are not there (yet): the service answers 503."""


@dataclass(frozen=True)
class EngineOptions:
    """How models are queued for; see :class:`sidar.serve.engine.Engine`."""

    queue: int = 256
    batch: int = 32
    observer: Observer | None = None

    def engine(self, model: Searcher | Sequence[Searcher]) -> Engine:
        """Return an engine over one model or its copies."""
        copies = model if isinstance(model, Sequence) else [model]
        return Engine(copies, queue=self.queue, batch=self.batch, observer=self.observer)


@dataclass
class ServedModels:
    """The engines by label, once their models are loaded; and why not, if loading failed."""

    loader: Callable[[], Models] | None = None
    options: EngineOptions = EngineOptions()
    engines: dict[str, Engine] = field(default_factory=dict)
    failure: str = ""
    # the models are there, and another bundle is about to answer
    holding: bool = False

    @classmethod
    def of(
        cls,
        models: Searcher | Models | Callable[[], Models],
        options: EngineOptions | None = None,
    ) -> ServedModels:
        """Hold one retriever, several by label, or the function that will load them."""
        options = options or EngineOptions()
        if callable(models) and not isinstance(models, Mapping):
            return cls(models, options)
        if isinstance(models, Mapping):
            by_label = models
        else:
            by_label = {models.info.defaults.label: models}
        served = cls(options=options)
        served.take(by_label)
        return served

    def take(self, models: Models) -> None:
        """Serve ``models`` from now on; ``ValueError`` where there are none."""
        if not models:
            raise ValueError("no model to serve; name at least one bundle")
        self.engines = {label: self.options.engine(model) for label, model in models.items()}

    async def load(self, then: Callable[[], None] = lambda: None) -> None:
        """Load what is not there yet, do what is to be done ``then``, and be ready; a failure is
        kept for the readiness probe to tell.
        """
        try:
            if not self.engines and self.loader is not None:
                self.holding = True
                self.take(await anyio.to_thread.run_sync(self.loader, abandon_on_cancel=True))
            await anyio.to_thread.run_sync(then, abandon_on_cancel=True)
            self.holding = False
        except Exception as error:  # whatever it is, the readiness probe must be able to say it
            self.failure = f"{type(error).__name__}: {error}"
            # an operator who starts a server sees its stderr first
            LOGGER.error("loading the models failed: %s", self.failure)

    @property
    def first(self) -> str:
        """The label of the first model; ``NotReadyError`` before there is one."""
        if self.failure:
            raise NotReadyError(f"loading the models failed: {self.failure}")
        if not self.engines:
            raise NotReadyError("the models are still loading")
        return next(iter(self.engines))

    def label_of(self, asked: str | None) -> str:
        """Return the label of the model that answers; None = the first."""
        first = self.first
        if self.holding:
            raise NotReadyError("the models are still loading")
        if asked is None:
            return first
        if asked not in self.engines:
            raise RequestError(
                f"model: there is no {asked!r} here; this server has {', '.join(self.engines)}"
            )
        return asked

    async def answer(self, label: str, request: SearchRequest) -> Answered:
        """Return the answer of the model ``label``; at the deadline at the latest.

        A model that is exchanged meanwhile answers what it has accepted.
        """
        engine = self.engines[label]
        try:
            future = engine.submit(request)
        except ClosedError:
            # exchanged between the two lines above
            if self.engines[label] is engine:
                raise
            engine = self.engines[label]
            future = engine.submit(request)
        limit = None if request.timeout_ms is None else request.timeout_ms / 1000
        try:
            # cancels a request that still waits, so that it costs no pass
            return await asyncio.wait_for(asyncio.wrap_future(future), limit)
        except TimeoutError:
            assert limit is not None
            return Answered(engine.info.too_late(request), 1000 * limit)

    def replace(self, label: str, engine: Engine) -> Engine:
        """Let ``engine`` answer under ``label`` from now on; return the one that did."""
        before = self.engines[label]
        self.engines = {**self.engines, label: engine}
        return before

    def close(self) -> None:
        """Answer what is accepted and end; requests that come later are refused."""
        threads = [threading.Thread(target=engine.close) for engine in self.engines.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
