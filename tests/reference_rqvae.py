"""Slow twins of the RQ-VAE's parts: plain Python loops over float64, written from the formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def assign(
    z: np.ndarray,
    books: Sequence[np.ndarray],
    first: Sequence[int] | None = None,
    used: int | None = None,
):
    """(codes, sums of centroids): level by level the nearest code, the lower of equals; given first
    codes kept.
    """
    codes, sums = [], []
    for i, row in enumerate(z.astype(np.float64)):
        rest, own = row.copy(), []
        for level, book in enumerate(books):
            best = None
            if level == 0 and first is not None and first[i] >= 0:
                best = first[i]
            else:
                among = range(len(book)) if level or used is None else range(used)
                best = min(among, key=lambda k: (float(((rest - book[k]) ** 2).sum()), k))
            own.append(best)
            rest = rest - book[best]
        codes.append(own)
        sums.append(row - rest)
    return np.array(codes), np.array(sums)


def follow(
    z: np.ndarray,
    codes: np.ndarray,
    books: Sequence[np.ndarray],
    counts: Sequence[np.ndarray],
    decay: float,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Moving counts and codebooks after one step, of codebooks whose totals are book · count."""
    new_books, new_counts = [], []
    for level, (book, count) in enumerate(zip(books, counts, strict=True)):
        total = book.astype(np.float64) * count[:, None]
        n = np.zeros(len(book))
        m = np.zeros(book.shape)
        for i in range(len(z)):
            rest = z[i].astype(np.float64)
            for before in range(level):
                rest = rest - books[before][codes[i, before]]
            n[codes[i, level]] += 1
            m[codes[i, level]] += rest
        N = decay * count + (1 - decay) * n
        M = decay * total + (1 - decay) * m
        new_counts.append(N)
        new_books.append(np.array([M[k] / N[k] if N[k] > 0 else book[k] for k in range(len(book))]))
    return new_books, new_counts


def bi_infonce(items: np.ndarray, queries: np.ndarray, hidden: np.ndarray, tau: float) -> float:
    """The two-sided InfoNCE, one term after the other."""
    n = len(items)
    s = [
        [float(i @ q) / (np.linalg.norm(i) * np.linalg.norm(q)) / tau for q in queries]
        for i in items
    ]
    total = 0.0
    for i in range(n):
        by_item = sum(math.exp(s[i][j]) for j in range(n) if not hidden[i, j])
        by_query = sum(math.exp(s[j][i]) for j in range(n) if not hidden[j, i])
        total += math.log(math.exp(s[i][i]) / by_item) + math.log(math.exp(s[i][i]) / by_query)
    return -total / (2 * n)
