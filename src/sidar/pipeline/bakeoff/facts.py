"""What is known of each method, each set, the model and the catalogue: the parts of ``results.json`` without tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sidar.artifacts import read_manifest
from sidar.evaluate.slices import CLASSES
from sidar.pipeline.bakeoff.budget import bits_per_item, fits
from sidar.pipeline.bakeoff.entrants import Entrant
from sidar.pipeline.bakeoff.measure import MODEL

if TYPE_CHECKING:
    from sidar.pipeline.bakeoff.run import Cooked, Kitchen

#: What of ``quality.json`` is kept.
QUALITY = ("items", "sids", "items_per_sid", "collision_rate", "largest_sid", "gini", "lengths", "levels", "prefixes")
QUALITY_MORE = ("purity", "reconstruction", "classes", "traffic_length", "pairs", "collapse", "notes")


def figures(facts: Mapping[str, Any], summary: Mapping[str, Any], swept: str, name: str) -> dict[str, float]:
    """What may explain a difference: quantised dense, category purity, collisions, invalid mass."""
    cells = summary[swept][name]
    found = {
        "collision_rate": facts["quality"]["collision_rate"],
        "quantised": cells["quantised/recall@100"]["mean"],
        "purity": purity_of(facts, 2),
        "invalid": cells["invalid/mass"]["mean"] if "invalid/mass" in cells else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def purity_of(facts: Mapping[str, Any], depth: int) -> float | None:
    """Purity of the first ``depth`` codes in the deepest category level that is told; None where there is none."""
    found = [each for each in facts["quality"].get("purity", []) if each["prefix_depth"] == depth]
    return max(found, key=lambda each: each["category_depth"])["purity"] if found else None


def method_facts(kitchen: Kitchen, mine: Sequence[Cooked]) -> dict[str, Any]:
    """What is known of one method: its config, bits, table quality (mean over seeds), stage times, or its failure."""
    from sidar.pipeline.bakeoff.run import seconds_of

    entrant = mine[0].entrant
    found: dict[str, Any] = {**{k: v for k, v in asdict(entrant).items() if k in ("about", "must_lose_to")}}
    if broken := [done for done in mine if done.failed]:
        return {
            **found,
            "failed": broken[0].failed,
            "error": broken[0].error,
            "failed_seed": broken[0].seed,
            "equal": False,
        }
    qualities = [json.loads((done.folder / "sid" / "quality.json").read_text()) for done in mine]
    tables = [kitchen.sids(done.folder, done.config) for done in mine]
    bits = float(np.mean([bits_per_item(table) for table in tables]))
    times = [seconds_of(done.folder, ("sid", "sft", kitchen.model, "index", "measure")) for done in mine]
    wanted = kitchen.bits or bits
    return {
        **found,
        "sid": mine[0].config.sid.model_dump(mode="json"),
        "codebook_sizes": list(tables[0].codebook_sizes),
        "bits": bits,
        "density": float(np.mean([measured_shapes(done.folder)["density"] for done in mine])),
        "bits_over": bits / wanted - 1 if wanted else 0.0,
        "equal": fits(bits, wanted),
        "mean_length": float(np.mean([table.lengths[table.lengths > 0].mean() for table in tables])),
        "quality": _mean([{k: q[k] for k in (*QUALITY, *QUALITY_MORE) if k in q} for q in qualities]),
        "by_seed": [{k: q[k] for k in ("sids", "collision_rate", "gini")} for q in qualities],
        "seconds": {k: float(np.mean([t[k] for t in times])) for k in times[0]},
    }


def measured_shapes(folder: Path) -> dict[str, Any]:
    """What the manifest of a method's measures says."""
    manifest = read_manifest(folder / "measure")
    return manifest.shapes if manifest else {}


def _mean(values: Sequence[Any]) -> Any:
    """The mean over seeds of every number in like-shaped reports; what is no number, or unlike, is the first's."""
    first = values[0]
    if len(values) == 1 or isinstance(first, (str, bool)) or first is None:
        return first
    if isinstance(first, dict) and all(isinstance(v, dict) for v in values):
        return {key: _mean([v[key] for v in values]) for key in first if all(key in v for v in values)}
    if isinstance(first, list) and all(isinstance(v, list) and len(v) == len(first) for v in values):
        return [_mean(parts) for parts in zip(*values, strict=True)]
    return float(np.mean(values)) if isinstance(first, (int, float)) else first


def set_facts(whole: Sequence[Entrant], root: Path, seed: int, each: str) -> dict[str, Any]:
    """What a set is, and how far each method's IDs reach its judgments."""
    facts = {
        entrant.name: json.loads((root / entrant.folder / f"seed-{seed}" / "measure" / "facts.json").read_text())[each]
        for entrant in whole
    }
    shared = next(iter(facts.values()))
    keys = ("origin", "queries", "clusters", "relevant_from", "relevant_per_query", "without_relevant")
    return {key: shared[key] for key in keys} | {
        "coverage": {name: fact["coverage"][MODEL] for name, fact in facts.items()}
    }


def model_facts(kitchen: Kitchen, whole: Sequence[Entrant], seed: int) -> dict[str, Any]:
    """The language model that every method trains, and how long."""
    cfg = kitchen.cfg
    weights = {
        entrant.name: measured_shapes(kitchen.root / entrant.folder / f"seed-{seed}")["weights"] for entrant in whole
    }
    return {
        "stage": kitchen.model,
        "backbone": cfg.lm.backbone,
        "layers": cfg.lm.layers,
        "hidden": cfg.lm.hidden,
        "weights": weights,
        "steps": cfg.sft.steps,
        "batch_size": cfg.sft.batch_size,
        "align_steps": cfg.align.steps if kitchen.align else 0,
    }


def catalogue_facts(kitchen: Kitchen) -> dict[str, Any]:
    """Items by popularity class, and where the log comes from."""
    from sidar.data import open_dataset

    dataset = open_dataset(kitchen.cfg.run_dir / "data")
    labels = dataset.priors().popularity()[dataset.catalogue.alive]
    return {
        "items": int(dataset.catalogue.alive.sum()),
        "lineage": dataset.catalogue.lineage,
        "origin": kitchen.cfg.events.origin,
        "classes": {name: int((labels == name).sum()) for name in CLASSES},
    }
