"""The kept cells of an experiment: one Parquet file of cells and one of per-query values.

A run leaves every cell as ``<name>.json`` and ``<name>.parquet`` in a work folder, which is safe
against interruption; :func:`keep` folds them into ``cells.parquet`` (a row per cell) and
``values.parquet`` (a row per cell and query). Both hold what the single files held to the last bit,
but for the order of rows: a column is null where a cell lacks it and NaN where the cell says NaN.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

CELLS, VALUES, QUERIES = "cells.parquet", "values.parquet", "queries.parquet"
#: Entries of a cell that are columns of their own; all others are kept as JSON text.
PLAIN = {
    "cell": pa.string(),
    "system": pa.string(),
    "kind": pa.string(),
    "seed": pa.int64(),
    "parent": pa.string(),
    "commit": pa.string(),
    "registration": pa.string(),
    "version": pa.int64(),
    "threads": pa.int64(),
}
#: Plain entries that every cell has, also where they are null.
ALWAYS = ("seed", "parent")
KEYS = ("cell", "set", "query_id")

Facts = dict[str, Any]


def read_cells(folder: Path) -> dict[str, Facts]:
    """Return the kept cells of ``folder`` by name; empty where nothing is kept."""
    path = folder / CELLS
    if not path.is_file():
        return {}
    cells: dict[str, Facts] = {}
    for row in pq.read_table(path).to_pylist():
        facts = {
            name: value if name in PLAIN else json.loads(value)
            for name, value in row.items()
            if value is not None or name in ALWAYS
        }
        cells[facts["cell"]] = facts
    return cells


def write_cells(folder: Path, cells: Iterable[Facts]) -> None:
    """Write ``cells.parquet``, one row per cell in the order of names."""
    rows = sorted(cells, key=lambda facts: facts["cell"])
    names = list(dict.fromkeys([*PLAIN, *(name for facts in rows for name in facts)]))
    columns = {}
    for name in names:
        if name in PLAIN:
            columns[name] = pa.array([facts.get(name) for facts in rows], PLAIN[name])
        else:
            texts = [json.dumps(facts[name]) if name in facts else None for facts in rows]
            columns[name] = pa.array(texts, pa.string())
    _write(pa.table(columns), folder / CELLS)


class Values:
    """The per-query values of a folder, read one measure at a time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / VALUES
        self._columns: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @cached_property
    def measures(self) -> list[str]:
        """The names of all measures that some cell has."""
        if not self.path.is_file():
            return []
        return [name for name in pq.read_schema(self.path).names if name not in KEYS]

    @cached_property
    def keys(self) -> dict[str, np.ndarray]:
        """``set`` and ``query_id`` of every row."""
        table = pq.read_table(self.path, columns=list(KEYS[1:]))
        return {
            name: np.asarray(table[name].cast(pa.string()).to_pylist(), dtype=object)
            for name in table.column_names
        }

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """The rows of each cell, in the order of its queries."""
        if not self.path.is_file():
            return {}
        column = pq.read_table(self.path, columns=["cell"])["cell"].combine_chunks()
        codes = np.asarray(column.indices)
        order = np.argsort(codes, kind="stable")
        ends = np.searchsorted(codes[order], np.arange(len(column.dictionary) + 1))
        return {
            name: order[ends[i] : ends[i + 1]]
            for i, name in enumerate(column.dictionary.to_pylist())
        }

    def column(self, cell: str, measure: str) -> np.ndarray | None:
        """Return the (n,) values of a cell; None where it does not have the measure."""
        if cell not in self.rows or measure not in self.measures:
            return None
        if measure not in self._columns:
            column = pq.read_table(self.path, columns=[measure])[measure].combine_chunks()
            there = np.asarray(column.is_valid())
            values = pc.fill_null(column, float("nan")).to_numpy(zero_copy_only=False)
            self._columns[measure] = values, there
        values, there = self._columns[measure]
        rows = self.rows[cell]
        return values[rows] if there[rows].all() else None

    def table(self, cell: str) -> pa.Table:
        """Return what ``<cell>.parquet`` held: ``set``, ``query_id`` and the measures."""
        rows = self.rows[cell]
        columns: dict[str, Any] = {name: keys[rows] for name, keys in self.keys.items()}
        for measure in self.measures:
            values = self.column(cell, measure)
            if values is not None:
                columns[measure] = values
        return pa.table(columns)


def loose_cells(folder: Path) -> dict[str, Path]:
    """Return the single cells in a work folder, those that are complete: {name: path of its JSON}.

    A cell writes its values first, so a JSON file without values is one that somebody damaged.
    """
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return {path.stem: path for path in paths if path.with_suffix(".parquet").is_file()}


def keep(loose: Path, folder: Path) -> list[str]:
    """Fold the single cells of ``loose`` into the two files of ``folder``; return their names.

    A cell that is kept already is replaced. The single files stay until both files are written.
    """
    paths = loose_cells(loose)
    if not paths:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    cells = read_cells(folder) | {
        name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items()
    }
    tables = [_values_of(name, path.with_suffix(".parquet")) for name, path in paths.items()]
    if (folder / VALUES).is_file():
        before = pq.read_table(folder / VALUES)
        replaced = pc.is_in(before["cell"].cast(pa.string()), value_set=pa.array(list(paths)))
        tables.insert(0, before.filter(pc.invert(replaced)))
    for name in KEYS:  # dictionaries of different files do not concatenate
        tables = [_as_text(table, name) for table in tables]
    values = pa.concat_tables(tables, promote_options="default")
    # the values of one query under similar models are often equal: side by side they pack well
    values = values.take(_order(values))
    for name in KEYS:
        at = values.column_names.index(name)
        values = values.set_column(at, name, values[name].combine_chunks().dictionary_encode())
    _write(values, folder / VALUES)
    write_cells(folder, cells.values())
    for path in paths.values():
        path.unlink()
        path.with_suffix(".parquet").unlink()
    return list(paths)


def _order(values: pa.Table) -> np.ndarray:
    """Rows by set, then by the place of the query among those of its cell, then by cell."""
    text = {name: values[name].combine_chunks().dictionary_encode() for name in KEYS}
    codes = {name: np.asarray(column.indices) for name, column in text.items()}
    return np.lexsort((codes["cell"], codes["query_id"], codes["set"]))


def _values_of(cell: str, path: Path) -> pa.Table:
    table = pq.read_table(path)
    return table.add_column(0, "cell", pa.array([cell] * len(table)))


def _as_text(table: pa.Table, name: str) -> pa.Table:
    at = table.column_names.index(name)
    return table.set_column(at, name, table[name].cast(pa.string()))


def _write(table: pa.Table, path: Path) -> None:
    tmp = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, tmp, compression="zstd", compression_level=15, use_dictionary=True)
    tmp.replace(path)
