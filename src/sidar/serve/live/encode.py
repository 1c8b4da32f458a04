"""New items under the frozen encoder and codebooks of a bundle: their vectors and their SIDs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from sidar.config import EmbedConfig
from sidar.embed import Embedder
from sidar.embed.items import item_texts, item_views
from sidar.embed.towers import side_by_side
from sidar.serve.bundle.encoder import FACTS, open_embedder, view_of
from sidar.serve.live.items import ItemState
from sidar.sid.tokenizer import FILE as TOKENIZER
from sidar.sid.tokenizer import Tokenizer, load_tokenizer
from sidar.types import CATALOGUE_SCHEMA, PathLike, SidInputs


@dataclass(frozen=True)
class ItemEncoder:
    """``views`` encode items, ``item`` and of two towers ``query``; ``view`` is the one that SIDs
    are made of. ``fields`` of an item are read.
    """

    views: dict[str, Embedder]
    view: str
    fields: tuple[str, ...]
    tokenizer: Tokenizer

    @staticmethod
    def fits(bundle: PathLike) -> bool:
        """Return whether a bundle holds the tokenizer that new items need."""
        return (Path(bundle) / "sid" / TOKENIZER).is_file()

    @classmethod
    def open(cls, bundle: PathLike, embedder: Embedder | None = None) -> ItemEncoder:
        """Open encoder and tokenizer of a bundle; ``ValueError`` where it holds no tokenizer.

        ``embedder``: the bundle's encoder where it is loaded already.
        """
        folder = Path(bundle)
        if not cls.fits(folder):
            raise ValueError(
                f"{folder} holds no tokenizer, so items cannot be added while it serves; make it "
                "with `sidar run`"
            )
        about = json.loads((folder / "embed" / FACTS).read_text())
        return cls(
            views=item_views(embedder or open_embedder(folder)),
            view=view_of(folder),
            fields=tuple(about.get("fields", EmbedConfig().fields)),
            tokenizer=load_tokenizer(folder / "sid"),
        )

    def encode(self, states: Sequence[ItemState]) -> list[ItemState]:
        """Return ``states`` with SID and vector."""
        if not states:
            return []
        rows = [state.fields | {"alive": True} for state in states]
        texts = item_texts(pa.Table.from_pylist(rows, schema=CATALOGUE_SCHEMA), self.fields)
        vectors = {name: view.encode(texts) for name, view in self.views.items()}
        inputs = SidInputs(
            vectors=self._of_sids(vectors),
            categories=[state.fields.get("category") or () for state in states],
            counts=np.zeros(len(states), np.float32),
            item_ids=[state.item_id for state in states],
        )
        sids = self.tokenizer.encode(inputs)
        return [
            replace(state, encoded=True, codes=sids.tuple_of(place), vector=vectors["item"][place])
            for place, state in enumerate(states)
        ]

    def _of_sids(self, vectors: dict[str, np.ndarray]) -> np.ndarray:
        """(n, D) the view of the items that their SIDs are made of."""
        if self.view == "both":
            return side_by_side(vectors["query"], vectors["item"])
        return vectors[self.view]
