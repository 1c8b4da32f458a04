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
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from sidar.answer.carry import carry_to_rows
from sidar.answer.facts import dense_probes, read_facts
from sidar.artifacts import MANIFEST, Draft, continues, read_manifest, write_artifact
from sidar.data.catalogue import found, save_catalogue
from sidar.embed import load_items
from sidar.index import PrefixIndex
from sidar.index.dual_view import DualViewIndex
from sidar.index.rows import RowMap
from sidar.serve.bundle import ANSWER, Bundle, BundleSources, build_bundle, open_bundle
from sidar.serve.bundle.encoder import ENCODER
from sidar.sid.lifecycle.ledger import Ledger
from sidar.sid.table import save_sids, table_version
from sidar.types import Catalogue, Json, PathLike, SemanticIds


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
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".compact-", dir=out.parent))
    try:
        _Compaction(bundle, opened, small, rows, work).write(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return rows


@dataclass(frozen=True)
class _Compaction:
    """The stage folders of a bundle, written anew in ``work`` for the rows that are kept."""

    bundle: Path
    opened: Bundle
    small: Catalogue
    rows: RowMap
    work: Path

    def write(self, out: Path) -> None:
        """Write the folders one after another, and the bundle ``out`` of them."""
        opened, sids = self.opened, self._sids()
        hashes: dict[str, str] = {}
        steps: list[tuple[str, Callable[[Draft], None], tuple[str, ...]]] = [
            ("data", self._write_data, ()),
            ("embed", self._write_embed, ("data",)),
            ("sid", partial(self._write_sid, sids=sids), ("data", "embed")),
            ("index", partial(self._write_index, sids=sids), ("data", "sid")),
        ]
        for name, write, reads in steps:
            config = _config(self.bundle / name)
            if name == "data":
                config = {"compacted": opened.catalogue.lineage}
            inputs = {part: hashes[part] for part in reads}
            with write_artifact(self.work / name, name, config=config, inputs=inputs) as draft:
                write(draft)
            hashes[name] = _hash(self.work / name)
        answer = self._carry_answer() if opened.fuse != "none" else None
        folders: Json = {name: self.work / name for name in hashes}
        sources = BundleSources(
            **folders,
            model=self.bundle / "model",
            config=opened.config,
            label=opened.label,
            examples=list(opened.examples),
            rerank=opened.rerank,
            encoder=self.bundle / "embed" / ENCODER,
            answer=answer,
        )
        build_bundle(out, sources)

    def _sids(self) -> SemanticIds:
        """Return the SID table of the rows that are kept."""
        before = self.opened.sids
        codes, lengths = self.rows.take(before.codes), self.rows.take(before.lengths)
        sids = SemanticIds(codes, lengths, before.codebook_sizes, before.method)
        return replace(sids, version=table_version(sids))

    def _write_data(self, draft: Draft) -> None:
        save_catalogue(self.small, draft.path / "catalogue.arrow")
        self.rows.save(draft.path, self.opened.catalogue.item_ids)
        draft.shapes |= {
            "items": len(self.small),
            "lineage": self.small.lineage,
            "continues": continues(self.bundle / "catalogue"),
        }

    def _write_embed(self, draft: Draft) -> None:
        before = self.bundle / "embed"
        shutil.copyfile(before / "embedder.json", draft.path / "embedder.json")
        if self.opened.rerank is not None or self.opened.fuse != "none":
            np.save(draft.path / "items.npy", self.rows.take(load_items(before)))

    def _write_sid(self, draft: Draft, sids: SemanticIds) -> None:
        before, item_ids = self.bundle / "sid", self.small.item_ids
        shutil.copytree(before, draft.path, dirs_exist_ok=True)
        (draft.path / MANIFEST).unlink()
        save_sids(draft.path / "sids.parquet", item_ids, sids)
        _shorten_ledger(draft.path, set(item_ids))
        draft.shapes |= {
            "codes": list(sids.codes.shape),
            "codebook_sizes": list(sids.codebook_sizes),
            "version": sids.version,
            "continues": continues(before),
        }

    def _write_index(self, draft: Draft, sids: SemanticIds) -> None:
        index = self.opened.index
        prior, counts = (
            None if values is None else self.rows.take(values)
            for values in (index.prior, index.counts)
        )
        PrefixIndex.build(sids, prior, counts).save(draft.path)
        draft.shapes |= {"sid_version": sids.version, "items": int((sids.lengths > 0).sum())}

    def _carry_answer(self) -> Path:
        """Write memory, BM25 and dense cells in the new numbering; return their folder."""
        answer = self.work / ANSWER
        answer.mkdir()
        carry_to_rows(self.bundle / ANSWER, self.rows.new, self.small.lineage, answer)
        _carry_cells(self.bundle, self.rows, load_items(self.work / "embed"), answer)
        return answer


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


def _config(folder: Path) -> Json:
    manifest = read_manifest(folder)
    return dict(manifest.config) if manifest else {}
