"""What a tokenizer gets of the log: training-day queries, and the items that they led to."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from sidar.config import EmbedConfig
from sidar.types import PathLike

if TYPE_CHECKING:
    from sidar.embed.towers import View


def logged_queries(table: pa.Table, rows: np.ndarray, most: int) -> tuple[list[str], np.ndarray]:
    """The ``most`` frequent distinct queries of SFT rows, and (P, 2) int64 pairs of query number
    and item.

    ``table``: columns ``query`` and ``positives`` (catalogue rows clicked, carted or ordered) of
    the training split, from which evaluation queries are held out already
    (:mod:`sidar.data.judgments.heldout`). Queries are the same when case and white space are; ties
    in frequency go by text. ``rows``: the catalogue rows that get SIDs; an item is its place in
    them.
    """
    texts = [
        " ".join((text or "").casefold().split()) for text in table.column("query").to_pylist()
    ]
    often = Counter(text for text in texts if text)
    queries = sorted(often, key=lambda text: (-often[text], text))[:most]
    number = {text: i for i, text in enumerate(queries)}
    positives = table.column("positives").combine_chunks()
    of = np.repeat(np.arange(len(texts)), np.diff(positives.offsets.to_numpy()))
    query = np.fromiter((number.get(text, -1) for text in texts), np.int64, len(texts))[of]
    item = positives.flatten().to_numpy().astype(np.int64)
    place = np.full(max(int(rows.max(initial=-1)), int(item.max(initial=-1))) + 1, -1, np.int64)
    place[rows] = np.arange(len(rows))
    keep = (query >= 0) & (place[item] >= 0)
    return queries, np.unique(np.stack([query[keep], place[item[keep]]], axis=1), axis=0)


def query_inputs(
    table: pa.Table,
    rows: np.ndarray,
    most: int,
    embed: EmbedConfig,
    embed_folder: PathLike,
    view: View,
    device: str,
) -> tuple[np.ndarray, np.ndarray]:
    """``query_vectors`` (M, D) and ``query_item_pairs`` (P, 2) of :func:`logged_queries`.

    Queries are encoded by the run's embedder, as a search among items of ``view`` would, through
    the vector cache beside ``embed_folder``. Without a query that led to an item both are empty and
    no encoder is loaded.
    """
    queries, pairs = logged_queries(table, rows, most)
    used = np.unique(pairs[:, 0])
    if not len(used):
        return np.zeros((0, 0), np.float32), np.zeros((0, 2), np.int64)
    from sidar.embed import embed_texts, load_embedder, query_side

    encoder = query_side(load_embedder(embed, device), view)
    cache = Path(embed_folder).parent / ".embed.cache"
    vectors = embed_texts([queries[number] for number in used], encoder, cache, embed.batch_size)
    return vectors, np.stack([np.searchsorted(used, pairs[:, 0]), pairs[:, 1]], axis=1)
