"""Open a bundle and check that its parts fit one another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidar.artifacts import (
    MANIFEST,
    SEAL,
    Manifest,
    open_artifact,
    read_manifest,
    sha256_file,
    sha256_json,
)
from sidar.data.catalogue import open_catalogue
from sidar.index import PrefixIndex
from sidar.lm.vocab import SidVocab
from sidar.serve.bundle.checks import (
    check_hashes,
    check_index,
    check_lineage,
    check_meaning,
    short,
)
from sidar.serve.bundle.layout import FACTS, FORMAT
from sidar.sid.table import load_sids
from sidar.types import Catalogue, PathLike, SemanticIds


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
    # "memory": counts of the query smoothed with all channels (sidar.answer); "ranker": the order
    # of the learned ranker (sidar.ranker), beside which the memory is there as well
    fuse: str = "none"


def open_bundle(folder: PathLike, *, verify: bool = False) -> Bundle:
    """Open a bundle and check that its parts fit one another; ``verify`` also re-hashes every file.

    Checked: each part is the one that the bundle was made with; each was made from the others (a
    model: from these or from what they continue); one lineage; the same codebooks in table, index
    and model; and the index files each item (a sample of 4,096) under its SID. Raises
    ``ValueError`` that names both sides and the next command.
    """
    folder = Path(folder)
    # before anything is read: what is damaged is named, whatever reading it would have said
    whole = _whole(folder, verify)
    facts = _read_facts(folder)
    manifests = {part: stage_manifest(folder / part) for part in facts["parts"]}
    check_hashes(manifests, facts["parts"], folder)
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


def _whole(folder: Path, verify: bool) -> Manifest | None:
    """Return the manifest of a bundle; None where it never had one."""
    if (folder / MANIFEST).is_file():
        return open_artifact(folder, "bundle", verify=verify)
    if verify and (folder / SEAL).exists():
        raise ValueError(f"{folder / MANIFEST} is missing; copy the bundle again")
    return None


def stage_manifest(folder: Path) -> Manifest:
    """Return the manifest of the stage that made ``folder``, from there or from the folder above
    (``align-…/model``).

    A model folder that no stage made (saved by hand) is described by its files alone.
    """
    manifest = read_manifest(folder) or read_manifest(folder.parent)
    if manifest is not None:
        return manifest
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no finished artefact; make it with `sidar run`")
    files = {
        str(path.relative_to(folder)): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return Manifest(kind="model", config={}, inputs={}, files=files)


def _read_facts(folder: Path) -> dict[str, Any]:
    """Read ``bundle.json``; ``ValueError`` where it is missing or of another format."""
    if not (folder / FACTS).is_file():
        raise ValueError(f"{folder} is no bundle (it has no {FACTS}); make one with `sidar bundle`")
    facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
    if facts.get("format") != FORMAT:
        raise ValueError(
            f"{folder} has bundle format {facts.get('format')}, Sidar reads {FORMAT}; run `sidar "
            "bundle`"
        )
    return facts
