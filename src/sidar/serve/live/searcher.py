"""A model whose catalogue changes: changes are written down, then searched, then answered.

Several processes may change one store. Each follows it: before it writes, it searches what others
have written, so that all have the same catalogue at the same version, row by row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sidar.serve.info import BundleInfo
from sidar.serve.live.encode import ItemEncoder
from sidar.serve.live.items import ItemState
from sidar.serve.live.snapshot import changed
from sidar.serve.live.store import BehindError, ItemStore
from sidar.serve.request import RequestError, SearchRequest
from sidar.serve.results import SearchAnswer
from sidar.serve.retriever import Retriever
from sidar.types import CATALOGUE_SCHEMA, Json

#: Fields of an item that is put; those that are not given are null.
FIELDS = tuple(name for name in CATALOGUE_SCHEMA.names if name not in ("item_id", "alive"))


class LiveSearcher:
    """A :class:`~sidar.serve.info.Searcher` over a bundle and the changes in ``store``.

    ``encoder`` None = items can be patched and retired, not put.  Changes come one at a time;
    searches go on meanwhile over the catalogue that they began with.
    """

    def __init__(
        self, base: Retriever, store: ItemStore, encoder: ItemEncoder | None = None
    ) -> None:
        """Replay the store; ``ValueError`` where a state must be encoded and cannot be."""
        self._base, self._store, self._encoder = base, store, encoder
        self._turn = threading.Lock()
        self._states: dict[str, ItemState] = {}
        # the one reference that a change replaces
        self._now = base
        self.catch_up()

    @property
    def info(self) -> BundleInfo:
        """What the bundle says of itself, with the catalogue as it is now."""
        return self._now.info

    @property
    def now(self) -> Retriever:
        """The catalogue as it is now; it stays as it is."""
        return self._now

    def answer(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer requests of one kind in one pass, over one catalogue."""
        return self._now.answer(requests)

    def catch_up(self) -> int:
        """Search what others have written down since, and return the catalogue's version."""
        if self._store.version() != self._version:
            with self._turn:
                self._follow()
        return self._version

    def put(self, items: Sequence[Mapping[str, Any]]) -> int:
        """Add items, or replace them whole, and return the catalogue's version with them.

        ``RequestError`` where the bundle cannot encode new items.
        """
        if self._encoder is None:
            raise RequestError(
                "this bundle holds no tokenizer, so items cannot be added while it serves"
            )
        states = [
            ItemState(item["item_id"], {"item_id": item["item_id"], **_fields(item)})
            for item in items
        ]
        # outside of the turn: it takes the longest, and nothing of the catalogue goes into it
        encoded = self._encoder.encode(states)
        return self._change(lambda: encoded)

    def patch(self, changes: Mapping[str, Json]) -> int:
        """Change fields of items that need no new vector; ``{item_id: {field: value}}``.

        ``RequestError`` names an item that is not there.
        """

        def states() -> list[ItemState]:
            before = {item_id: self._state(item_id) for item_id in changes}
            return [
                replace(before[item_id], fields=before[item_id].fields | fields)
                for item_id, fields in changes.items()
            ]

        return self._change(states)

    def retire(self, item_ids: Sequence[str]) -> int:
        """Take items out of every answer; ``RequestError`` names one that is not there."""
        return self._change(
            lambda: [replace(self._state(item_id), alive=False) for item_id in item_ids]
        )

    @property
    def _version(self) -> int:
        return self._now.parts.version

    def _state(self, item_id: str) -> ItemState:
        """The state of a live item, changed before or the bundle's."""
        state = self._states.get(item_id)
        if state is None:
            row = int(self._base.catalogue.rows([item_id])[0])
            card = None if row < 0 else self._base.catalogue.item(row)
            if card is not None:
                state = ItemState(item_id, card, alive=bool(card.pop("alive")))
        if state is None or not state.alive:
            raise RequestError(f"item_id: the catalogue has no {item_id!r}")
        return state

    def _change(self, make: Callable[[], Sequence[ItemState]]) -> int:
        """Write down the states of ``make``, then search them: a crash in between replays them.

        They are made of the last states there are, anew where another process was faster.
        """
        with self._turn:
            while True:
                last = {state.item_id: state for state in make()}
                try:
                    version = self._store.write(list(last.values()), self._base.hash, self._version)
                except BehindError:
                    self._follow()
                    continue
                self._search(list(last.values()), version)
                return version

    def _follow(self) -> None:
        """Search what the store has beyond the version that is searched."""
        states, version = self._store.read(self._base.hash, self._version)
        self._search(self._encoded(states), version)

    def _search(self, states: Sequence[ItemState], version: int) -> None:
        self._states |= {state.item_id: state for state in states}
        if states or version != self._version:
            self._now = changed(self._now, states, version)

    def _encoded(self, states: Sequence[ItemState]) -> list[ItemState]:
        """The states, those encoded anew that another bundle had encoded."""
        missing = [state for state in states if state.encoded and state.codes is None]
        if not missing:
            return list(states)
        if self._encoder is None:
            raise ValueError(
                f"{len(missing)} live items were encoded for another bundle, and this one holds no "
                "tokenizer to encode them again; take another serve.store"
            )
        made = self._encoder.encode(missing)
        by_id = {state.item_id: state for state in made}
        return [by_id.get(state.item_id, state) for state in states]


def _fields(item: Mapping[str, Any]) -> Json:
    return {name: item.get(name) for name in FIELDS}
