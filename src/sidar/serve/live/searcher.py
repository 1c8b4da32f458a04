"""A model whose catalogue changes: changes are written down, then searched, then answered."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sidar.serve.info import BundleInfo
from sidar.serve.live.encode import ItemEncoder
from sidar.serve.live.items import ItemState
from sidar.serve.live.snapshot import changed
from sidar.serve.live.store import ItemStore
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
        states, version = store.read(base.hash)
        self._states = {state.item_id: state for state in self._encoded(states)}
        # the one reference that a change replaces
        self._now = self._snapshot(version)

    @property
    def info(self) -> BundleInfo:
        """What the bundle says of itself, with the catalogue as it is now."""
        return self._now.info

    def answer(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer requests of one kind in one pass, over one catalogue."""
        return self._now.answer(requests)

    def catch_up(self) -> None:
        """Search what was written down since, by a searcher over another bundle."""
        with self._turn:
            states, version = self._store.read(self._base.hash)
            if version != self.info.version:
                self._states = {state.item_id: state for state in self._encoded(states)}
                self._now = self._snapshot(version)

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
        return self._change(self._encoder.encode(states))

    def patch(self, changes: Mapping[str, Json]) -> int:
        """Change fields of items that need no new vector; ``{item_id: {field: value}}``.

        ``RequestError`` names an item that is not there.
        """
        with self._turn:
            states = []
            for item_id, fields in changes.items():
                before = self._state(item_id)
                states.append(replace(before, fields=before.fields | fields))
            return self._write(states)

    def retire(self, item_ids: Sequence[str]) -> int:
        """Take items out of every answer; ``RequestError`` names one that is not there."""
        with self._turn:
            states = [replace(self._state(item_id), alive=False) for item_id in item_ids]
            return self._write(states)

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

    def _change(self, states: Sequence[ItemState]) -> int:
        with self._turn:
            return self._write(states)

    def _write(self, states: Sequence[ItemState]) -> int:
        """Write states down, then search them: a crash in between replays them."""
        last = {state.item_id: state for state in states}
        version = self._store.write(list(last.values()), self._base.hash)
        self._states |= last
        self._now = self._snapshot(version)
        return version

    def _snapshot(self, version: int) -> Retriever:
        if not self._states:
            return self._base
        return changed(self._base, list(self._states.values()), version)

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
