"""The state of a changed item: its fields, its SID and its vector."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Fields that change without a new vector or SID.
PATCHABLE = ("price", "in_stock", "image_url")


@dataclass(frozen=True, eq=False)
class ItemState:
    """An item as the last change left it.

    ``fields`` are those of the catalogue without ``alive``.  ``encoded``: they were given anew, so
    that ``codes`` (its SID) and ``vector`` (D,) (of the dense channel, None where the bundle has
    none) are its own; else both are still the bundle's.
    """

    item_id: str
    fields: dict[str, Any] = field(default_factory=dict)
    alive: bool = True
    encoded: bool = False
    codes: tuple[int, ...] | None = None
    vector: np.ndarray | None = None
