"""Sentence vectors of prompts for models that read them (lm/prior/geometry.py).

Each distinct query is encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from sidar.config import Config
from sidar.data.dataset import Dataset
from sidar.embed import Embedder, load_embedder, load_items, query_side
from sidar.embed.cache import VectorCache, text_keys
from sidar.index import PrefixIndex
from sidar.lm.model import SidLM

#: Logged queries whose vectors are kept; rarer ones are encoded when they are drawn.
MOST_KNOWN = 200_000
#: Queries are short: at 128 a call they cost .7 of what they cost at 32 (docs/findings.md).
AT_ONCE = 128


class Reader:
    """Query texts → (n, D) unit vectors.

    Those of ``known`` texts come from ``cache``, which is filled on the way.
    """

    def __init__(
        self,
        embedder: Embedder,
        cache: VectorCache | None,
        known: Sequence[str] = (),
        batch_size: int = AT_ONCE,
    ) -> None:
        self._embedder, self._batch = embedder, batch_size
        texts = list(dict.fromkeys(known))
        vectors = np.zeros((len(texts), embedder.dim), np.float32)
        if cache is None:
            vectors[:] = embedder.encode(texts, batch_size)
        elif texts:
            keys = text_keys(texts)
            new = np.flatnonzero(cache.missing(keys))
            if len(new):
                cache.put(keys[new], embedder.encode([texts[i] for i in new], batch_size))
            cache.fill(keys, vectors)
        self._known = dict(zip(texts, vectors, strict=True))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        new = [text for text in texts if text not in self._known]
        encoded = (
            dict(zip(new, self._embedder.encode(new, self._batch), strict=True)) if new else {}
        )
        return np.stack([encoded[text] if text in encoded else self._known[text] for text in texts])


def attach(
    model: SidLM,
    cfg: Config,
    data: Dataset,
    index: PrefixIndex,
    embed_folder: Path | None,
    device: str,
) -> np.ndarray | None:
    """Give ``model`` index and encoder, where it reads sentence vectors at all; (N, D) vectors of
    the items, or None.

    The encoder is that of ``embed``; vectors of the log's queries are kept in ``.embed.cache``
    beside ``embed_folder``. ``ValueError`` where it is not the encoder that the model's codebooks
    were fitted to.
    """
    if model.geometry is None:
        return None
    model.use(index)
    embedder = query_side(load_embedder(cfg.embed, device), cfg.sid.view)
    if embedder.dim != model.geometry.dim:
        raise ValueError(
            f"embed.model {cfg.embed.model!r} gives {embedder.dim} dimensions, the model reads "
            f"{model.geometry.dim}; name the encoder that its Semantic IDs were made with"
        )
    if embed_folder is None:
        model.prompts.reader = Reader(embedder, None, batch_size=max(AT_ONCE, cfg.embed.batch_size))
        return None
    precision = "bf16" if embedder.bf16 else "fp32"
    folder = (
        Path(embed_folder).parent / ".embed.cache" / f"queries-{embedder.fingerprint}-{precision}"
    )
    known = [text or "" for text in _logged(data)]
    model.prompts.reader = Reader(
        embedder, VectorCache(folder, embedder.dim), known, max(AT_ONCE, cfg.embed.batch_size)
    )
    return load_items(embed_folder, cfg.sid.view)


def _logged(data: Dataset) -> list[str | None]:
    """Distinct queries of training rows and validation lists, at most :data:`MOST_KNOWN`."""
    queries: dict[str | None, None] = {}
    for table in (data.sft(), data.lists("train"), data.lists("valid")):
        queries |= dict.fromkeys(pc.unique(table.column("query")).to_pylist())
    return list(queries)[:MOST_KNOWN]
