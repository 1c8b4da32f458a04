"""``sidar compare-sids``: several SID tables of one catalogue, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidar.config import Config


def compare(cfg: Config, tables: Mapping[str, Path]) -> Any:
    """A rich table: one column per SID table, one row per quality figure; needs the run's data stage.

    Tables hold ``item_id, codes`` (sids.parquet of any run of this catalogue, or of another tool).
    """
    from rich.table import Table

    from sidar.data import open_dataset
    from sidar.sid import load_sids
    from sidar.sid.quality import report

    catalogue = open_dataset(cfg.run_dir / "data").catalogue
    categories = catalogue.column("category")
    found: dict[str, dict[str, float]] = {}
    for name, path in tables.items():
        if not path.is_file():
            raise ValueError(f"{name}: {path} is no file; name the sids.parquet of a run")
        sids = load_sids(path, catalogue.item_ids)
        quality = report(sids, categories=categories)
        pure = {f"purity of {p['prefix_depth']} codes, category depth {p['category_depth']}": p["purity"]
                for p in quality.pop("purity", [])}  # fmt: skip
        found[name] = flatten({key: quality[key] for key in quality if key != "buckets"}) | pure
    result = Table("", *found, title=f"SID tables of {len(catalogue):,} items")
    for key in dict.fromkeys(key for figures in found.values() for key in figures):
        result.add_row(key, *(f"{figures[key]:,.4g}" if key in figures else "" for figures in found.values()))
    return result


def flatten(value: Any, prefix: str = "") -> dict[str, float]:
    """Every number of a nested report under its dotted name."""
    if isinstance(value, dict):
        pairs = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list):
        pairs = [(str(place), inner) for place, inner in enumerate(value)]
    else:
        return {prefix: float(value)} if isinstance(value, (int, float)) and not isinstance(value, bool) else {}
    return {k: v for key, inner in pairs for k, v in flatten(inner, f"{prefix}.{key}" if prefix else key).items()}
