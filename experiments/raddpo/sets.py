"""The queries that are scored: one pool of requests per day with several targets, and the held-out
sets.

A request is decoded once and judged against every target that it has: clicks, orders, clicks in the
randomised bucket, and the graded true utility.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.raddpo.bed import Bed
from experiments.raddpo.registration import registration
from sidar.data import open_dataset
from sidar.evaluate.scorer import relevance_threshold
from sidar.evaluate.slices import query_cluster, subset_by_hash
from sidar.types import EvalSet, Prompt, Qrels

#: Sets of the log by target.
TARGETS = {"click": "clicks", "order": "orders", "random": "random-clicks"}


@dataclass(frozen=True)
class Target:
    """What counts for some queries of a pool: ``at`` (n,) positions in the pool and their qrels."""

    at: np.ndarray
    qrels: Qrels
    relevant: float = 0.0
    graded: bool = False


@dataclass(frozen=True)
class Pool:
    """Queries that are decoded together.

    ``targets`` of the held-out sets has one entry, named ``""``.
    """

    name: str
    query_ids: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    targets: dict[str, Target]
    slices: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.query_ids)

    @cached_property
    def clusters(self) -> list[str]:
        """The query text that several requests share: the unit of every bootstrap."""
        return [
            query_cluster(p.query) or i for p, i in zip(self.prompts, self.query_ids, strict=True)
        ]

    def table(self) -> pa.Table:
        """``set, query_id, query, cluster`` and the slices."""
        columns = {
            "set": [self.name] * len(self),
            "query_id": list(self.query_ids),
            "query": [p.query for p in self.prompts],
            "cluster": self.clusters,
            **{
                f"slice_{name}": self.slices.get(name, [""] * len(self))
                for name in ("popularity", "query")
            },
        }
        return pa.table(columns)


def day_pool(bed: Bed, day: int, limits: dict[str, int]) -> Pool:
    """Requests of day 7 or 8: ``limits`` per target, by lowest hash of the request id, and their
    true utility.

    Utility is scored on the requests of the click target only, so that it is not weighted towards
    buyers.
    """
    stored = {each.name: each for each in open_dataset(bed.data()).eval_sets()}
    chosen: dict[str, tuple[EvalSet, np.ndarray]] = {}
    for target, limit in limits.items():
        found = stored[f"day{day}-{TARGETS[target]}"]
        chosen[target] = found, subset_by_hash(found.query_ids, limit)
    prompts: dict[str, Prompt] = {}
    slices: dict[str, dict[str, str]] = {"popularity": {}, "query": {}}
    for found, at in chosen.values():
        for q in at.tolist():
            prompts.setdefault(found.query_ids[q], found.prompts[q])
            for name, labels in slices.items():
                labels.setdefault(found.query_ids[q], str(found.slices[name][q]))
    ids = sorted(prompts)
    place = {query_id: q for q, query_id in enumerate(ids)}
    targets = {}
    for target, (found, at) in chosen.items():
        wanted = [found.query_ids[q] for q in at.tolist()]
        targets[target] = Target(
            np.array([place[i] for i in wanted]), {i: found.qrels[i] for i in wanted}
        )
    clicked = [ids[q] for q in targets["click"].at.tolist()]
    utility = _utility(bed, clicked)
    clicked = [i for i in clicked if utility[i]]
    targets["utility"] = Target(np.array([place[i] for i in clicked]), utility, graded=True)
    by_name = {name: [labels[i] for i in ids] for name, labels in slices.items()}
    return Pool(f"day{day}", tuple(ids), tuple(prompts[i] for i in ids), targets, by_name)


def _utility(bed: Bed, request_ids: Sequence[str]) -> Qrels:
    """P(order | examined) of every substitute or better on sale, for some requests of the last two
    days.
    """
    table = pq.read_table(bed.utility, filters=[("request_id", "in", list(request_ids))])
    found: Qrels = {i: {} for i in request_ids}
    for request, item, value in zip(
        *(table.column(n).to_pylist() for n in table.column_names), strict=True
    ):
        found[request][item] = value
    return found


def held_out_pool(bed: Bed, name: str, limit: int | None = None) -> Pool:
    """``judged_dev``, ``judged_test``, ``grounded_valid`` or ``grounded_test``."""
    found = {each.name: each for each in open_dataset(bed.data()).eval_sets()}[name]
    at = subset_by_hash(found.query_ids, limit).tolist()
    ids = tuple(found.query_ids[q] for q in at)
    target = Target(
        np.arange(len(at)), {i: found.qrels[i] for i in ids}, relevance_threshold(found)
    )
    slices = {key: [str(labels[q]) for q in at] for key, labels in found.slices.items()}
    return Pool(name, ids, tuple(found.prompts[q] for q in at), {"": target}, slices)


def pools(bed: Bed, names: Sequence[str]) -> list[Pool]:
    """The pools called ``names``, cut as registered."""
    bed_facts = registration()["bed"]
    makers = {
        "day7": lambda: day_pool(bed, 7, {"click": bed_facts["tune_requests"]}),
        "day8": lambda: day_pool(bed, 8, bed_facts["requests"]),
        "judged_dev": lambda: held_out_pool(bed, "judged_dev"),
        "judged_test": lambda: held_out_pool(bed, "judged_test"),
        "grounded_valid": lambda: held_out_pool(bed, "grounded_valid", 100),
        "grounded_test": lambda: held_out_pool(bed, "grounded_test", bed_facts["grounded"]),
    }
    return [makers[name]() for name in names]
