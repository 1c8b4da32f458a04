"""Automatic sizes: what was measured decides, and too fine is less bad than too coarse."""

from __future__ import annotations

import numpy as np
import pytest

from sidar.config import SidConfig
from sidar.sid.sizes import is_better, is_far
from sidar.sid.stage import fit_catalogue
from sidar.types import SidInputs


def chosen(tried: list[float], target: float) -> float:
    """What halving from the first to the last of ``tried`` ends with."""
    best = tried[0]
    for other in tried[1:]:
        if not is_far(best, target) or not is_better(other, best, target):
            break
        best = other
    return best


@pytest.mark.parametrize(
    ("tried", "target", "best"),
    [
        ([1.007, 1.02, 3.0], 1.3, 1.02),  # 150 vectors of a new shop: 32/16/8, 16/8/4, 8/4/2
        ([1.007, 1.056, 2.459], 1.3, 1.056),
        ([1.0, 1.0, 1.0], 1.3, 1.0),
        ([1.0, 1.2], 1.3, 1.2),
        ([1.02, 2.0], 1.3, 2.0),  # within a factor of four: as good as any
        ([1.10, 2.0], 1.3, 1.10),  # the embedded sample at 512/256/128
        ([1.05, 15.0], 2.0, 1.05),
        ([1.05, 2.5], 2.0, 2.5),
    ],
)
def test_too_fine_is_halved_but_not_to_far_too_coarse(
    tried: list[float], target: float, best: float
) -> None:
    assert chosen(tried, target) == best


def test_too_coarse_is_doubled() -> None:
    assert is_far(3.0, 1.3)
    assert is_better(1.02, 3.0, 1.3)
    assert not is_far(2.1, 1.3)


def test_a_small_catalogue_keeps_the_sizes_that_part_its_items() -> None:
    x = np.random.default_rng(2).standard_normal((150, 64)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    _, sids, tried = fit_catalogue(SidConfig(), SidInputs(x), 0)
    assert tried["16/8/4"] < 1.07
    assert tried["8/4/2"] > 2.2
    assert sids.codebook_sizes == (16, 8, 4)
