"""The bundles of a server: loaded beside the one that answers, exchanged for it, taken back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import anyio
import anyio.to_thread
from fastapi import APIRouter, Depends, Path

from sidar.serve.database import StoreError
from sidar.serve.engine import Engine
from sidar.serve.engine.copies import load_copies
from sidar.serve.http.access import Access
from sidar.serve.http.active import ActiveStore
from sidar.serve.http.changes import BundleList, BundleState
from sidar.serve.http.models import ServedModels
from sidar.serve.http.responses import LIMITED, UNREADY, WRONG
from sidar.serve.info import NO_CHANGES, LiveModel, Searcher
from sidar.serve.request import RequestError

_LOG = logging.getLogger("uvicorn.error")
#: Loads the copies of the bundle in a folder.
OpenCopies = Callable[[str], Sequence[Searcher]]
BundleName = Annotated[str, Path(max_length=256, description="A name of serve.bundles.")]


@dataclass
class Bundles:
    """Names of ``folders``, and the engines of those that are loaded.

    The first label of ``served`` is the one that is exchanged; what it answered with at the start
    has the label's name.  One change at a time; the answers go on meanwhile.  ``kept``: where the
    name of the active one stands, so that a server that is started again goes on with it.
    """

    served: ServedModels
    folders: Mapping[str, str]
    open_copies: OpenCopies | None = None
    kept: ActiveStore | None = None
    loaded: dict[str, Engine] = field(default_factory=dict)
    active: str = ""
    previous: str | None = None
    # hash of the bundle that the server was started with
    started_with: str = ""
    turn: threading.Lock = field(default_factory=threading.Lock)
    # held by who changes items, and by an exchange, so that no change falls between two bundles
    writes: threading.Lock = field(default_factory=threading.Lock)

    def go_on(self) -> None:
        """Answer from the bundle that was activated last; one that cannot be loaded is passed
        over, and the log says why.
        """
        with self.turn:
            self._begin()
            name = None
            if self.kept is not None:
                name = self.kept.read(self.served.first, self.started_with)
            if name in (None, self.active):
                return
            assert name is not None
            try:
                self._load(name)
                self._exchange(name)
            except (RequestError, StoreError) as error:
                _LOG.error("the bundle that was active before does not answer: %s", error)

    def load(self, name: str) -> None:
        """Load a bundle beside the active one; ``RequestError`` where it cannot be served."""
        with self.turn:
            self._load(name)

    def activate(self, name: str) -> None:
        """Let a bundle answer from the next request on, loading it where it is not loaded."""
        with self.turn:
            self._begin()
            if name == self.active:
                return
            if name not in self.loaded:
                self._load(name)
            self._exchange(name)

    def roll_back(self) -> None:
        """Let the bundle answer again that did before the last exchange."""
        with self.turn:
            self._begin()
            if self.previous is None:
                raise RequestError("nothing was exchanged, so nothing can be taken back")
            self._exchange(self.previous)

    def states(self) -> BundleList:
        """Return all bundles with their states."""
        self._begin()
        names = dict.fromkeys([*self.folders, *self.loaded])
        return BundleList(
            active=self.active,
            previous=self.previous,
            bundles=[self._state(name) for name in names],
        )

    def change_items(self, change: Callable[[LiveModel], int]) -> int:
        """Change items of the active bundle's catalogue and return its version.

        ``RequestError`` where the server's models do not take changes.
        """
        with self.writes:
            engine = self.served.engines[self.served.label_of(None)]
            copy, *others = engine.copies
            if not isinstance(copy, LiveModel):
                raise RequestError(NO_CHANGES)
            version = change(copy)
            # what is acknowledged is in every process
            for other in others:
                if isinstance(other, LiveModel):
                    other.catch_up()
        self.follow()
        return version

    def follow(self) -> None:
        """Let every model search what another process or replica has written down since.

        Where one cannot, it answers as before, and the log says why.
        """
        for label, engine in self.served.engines.items():
            for copy in engine.copies:
                if isinstance(copy, LiveModel):
                    try:
                        copy.catch_up()
                    except Exception:
                        _LOG.exception("the model %r cannot follow the changes of items", label)

    def close(self) -> None:
        """Answer what is accepted and end all engines."""
        self.served.close()
        for engine in self.loaded.values():
            engine.close()
        if self.kept is not None:
            self.kept.close()

    def _begin(self) -> None:
        """Name what answers first; ``NotReadyError`` before there is anything."""
        label = self.served.first
        if not self.active:
            self.active = label
            self.loaded[label] = self.served.engines[label]
            self.started_with = self.loaded[label].info.hash

    def _load(self, name: str) -> None:
        self._begin()
        if name not in self.folders:
            known = ", ".join(self.folders) or "none"
            raise RequestError(f"{name!r} is no bundle of serve.bundles, which has {known}")
        if name in (self.active, self.previous):
            raise RequestError(f"{name!r} is in use; give a new version another name")
        try:
            copies = (self.open_copies or _verified)(self.folders[name])
        except (ValueError, OSError) as error:
            raise RequestError(f"{name!r} cannot be served: {error}") from error
        except Exception as error:
            # a folder may hold anything; whatever is wrong with it is no fault of this server
            _LOG.exception("bundle %r cannot be served", name)
            words = f"{name!r} cannot be served: {type(error).__name__}: {error}"
            raise RequestError(words) from error
        before = self.loaded.get(name)
        self.loaded[name] = self.served.options.engine(copies)
        if before is not None:
            before.close()

    def _exchange(self, name: str) -> None:
        """Replace the active engine; the one before last ends, when its last answer is given."""
        label = self.served.first
        with self.writes:
            for copy in self.loaded[name].copies:
                if isinstance(copy, LiveModel):
                    copy.catch_up()
            if self.kept is not None:
                # before it answers: what nobody was told of may be lost, not the other way round
                self.kept.write(label, self.started_with, name)
            self.served.replace(label, self.loaded[name])
        gone, self.previous, self.active = self.previous, self.active, name
        if gone not in (None, self.active, self.previous):
            assert gone is not None
            engine = self.loaded.pop(gone)
            threading.Thread(target=engine.close, daemon=True).start()

    def _state(self, name: str) -> BundleState:
        engine = self.loaded.get(name)
        state = "known" if engine is None else "loaded"
        if name in (self.active, self.previous):
            state = "active" if name == self.active else "previous"
        info = None if engine is None else engine.info
        return BundleState(
            name=name,
            state=state,
            bundle=None if info is None else info.hash,
            items=None if info is None else info.items,
        )


def _verified(folder: str) -> Sequence[Searcher]:
    return load_copies(folder, verify=True)


def bundle_routes(bundles: Bundles, access: Access) -> APIRouter:
    """Return the routes that list and exchange bundles; they need a key of the role admin."""
    router = APIRouter(
        prefix="/v1/bundles",
        dependencies=[Depends(access.needs("admin"))],
        responses=LIMITED | UNREADY,
    )

    async def change(act: Callable[[], None]) -> BundleList:
        await anyio.to_thread.run_sync(act)
        return bundles.states()

    @router.get("", summary="Bundles that this server may answer with")
    async def states() -> BundleList:
        return bundles.states()

    @router.post("/rollback", responses=WRONG, summary="Take the last exchange back")
    async def rollback() -> BundleList:
        """The bundle before answers from the next request on."""
        return await change(bundles.roll_back)

    @router.post("/{name}/load", responses=WRONG, summary="Load a bundle beside the active one")
    async def load(name: BundleName) -> BundleList:
        """Only bundles of `serve.bundles` can be loaded. One that is damaged is refused, and
        nothing changes.
        """
        return await change(lambda: bundles.load(name))

    @router.post("/{name}/activate", responses=WRONG, summary="Answer with a bundle")
    async def activate(name: BundleName) -> BundleList:
        """From the next request on. Each answer comes from one bundle as a whole and names it."""
        return await change(lambda: bundles.activate(name))

    return router
