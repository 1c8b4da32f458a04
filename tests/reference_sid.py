"""Slow twins of the SID code, written from the definitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np


def nearest(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(n,) index of the nearest centroid in float64, the lower of equals."""
    return np.square(points[:, None].astype(np.float64) - centroids).sum(2).argmin(1)


def encode(vectors: np.ndarray, codebooks: Sequence[np.ndarray]) -> np.ndarray:
    """(N, L) codes, one level after the other on what is left."""
    residual = vectors.astype(np.float64)
    codes = []
    for book in codebooks:
        codes.append(nearest(residual, book))
        residual = residual - book[codes[-1]]
    return np.stack(codes, axis=1)


def lloyd(points: np.ndarray, k: int, passes: int, seed: int) -> float:
    """Mean squared error of plain k-means from random points."""
    rng = np.random.default_rng(seed)
    centroids = points[rng.choice(len(points), k, replace=False)]
    for _ in range(passes):
        labels = nearest(points, centroids)
        centroids = np.stack([points[labels == c].mean(0) if (labels == c).any() else centroids[c] for c in range(k)])
    return float(np.square(points - centroids[nearest(points, centroids)]).sum(1).mean())


def gini(sizes: Sequence[int]) -> float:
    """Mean absolute difference of all pairs over twice the mean."""
    x = np.array([s for s in sizes if s > 0], float)
    return float(np.abs(x[:, None] - x).mean() / (2 * x.mean()))


def purity(prefixes: Sequence[tuple], labels: Sequence[tuple]) -> float:
    """Share of items whose label is the commonest among the items of their prefix, lone items left out."""
    size = Counter(prefixes)
    groups: dict[tuple, Counter] = {}
    for prefix, label in zip(prefixes, labels, strict=True):
        if size[prefix] > 1:
            groups.setdefault(prefix, Counter())[label] += 1
    return sum(max(g.values()) for g in groups.values()) / sum(sum(g.values()) for g in groups.values())
