"""The encoder that a bundle refers to: searching needs it where the model reads sentence vectors, and to rerank."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sidar.artifacts import read_manifest
from sidar.config import EmbedConfig
from sidar.embed import load_embedder, load_items, query_side
from sidar.types import PathLike

Read = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Vectors:
    """``read``: query texts → (n, D) as the codebooks know them; ``search`` the same against ``items`` (N, D).

    The two differ (not ``same``) where SIDs were made in another view of the items than the dense channel's.
    ``items`` is None where the bundle holds no item vectors.
    """

    read: Read
    search: Read
    items: np.ndarray | None
    same: bool = True


def open_vectors(bundle: PathLike, device: str = "cpu") -> Vectors:
    """Load the encoder that ``embed/embedder.json`` of a bundle names, and map its item vectors if it has them.

    ``ValueError`` where the encoder cannot be loaded, or is not the one that made the vectors.
    """
    folder = Path(bundle)
    about: dict[str, Any] = json.loads((folder / "embed" / "embedder.json").read_text())
    cfg = EmbedConfig(model=about["model"], max_tokens=about.get("max_tokens", EmbedConfig().max_tokens))
    embedder = load_embedder(cfg, device)
    if about.get("fingerprint", embedder.fingerprint) != embedder.fingerprint:
        raise ValueError(
            f"{folder} was made with the encoder {about['model']!r} ({about['fingerprint']}), the one here is "
            f"{embedder.fingerprint}; install that encoder, or embed again and make a new bundle"
        )
    manifest = read_manifest(folder / "sid")
    sid = (manifest.config if manifest else {}).get("sid", {})
    items = load_items(folder / "embed") if (folder / "embed" / "items.npy").is_file() else None
    view = sid.get("view", "item")
    return Vectors(query_side(embedder, view).encode, query_side(embedder).encode, items, view == "item")
