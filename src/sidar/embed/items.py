"""Catalogue → ``items.npy``: the stage, its texts and what it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sidar.config import Config
from sidar.embed.cache import VectorCache, text_keys
from sidar.embed.encoder import Embedder
from sidar.embed.load import load_embedder
from sidar.embed.towers import TWO_TOWERS, TowerEmbedder, View, side_by_side
from sidar.types import CATALOGUE_SCHEMA, Catalogue, Json, PathLike

#: View -> file of an embed artefact.
FILES = {"item": "items.npy", "query": "items_query.npy"}
CHUNK = 2048  # items per shard: what a kill can cost, about ten seconds of MiniLM on two cores


def item_texts(catalogue: Catalogue | pa.Table, fields: Sequence[str]) -> list[str]:
    """(N,) one text per row: the fields in order, lists as ``a > b``, empty ones left out, joined
    by ``. ``.

    ``ValueError`` names a field that a catalogue does not have.
    """
    table = catalogue.table if isinstance(catalogue, Catalogue) else catalogue
    for name in fields:
        if name not in table.column_names:
            raise ValueError(
                f"embed.fields: {name!r} is no column of the catalogue, which has "
                f"{CATALOGUE_SCHEMA.names}"
            )
    columns = [table.column(name).to_pylist() for name in fields]
    return [
        ". ".join(text for value in row if (text := _words(value)))
        for row in zip(*columns, strict=True)
    ]


def _words(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " > ".join(str(part) for part in value if part)
    return str(value).strip().rstrip(".")


def embed_items(
    catalogue: Catalogue,
    fields: Sequence[str],
    embedder: Embedder,
    path: Path,
    cache: VectorCache,
    *,
    batch_size: int = 32,
    chunk: int = CHUNK,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the catalogue's vectors (N, D) float32 to ``path`` (.npy) through ``cache``; returns
    how many were new.

    One chunk of items is in memory at a time and becomes one shard of the cache, so a killed run
    loses at most a chunk. ``progress(done, total)`` is called before the first one and after each.
    """
    n = len(catalogue)
    keys = np.empty(n, "S16")
    for start in range(0, n, chunk):
        keys[start : start + chunk] = text_keys(
            item_texts(catalogue.table.slice(start, chunk), fields)
        )
    distinct = np.zeros(n, bool)
    distinct[np.unique(keys, return_index=True)[1]] = True
    todo = np.flatnonzero(distinct & cache.missing(keys))
    if progress is not None and len(todo):
        progress(n - len(todo), n)
    for start in range(0, len(todo), chunk):
        rows = todo[start : start + chunk]
        vectors = embedder.encode(
            item_texts(catalogue.table.take(rows), fields), batch_size=batch_size
        )
        cache.put(keys[rows], vectors)
        if progress is not None:
            progress(n - len(todo) + min(start + chunk, len(todo)), n)
    out = (
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, embedder.dim))
        if n
        else None
    )
    if out is None:
        np.save(path, np.empty((0, embedder.dim), np.float32))
        return 0
    cache.fill(keys, out)
    out.flush()
    return len(todo)


def embed_texts(
    texts: Sequence[str],
    embedder: Embedder,
    cache_folder: Path,
    batch_size: int = 32,
    chunk: int = CHUNK,
) -> np.ndarray:
    """(n, D) float32 vectors of ``texts``, through the same cache (``cache_folder``/<fingerprint>)
    as a catalogue's.
    """
    bf16 = embedder.bf16
    cache = VectorCache(
        cache_folder / f"{embedder.fingerprint}-{'bf16' if bf16 else 'fp32'}", embedder.dim
    )
    keys = text_keys(texts)
    distinct = np.zeros(len(texts), bool)
    distinct[np.unique(keys, return_index=True)[1]] = True
    todo = np.flatnonzero(distinct & cache.missing(keys))
    for start in range(0, len(todo), chunk):
        part = todo[start : start + chunk]
        cache.put(keys[part], embedder.encode([texts[i] for i in part], batch_size=batch_size))
    vectors = np.empty((len(texts), embedder.dim), np.float32)
    cache.fill(keys, vectors)
    return vectors


def build(
    cfg: Config,
    data_folder: PathLike,
    out: PathLike,
    *,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Json:
    """The embed stage: ``items.npy`` (N, D) float32, rows of length 1, and ``embedder.json`` in
    ``out``.

    Two towers leave ``items_query.npy`` as well: the items as the query encoder sees them. Vectors
    are cached beside ``out`` in ``.embed.cache``: a killed run continues, a changed catalogue
    embeds only its new texts. Deleting that folder is always safe.
    """
    from sidar.data import open_dataset

    catalogue = open_dataset(Path(data_folder)).catalogue
    embedder = load_embedder(cfg.embed, device or cfg.device)
    bf16, new = embedder.bf16, 0
    for name, view in item_views(embedder).items():
        folder = (
            Path(out).parent / ".embed.cache" / f"{view.fingerprint}-{'bf16' if bf16 else 'fp32'}"
        )
        new += embed_items(
            catalogue,
            cfg.embed.fields,
            view,
            Path(out) / FILES[name],
            VectorCache(folder, view.dim),
            batch_size=cfg.embed.batch_size,
            progress=progress,
        )
    about = {
        "model": cfg.embed.model,
        "fingerprint": embedder.fingerprint,
        "dim": embedder.dim,
        "fields": cfg.embed.fields,
        "max_tokens": cfg.embed.max_tokens,
        "precision": "bf16" if bf16 else "fp32",
        "items": len(catalogue),
        "newly_embedded": new,
    }
    (Path(out) / "embedder.json").write_text(json.dumps(about, indent=1) + "\n")
    summary = (
        f"{len(catalogue):,} items × {embedder.dim} by {cfg.embed.model}, {new:,} newly embedded"
    )
    return {"summary": summary, "shapes": {"items": [len(catalogue), embedder.dim]}, **about}


def item_views(embedder: Embedder) -> dict[str, Embedder]:
    """What encodes items, by view: ``item``, and of two towers ``query``, the items as f_q sees
    them.
    """
    if isinstance(embedder, TowerEmbedder):
        return {"item": embedder.items, "query": embedder.items_as_queries}
    return {"item": embedder}


def load_items(folder: PathLike, view: View = "item") -> np.ndarray:
    """(N, D) float32 item vectors of an embed artefact, memory-mapped read-only.

    ``view``: ``item`` f_i(I); ``query`` f_q(I); ``both`` [f_q(I); f_i(I)] / √2, (N, 2D) in memory.
    The last two need two towers.
    """
    if view == "both":
        return side_by_side(load_items(folder, "query"), load_items(folder))
    path = Path(folder) / FILES[view]
    if not path.is_file():
        if view == "query" and (Path(folder) / FILES["item"]).is_file():
            raise ValueError(
                f"{folder} has one view of the items, not the query encoder's; {TWO_TOWERS}"
            )
        raise ValueError(f"{path} does not exist; make it with `sidar embed`")
    return np.load(path, mmap_mode="r")
