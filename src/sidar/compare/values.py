"""The per-query values of all methods, with the seeds of a method side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sidar.evaluate.perquery import PerQuery


def system_name(method: str, seed: int, seeds: Sequence[int]) -> str:
    """Return ``rqkmeans``, or ``rqkmeans#1`` where there are several seeds."""
    return method if len(seeds) == 1 else f"{method}#{seed}"


def add_system(values: PerQuery, other: PerQuery, system: str, name: str) -> None:
    """Add all measures of ``system`` in ``other`` to ``values`` as those of ``name``."""
    for set_name in other.sets():
        for measure in other.measures(set_name, system):
            if known := other.get(set_name, system, measure):
                _add(values, set_name, name, measure, *known)


def stacked(values: PerQuery, methods: Sequence[str], seeds: Sequence[int]) -> PerQuery:
    """Return one system per method: the values of all seeds in turn, query ids repeated.

    Intervals and tests resample clusters of queries, so the seeds of a query stay together. A
    measure that a seed lacks, or has for other queries, is left out.
    """
    out = PerQuery()
    for set_name in values.sets():
        for method in methods:
            names = [system_name(method, seed, seeds) for seed in seeds]
            for measure in values.measures(set_name, names[0]):
                by_seed = [values.get(set_name, name, measure) for name in names]
                complete = [one for one in by_seed if one is not None]
                ids = complete[0][0]
                if len(complete) < len(seeds) or any(one[0] != ids for one in complete):
                    continue
                joined = np.concatenate([one[1] for one in complete])
                _add(out, set_name, method, measure, ids * len(seeds), joined)
    return out


def _add(
    values: PerQuery,
    set_name: str,
    system: str,
    measure: str,
    ids: tuple[str, ...],
    numbers: np.ndarray,
) -> None:
    prefix, _, rest = measure.rpartition("/")
    values.add(set_name, system, prefix, {rest: numbers}, ids)
