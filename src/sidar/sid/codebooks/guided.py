"""A first level whose codes are given for some items and chosen for the others (CQ-SID's
category-guided level).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sidar.sid.codebooks.kmeans import Nearest, group_sums


def first_codes(points: Tensor, open_codes: Nearest, first: Tensor | None) -> Tensor:
    """(n,) int64: ``first`` (n,) where it is ≥ 0, else the nearest of the ``open_codes``, the first
    rows of the book.

    An item without a category may take a category's code: the nearest of all, as the formula has
    it. [source]
    """
    if first is None:
        return open_codes(points, measure=False)[0]
    codes = first.clone()
    free = torch.nonzero(codes < 0)[:, 0]
    if len(free):
        codes[free] = open_codes(points[free], measure=False)[0]
    return codes


def first_book(
    points: Tensor,
    first: Tensor,
    size: int,
    reserved: int,
    used: int,
    cluster: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """(size, D): ``reserved`` codes begin as the means of their points, those up to ``used`` as
    clusters of the rest.

    ``first`` (n,) int64, −1 = no category; ``cluster(points, k)`` → (k, D). Codes beyond ``used``,
    and a category without a point in a sample, lie at the mean of all.
    """
    known = first >= 0
    count = torch.bincount(first[known], minlength=size)
    means = group_sums(points[known], first[known], count) / count.clamp_min(1)[:, None]
    book = torch.where(count[:, None] > 0, means, points.mean(0))
    if used > reserved and not known.all():
        book[reserved:used] = cluster(points[~known], used - reserved)
    return book
