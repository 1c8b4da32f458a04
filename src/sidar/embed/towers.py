"""Two encoders as one embedder with two sides: the towers of SCI (arXiv 2512.13074), trained in
``train/encoder/towers.py``.

f_q reads what shoppers type, f_i what the catalogue says; both read both, so that the towers can be
aligned by swapping their inputs without an added parameter [seed]. A prefix in the text tells the
two kinds apart [reconstruction].

    view               text        encoder   used for
    queries            [Q] query   f_q       what a search sends
    items              [I] item    f_i       what an index stores: ``items.npy``
    items_as_queries   [I] item    f_q       cells, SIDs in the queries' space: ``items_query.npy``
    queries_as_items   [Q] query   f_i       losses and measurements

Every view is an :class:`~sidar.embed.Embedder`; as an embedder itself a :class:`TowerEmbedder` is
its ``items``. :func:`query_side` gives the side that queries take, of towers and of single encoders
alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from sidar.embed.encoder import Embedder, SentenceEmbedder, load_sentence_transformer
from sidar.precision import Precision
from sidar.types import PathLike

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch.nn import ModuleDict

FILE = "towers.json"
FORMAT = 1
QUERY_PREFIX, ITEM_PREFIX = "[Q] ", "[I] "
#: How an item is represented: f_i(I), f_q(I), or both side by side.
View = Literal["item", "query", "both"]


class TowerView:
    """One encoder on one kind of text: ``prefix`` is put before every text."""

    def __init__(self, encoder: SentenceEmbedder, prefix: str) -> None:
        self.encoder, self.prefix = encoder, prefix
        self.dim = encoder.dim
        self.bf16 = encoder.bf16
        self.fingerprint = hashlib.sha256(f"{encoder.fingerprint} {prefix!r}".encode()).hexdigest()[
            :32
        ]

    def texts(self, texts: Sequence[str]) -> list[str]:
        """What the encoder reads."""
        return [self.prefix + text for text in texts]

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        return self.encoder.encode(self.texts(texts), batch_size)


class TowerEmbedder:
    """Query encoder and item encoder of one width; ``model`` holds the weights of both."""

    def __init__(
        self,
        query: SentenceTransformer,
        item: SentenceTransformer,
        max_tokens: int = 128,
        precision: Precision = "auto",
        prefixes: tuple[str, str] = (QUERY_PREFIX, ITEM_PREFIX),
    ) -> None:
        from torch.nn import ModuleDict

        if query is item:
            raise ValueError(
                "two towers need two encoders; one encoder for both sides is `dense.towers: tied`"
            )
        self._encoders = {"query": query, "item": item}
        self.model: ModuleDict = ModuleDict(self._encoders)
        f_q, f_i = (SentenceEmbedder(model, max_tokens, precision) for model in (query, item))
        if f_q.dim != f_i.dim:
            raise ValueError(
                f"the query tower gives {f_q.dim} dimensions and the item tower {f_i.dim}; want "
                "one width"
            )
        self.prefixes = prefixes
        self.queries, self.items = TowerView(f_q, prefixes[0]), TowerView(f_i, prefixes[1])
        self.items_as_queries, self.queries_as_items = (
            TowerView(f_q, prefixes[1]),
            TowerView(f_i, prefixes[0]),
        )
        self.dim, self.bf16 = f_i.dim, f_i.bf16
        both = f"{self.queries.fingerprint} {self.items.fingerprint}"
        self.fingerprint = hashlib.sha256(both.encode()).hexdigest()[:32]

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """f_i of item texts; queries go to ``queries.encode``."""
        return self.items.encode(texts, batch_size)

    def save(self, folder: PathLike) -> None:
        """``query/`` and ``item/`` (sentence-transformers folders) and ``towers.json``, which is
        written last.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, model in self._encoders.items():
            model.save(str(folder / name), create_model_card=False)
        about = {
            "format": FORMAT,
            "query_prefix": self.prefixes[0],
            "item_prefix": self.prefixes[1],
        }
        (folder / FILE).write_text(json.dumps(about, indent=1) + "\n")


class Doubled:
    """[x; x] / √2 of an embedder's x: against [f_q(I); f_i(I)] / √2 it scores the mean of both
    views.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.dim, self.bf16 = 2 * embedder.dim, embedder.bf16
        self.fingerprint = f"doubled-{embedder.fingerprint}"

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        vectors = self._embedder.encode(texts, batch_size)
        return side_by_side(vectors, vectors)


def side_by_side(query_view: np.ndarray, item_view: np.ndarray) -> np.ndarray:
    """(n, 2D) unit rows [query view; item view] / √2 of unit rows (n, D)."""
    return np.concatenate([query_view, item_view], axis=1) * np.float32(0.5**0.5)


def has_towers(model: str) -> bool:
    """Whether ``embed.model`` names a folder with two towers."""
    return (Path(model) / FILE).is_file()


def load_towers(
    folder: PathLike, max_tokens: int, precision: Precision, device: str
) -> TowerEmbedder:
    """What :meth:`TowerEmbedder.save` left; ``ValueError`` names a folder that is damaged or of
    another format.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / FILE).read_text())
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}, Sidar reads {FORMAT}")
        prefixes = (str(about["query_prefix"]), str(about["item_prefix"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / FILE} does not describe two towers ({error!r}); make it again with `sidar "
            "tune-dense`"
        ) from error
    query, item = (
        load_sentence_transformer(str(folder / name), device) for name in ("query", "item")
    )
    return TowerEmbedder(query, item, max_tokens, precision, prefixes)


def query_side(embedder: Embedder, view: View = "item") -> Embedder:
    """What encodes queries for search among items of ``view``: f_q, or the encoder itself where
    there is only one.

    f_q(Q) meets f_i(I) in the score that the towers are trained for, f_q(I) in the space of one
    encoder, and for ``both`` the mean of the two. Raises ``ValueError`` where the view needs two
    towers.
    """
    if view not in get_args(View):
        raise ValueError(f"view {view!r} is not one of {list(get_args(View))}")
    if isinstance(embedder, TowerEmbedder):
        return Doubled(embedder.queries) if view == "both" else embedder.queries
    if view != "item":
        raise ValueError(f"sid.view {view!r} needs an encoder with two towers; {TWO_TOWERS}")
    return embedder


TWO_TOWERS = (
    "train them with `sidar tune-dense dense.towers=two` and name their folder "
    "(runs/<name>/dense/model) in embed.model, or set sid.view to item"
)
