"""The encoder of a bundle: searching needs it where the model reads sentence vectors, and to
rerank.

``embed/embedder.json`` names it. One of the packaged encoders or of a hub stays a name; the folder
of one that lies on this disk is copied to ``embed/encoder`` of a bundle that needs it, because a
path says nothing elsewhere and what lies there may be made again (``runs/<name>/dense/model``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sidar.artifacts import read_manifest
from sidar.config import BUILT_IN, EmbedConfig
from sidar.embed import Embedder, load_embedder, load_items, query_side
from sidar.embed.towers import View
from sidar.types import PathLike

Read = Callable[[Sequence[str]], np.ndarray]
FACTS = "embedder.json"
#: Folder beside :data:`FACTS` with a copy of the encoder, and the key of :data:`FACTS` that names
#: it.
ENCODER = "encoder"


@dataclass(frozen=True)
class Vectors:
    """``read``: query texts → (n, D) as the codebooks know them; ``search`` the same against
    ``items`` (N, D).

    The two differ (not ``same``) where SIDs were made in another view of the items than the dense
    channel's. ``items`` is None where the bundle holds no item vectors.
    """

    read: Read
    search: Read
    items: np.ndarray | None
    same: bool = True
    embedder: Embedder | None = None  # what reads both, where it was opened from a bundle


def write_encoder(embed: PathLike, out: PathLike, encoder: PathLike | None = None) -> None:
    """Write ``embedder.json`` into ``out`` and, where the encoder is a local folder, a copy of it
    as ``encoder/``.

    ``embed``: the embed stage's folder, or that of a bundle. The encoder is the copy there, else
    ``encoder``, else the folder that ``embedder.json`` names. Links are followed: the copy stands
    alone. ``ValueError`` where it is gone, or not the one that made the vectors.
    """
    embed, out = Path(embed), Path(out)
    about: dict[str, Any] = json.loads((embed / FACTS).read_text())
    about.pop(ENCODER, None)
    model = str(about["model"])
    named = None if model.partition(":")[0] in BUILT_IN else Path(model)
    places = [embed / ENCODER, None if encoder is None else Path(encoder), named]
    source = next((place for place in places if place is not None and place.is_dir()), None)
    if source is None and named is not None and named.is_absolute():
        raise ValueError(
            f"the encoder {model!r} that made the vectors of {embed} is not there any more, and a "
            "bundle needs it to search; bring it back, or embed again with another embed.model"
        )
    if source is not None:
        shutil.copytree(source, out / ENCODER, ignore=shutil.ignore_patterns(".git"))
        about[ENCODER] = ENCODER
    (out / FACTS).write_text(json.dumps(about, indent=1) + "\n")
    if source is not None:
        _load(out, about, str(source), "cpu")


def open_vectors(bundle: PathLike, device: str = "cpu") -> Vectors:
    """Load the encoder in ``embed`` of a bundle, or that it names, and map its item vectors if it
    has them.

    ``ValueError`` where the encoder cannot be loaded, or is not the one that made the vectors.
    """
    folder = Path(bundle)
    embedder = open_embedder(folder, device)
    items = load_items(folder / "embed") if (folder / "embed" / "items.npy").is_file() else None
    view = view_of(folder)
    return Vectors(
        query_side(embedder, view).encode,
        query_side(embedder).encode,
        items,
        view == "item",
        embedder,
    )


def view_of(bundle: PathLike) -> View:
    """Return the view of the items that the SIDs of a bundle were made of."""
    manifest = read_manifest(Path(bundle) / "sid")
    sid = (manifest.config if manifest else {}).get("sid", {})
    view: View = sid.get("view", "item")
    return view


def open_embedder(bundle: PathLike, device: str = "cpu") -> Embedder:
    """Load the encoder in ``embed`` of a bundle, or that it names; ``ValueError`` where it cannot
    be loaded, or is not the one that made the vectors.
    """
    folder = Path(bundle)
    about: dict[str, Any] = json.loads((folder / "embed" / FACTS).read_text())
    return _load(folder / "embed", about, str(folder), device)


def _load(embed: Path, about: dict[str, Any], where: str, device: str) -> Embedder:
    """The copy in ``embed``, else the encoder that ``about`` names; ``ValueError`` where the
    fingerprint differs.
    """
    name = str(embed / about[ENCODER]) if ENCODER in about else about["model"]
    cfg = EmbedConfig(model=name, max_tokens=about.get("max_tokens", EmbedConfig().max_tokens))
    embedder = load_embedder(cfg, device)
    if about.get("fingerprint", embedder.fingerprint) != embedder.fingerprint:
        raise ValueError(
            f"the vectors of {where} were made with the encoder {about['model']!r} "
            f"({about['fingerprint']}), the one here is {embedder.fingerprint}; install that "
            "encoder, or embed again and make a new bundle"
        )
    return embedder
