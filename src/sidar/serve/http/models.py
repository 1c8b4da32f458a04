"""The models behind a server: loaded while it is already up, each with its turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio
import anyio.to_thread

from sidar.serve.request import RequestError, SearchRequest
from sidar.serve.results import SearchAnswer


class Searcher(Protocol):
    """What the server asks of a model; :class:`sidar.Retriever` is one."""

    label: str
    hash: str
    beam: int
    exact: bool
    examples: tuple[str, ...]
    index: Any  # PrefixIndex: len() and codebook_sizes

    def __len__(self) -> int: ...

    def check(self, request: SearchRequest) -> None:
        """Raise :class:`RequestError` where the model cannot answer as ``request`` asks."""
        ...

    def search(self, request: SearchRequest, /) -> SearchAnswer:
        """Answer one request; calls of one model come one at a time."""
        ...


Models = Mapping[str, Searcher]


class NotReadyError(Exception):
    """Models are not there (yet): the service answers 503."""


@dataclass
class ServedModels:
    """The models by label, once they are loaded, each with its turn; and why not, if loading
    failed.
    """

    loader: Callable[[], Models] | None = None
    models: dict[str, Searcher] = field(default_factory=dict)
    turns: dict[str, anyio.CapacityLimiter] = field(default_factory=dict)
    failure: str = ""

    @classmethod
    def of(cls, models: Searcher | Models | Callable[[], Models]) -> ServedModels:
        """Hold one retriever, several by label, or the function that will load them."""
        if callable(models) and not isinstance(models, Mapping):
            return cls(models)
        served = cls()
        served.take(models if isinstance(models, Mapping) else {models.label: models})
        return served

    def take(self, models: Models) -> None:
        """Serve ``models`` from now on; ``ValueError`` where there are none."""
        if not models:
            raise ValueError("no model to serve; name at least one bundle")
        self.turns = {label: anyio.CapacityLimiter(1) for label in models}
        self.models = dict(models)

    async def load(self) -> None:
        """Load what is not there yet; a failure is kept for the readiness probe to tell."""
        if self.models or self.loader is None:
            return
        try:
            self.take(await anyio.to_thread.run_sync(self.loader, abandon_on_cancel=True))
        except Exception as error:  # whatever it is, the readiness probe must be able to say it
            self.failure = f"{type(error).__name__}: {error}"

    def label_of(self, asked: str | None) -> str:
        """Return the label of the model that answers; None = the first."""
        if self.failure:
            raise NotReadyError(f"loading the models failed: {self.failure}")
        if not self.models:
            raise NotReadyError("the models are still loading")
        if asked is None:
            return next(iter(self.models))
        if asked not in self.models:
            raise RequestError(
                f"model: there is no {asked!r} here; this server has {', '.join(self.models)}"
            )
        return asked
