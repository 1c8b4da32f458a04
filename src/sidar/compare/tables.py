"""``sidar compare-sids --table``: several SID tables of one catalogue, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.table import Table

from sidar.config import Config
from sidar.data import open_dataset
from sidar.sid import load_sids
from sidar.sid.quality import report


def compare(cfg: Config, tables: Mapping[str, Path]) -> Table:
    """Return a table with one column per SID table and one row per figure of quality.

    It needs the run's data stage. Tables hold ``item_id, codes``: the sids.parquet of any run of
    this catalogue, or a file of another tool.
    """
    catalogue = open_dataset(cfg.run_dir / "data").catalogue
    categories = catalogue.column("category")
    columns: dict[str, dict[str, float]] = {}
    for name, path in tables.items():
        if not path.is_file():
            raise ValueError(f"{name}: {path} is no file; name the sids.parquet of a run")
        sids = load_sids(path, catalogue.item_ids)
        quality = report(sids, categories=categories)
        del quality["buckets"]
        purity = {
            f"purity of {cell['prefix_depth']} codes, category depth {cell['category_depth']}": cell
            for cell in quality.pop("purity", [])
        }
        columns[name] = dict(numbers_in(quality))
        columns[name] |= {words: cell["purity"] for words, cell in purity.items()}
    table = Table("", *columns, title=f"SID tables of {len(catalogue):,} items")
    for key in dict.fromkeys(key for figures in columns.values() for key in figures):
        cells = [figures.get(key) for figures in columns.values()]
        table.add_row(key, *("" if value is None else f"{value:,.4g}" for value in cells))
    return table


def numbers_in(value: object, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of a nested report with its dotted name."""
    if isinstance(value, Mapping):
        pairs = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list):
        pairs = [(str(place), inner) for place, inner in enumerate(value)]
    else:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield prefix, float(value)
        return
    for key, inner in pairs:
        yield from numbers_in(inner, f"{prefix}.{key}" if prefix else key)
