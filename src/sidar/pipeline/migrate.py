"""The plan of a change of IDs: what a bundle in service can keep, what must be made again, in which
order.

IDs, the model's SID vocabulary and the index move together or not at all. A table with the *same
codebooks* is a newer edition of what the model learnt: its codes mean what they meant, so the model
may stay while the index is rebuilt. A table with *other codebooks* is another language, even where
the sizes agree: the model's SID rows and heads, the index and everything made with them are
worthless for it. The plan says which of the two it is; ``open_bundle`` refuses to serve a mixture
whatever the plan says (serve/bundle/checks.py).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sidar.artifacts import read_manifest
from sidar.lm.vocab import SidVocab
from sidar.serve.bundle import open_bundle
from sidar.serve.bundle.checks import MADE_FROM
from sidar.sid.lifecycle.versions import Diff, Version, compare_versions, open_version
from sidar.types import Json, PathLike

Action = Literal["keep", "take", "rebuild", "train on", "train anew"]


@dataclass(frozen=True)
class Step:
    """One part of the service: what happens to it, why, and by which command (empty: nothing to
    do).
    """

    part: str
    action: Action
    why: str
    command: str = ""


@dataclass(frozen=True)
class Migration:
    """``kind``: ``none`` (one and the same), ``refresh`` (the model may stay) or ``migration`` (all
    move together).
    """

    bundle: str
    target: str
    kind: Literal["none", "refresh", "migration"]
    steps: list[Step]
    diff: Diff
    notes: list[str]

    def as_dict(self) -> Json:
        """JSON-able."""
        return {**asdict(self), "diff": self.diff.as_dict()}


def plan_migration(bundle: PathLike, target: PathLike) -> Migration:
    """What it takes to serve the SIDs of ``target`` (an SID folder, run, bundle or table) in place
    of ``bundle``'s.

    ``ValueError`` where ``bundle`` does not open, so that nothing is planned on top of a mixture.
    """
    bundle = Path(bundle)
    open_bundle(bundle)
    before, after = open_version(bundle), open_version(target)
    diff = compare_versions(before, after)
    notes = _run_notes(Path(target))
    encoder = _encoder_note(bundle, Path(target))
    if encoder:
        notes.append(encoder)
    changed = bool(diff.causes)
    if diff.codebooks == "same" and not _lengths_break(bundle, after):
        kind: Literal["none", "refresh", "migration"] = "refresh" if changed else "none"
        steps = (
            _refresh(diff) if changed else [Step("all", "keep", "the same SIDs for the same items")]
        )
    else:
        kind, steps = "migration", _migration(diff, bundle, after)
    return Migration(str(bundle), str(target), kind, steps, diff, notes)


def _refresh(diff: Diff) -> list[Step]:
    new, moved = diff.causes.get("new", 0), diff.moved
    learns = "the model knows no item by a new SID yet; it reaches them by what their codes mean"
    return [
        Step(
            "SID table",
            "take",
            (
                f"same codebooks: {new:,} new, {diff.causes.get('retired', 0):,} retired, "
                f"{moved:,} moved"
            ),
        ),
        Step("vocabulary", "keep", "same codebooks: a code's token means what it meant"),
        Step("index", "rebuild", "SIDs came and went", "sidar sids encode --from <bundle>"),
        Step(
            "model",
            "train on",
            f"may serve as it is ({learns}), better after a warm start",
            "sidar run --from <bundle>",
        ),
        Step("bundle", "rebuild", "the parts are swapped as one; either command writes it"),
    ]


def _migration(diff: Diff, bundle: Path, after: Version) -> list[Step]:
    was, now = diff.sizes
    tokens = f"{sum(was) + 1:,} → {sum(now) + 1:,} SID tokens"
    why = {
        "changed": "other codebooks: a code means another cluster"
        + (", although the sizes agree" if was == now else ""),
        "unknown": "the target has no codebooks to compare, so its codes may mean anything",
        "same": "its SIDs differ in length, and the model was made for one length",
    }[diff.codebooks]
    return [
        Step("training data", "keep", "examples, lists and evaluation sets hold rows, no SIDs"),
        Step("item vectors", "keep", "unless the encoder changes (see notes)"),
        Step("SID table", "take", f"{why}; every one of {diff.items[1]:,} items gets a new name"),
        Step(
            "vocabulary",
            "rebuild",
            f"{tokens}; input rows, level heads and EOS start again",
            "sidar sft",
        ),
        Step(
            "model",
            "train anew",
            "what it learnt of SIDs is of the old codebooks; it starts from the backbone",
            "sidar sft, then sidar align",
        ),
        Step("RDRW window, checkpoints", "rebuild", "states of the old model; made by sidar align"),
        Step("index", "rebuild", "prefixes of other SIDs", "sidar index"),
        Step(
            "evaluation",
            "rebuild",
            "SID-level columns of two tables are not comparable; item-level ones are",
            "sidar evaluate",
        ),
        Step(
            "bundle",
            "rebuild",
            "swap it whole; until it is evaluated the old bundle serves",
            "sidar bundle",
        ),
    ]


def _lengths_break(bundle: Path, after: Version) -> bool:
    model = json.loads((bundle / "model" / "config.json").read_text())
    vocab = SidVocab(tuple(model["codebook_sizes"]), variable_length=model["variable_length"])
    try:
        vocab.check_fits(after.sids)
    except ValueError:
        return True
    return False


def _encoder_note(bundle: Path, target: Path) -> str:
    """Says whether queries and items would meet in another vector space."""
    files = [bundle / "embed" / "embedder.json"]
    files += [folder / "embed" / "embedder.json" for folder in (target, target.parent)]
    found = [json.loads(file.read_text()) for file in files if file.is_file()]
    if len(found) < 2 or not files[0].is_file():
        return ""
    old, new = found[0], found[1]
    if old.get("fingerprint") == new.get("fingerprint"):
        return f"encoder: {new['model']} in both"
    return (
        f"encoder: {old['model']} → {new['model']}; item vectors, dense channel and similarity "
        "caches move as well"
    )


def _run_notes(target: Path) -> list[str]:
    """Parts of a run folder that were not made from the SID table that is there now."""
    if not (target / "sid" / "manifest.json").is_file() or (target / "bundle.json").is_file():
        return []
    here = {"catalogue": read_manifest(target / "data"), "sid": read_manifest(target / "sid")}
    notes = []
    folders = (
        {"index": target / "index"}
        | {f.name: f for f in sorted(target.glob("align-*"))}
        | {"sft": target / "sft"}
    )
    for name, folder in folders.items():
        manifest = read_manifest(folder)
        if manifest is None:
            notes.append(f"{name}: not made yet")
            continue
        for parent in MADE_FROM["index" if name == "index" else "model"]:
            made, have = (
                manifest.inputs.get("data" if parent == "catalogue" else parent),
                here[parent],
            )
            if made is not None and have is not None and made != have.hash:
                notes.append(
                    f"{name}: made from {parent} {made[:12]}, here is {have.hash[:12]}; not to be "
                    "served together"
                )
    return notes


def lines(migration: Migration) -> list[str]:
    """The plan as text."""
    head = {
        "none": "nothing to do",
        "refresh": "a refresh: the codebooks stay, the model may stay",
        "migration": "a migration: IDs, vocabulary, model and index move together or not at all",
    }[migration.kind]
    width = max(len(step.part) for step in migration.steps)
    text = [f"{migration.bundle} → {migration.target}: {head}"]
    for step in migration.steps:
        text.append(f"{step.part:<{width}}  {step.action:<10}  {step.why}")
        if step.command:
            text.append(f"{'':<{width}}  {'':<10}  $ {step.command}")
    return text + [f"note: {note}" for note in migration.notes]
