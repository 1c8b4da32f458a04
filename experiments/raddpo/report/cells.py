"""The kept cells: which are there, which are void, which were planned and not run; their values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from experiments.raddpo.store import QUERIES, Values, read_cells
from sidar.artifacts import sha256_json

#: Axes that change the tokens or the model: two cells that differ here are never compared by
#: accident.
BED_AXES = ("sids", "size", "head")
_END = re.compile(r"\.(s\d+|tune)$")


@dataclass(frozen=True)
class Cell:
    """One trained and scored model, or one baseline (``seed`` None).

    ``variant`` is what its name says after ``@``.
    """

    name: str
    system: str
    variant: str
    seed: int | None
    facts: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.facts.get("kind", ""))

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.facts.get("groups", ()))

    @property
    def axes(self) -> Mapping[str, Any]:
        return self.facts.get("axes") or {}

    @property
    def train(self) -> Mapping[str, Any]:
        return self.facts.get("train") or {}

    @property
    def mechanism(self) -> Mapping[str, float]:
        return self.facts.get("mechanism") or {}

    @property
    def seconds(self) -> dict[str, float]:
        return {key: float(value or 0) for key, value in (self.facts.get("seconds") or {}).items()}

    def same_bed(self, other: Cell) -> bool:
        """Whether both have the same kind of model and the same Semantic IDs, as
        far as both say.
        """
        axes = all(
            self.axes[k] == other.axes[k] for k in BED_AXES if k in self.axes and k in other.axes
        )
        mine, theirs = self.facts["bed"].get("sids"), other.facts["bed"].get("sids")
        return axes and (not mine or not theirs or mine == theirs)


def split_name(name: str) -> tuple[str, str]:
    """``raddpo@noise=0.5.s2`` -> ("raddpo", "noise=0.5")."""
    system, _, variant = _END.sub("", name).partition("@")
    return system, variant


def registration_hash(path: Path) -> str:
    """Names a registration file, as :func:`experiments.raddpo.registration.registration_hash`
    does.
    """
    return sha256_json(yaml.safe_load(Path(path).read_text(encoding="utf-8")))


@dataclass(eq=False)
class Evidence:
    """Everything that the page is made of."""

    results: Path
    registration: dict[str, Any]
    registration_hash: str
    cells: dict[str, Cell]
    void: dict[str, str]  # name -> why
    planned: Sequence[Any]
    # set -> (query_id -> place, (Q,) cluster numbers)
    queries: dict[str, tuple[dict[str, int], np.ndarray]]
    values_of_cells: Values
    _places: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def not_run(self) -> list[Any]:
        """Planned cells without a file (void ones have one)."""
        return [p for p in self.planned if p.name not in self.cells and p.name not in self.void]

    @cached_property
    def plan(self) -> dict[tuple[str, str], list[Any]]:
        """(system, variant) -> its planned cells, tuning runs left out."""
        found: dict[tuple[str, str], list[Any]] = {}
        for each in self.planned:
            if list(each.groups) != ["tune"]:
                found.setdefault(split_name(each.name), []).append(each)
        return found

    @property
    def device_types(self) -> list[str]:
        """The types of device that cells ran on: cpu, cuda."""
        used = [c.facts.get("device") for c in self.cells.values()]
        return sorted(
            {str(d.get("used", "cpu")).partition(":")[0] for d in used if isinstance(d, dict)}
        )

    def runs(self, system: str, variant: str = "") -> dict[int | None, Cell]:
        """{seed: cell} of one row of a table, tuning runs left out."""
        found = [
            c
            for c in self.cells.values()
            if c.system == system and c.variant == variant and not _tuning(c)
        ]
        return {c.seed: c for c in sorted(found, key=lambda c: (c.seed is None, c.seed or 0))}

    def systems(
        self, group: str | None = None, kinds: Sequence[str] = ("sft", "align")
    ) -> list[str]:
        """Systems with a cell at the base setting (in ``group``), in the order of the plan, then by
        name.
        """
        planned = list(dict.fromkeys(p.system for p in self.planned))
        found = {
            c.system
            for c in self.cells.values()
            if not c.variant
            and c.kind in kinds
            and not _tuning(c)
            and (group is None or group in c.groups)
        }
        return sorted(found, key=lambda s: (planned.index(s) if s in planned else len(planned), s))

    def variants(self, axis: str, system: str | None = None) -> list[str]:
        """Variants ``axis=value`` that were run or planned, by value."""
        run = [(c.system, c.variant) for c in self.cells.values() if not _tuning(c)]
        run += [split_name(p.name) for p in self.planned if list(p.groups) != ["tune"]]
        found = {
            v
            for s, v in run
            if system in (None, s) and v.startswith(f"{axis}=") and v.count("=") == 1
        }
        return sorted(found, key=sort_key)

    def base_value(self, axis: str, system: str) -> str | None:
        """The value of ``axis`` at the base setting of ``system``; None where no cell says."""
        return next((str(c.axes[axis]) for c in self.runs(system).values() if axis in c.axes), None)

    def values(self, cell: Cell, set_name: str, metric: str) -> np.ndarray:
        """(Q,) values over the queries of the set, NaN where there are none."""
        places, _ = self.queries.get(set_name, ({}, ()))
        out = np.full(len(places), np.nan)
        values = self.values_of_cells.column(cell.name, metric)
        if values is not None and len(places):
            rows, at = self._rows(cell.name, set_name)
            out[at] = values[rows]
        return out

    def _rows(self, cell: str, set_name: str) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a cell's values that belong to a set, and the places of their queries."""
        if (cell, set_name) not in self._places:
            places, _ = self.queries[set_name]
            keys, rows = self.values_of_cells.keys, self.values_of_cells.rows[cell]
            own = np.flatnonzero(keys["set"][rows] == set_name)
            ids = keys["query_id"][rows[own]]
            if unknown := [i for i in ids if i not in places]:
                raise ValueError(
                    f"{cell} has query {unknown[0]!r} of {set_name}, which queries.parquet does "
                    "not know; run the cell again on this bed"
                )
            self._places[cell, set_name] = own, np.asarray([places[i] for i in ids], np.int64)
        return self._places[cell, set_name]


def _tuning(cell: Cell) -> bool:
    return cell.groups == ("tune",)


def sort_key(variant: str) -> tuple[float, str]:
    """Orders ``axis=value`` by number where the value is one (the first number of
    ``512/256/128``).
    """
    number = re.search(r"\d+(\.\d+)?(e-?\d+)?", variant.partition("=")[2])
    return (float(number.group()) if number else float("inf"), variant)


def read_evidence(results: Path, registration: Path, planned: Sequence[Any]) -> Evidence:
    """Read every cell of ``results`` and sort out the void ones."""
    rules = yaml.safe_load(Path(registration).read_text(encoding="utf-8"))
    own_hash = registration_hash(registration)
    cells, void = {}, {}
    specs = {p.name: _spec(p.spec) for p in planned if getattr(p, "spec", None)}
    values = Values(results)
    for name, facts in read_cells(results).items():
        system, variant = split_name(name)
        if system != facts["system"]:
            raise ValueError(f"{name} says that it is of {facts['system']}; run this cell again")
        reason = _why_void(facts, rules, own_hash)
        if not reason and name in specs and _spec(facts.get("spec") or {}) != specs[name]:
            reason = "another specification than the plan's"
        if not reason and name not in values.rows:
            reason = "its per-query values are missing"
        if reason:
            void[name] = reason
        else:
            cells[name] = Cell(name, system, variant, facts.get("seed"), facts)
    queries = _read_queries(results / QUERIES)
    return Evidence(results, rules, own_hash, cells, void, planned, queries, values)


def _spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a cell what it is, as JSON reads it back; why it is wanted and what it waits for
    are left out.
    """
    found: dict[str, Any] = json.loads(json.dumps(dict(spec)))
    return {key: value for key, value in found.items() if key not in ("groups", "needs")}


def _why_void(facts: Mapping[str, Any], rules: Mapping[str, Any], own_hash: str) -> str:
    """Why a cell does not count; empty where it does.

    A hash may be given by its first twelve digits or more.
    """
    bed = facts.get("bed") or {}
    for what, said, wanted in (
        ("simulator", bed.get("simulator"), rules["simulator"]["hash"]),
        ("lexicon", bed.get("lexicon"), rules["simulator"]["lexicon"]),
        ("registration", facts.get("registration"), own_hash),
    ):
        said = str(said or "")
        if len(said) < 12 or not str(wanted).startswith(said):
            return (
                f"made under another {what} ({said[:12] or 'none named'}, registered "
                f"{str(wanted)[:12]})"
            )
    return ""


def _read_queries(path: Path) -> dict[str, tuple[dict[str, int], np.ndarray]]:
    if not path.is_file():
        return {}
    rows = pq.read_table(path, columns=["set", "query_id", "cluster"]).to_pylist()
    out = {}
    for name in dict.fromkeys(row["set"] for row in rows):
        some = [row for row in rows if row["set"] == name]
        _, clusters = np.unique(
            np.asarray([str(row["cluster"]) for row in some]), return_inverse=True
        )
        out[name] = ({row["query_id"]: i for i, row in enumerate(some)}, clusters)
    return out
