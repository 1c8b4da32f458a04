"""A request's filter compiled for one bundle: allowed rows, surviving prefixes, and how to search
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sidar.filters import FacetCount, Filter, FilterError, Masks, facet
from sidar.filters.cache import ByteCache
from sidar.filters.columns import Columns
from sidar.index import LivePrefixes, PrefixIndex
from sidar.index.shares import ItemShares
from sidar.serve.request import RequestError
from sidar.types import Catalogue

if TYPE_CHECKING:
    from sidar.decode import LiveMasks, Trie

#: Bytes of compiled filters that are kept.
COMPILED_BYTES = 1 << 27
#: Up to this many times the beam's width, all survivors are scored instead of searched with a beam:
#: it is exact, and costs 1.1 unfiltered searches at most, 1.5 at twice the width
#: (benchmarks/results/filters.json, cover_*).
COVER = 1.25


@dataclass(frozen=True)
class Allowed:
    """What a filter allows: ``rows`` (N,) bool, live items only, and ``n`` of them.

    ``live``: prefixes that lead to one; ``masks``: the same for a search.
    """

    rows: np.ndarray
    n: int
    live: LivePrefixes
    masks: LiveMasks
    index: PrefixIndex = field(repr=False)
    shares: ItemShares | None = field(repr=False)

    @cached_property
    def best(self) -> np.ndarray | None:
        """(n_sids,) log share of the best allowed item of each SID, which exact searches read; None
        where SIDs are listed whole.
        """
        return None if self.shares is None else self.shares.best_of_sids(self.index, self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, ``best`` included."""
        best = 4 * self.index.n_sids
        return self.rows.nbytes + self.live.nbytes + best

    def covering(self, width: int) -> int | None:
        """Return the beam that holds all survivors, where that is cheap beside one of ``width``;
        None where it is not.
        """
        widest = max(self.live.widest, 1)
        return widest if widest <= COVER * width else None


class FilterIndex:
    """Compiles filters for one bundle, and keeps what it has compiled.

    Nothing is made before the first filter; safe for several threads. Another state of the
    catalogue is another one of these.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        index: PrefixIndex,
        trie: Trie,
        shares: ItemShares | None,
        columns: Columns | None = None,
    ) -> None:
        """``columns`` of the catalogue where some are read already."""
        self.masks = Masks(catalogue, columns=columns)
        self._catalogue, self._index, self._trie, self._shares = catalogue, index, trie, shares
        self._kept: ByteCache[Allowed] = ByteCache(COMPILED_BYTES)

    def allowed(self, wanted: Filter | None) -> Allowed | None:
        """Return what ``wanted`` allows; None where it asks for nothing.

        ``RequestError`` names the condition that asks for what the catalogue does not have.
        """
        if wanted is None or wanted.is_empty:
            return None
        return self._kept.get(wanted.key, lambda: self._compile(wanted), lambda made: made.nbytes)

    def facets(
        self, keys: Sequence[str], allowed: Allowed | None
    ) -> dict[str, tuple[FacetCount, ...]]:
        """Return the counts of each column's values among the allowed items; all live ones where
        ``allowed`` is None.
        """
        rows = self._catalogue.alive if allowed is None else allowed.rows
        try:
            return {key: tuple(facet(self.masks.columns.column(key), rows)) for key in keys}
        except FilterError as error:
            raise RequestError(f"facets: {error}") from None

    def _compile(self, wanted: Filter) -> Allowed:
        try:
            rows = self.masks.rows(wanted) & self._catalogue.alive
        except FilterError as error:
            raise RequestError(f"filter: {error}") from None
        rows.flags.writeable = False  # it is shared by all requests
        live = LivePrefixes.of(self._index, rows)
        masks = self._trie.live_masks(live)
        return Allowed(rows, int(rows.sum()), live, masks, self._index, self._shares)
