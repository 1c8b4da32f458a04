"""What of a bundle belongs to its catalogue, and changes with it."""

from __future__ import annotations

from dataclasses import dataclass

from sidar.filters.columns import Columns
from sidar.index import PrefixIndex
from sidar.serve.bundle.encoder import Vectors
from sidar.serve.fused import FusedAnswer
from sidar.types import Catalogue, SemanticIds


@dataclass(frozen=True)
class CatalogueParts:
    """Parts of one numbering of items by row; ``version`` counts live changes since the bundle.

    ``columns``: what filters have read of the catalogue already; None = nothing.
    """

    index: PrefixIndex
    sids: SemanticIds
    catalogue: Catalogue
    vectors: Vectors | None = None
    fused: FusedAnswer | None = None
    version: int = 0
    columns: Columns | None = None
