"""Each method's settings by day 7, chosen with the same number of runs for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from experiments.alignment.plan import tune_cells
from experiments.raddpo.registration import registration, registration_hash, tuned_file
from experiments.raddpo.store import read_cells

HEAD = """\
# Written by `python -m experiments.alignment tune`: each method's best run on day 7 (seed 0).
# Committed before any cell of day 8 was run.
"""


def choose(results: Path) -> dict[str, dict[str, Any]]:
    """Return {method: settings of its best run by the registered metric}, of the methods whose
    runs are all there.
    """
    metric = f"day7.{registration()['tuning']['metric']}"
    kept = read_cells(results)
    runs = [*tune_cells("core"), *tune_cells("all")]
    unfinished = {cell.system for cell in runs if cell.name not in kept}
    best: dict[str, tuple[float, dict[str, Any]]] = {}
    for cell in runs:
        if cell.system in unfinished:
            continue
        value = kept[cell.name]["figures"][metric]
        if cell.system not in best or value > best[cell.system][0]:
            best[cell.system] = value, dict(cell.axes)
    return {system: settings for system, (_, settings) in best.items()}


def write(results: Path) -> dict[str, dict[str, Any]]:
    """Write ``tuned.yaml`` beside the registration; return what was chosen."""
    chosen = choose(results)
    content = {
        "registration": registration_hash(),
        "metric": registration()["tuning"]["metric"],
        "chosen": chosen,
    }
    tuned_file().write_text(HEAD + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return chosen
