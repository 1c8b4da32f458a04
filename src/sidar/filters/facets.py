"""Counts of values among the items that a filter allows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from sidar.filters.columns import Column

#: Values of a facet that are returned.
MOST = 50


@dataclass(frozen=True)
class FacetCount:
    """A value and how many allowed items have it."""

    value: str | float | bool
    count: int


def facet(column: Column, allowed: np.ndarray, most: int = MOST) -> list[FacetCount]:
    """Return the ``most`` frequent values among the ``allowed`` (N,) rows, ties by value.

    An item with a list counts for each of its values; one without a value for none.
    """
    slots = len(column.null)
    if column.codes is None:
        held = allowed.astype(np.int64)
    else:
        held = np.bincount(column.codes[allowed], minlength=slots)
    counts: dict[Any, int] = {}
    for elements in (column.texts, column.numbers, column.booleans, column.times):
        if elements is None:
            continue
        of_each = held if elements.owner is None else held[elements.owner]
        if elements.owner is None:
            of_each = of_each * ~column.null
        present = of_each > 0
        values, inverse = np.unique(elements.values[present], return_inverse=True)
        totals = np.bincount(inverse, weights=of_each[present], minlength=len(values))
        best = np.argsort(-totals, kind="stable")[:most]
        for place in best.tolist():
            value = values[place].item() if hasattr(values[place], "item") else values[place]
            counts[_shown(value, elements is column.times)] = int(totals[place])
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))
    return [FacetCount(value, count) for value, count in ordered[:most]]


def _shown(value: Any, is_time: bool) -> Any:
    """A time as ISO 8601."""
    if not is_time:
        return value
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value)).isoformat()
