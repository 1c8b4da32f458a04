"""How many codes per level: from the catalogue's size, then from what the data say: items per SID,
and what quantised dense keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Share of an item's 10 nearest that quantised dense keeps among its first 100 below which larger
#: codebooks are tried: where one near item in ten is lost, the codes and not the model are what
#: limits retrieval. [ours]
ENOUGH = 0.9
#: What doubling all levels must gain of that share: it doubles the rows that the model learns, and
#: less is hardly more than the chance in which 512 items are looked at. [ours]
WORTH = 0.02
#: Share of the target's excess below which less excess is no better: just under the quarter that
#: :func:`is_far` asks. So codes that are too fine are tried coarser, and coarser ones that are far
#: from the target too are not taken: items that share an SID cost more than SIDs that nobody
#: shares. At 1.3 items per SID it is 1.07. [ours]
FLOOR = 0.23


def auto_codebook_sizes(
    n_items: int, levels: int = 3, items_per_sid: float = 1.3
) -> tuple[int, ...]:
    """Codes per level for a catalogue of ``n_items``, halving from level to level. [reconstruction]

    K₁ = 2^round(log₂((c·N)^{1/3})) for three levels; in general K₁ is the power of two for which
    the product of the halving sizes is nearest c·N/8. c = 8192 at 1.3 items per SID, the one power
    of two that gives both the paper's 8192/4096/2048 at 170M items and 512/256/128 at 6,764; items
    per SID exceed 1 in proportion to N over the product, so c goes with 1 / (items per SID − 1). No
    level has fewer than 2 codes, and the first none beyond N/4, so that first codes are shared and
    a prefix means something.
    """
    if n_items < 1 or levels < 1:
        raise ValueError(
            f"need at least one item and one level, got {n_items} items and {levels} levels"
        )
    c = 8192 * 0.3 / (items_per_sid - 1)
    exponent = round((math.log2(c * n_items / 8) + levels * (levels - 1) / 2) / levels)
    widest = int(math.log2(max(n_items / 4, 2)))
    return halving(2 ** max(1, min(exponent, widest)), levels)


def halving(first: int, levels: int) -> tuple[int, ...]:
    """``first``, half of it, … and never below 2."""
    return tuple(max(2, first >> level) for level in range(levels))


def extended(sizes: Sequence[int], levels: int) -> tuple[int, ...]:
    """``sizes`` and then half of the last, half of that … up to ``levels``; never below 2."""
    out = list(sizes)
    while len(out) < levels:
        out.append(max(2, out[-1] // 2))
    return tuple(out)


def is_far(items_per_sid: float, target: float) -> bool:
    """Whether the measured excess over one item per SID is off the target's by more than a factor
    of four.

    Doubling three levels makes eight times as many SIDs, so a smaller miss is within half a step or
    so.
    """
    return _distance(items_per_sid, target) > math.log(4)


def is_better(items_per_sid: float, than: float, target: float) -> bool:
    """Whether one measured number of items per SID is nearer the target than another; of two below
    the floor, the larger is."""
    one, other = (_distance(each, target) for each in (items_per_sid, than))
    floor = 1 + FLOOR * (target - 1)
    return one < other or (one == other and than < items_per_sid <= floor)


def _distance(items_per_sid: float, target: float) -> float:
    """How far the excess over one item per SID, floored, is from the target's, as a
    factor (log).
    """
    return abs(math.log(max((items_per_sid - 1) / (target - 1), FLOOR)))
