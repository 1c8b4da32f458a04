"""Per-query values of all methods: the file that everything on the page is made from, with the seeds stacked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sidar.evaluate.perquery import PerQuery

#: Item measures that are told for seen and unseen queries.
BY_LABEL = ("ndcg@10", "recall@100")
LABELS = {"query": ("seen", "unseen")}


def system_name(method: str, seed: int, seeds: Sequence[int]) -> str:
    """``rqkmeans``, or ``rqkmeans#1`` where there are several seeds."""
    return method if len(seeds) == 1 else f"{method}#{seed}"


def add_renamed(values: PerQuery, other: PerQuery, system: str, name: str) -> None:
    """Add all measures of ``system`` in ``other`` to ``values`` as those of ``name``."""
    for each in other.sets():
        for measure in other.measures(each, system):
            found = other.get(each, system, measure)
            assert found is not None
            prefix, _, rest = measure.rpartition("/")
            values.add(each, name, prefix, {rest: found[1]}, found[0])


def stacked(values: PerQuery, methods: Sequence[str], seeds: Sequence[int]) -> PerQuery:
    """One system per method: the values of all seeds one after the other, query ids repeated.

    Intervals and tests resample clusters of queries, so a query's seeds stay together (evaluate/stats.py). A measure
    that a seed lacks, or has for other queries, is left out.
    """
    out = PerQuery()
    for each in values.sets():
        for method in methods:
            names = [system_name(method, seed, seeds) for seed in seeds]
            for measure in values.measures(each, names[0]):
                found = [values.get(each, name, measure) for name in names]
                first = found[0]
                if first is None or any(one is None or one[0] != first[0] for one in found):
                    continue
                ids = [query_id for one in found if one for query_id in one[0]]
                prefix, _, rest = measure.rpartition("/")
                out.add(each, method, prefix, {rest: np.concatenate([one[1] for one in found if one])}, ids)
    return out


def add_labelled(values: PerQuery, queries: Sequence[Mapping[str, Any]]) -> None:
    """Add ``item/<measure>[seen]`` and so on: the values of the queries that carry the label."""
    labels = {(row["set"], row["query_id"]): json.loads(row["labels"]) for row in queries}
    for each in values.sets():
        for system in values.systems(each):
            for measure in BY_LABEL:
                found = values.get(each, system, f"item/{measure}")
                if found is None:
                    continue
                for kind, words in LABELS.items():
                    said = np.array([labels[each, query_id].get(kind) for query_id in found[0]], dtype=object)
                    for word in words:
                        at = np.flatnonzero(said == word)
                        if len(at):
                            ids = [found[0][i] for i in at]
                            values.add(each, system, "item", {f"{measure}[{word}]": found[1][at]}, ids)
