"""Whether the parts of a bundle belong together: a mixture is refused, with both hashes and the
next command.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from sidar.artifacts import Manifest
from sidar.index import PrefixIndex
from sidar.sid.tokenizer import FILE as TOKENIZER
from sidar.sid.tokenizer import stored_codebooks
from sidar.types import SemanticIds

#: part -> the parts that it was made from, and the command that makes it again.
MADE_FROM = {
    "embed": ("catalogue",),
    "sid": ("catalogue", "embed"),
    "index": ("catalogue", "sid"),
    "model": ("catalogue", "sid"),
}
COMMAND = {
    "catalogue": "sidar validate",
    "embed": "sidar embed",
    "sid": "sidar sid",
    "index": "sidar index",
}
_STAGE = {"catalogue": "data"}  # a part's name in the manifests of later stages, where it differs


def check_hashes(
    manifests: Mapping[str, Manifest], expected: Mapping[str, str], folder: Path
) -> None:
    """Each part is the one that the bundle was made with, as its facts name it."""
    for part, manifest in manifests.items():
        if manifest.hash != expected[part]:
            raise ValueError(
                f"the {part} part of {folder} is {short(manifest.hash)}, but the bundle was made "
                f"with {short(expected[part])}; make it again with `sidar bundle`"
            )


def check_lineage(manifests: Mapping[str, Manifest], where: str = "") -> None:
    """Each part was made from the others that are here, as far as its manifest names them; else
    ``ValueError``.
    """
    for part, parents in MADE_FROM.items():
        for parent in parents:
            wanted = manifests[part].inputs.get(_STAGE.get(parent, parent))
            have = manifests[parent].hash
            # A model holds codes and no rows: it also fits what goes on from the catalogue and
            # table of its training.
            past = manifests[parent].shapes.get("continues", []) if part == "model" else []
            if wanted is not None and wanted != have and wanted not in past:
                command = COMMAND.get(part, f"sidar {manifests[part].kind.split('-')[0]}")
                raise ValueError(
                    f"{where}{part} {short(manifests[part].hash)} was made from {parent} "
                    f"{short(wanted)}, but the {parent} here is {short(have)}; run `{command}` on "
                    f"this {parent}, then `sidar bundle`"
                )


def check_index(
    index: PrefixIndex, sids: SemanticIds, folder: Path, manifests: Mapping[str, Manifest]
) -> None:
    """The index has the table's codebooks and files each item (a sample of 4,096) under the table's
    SID.
    """
    hashes = f"index {short(manifests['index'].hash)} and sid {short(manifests['sid'].hash)}"
    if tuple(index.codebook_sizes) != tuple(sids.codebook_sizes):
        raise ValueError(
            f"{folder}: {hashes} do not fit: the index holds codebooks "
            f"{tuple(index.codebook_sizes)}, the SID table "
            f"{tuple(sids.codebook_sizes)}; run `sidar index`, then `sidar bundle`"
        )
    places = (
        np.unique(np.linspace(0, len(index.rows) - 1, 4096).astype(np.int64))
        if len(index.rows)
        else np.empty(0, int)
    )
    rows = index.rows[places]
    filed = np.searchsorted(index.rows_start, places, side="right") - 1
    inside = rows < len(sids)
    wrong = ~inside
    wrong[inside] = index.lookup(sids.codes[rows[inside]]) != filed[inside]
    if wrong.any():
        raise ValueError(
            f"{folder}: {hashes} do not fit: the index files row {int(rows[wrong.argmax()])} under "
            "another SID than the table; run `sidar index`, then `sidar bundle`"
        )


def check_meaning(
    folder: Path, manifests: Mapping[str, Manifest], model: Mapping[str, Any], sids: SemanticIds
) -> None:
    """The model's codes must mean what the table's do: one codebook file, whatever the hashes of
    the folders say.

    Without stored centroids, a model that no stage made is held against the version of the table
    that it names.
    """
    hashes = f"model {short(manifests['model'].hash)} and sid {short(manifests['sid'].hash)}"
    weights = folder / "model" / "model.safetensors"
    if model.get("centroid_dim") and (folder / "sid" / TOKENIZER).is_file() and weights.is_file():
        with safe_open(weights, framework="numpy") as file:
            learnt = file.get_tensor("centroids")
        books = np.concatenate(stored_codebooks(folder / "sid"))
        if learnt.shape != books.shape or not np.allclose(learnt, books, rtol=1e-4, atol=1e-5):
            raise ValueError(
                f"{folder}: {hashes} do not fit: the model was trained on other codebooks of the "
                "same sizes, so its codes mean other clusters; train it on this table with `sidar "
                "sft`, or see `sidar sids plan`"
            )
    elif not manifests["model"].inputs and model.get("sid_version") not in ("", None, sids.version):
        raise ValueError(
            f"{folder}: {hashes} do not fit: the model was trained on SID table "
            f"{model['sid_version']!r}, this one is "
            f"{sids.version!r}; see `sidar sids plan`"
        )


def short(digest: str) -> str:
    """The first twelve digits of a hash, as messages print it."""
    return digest[:12]
