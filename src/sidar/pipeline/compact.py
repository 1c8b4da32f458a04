"""``sidar sids compact``: a bundle without the rows of retired items.

Of what serves, catalogue, item vectors, indexes, priors, memory and BM25 hold rows: they are
written anew. The SID table, the codebooks and the model name items by id or not at all and stay as
they are. A new numbering is a new lineage; everything in a run that holds rows (its data, vectors,
index, evaluation) is of the old one and is rebuilt by ``sidar run --from`` the compact bundle,
which the plan of that run says; vectors come from their cache. For anything else that holds rows
there is the row map.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sidar.answer.carry import carry_to_rows
from sidar.answer.facts import dense_probes, read_facts
from sidar.artifacts import MANIFEST, continues, read_manifest, write_artifact
from sidar.data.catalogue import found, save_catalogue
from sidar.embed import load_items
from sidar.index import PrefixIndex
from sidar.index.dual_view import DualViewIndex
from sidar.index.rows import RowMap
from sidar.serve.bundle import ANSWER, BundleSources, build_bundle, open_bundle
from sidar.serve.bundle.encoder import ENCODER
from sidar.sid.ledger import Ledger
from sidar.sid.table import save_sids, table_version
from sidar.types import PathLike, SemanticIds


def compact(bundle: PathLike, out: PathLike) -> RowMap:
    """Write ``out``, a bundle of the alive items of ``bundle`` in their order, with
    ``catalogue/rowmap.parquet``.

    Every search answers as before. ``ValueError`` where there is nothing to leave out, or nothing
    would be left.
    """
    bundle, out = Path(bundle), Path(out)
    opened = open_bundle(bundle)
    catalogue = opened.catalogue
    kept = catalogue.alive
    if kept.all() or not kept.any():
        raise ValueError(
            f"{bundle} has {int(kept.sum()):,} items in {len(kept):,} rows; there is nothing to "
            "compact"
        )
    small = found(catalogue.table.filter(kept))
    rows = RowMap.keep(kept, catalogue.lineage, small.lineage)
    sids = SemanticIds(
        rows.take(opened.sids.codes),
        rows.take(opened.sids.lengths),
        opened.sids.codebook_sizes,
        opened.sids.method,
    )
    sids = replace(sids, version=table_version(sids))
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".compact-", dir=out.parent))
    try:
        inputs: dict[str, str] = {}
        with write_artifact(
            work / "data", "data", config={"compacted": catalogue.lineage}
        ) as draft:
            save_catalogue(small, draft.path / "catalogue.arrow")
            rows.save(draft.path, catalogue.item_ids)
            draft.shapes |= {
                "items": len(small),
                "lineage": small.lineage,
                "continues": continues(bundle / "catalogue"),
            }
        inputs["data"] = _hash(work / "data")
        with write_artifact(
            work / "embed", "embed", config=_config(bundle / "embed"), inputs=dict(inputs)
        ) as draft:
            shutil.copyfile(bundle / "embed" / "embedder.json", draft.path / "embedder.json")
            if opened.rerank is not None or opened.fuse != "none":
                np.save(draft.path / "items.npy", rows.take(load_items(bundle / "embed")))
        inputs["embed"] = _hash(work / "embed")
        with write_artifact(
            work / "sid", "sid", config=_config(bundle / "sid"), inputs=dict(inputs)
        ) as draft:
            shutil.copytree(bundle / "sid", draft.path, dirs_exist_ok=True)
            (draft.path / MANIFEST).unlink()
            save_sids(draft.path / "sids.parquet", small.item_ids, sids)
            _shorten_ledger(draft.path, set(small.item_ids))
            draft.shapes |= {
                "codes": list(sids.codes.shape),
                "codebook_sizes": list(sids.codebook_sizes),
                "version": sids.version,
                "continues": continues(bundle / "sid"),
            }
        inputs["sid"] = _hash(work / "sid")
        prior, counts = (
            None if values is None else rows.take(values)
            for values in (opened.index.prior, opened.index.counts)
        )
        mine = {name: inputs[name] for name in ("data", "sid")}
        with write_artifact(
            work / "index", "index", config=_config(bundle / "index"), inputs=mine
        ) as draft:
            PrefixIndex.build(sids, prior, counts).save(draft.path)
            draft.shapes |= {"sid_version": sids.version, "items": int((sids.lengths > 0).sum())}
        answer = None
        if opened.fuse != "none":
            answer = work / ANSWER
            answer.mkdir()
            carry_to_rows(bundle / ANSWER, rows.new, small.lineage, answer)
            _carry_cells(bundle, rows, load_items(work / "embed"), answer)
        folders: dict[str, Any] = {name: work / name for name in ("data", "embed", "sid", "index")}
        build_bundle(
            out,
            BundleSources(
                **folders,
                model=bundle / "model",
                config=opened.config,
                label=opened.label,
                examples=list(opened.examples),
                rerank=opened.rerank,
                encoder=bundle / "embed" / ENCODER,
                answer=answer,
            ),
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return rows


def _carry_cells(bundle: Path, rows: RowMap, items: np.ndarray, out: Path) -> None:
    """Write the index of the bundle's dense channel in the new numbering, over ``items`` (N_new,
    D), into ``out``.
    """
    if dense_probes(read_facts(bundle / ANSWER)) is None:
        return
    kept = DualViewIndex.load(bundle / ANSWER, load_items(bundle / "embed"))
    DualViewIndex(items, kept.centroids, rows.take(kept.lists), kept.coarse_view).save(out)


def _shorten_ledger(folder: Path, items: set[str]) -> None:
    ledger = Ledger.load(folder)
    if ledger is None:
        return
    kept = np.fromiter((item in items for item in ledger.item_ids), bool, count=len(ledger))
    columns = (ledger.item_ids, ledger.vector, ledger.error, ledger.fitted, ledger.cause)
    Ledger(*(column[kept] for column in columns)).save(folder)


def _hash(folder: Path) -> str:
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest.hash


def _config(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    return dict(manifest.config) if manifest else {}
