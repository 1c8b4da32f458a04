"""From a filter to the catalogue rows that it allows; what each condition holds for is kept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sidar.extensions import FILTERS
from sidar.filters.cache import ByteCache
from sidar.filters.columns import Columns
from sidar.filters.condition import Condition, FilterError
from sidar.filters.tree import Filter, key_of
from sidar.types import Catalogue

#: Bytes of condition masks that are kept, one byte per item each.
MASK_BYTES = 1 << 26


class Masks:
    """Evaluates filters over one catalogue; safe for several threads.

    Nothing is read before the first filter, so that worker processes which are forked from one
    share no half-made state.
    """

    def __init__(
        self, catalogue: Catalogue, limit: int = MASK_BYTES, columns: Columns | None = None
    ) -> None:
        """``columns`` of the catalogue where some are read already."""
        self.columns = columns or Columns(catalogue)
        self._kept: ByteCache[np.ndarray] = ByteCache(limit)

    def rows(self, wanted: Filter) -> np.ndarray:
        """Return (N,) bool: the rows that ``wanted`` allows, retired ones included.

        :class:`FilterError` names the condition that asks for what the catalogue does not have.
        """
        return self._filter(wanted, "")

    def _filter(self, wanted: Filter, path: str) -> np.ndarray:
        allowed = np.ones(len(self.columns), bool)
        for mask in self._each(wanted.must, f"{path}must"):
            allowed &= mask
        for mask in self._each(wanted.must_not, f"{path}must_not"):
            allowed &= ~mask
        if wanted.should:
            allowed &= _count(self._each(wanted.should, f"{path}should"), len(allowed)) > 0
        if wanted.min_should is not None:
            group = wanted.min_should
            masks = self._each(group.conditions, f"{path}min_should.conditions")
            allowed &= _count(masks, len(allowed)) >= group.min_count
        return allowed

    def _each(self, nodes: tuple[Filter | Condition, ...], path: str) -> Iterator[np.ndarray]:
        for place, node in enumerate(nodes):
            here = f"{path}[{place}]"
            if isinstance(node, Filter):
                yield self._filter(node, f"{here}.")
            else:
                yield self._condition(node, here)

    def _condition(self, condition: Condition, path: str) -> np.ndarray:
        try:
            return self._kept.get(
                key_of(condition), lambda: self._made(condition), lambda mask: mask.nbytes
            )
        except FilterError as error:
            raise FilterError(f"{path}: {error}") from None

    def _made(self, condition: Condition) -> np.ndarray:
        mask = condition.mask(self.columns)
        if (
            not isinstance(mask, np.ndarray)
            or mask.shape != (len(self.columns),)
            or mask.dtype != bool
        ):
            name = next(n for n in FILTERS.names() if n in type(condition).model_fields)
            raise FilterError(
                f"{name} ({FILTERS.file(name) or 'built in'}): mask must return "
                f"({len(self.columns)},) bool, got {getattr(mask, 'dtype', type(mask).__name__)} "
                f"{getattr(mask, 'shape', '')}"
            )
        kept = mask.view()
        kept.flags.writeable = False  # it is shared by all requests
        return kept


def _count(masks: Iterator[np.ndarray], n: int) -> np.ndarray:
    """Return (N,) int16: how many of ``masks`` hold for each row."""
    held = np.zeros(n, np.int16)
    for mask in masks:
        held += mask
    return held
