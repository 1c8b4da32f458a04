"""A small bundle of real parts for the tests of retriever and server: the toy shop and an
untrained, tiny SidLM.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sidar.artifacts import read_manifest, write_artifact
from sidar.config import LmConfig
from sidar.data import toy
from sidar.data.catalogue import save_catalogue
from sidar.index import PrefixIndex
from sidar.lm import SidLM
from sidar.serve.bundle import BundleSources, build_bundle
from sidar.sid.table import save_sids
from sidar.types import Catalogue, SemanticIds

TINY = LmConfig(
    layers=1, hidden=32, heads=2, kv_heads=2, intermediate=64, text_embeddings="random", init="mean"
)
SIZES = (8, 4, 3)


def table(n: int = 64, sizes: tuple[int, ...] = SIZES) -> SemanticIds:
    """Shelf, then place: items 8s + p get (s, p mod 4, p // 4 mod 2 …), the last two of a shelf
    share one SID.
    """
    row = np.arange(n)
    place = np.minimum(row % 8, 6)
    codes = np.stack(
        [row // 8 % sizes[0], place % 4 % sizes[1], place // 4 % sizes[2]], axis=1
    ).astype(np.int32)
    return SemanticIds(codes, np.full(n, 3, np.int32), sizes, method="toy", version="toy-1")


def mixed_table(n: int = 64) -> SemanticIds:
    """The same table cut to one, two or three codes: places of a shelf share short SIDs, and
    prefixes are SIDs.
    """
    whole = table(n)
    lengths = np.array([1, 2, 3, 3], np.int32)[np.arange(n) % 4]
    codes = np.where(np.arange(3) < lengths[:, None], whole.codes, -1).astype(np.int32)
    return SemanticIds(codes, lengths, whole.codebook_sizes, method="toy", version="mixed-1")


def hash_of(folder: Path) -> str:
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest.hash


def write_stages(
    run: Path, catalogue: Catalogue | None = None, sids: SemanticIds | None = None, seed: int = 0
) -> Path:
    """The stage folders of a run, as the pipeline leaves them, with the files that
    a bundle needs.
    """
    catalogue = catalogue or toy.catalogue()
    sids = sids or table(len(catalogue))
    with write_artifact(run / "data", "data", config={"seed": seed}) as draft:
        save_catalogue(catalogue, draft.path / "catalogue.arrow")
    made = {"data": hash_of(run / "data")}
    with write_artifact(run / "embed", "embed", config={}, inputs=dict(made)) as draft:
        (draft.path / "embedder.json").write_text(json.dumps({"model": "minilm"}))
    made["embed"] = hash_of(run / "embed")
    with write_artifact(
        run / "sid", "sid", config={"sizes": sids.codebook_sizes}, inputs=dict(made)
    ) as draft:
        save_sids(draft.path / "sids.parquet", catalogue.item_ids, sids)
    made["sid"] = hash_of(run / "sid")
    with write_artifact(
        run / "index", "index", config={}, inputs={k: made[k] for k in ("data", "sid")}
    ) as draft:
        PrefixIndex.build(sids, np.linspace(1, 2, len(sids))).save(draft.path)
    with write_artifact(run / "sft", "sft", config={"seed": seed}, inputs=made) as draft:
        SidLM.build(TINY, sids, seed=seed).save_pretrained(draft.path / "model")
    return run


def write_bundle(
    run: Path, label: str = "sft", decode: dict[str, Any] | None = None, **stages: Path
) -> Path:
    """``run/bundle`` from the stages under ``run``, some taken from elsewhere; ``decode``: settings
    beside the beam.
    """
    folders = {name: run / name for name in ("data", "embed", "sid", "index")} | {
        "model": run / "sft" / "model"
    }
    config = {"decode": {"beam": 16, **(decode or {})}}
    build_bundle(run / "bundle", BundleSources(**folders | stages, config=config, label=label))
    return run / "bundle"
