"""Choosing each method's settings on day 7, with the same number of runs for each
(docs/evaluation.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from experiments.raddpo.plan import cells
from experiments.raddpo.registration import registration, registration_hash, tuned_file
from experiments.raddpo.store import read_cells


def choose(results: Path) -> dict[str, dict[str, float]]:
    """{method: settings of its best run by the registered metric}; ``ValueError`` where runs are
    missing.
    """
    metric = f"day7.{registration()['tuning']['metric']}"
    grid = registration()["tuning"]["grid"]
    kept = read_cells(results)
    best: dict[str, tuple[float, dict[str, float]]] = {}
    for cell in cells("tune"):
        if cell.name not in kept:
            raise ValueError(
                f"{cell.name} is missing; run `python -m experiments.raddpo tune` to its end"
            )
        value = kept[cell.name]["figures"][metric]
        settings = {name: cell.axes[name] for name in grid[cell.system]}
        if cell.system not in best or value > best[cell.system][0]:
            best[cell.system] = value, settings
    return {system: settings for system, (_, settings) in best.items()}


def write(results: Path) -> dict[str, Any]:
    """Write ``tuned.yaml`` from the tuning cells; returns what was chosen."""
    chosen = choose(results)
    head = (
        "# Written by `python -m experiments.raddpo tune`: each method's best of four runs on "
        "day 7 (seed 0).\n"
        "# Committed before any cell of day 8 was run.\n"
    )
    content = {
        "registration": registration_hash(),
        "metric": registration()["tuning"]["metric"],
        "chosen": chosen,
    }
    tuned_file().write_text(head + yaml.safe_dump(content, sort_keys=False))
    return chosen
