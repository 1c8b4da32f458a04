"""Codebook collapse, detected and named: a level whose items crowd on few of its codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sidar.sid.tokenizer import Tokenizer

#: Share of a level's usable codes; below it the level has collapsed. Codes drawn at random for as
#: many items as there are codes would reach 63 %.
BELOW = 0.5
_REMEDY = {
    "trained": (
        "lower sid.{method}.lr or decay so that codebooks keep up with the encoder, raise beta or "
        "dead_below, keep start: pca"
    ),
    "k-means": "keep sid.init: kmeans++, raise sid.iterations or sid.restarts",
    "given": "the table was made elsewhere: fit one here (sid.method: rqkmeans)",
}


def collapsed(
    codes: np.ndarray,
    sizes: Sequence[int],
    usable: Sequence[int] | None,
    distinct: int,
    below: float = BELOW,
) -> list[dict[str, float]]:
    """Levels (from 1) of codes (N, L), −1 past the end, that use less than ``below`` of what they
    could.

    ``usable``: codes per level that may occur (a category-guided level has fewer than its size);
    ``distinct`` vectors, and the items that a level has, bound it further: with fewer of them than
    codes, a level says nothing of collapse.
    """
    found = []
    for level, size in enumerate(sizes):
        own = codes[codes[:, level] >= 0, level]
        could = size if usable is None else usable[level]
        if min(distinct, len(own)) <= could or could < 2:
            continue
        used = len(np.unique(own))
        if used < below * could:
            found.append(
                {"level": level + 1, "used": used, "usable": could, "utilisation": used / could}
            )
    return found


def warning(found: dict[str, float], method: str, kind: str) -> str:
    """The sentence for the log, the summary and ``quality.json``; ``kind`` ∈ trained, k-means,
    given.
    """
    return (
        f"level {found['level']} has collapsed: {found['used']:,.0f} of {found['usable']:,.0f} "
        f"codes are in use ({found['utilisation']:.0%}). Remedy: "
        f"{_REMEDY[kind].format(method=method)}, or make the level smaller (sid.codebook_sizes)"
    )


def usable_codes(tokenizer: Tokenizer) -> list[int] | None:
    """Codes per level that can occur, where that is fewer than the codebook has (a category-guided
    first level).
    """
    guided = tokenizer.guided_part()
    if guided is None or guided.categories_ is None:
        return None
    return [guided.categories_.used, *guided.codebook_sizes[1:]]
