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
        centroids = np.stack(
            [points[labels == c].mean(0) if (labels == c).any() else centroids[c] for c in range(k)]
        )
    return float(np.square(points - centroids[nearest(points, centroids)]).sum(1).mean())


def gini(sizes: Sequence[int]) -> float:
    """Mean absolute difference of all pairs over twice the mean."""
    x = np.array([s for s in sizes if s > 0], float)
    return float(np.abs(x[:, None] - x).mean() / (2 * x.mean()))


def purity(prefixes: Sequence[tuple], labels: Sequence[tuple]) -> float:
    """Share of items whose label is the commonest among the items of their prefix, lone items left
    out.
    """
    size = Counter(prefixes)
    groups: dict[tuple, Counter] = {}
    for prefix, label in zip(prefixes, labels, strict=True):
        if size[prefix] > 1:
            groups.setdefault(prefix, Counter())[label] += 1
    return sum(max(g.values()) for g in groups.values()) / sum(
        sum(g.values()) for g in groups.values()
    )


def prefix_counts(codes: np.ndarray, asked: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """(n, L) what ``codes`` hold under every prefix of ``asked``."""
    out = np.zeros(asked.shape, np.int64)
    for depth in range(1, codes.shape[1] + 1):
        held: Counter = Counter()
        for row, one in enumerate(codes.tolist()):
            held[tuple(one[:depth])] += 1 if weight is None else int(weight[row])
        out[:, depth - 1] = [held[tuple(one[:depth])] for one in asked.tolist()]
    return out


def sarq_lengths(
    codes: np.ndarray, counts: np.ndarray, kappa: float, shortest: int, tau: float
) -> list[int]:
    """L_i = max{ l : −log2(N(c_1…l)/N) ≤ τ + κ log2(1 + n_i) }, at least ``shortest``
    (docs/methods/sarq.md).
    """
    held = prefix_counts(codes, codes, None)
    lengths = []
    for row, n in enumerate(counts):
        fits = [
            level + 1
            for level in range(codes.shape[1])
            if np.log2(len(codes)) - np.log2(held[row, level]) - kappa * np.log2(1.0 + n) <= tau
        ]
        lengths.append(max([shortest, *fits]))
    return lengths


def bisect_tau(margin: np.ndarray, sizes: Sequence[int], shortest: int, budget: float) -> float:
    """The largest τ whose lengths cost at most ``budget`` bits, by sixty halvings."""
    cost = np.log2(np.asarray(sizes, float))

    def bits(tau: float) -> float:
        on = (margin <= tau) | (np.arange(margin.shape[1]) < shortest)
        return float((on * cost).sum())

    low, high = margin.min() - 1, margin.max() + 1
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if bits(middle) <= budget else (low, middle)
    return low


def soft_entropy(
    vectors: np.ndarray,
    codes: np.ndarray,
    books: Sequence[np.ndarray],
    temperature: Sequence[float],
) -> np.ndarray:
    """Cumulative entropy (bits) of softmax(−d²/T) along each item's residuals, item by item."""
    out = []
    for vector, path in zip(vectors.astype(np.float64), codes, strict=True):
        total, row = 0.0, []
        for book, code, t in zip(books, path, temperature, strict=True):
            p = np.exp(-np.square(vector - book).sum(1) / t)
            p /= p.sum()
            total += float(-(p * np.log2(p)).sum())
            row.append(total)
            vector = vector - book[code]
        out.append(row)
    return np.array(out)


def neighbours_alike(groups: Sequence[int], categories: Sequence) -> list[float]:
    """Of the other items of an item's group that have a category, the share with the same one; NaN
    = none.
    """
    out = []
    for i, (group, own) in enumerate(zip(groups, categories, strict=True)):
        others = [
            c
            for j, (g, c) in enumerate(zip(groups, categories, strict=True))
            if j != i and g == group and c
        ]
        out.append(sum(c == own for c in others) / len(others) if own and others else float("nan"))
    return out


def extended_codes(
    z: np.ndarray,
    warm: np.ndarray,
    frozen: Sequence[np.ndarray],
    extra: Sequence[np.ndarray],
    handicap: float,
) -> np.ndarray:
    """(n, L) codes over [C ; T], row by row: the nearest, T's distances times 1 + handicap and for
    warm rows only.
    """
    out = []
    for row, allowed in zip(z.astype(np.float64), warm, strict=True):
        path = []
        for c, t in zip(frozen, extra, strict=True):
            far = [float(np.linalg.norm(row - e)) for e in c]
            far += [
                float(np.linalg.norm(row - e)) * (1 + handicap) if allowed else np.inf for e in t
            ]
            path.append(int(np.argmin(far)))
            row = row - np.concatenate([c, t])[path[-1]]
        out.append(path)
    return np.array(out)


class Books:
    """A tokenizer as far as reports know one: codebooks, and the sum of the centroids of codes."""

    def __init__(self, books):
        self.codebooks_ = books

    def reconstruct(self, codes):
        total = np.zeros((len(codes), self.codebooks_[0].shape[1]), np.float32)
        for row, path in enumerate(codes):
            for level, code in enumerate(path):
                if code >= 0:
                    total[row] += self.codebooks_[level][code]
        return total
