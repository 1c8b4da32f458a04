"""Request filters: which items a search may return, as JSON or in one line (docs/filters.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sidar.filters.columns import Column, Columns
from sidar.filters.condition import Condition, FilterError, register_filter
from sidar.filters.evaluate import Masks
from sidar.filters.facets import FacetCount, facet
from sidar.filters.text import read_text
from sidar.filters.tree import Filter, read_json
from sidar.filters.write import to_text

__all__ = [
    "Column",
    "Columns",
    "Condition",
    "FacetCount",
    "Filter",
    "FilterError",
    "Masks",
    "facet",
    "read_filter",
    "register_filter",
    "to_text",
]


def read_filter(value: Filter | Mapping[str, Any] | str) -> Filter:
    """Return the filter that ``value`` is, as JSON or as text; :class:`FilterError` says what is
    wrong with it.
    """
    if isinstance(value, Filter):
        return value
    if isinstance(value, str):
        return read_text(value)
    if isinstance(value, Mapping):
        return read_json(value)
    raise FilterError(f"want a JSON object or a text, got {type(value).__name__}")
