"""Write the bundle of finished stage folders."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from sidar.answer.facts import read_facts
from sidar.answer.memory import FILE as MEMORY
from sidar.artifacts import MANIFEST, Manifest, open_artifact, write_artifact
from sidar.data.catalogue import open_catalogue, save_catalogue
from sidar.index.rows import FILE as ROWMAP
from sidar.serve.bundle.checks import check_lineage
from sidar.serve.bundle.encoder import write_encoder
from sidar.serve.bundle.examples import example_queries
from sidar.serve.bundle.layout import ANSWER, FACTS, FORMAT
from sidar.serve.bundle.reader import open_bundle, stage_manifest
from sidar.types import Catalogue, PathLike

#: What a bundle says where its config asks for reranking and there is nothing to rerank by.
NO_WEIGHT = (
    "decode.rerank is dense, but no request of the log has a query text and a choice to weigh the "
    "cosine on: searches are not reranked"
)
#: Catalogue columns that neither a product card nor a filter reads; kept as nulls so that the file
#: stays a catalogue.
NOT_SERVED = ("text",)


@dataclass(frozen=True, kw_only=True)
class BundleSources:
    """The finished stage folders that a bundle is made of, and what it says of itself.

    ``model`` is a :class:`~sidar.lm.SidLM` folder (``align-raddpo/model``); its stage is the folder
    above. ``examples``: queries to offer on an empty page, default those of the log. ``rerank``
    {"weight": w, …}: searches order what the beams reach by log π + w · cosine unless told
    otherwise; the item vectors then come along. ``encoder``: where to copy the encoder from,
    default the folder that ``embed`` names; used only where it is needed. ``answer``: folder of the
    stage ``answer``; None, or one that fuses nothing = the model answers alone.
    """

    data: PathLike
    embed: PathLike
    sid: PathLike
    index: PathLike
    model: PathLike
    config: Mapping[str, Any]
    label: str
    examples: Sequence[str] | None = None
    rerank: Mapping[str, Any] | None = None
    encoder: PathLike | None = None
    answer: PathLike | None = None

    @property
    def parts(self) -> dict[str, Path]:
        """The stage folder of each part of the bundle."""
        return {
            "catalogue": Path(self.data),
            "embed": Path(self.embed),
            "sid": Path(self.sid),
            "index": Path(self.index),
            "model": Path(self.model),
        }

    @property
    def fuse(self) -> str:
        """How the bundle answers: ``none`` = the model alone, or the name of the fusion."""
        return "none" if self.answer is None else str(read_facts(self.answer)["fuse"])

    @property
    def notes(self) -> list[str]:
        """Notes printed with the bundle: what the config asks for and the bundle cannot do."""
        wanted = self.config.get("decode", {}).get("rerank") == "dense"
        return [NO_WEIGHT] if wanted and self.rerank is None else []


def build_bundle(out: PathLike, sources: BundleSources) -> Manifest:
    """Write the bundle of ``sources`` as an artefact; see :func:`write_bundle`."""
    out = Path(out)
    # in manifests of other artefacts the catalogue's stage is called data
    stages = {"data": sources.data} | {
        part: folder for part, folder in sources.parts.items() if part != "catalogue"
    }
    hashes = {name: stage_manifest(Path(folder)).hash for name, folder in stages.items()}
    memory = f"{ANSWER}/{MEMORY}"
    with write_artifact(
        out, "bundle", config=sources.config, inputs=hashes, live=(memory,), sealed=True
    ) as draft:
        draft.shapes.update(write_bundle(draft.path, sources)["shapes"])
    return open_artifact(out, "bundle")


def write_bundle(folder: PathLike, sources: BundleSources) -> dict[str, Any]:
    """Write the files of a bundle into an existing, empty ``folder`` and check them; return
    summary and shapes.

    Large files are hard-linked where the file system allows it: finished artefacts are never
    written again, only replaced. Raises ``ValueError`` when two parts were not made from one
    another, or the encoder did not make the vectors.
    """
    folder = Path(folder)
    parts = sources.parts
    manifests = {part: stage_manifest(source) for part, source in parts.items()}
    check_lineage(manifests)
    for part in parts:
        (folder / part).mkdir()
    catalogue = _write_catalogue(parts["catalogue"], folder / "catalogue")
    _write_answer(sources, folder / ANSWER)
    _write_vectors(sources, folder / "embed")
    for part in ("sid", "index", "model"):
        _link_files(parts[part], folder / part)
    for part, manifest in manifests.items():
        text = json.dumps(manifest.__dict__, indent=1, sort_keys=True)
        (folder / part / MANIFEST).write_text(text + "\n")
    _write_facts(sources, manifests, catalogue, folder)
    return _report(folder, sources)


def _write_catalogue(data: Path, out: Path) -> Catalogue:
    """Write the columns that cards show, and the map to the rows of an earlier lineage; return the
    whole catalogue.
    """
    catalogue = open_catalogue(data / "catalogue.arrow")
    save_catalogue(_cards(catalogue), out / "catalogue.arrow")
    if (data / ROWMAP).is_file():
        _link(data / ROWMAP, out / ROWMAP)
    return catalogue


def _cards(catalogue: Catalogue) -> Catalogue:
    table = catalogue.table
    for name in NOT_SERVED:
        place, column = table.schema.get_field_index(name), table.schema.field(name)
        table = table.set_column(place, column, pa.nulls(len(table), column.type))
    return Catalogue(table, catalogue.lineage)


def _write_answer(sources: BundleSources, out: Path) -> None:
    if sources.answer is None or sources.fuse == "none":
        return
    out.mkdir()
    for file in sorted(path for path in Path(sources.answer).iterdir() if path.is_file()):
        _link(file, out / file.name)


def _write_vectors(sources: BundleSources, out: Path) -> None:
    """Write what a search reads of the embed stage: item vectors and encoder, or only its name."""
    embed, model = sources.parts["embed"], sources.parts["model"]
    compares_vectors = sources.rerank is not None or sources.fuse != "none"
    if compares_vectors:
        _link(embed / "items.npy", out / "items.npy")
    # a model with a geometry reads the query's sentence vector
    reads_vectors = json.loads((model / "config.json").read_text()).get("geometry")
    if compares_vectors or reads_vectors:
        write_encoder(embed, out, sources.encoder)
    else:
        _link(embed / "embedder.json", out / "embedder.json")


def _write_facts(
    sources: BundleSources, manifests: Mapping[str, Manifest], catalogue: Catalogue, folder: Path
) -> None:
    """Write ``bundle.json``."""
    examples = sources.examples
    if examples is None:
        examples = example_queries(sources.parts["catalogue"], catalogue)
    facts = {
        "format": FORMAT,
        "label": sources.label,
        "lineage": catalogue.lineage,
        "parts": {part: manifest.hash for part, manifest in manifests.items()},
        "config": json.loads(json.dumps(dict(sources.config), default=str)),
        "rerank": None if sources.rerank is None else dict(sources.rerank),
        "fuse": sources.fuse,
        "notes": sources.notes,
        "examples": list(examples),
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def _report(folder: Path, sources: BundleSources) -> dict[str, Any]:
    """Open the written bundle, which checks it, and return its summary and shapes."""
    made = open_bundle(folder)
    items, sids, sizes = len(made.catalogue), len(made.index), list(made.sids.codebook_sizes)
    counts = f"{made.label}: {items:,} items, {sids:,} SIDs over {sizes}"
    shapes: dict[str, Any] = {
        "items": items,
        "sids": sids,
        "codebook_sizes": sizes,
        "lineage": made.catalogue.lineage,
    }
    if sources.notes:
        shapes["notes"] = sources.notes
    summary = "\n".join([counts, *(f"note: {note}" for note in sources.notes)])
    return {"summary": summary, "shapes": shapes}


def _link_files(source: Path, target: Path) -> None:
    """Link every file of a stage but its manifest and pictures."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        if file.name != MANIFEST and file.suffix != ".png":
            _link(file, target / file.relative_to(source))


def _link(source: Path, target: Path) -> None:
    if not source.is_file():
        raise ValueError(f"{source} does not exist; run its stage again")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
