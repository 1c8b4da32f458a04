"""Codebooks for IDs that came without any: what each code means in the space of the item vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def standin_codebooks(vectors: np.ndarray, codes: np.ndarray, codebook_sizes: Sequence[int]) -> list[np.ndarray]:
    """Per level (K, D) float32: the mean of what is left of the vectors (N, D) that carry a code. [ours]

    ``codes`` (N, L), −1 past the end. Level 1: c_k = mean of x over items with code k; level l: the mean of
    x − Σ_{j<l} c_j. It is the residual quantiser's own update with the assignment given, so for codes of a residual
    k-means on these very vectors it is one step of Lloyd's algorithm. A code that no item carries gets the mean
    of its level's codes, which tells it apart from none.
    """
    if codes.shape != (len(vectors), len(codebook_sizes)):
        raise ValueError(f"codes {codes.shape} do not fit {len(vectors)} vectors and {len(codebook_sizes)} levels")
    residual = np.array(vectors, np.float32)
    books = []
    for level, size in enumerate(codebook_sizes):
        inside = codes[:, level] >= 0
        own = codes[inside, level]
        count = np.bincount(own, minlength=size)
        book = np.zeros((size, residual.shape[1]), np.float32)
        order = np.argsort(own, kind="stable")
        starts = np.concatenate([[0], np.cumsum(count[count > 0])[:-1]]).astype(np.int64)
        if len(own):
            book[count > 0] = np.add.reduceat(residual[inside][order], starts, axis=0) / count[count > 0, None]
            book[count == 0] = book[count > 0].mean(axis=0)
        residual[inside] -= book[own]
        books.append(book)
    return books
