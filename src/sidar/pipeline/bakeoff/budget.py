"""Equal code budget: Σ over items and their levels of log₂ K, within 1 % of the reference's (contracts.md).

Adaptive lengths are given the reference's bits to spend. A method that adds codes of its own (split buckets, an
extension for the tail) gets smaller codebooks, in all levels alike, until it fits; IDs of others are as they are, so
they may miss the budget and are then shown beside the tests, not in them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sidar.artifacts import replace_file, sha256_json
from sidar.sid.lengths import code_bits
from sidar.types import SemanticIds

#: Two budgets are equal within this share.
TOLERANCE = 0.01
#: Changes of size until a method keeps the budget; what still misses it is shown, outside of the tests.
TRIES = 3
FILE = "sizes.json"


def bits_per_item(sids: SemanticIds) -> float:
    """Mean bits of the items that have an SID; 0 where none has."""
    lengths = sids.lengths[sids.lengths > 0]
    return code_bits(lengths, sids.codebook_sizes) / max(len(lengths), 1)


def fits(bits: float, wanted: float) -> bool:
    """True where the two budgets are equal within :data:`TOLERANCE`."""
    return abs(bits - wanted) <= TOLERANCE * wanted


def resized(asked: Sequence[int], bits: float, wanted: float) -> tuple[int, ...]:
    """Codes per level to ask for, when asking for ``asked`` gave ``bits`` per item instead of ``wanted``.

    Every level is scaled by the same factor, so that the shape of the tree stays; the last takes up the rounding. What
    a method adds to its codebooks is assumed to stay in proportion. At least 2 codes per level.
    """
    share = 2.0 ** ((wanted - bits) / len(asked))
    sizes = [max(2, round(size * share)) for size in asked[:-1]]
    before = sum(np.log2(size / old) for size, old in zip(sizes, asked[:-1], strict=True))
    return (*sizes, max(2, round(asked[-1] * 2.0 ** (wanted - bits - float(before)))))


class Sizes:
    """The sizes that a method was found to need, kept in its folder: the next run starts from them."""

    def __init__(self, folder: Path, asked: Any) -> None:
        self._path, self._asked = folder / FILE, sha256_json(asked)
        self.tries = 0

    def read(self) -> tuple[int, ...] | None:
        """None where nothing is kept, or what is kept was found for another question."""
        if not self._path.is_file():
            return None
        kept = json.loads(self._path.read_text())
        if kept["asked"] != self._asked:
            return None
        self.tries = kept["tries"]
        return tuple(kept["sizes"])

    def write(self, sizes: Sequence[int]) -> None:
        """Keep what the next fit asks for."""
        self.tries += 1
        replace_file(self._path, json.dumps({"asked": self._asked, "sizes": list(sizes), "tries": self.tries}) + "\n")
