"""Which first code a category has: the category-guided level of CQ-SID (docs/methods/cqsid.md)."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sidar.sid.tokenizer import Tokenizer
from sidar.types import PathLike, SidInputs

FILE = "categories.json"

#: Categories take at most this share of the first level's codes; the paper has 1,711 of 2,048
#: [source].
SHARE = 0.85


class CategoryCodes:
    """Category paths, cut at ``depth``, and their first codes 0 … n − 1.

    A path shorter than ``depth`` is a category of its own. ``spare``: codes after them, for items
    without a category.
    """

    def __init__(self, paths: Sequence[Sequence[str]], depth: int, spare: int = 0) -> None:
        self.paths = [tuple(path) for path in paths]
        self.depth, self.spare = depth, spare
        self._code = {path: code for code, path in enumerate(self.paths)}

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def used(self) -> int:
        """First codes that may occur: the categories' and the spare ones."""
        return len(self.paths) + self.spare

    @classmethod
    def fit(cls, categories: Sequence[Sequence[str] | None] | None, size: int) -> CategoryCodes:
        """The deepest depth with at most .85·``size`` categories, and a code for each.

        Where even the top level has more, the largest get codes and items of the others count as
        having none (:meth:`left_out` tells). Items without a category share as many codes as would
        hold as many items each as a category does, at least one [ours: the rest of the level stays
        unused rather than give each its own code]. ``ValueError`` where no item has a category, or
        ``size`` is below 2.
        """
        known = [tuple(path) for path in categories or () if path]
        if not known:
            raise ValueError(
                "the first level is guided by categories, but no item has one; fill the "
                "catalogue's column `category`, or use rqvae (sid.cqsid.category: false, "
                "sid.category_first: false)"
            )
        if size < 2:
            raise ValueError(
                "a first level of one code cannot tell categories apart; give it 2 codes or more"
            )
        limit = max(1, int(SHARE * size))
        depth, deepest = 1, max(map(len, known))
        while depth < deepest and len({path[: depth + 1] for path in known}) <= limit:
            depth += 1
        counts = Counter(path[:depth] for path in known)
        kept = sorted(counts, key=lambda path: (-counts[path], path))[:limit]
        items = sum(counts[path] for path in kept)
        rest = len(categories or ()) - items
        spare = min(size - len(kept), max(1, math.ceil(rest * len(kept) / items))) if rest else 0
        return cls(sorted(kept), depth, spare)

    def codes_of(self, categories: Sequence[Sequence[str] | None] | None, n: int) -> np.ndarray:
        """(n,) int64 first code of each item's category, −1 where it has none or one without a
        code.
        """
        if categories is None:
            return np.full(n, -1, np.int64)
        if len(categories) != n:
            raise ValueError(
                f"{len(categories)} categories do not fit {n} vectors; want one (or none) per item"
            )
        return np.fromiter(
            (self._code.get(tuple(path or ())[: self.depth], -1) for path in categories),
            np.int64,
            n,
        )

    def notes(self, categories: Sequence[Sequence[str] | None]) -> list[str]:
        """What a user should know: few categories, items without one, categories without a code."""
        codes, said = self.codes_of(categories, len(categories)), []
        if len(self) == 1:
            said.append(
                f"all items with a category have the same one ({' > '.join(self.paths[0])}), so "
                "the first code says nothing: give deeper category paths, or switch the "
                "category-guided level off"
            )
        none = sum(not path for path in categories)
        lost = int((codes < 0).sum()) - none
        if none:
            said.append(f"{none:,} items have no category; the nearest first code is theirs")
        if lost:
            said.append(
                f"{lost:,} items are of categories beyond {SHARE:.0%} of the first level's codes "
                "and count as having none; make the first codebook larger"
            )
        return said


def given_first(tokenizer: Tokenizer, inputs: SidInputs) -> np.ndarray | None:
    """(n,) int64 first codes that ``tokenizer`` (or what it is built over) gives by category, −1 =
    by the vector.

    None where its first level is not guided.
    """
    guided = tokenizer.guided_part()
    if guided is None or guided.categories_ is None:
        return None
    return guided.categories_.codes_of(inputs.categories, len(inputs.vectors))


def save_categories(folder: PathLike, categories: CategoryCodes) -> None:
    """Write ``categories.json`` into ``folder``."""
    about = {
        "paths": [list(path) for path in categories.paths],
        "depth": categories.depth,
        "spare": categories.spare,
    }
    (Path(folder) / FILE).write_text(json.dumps(about, ensure_ascii=False) + "\n")


def load_categories(folder: PathLike) -> CategoryCodes:
    """What :func:`save_categories` wrote."""
    return CategoryCodes(**json.loads((Path(folder) / FILE).read_text()))
