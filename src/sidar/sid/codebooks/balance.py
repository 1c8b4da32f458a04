"""The last level, spread evenly inside every parent."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1 << 22  # distances of one block of parents


def balanced_codes(points: Tensor, centroids: Tensor, parents: np.ndarray) -> np.ndarray:
    """(n,) int64 codes: near centroids, with at most ⌈m / K⌉ of a parent's m items on one code.

    ``points`` (n, D), ``centroids`` (K, D), ``parents`` (n, any): rows that are equal have one
    parent. Items propose to their centroids from near to far, a code keeps the nearest of those
    that propose, and the rest go on to their next choice (deferred acceptance): no item and code
    would both rather have one another. [reconstruction; OneRec's Algorithm 1 fills clusters in
    turn, which favours the first]
    """
    if parents.shape[1]:
        _, group = np.unique(parents, axis=0, return_inverse=True)
        group = group.reshape(-1)
    else:
        group = np.zeros(len(points), np.int64)
    codes = np.empty(len(points), np.int64)
    order = np.argsort(group, kind="stable")
    # where each parent starts
    bounds = np.append(np.flatnonzero(np.diff(group[order], prepend=-1)), len(order))
    first = 0
    while first < len(bounds) - 1:  # whole parents, as many as fit a block
        last = (
            int(
                np.searchsorted(
                    bounds, bounds[first] + max(1, _BLOCK // len(centroids)), side="right"
                )
            )
            - 1
        )
        last = min(max(last, first + 1), len(bounds) - 1)
        rows = order[bounds[first] : bounds[last]]
        distance = (
            torch.cdist(points[torch.from_numpy(rows).to(points.device)], centroids).cpu().numpy()
        )
        codes[rows] = _match(distance, group[rows] - group[rows[0]])
        first = last
    return codes


def _match(distance: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Deferred acceptance for items (n, K distances) of parents (n,) numbered from 0."""
    n, k = distance.shape
    choices = np.argsort(distance, axis=1, kind="stable")
    room = -(-np.bincount(group) // k)
    turn = np.zeros(n, np.int64)  # the choice that each item proposes to or holds
    while True:
        code = choices[np.arange(n), turn]
        order = np.lexsort((np.arange(n), distance[np.arange(n), code], code, group))
        seat = group[order] * k + code[order]
        start = np.flatnonzero(np.diff(seat, prepend=-1))
        # place in the code's list, nearest first
        rank = np.arange(n) - np.repeat(start, np.diff(np.append(start, n)))
        refused = order[rank >= room[group[order]]]
        if not len(refused):
            return code
        turn[refused] += 1
