"""Runs a kept cell again with the code of this checkout and compares every figure and value."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from experiments.alignment.bed import Bed
from experiments.alignment.cell import Context, run_cell
from experiments.alignment.plan import sft_cell
from experiments.raddpo.cell import train_model
from experiments.raddpo.plan import Cell
from experiments.raddpo.rerun import differing
from experiments.raddpo.store import Values, read_cells


def rerun(name: str, work: Path, results: Path) -> int:
    """Run the cell ``name`` again below ``work`` and return the exit code: 0 where every figure and
    every query's value are equal.

    The SFT model that it starts from is trained again too, where the work folder lacks it.
    """
    kept = read_cells(results)
    if name not in kept:
        raise ValueError(f"no kept cell is named {name!r}; there are {', '.join(sorted(kept))}")
    was, cell = kept[name], Cell.of(kept[name]["spec"])
    folder = work.resolve() / "rerun" / name.replace("/", "-")
    shutil.rmtree(folder, ignore_errors=True)
    bed = Bed(work.resolve())
    bed.build()
    if cell.config.get("align", {}).get("reward") == "ranker":
        bed.build_reward()
    context = Context(bed, folder / "cells", "cpu", fresh={name: folder / "model"})
    if cell.parent is not None and cell.seed is not None:
        train_model(sft_cell(cell.seed), context)
    changed = differing(was, run_cell(cell, context))
    for figure, (old, new) in changed.items():
        print(f"{figure}: {old} -> {new}")
    columns = _changed_values(name, results, context.results / f"{name}.parquet")
    for column in columns:
        print(f"values of {column} differ")
    same = not changed and not columns
    print(f"{name}: {'every figure and value is equal' if same else 'not equal'}")
    return 0 if same else 1


def _changed_values(name: str, results: Path, again: Path) -> list[str]:
    """Return the measures whose per-query values are not equal to the last bit."""
    kept, now = Values(results).table(name), pq.read_table(again)
    order = np.argsort(np.asarray(now["query_id"].to_pylist()))
    was = np.argsort(np.asarray(kept["query_id"].to_pylist()))
    changed = []
    for column in now.column_names:
        new = np.asarray(now[column].to_pylist(), dtype=object)[order]
        old = np.asarray(kept[column].to_pylist(), dtype=object)[was]
        equal = [a == b or (a != a and b != b) for a, b in zip(old, new, strict=True)]
        if not all(equal):
            changed.append(column)
    return changed
