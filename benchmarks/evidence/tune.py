"""Choosing each method's settings on day 7, with the same number of runs for each
(docs/evaluation.md).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from benchmarks.evidence.plan import cells
from benchmarks.evidence.registration import registration, registration_hash, tuned_file


def choose(results: Path) -> dict[str, dict[str, float]]:
    """{method: settings of its best run by the registered metric}; ``ValueError`` where runs are
    missing.
    """
    metric = f"day7.{registration()['tuning']['metric']}"
    grid = registration()["tuning"]["grid"]
    best: dict[str, tuple[float, dict[str, float]]] = {}
    for cell in cells("tune"):
        path = results / f"{cell.name}.json"
        if not path.is_file():
            raise ValueError(
                f"{path.name} is missing; run `python -m benchmarks.evidence tune` to its end"
            )
        value = json.loads(path.read_text())["figures"][metric]
        settings = {name: cell.axes[name] for name in grid[cell.system]}
        if cell.system not in best or value > best[cell.system][0]:
            best[cell.system] = value, settings
    return {system: settings for system, (_, settings) in best.items()}


def write(results: Path) -> dict[str, Any]:
    """Write ``tuned.yaml`` from the tuning cells; returns what was chosen."""
    chosen = choose(results)
    head = (
        "# Written by `python -m benchmarks.evidence tune`: each method's best of four runs on "
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
