"""One folder that serves: everything a search needs, checked to belong together.

    bundle/
      manifest.json     kind "bundle"; hashes of the stages that it was made from
      bundle.json       label, decode settings, example queries, hash of each part
      catalogue/        catalogue.arrow: what a product card shows, memory-mapped, with its lineage
      embed/            embedder.json: which encoder made the vectors. Only a model that reads
                        sentence vectors, and reranking, need it to search: then encoder/ is a
                        copy of it, unless it is a packaged one or a hub's (a reference); with
                        `decode.rerank: dense` items.npy
      sid/              SID table, codebooks, tokenizer
      index/            prefix index and rows by SID
      answer/           where the answer is fused: answer.json, BM25, above 100,000 items the index
                        of the dense channel (dual_view.*), and memory.parquet, which a day's log
                        updates
      model/            language model, vocabulary, prompt template, text tokenizer

Each part keeps the manifest of the stage that made it, so a bundle can be asked whether its parts
fit, also after someone has exchanged one by hand.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sidar.answer.memory import FILE as MEMORY
from sidar.answer.serving import read_facts
from sidar.artifacts import (
    MANIFEST,
    Manifest,
    open_artifact,
    read_manifest,
    sha256_file,
    sha256_json,
    write_artifact,
)
from sidar.bundle_checks import check_index, check_lineage, check_meaning, short
from sidar.bundle_encoder import write_encoder
from sidar.data.catalogue import open_catalogue, save_catalogue
from sidar.index import PrefixIndex
from sidar.index.rows import FILE as ROWMAP
from sidar.lm.vocab import SidVocab
from sidar.sid.table import load_sids
from sidar.types import Catalogue, PathLike, SemanticIds

FACTS = "bundle.json"
#: Folder of what the fused answer reads; it changes with the memory and so is no part of the
#: bundle's hash.
ANSWER = "answer"
FORMAT = 1
#: What a bundle says where its config asks for reranking and there is nothing to rerank by.
NO_WEIGHT = (
    "decode.rerank is dense, but no request of the log has a query text and a choice to weigh the "
    "cosine on: searches are not reranked"
)
#: An example query was typed by at least so many users.
EXAMPLE_USERS = 5
#: Catalogue columns that no product card shows; kept as nulls so that the file stays a catalogue.
NOT_ON_CARDS = ("text", "attributes")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose parts fit; the model stays on disk until someone loads ``folder /
    "model"``.
    """

    folder: Path
    hash: str
    label: str
    config: dict[str, Any]
    examples: tuple[str, ...]
    catalogue: Catalogue
    sids: SemanticIds
    index: PrefixIndex
    # weight of the dense score and how it was chosen; None = beams decide alone
    rerank: dict[str, Any] | None = None
    fuse: str = "none"  # "memory": counts of the query smoothed with all channels (sidar.answer)


def build_bundle(
    out: PathLike,
    *,
    data: PathLike,
    embed: PathLike,
    sid: PathLike,
    index: PathLike,
    model: PathLike,
    config: Mapping[str, Any],
    label: str,
    examples: Sequence[str] | None = None,
    rerank: Mapping[str, Any] | None = None,
    encoder: PathLike | None = None,
    answer: PathLike | None = None,
) -> Manifest:
    """Write the bundle of finished stage folders as an artefact; see :func:`write_bundle`."""
    out = Path(out)
    stages = {"data": data, "embed": embed, "sid": sid, "index": index, "model": model}
    hashes = {name: stage_manifest(Path(folder)).hash for name, folder in stages.items()}
    with write_artifact(
        out, "bundle", config=config, inputs=hashes, live=(f"{ANSWER}/{MEMORY}",)
    ) as draft:
        report = write_bundle(
            draft.path,
            data=data,
            embed=embed,
            sid=sid,
            index=index,
            model=model,
            config=config,
            label=label,
            examples=examples,
            rerank=rerank,
            encoder=encoder,
            answer=answer,
        )
        draft.shapes.update(report["shapes"])
    return open_artifact(out, "bundle")


def write_bundle(
    folder: PathLike,
    *,
    data: PathLike,
    embed: PathLike,
    sid: PathLike,
    index: PathLike,
    model: PathLike,
    config: Mapping[str, Any],
    label: str,
    examples: Sequence[str] | None = None,
    rerank: Mapping[str, Any] | None = None,
    encoder: PathLike | None = None,
    answer: PathLike | None = None,
) -> dict[str, Any]:
    """Write the files of a bundle into an existing, empty ``folder`` and check them; returns
    summary and shapes.

    ``model`` is a :class:`~sidar.lm.SidLM` folder (``align-raddpo/model``); its stage is the folder
    above. Large files are hard-linked where the file system allows it: finished artefacts are never
    written again, only replaced. ``examples``: queries to offer on an empty page, default those of
    the log. ``rerank`` {"weight": w, …}: searches order what the beams reach by log π + w · cosine
    unless told otherwise; the item vectors then come along.  Where ``config`` asks for reranking
    and there is no weight, the bundle notes it (in ``bundle.json`` and its manifest). ``encoder``:
    where to copy the encoder from, default the folder that ``embed`` names; used only where it is
    needed. ``answer``: folder of the stage ``answer``; None, or one that fuses nothing = the model
    answers alone. Raises ``ValueError`` when two parts were not made from one another, or the
    encoder did not make the vectors.
    """
    folder = Path(folder)
    sources = {
        "catalogue": Path(data),
        "embed": Path(embed),
        "sid": Path(sid),
        "index": Path(index),
        "model": Path(model),
    }
    manifests = {part: stage_manifest(source) for part, source in sources.items()}
    check_lineage(manifests)
    for part in sources:
        (folder / part).mkdir()
    catalogue = open_catalogue(sources["catalogue"] / "catalogue.arrow")
    save_catalogue(_cards(catalogue), folder / "catalogue" / "catalogue.arrow")
    if (sources["catalogue"] / ROWMAP).is_file():
        _link(sources["catalogue"] / ROWMAP, folder / "catalogue" / ROWMAP)
    fuse = "none" if answer is None else read_facts(answer)["fuse"]
    if fuse != "none" and answer is not None:
        (folder / ANSWER).mkdir()
        for file in sorted(path for path in Path(answer).iterdir() if path.is_file()):
            _link(file, folder / ANSWER / file.name)
    if rerank is not None or fuse != "none":
        _link(sources["embed"] / "items.npy", folder / "embed" / "items.npy")
    if (
        rerank is not None
        or fuse != "none"
        or json.loads((sources["model"] / "config.json").read_text()).get("geometry")
    ):
        write_encoder(sources["embed"], folder / "embed", encoder)
    else:
        _link(sources["embed"] / "embedder.json", folder / "embed" / "embedder.json")
    for part in ("sid", "index", "model"):
        for file in sorted(p for p in sources[part].rglob("*") if p.is_file()):
            if file.name != MANIFEST and file.suffix != ".png":
                _link(file, folder / part / file.relative_to(sources[part]))
    for part, manifest in manifests.items():
        (folder / part / MANIFEST).write_text(
            json.dumps(manifest.__dict__, indent=1, sort_keys=True) + "\n"
        )
    asked = json.loads(json.dumps(dict(config), default=str))
    notes = (
        [NO_WEIGHT] if rerank is None and asked.get("decode", {}).get("rerank") == "dense" else []
    )
    facts = {
        "format": FORMAT,
        "label": label,
        "lineage": catalogue.lineage,
        "parts": {part: manifest.hash for part, manifest in manifests.items()},
        "config": asked,
        "rerank": None if rerank is None else dict(rerank),
        "fuse": fuse,
        "notes": notes,
        "examples": example_queries(sources["catalogue"], catalogue)
        if examples is None
        else list(examples),
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    made = open_bundle(folder)
    sizes = list(made.sids.codebook_sizes)
    summary = f"{label}: {len(made.catalogue):,} items, {len(made.index):,} SIDs over {sizes}"
    return {
        "summary": "\n".join([summary, *(f"note: {note}" for note in notes)]),
        "shapes": {
            "items": len(made.catalogue),
            "sids": len(made.index),
            "codebook_sizes": sizes,
            "lineage": catalogue.lineage,
            **({"notes": notes} if notes else {}),
        },
    }


def open_bundle(folder: PathLike, *, verify: bool = False) -> Bundle:
    """Open a bundle and check that its parts fit one another; ``verify`` also re-hashes every file.

    Checked: each part is the one that the bundle was made with; each was made from the others (a
    model: from these or from what they continue); one lineage; the same codebooks in table, index
    and model; and the index files each item (a sample of 4,096) under its SID. Raises
    ``ValueError`` that names both sides and the next command.
    """
    folder = Path(folder)
    if not (folder / FACTS).is_file():
        raise ValueError(f"{folder} is no bundle (it has no {FACTS}); make one with `sidar bundle`")
    facts = json.loads((folder / FACTS).read_text())
    if facts.get("format") != FORMAT:
        raise ValueError(
            f"{folder} has bundle format {facts.get('format')}, Sidar reads {FORMAT}; run `sidar "
            "bundle`"
        )
    whole = (
        open_artifact(folder, "bundle", verify=verify) if (folder / MANIFEST).is_file() else None
    )
    manifests = {part: stage_manifest(folder / part) for part in facts["parts"]}
    for part, manifest in manifests.items():
        if manifest.hash != facts["parts"][part]:
            raise ValueError(
                f"the {part} part of {folder} is {short(manifest.hash)}, but the bundle was made "
                f"with {short(facts['parts'][part])}; make it again with `sidar bundle`"
            )
    check_lineage(manifests, where=f"{folder}: ")
    catalogue = open_catalogue(folder / "catalogue" / "catalogue.arrow")
    if catalogue.lineage != facts["lineage"]:
        raise ValueError(
            f"{folder}: the catalogue is of lineage {catalogue.lineage}, the bundle of "
            f"{facts['lineage']}; make it again with `sidar bundle`"
        )
    sids = load_sids(folder / "sid" / "sids.parquet", catalogue.item_ids)
    index = PrefixIndex.load(folder / "index")
    check_index(index, sids, folder, manifests)
    model = json.loads((folder / "model" / "config.json").read_text())
    vocab = SidVocab(tuple(model["codebook_sizes"]), variable_length=model["variable_length"])
    vocab.check_fits(sids, where=f"model {short(manifests['model'].hash)}")
    check_meaning(folder, manifests, model, sids)
    return Bundle(
        folder=folder,
        hash=whole.hash if whole else sha256_json(facts["parts"]),
        label=facts["label"],
        config=facts["config"],
        examples=tuple(facts["examples"]),
        catalogue=catalogue,
        sids=sids,
        index=index,
        rerank=facts.get("rerank"),
        fuse=facts.get("fuse", "none"),
    )


def stage_manifest(folder: Path) -> Manifest:
    """The manifest of the stage that made ``folder``, its own or of the folder above
    (``align-…/model``).

    A model folder that no stage made (saved by hand) is described by its files alone.
    """
    manifest = read_manifest(folder) or read_manifest(folder.parent)
    if manifest is not None:
        return manifest
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no finished artefact; make it with `sidar run`")
    files = {
        str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()
    }
    return Manifest(kind="model", config={}, inputs={}, files=files)


def example_queries(
    data: Path, catalogue: Catalogue, n: int = 8, min_users: int = EXAMPLE_USERS
) -> list[str]:
    """Queries to offer on an empty page: the training log's most common, else names of the largest
    categories.

    Only queries that at least ``min_users`` different users typed: a bundle must not repeat what
    one person wrote.
    """
    requests = data / "requests.parquet"
    found: list[str] = []
    if requests.is_file() and {"query", "user_id", "split"} <= set(pq.read_schema(requests).names):
        import duckdb

        with duckdb.connect() as db:
            rows = db.execute(
                "select query, count(distinct user_id) as users from read_parquet(?) where split = "
                "'train' and query <> '' group by query having users >= ? order by users desc, "
                "query limit ?",
                [str(requests), min_users, n],
            ).fetchall()
        found = [query for query, _ in rows]
    if not found:
        leaves: dict[str, int] = {}
        for path in catalogue.table.column("category").slice(0, 100_000).to_pylist():
            if path:
                leaves[path[-1]] = leaves.get(path[-1], 0) + 1
        found = [
            name.lower() for name in sorted(leaves, key=lambda leaf: (-leaves[leaf], leaf))[:n]
        ]
    return found


def _cards(catalogue: Catalogue) -> Catalogue:
    table = catalogue.table
    for name in NOT_ON_CARDS:
        place = table.schema.get_field_index(name)
        table = table.set_column(
            place, table.schema.field(name), pa.nulls(len(table), table.schema.field(name).type)
        )
    return Catalogue(table, catalogue.lineage)


def _link(source: Path, target: Path) -> None:
    if not source.is_file():
        raise ValueError(f"{source} does not exist; run its stage again")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
