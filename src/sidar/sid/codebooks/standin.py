"""Codebooks for IDs that came without any: what each code means in the space of the
item vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BLOCK = 65536


def standin_codebooks(
    vectors: np.ndarray, codes: np.ndarray, codebook_sizes: Sequence[int]
) -> list[np.ndarray]:
    """Per level (K, D) float32: the mean of what is left of the vectors (N, D) that carry a code.
    [ours]

    ``codes`` (N, L), −1 past the end. Level 1: c_k = mean of x over items with code k; level l: the
    mean of x − Σ_{j<l} c_j. It is the residual quantiser's own update with the assignment given, so
    for codes of a residual k-means on these very vectors it is one step of Lloyd's algorithm. A
    code that no item carries gets the mean of its level's codes, which tells it apart from none.
    """
    if codes.shape != (len(vectors), len(codebook_sizes)):
        raise ValueError(
            f"codes {codes.shape} do not fit {len(vectors)} vectors and {len(codebook_sizes)} "
            "levels"
        )
    books: list[np.ndarray] = []
    for level, size in enumerate(codebook_sizes):
        count = np.bincount(codes[codes[:, level] >= 0, level], minlength=size)
        total = np.zeros((size, vectors.shape[1]), np.float32)
        # a second copy of all vectors would be the peak of a fit
        for start in range(0, len(vectors), _BLOCK):
            inside = np.flatnonzero(codes[start : start + _BLOCK, level] >= 0) + start
            rest = np.array(vectors[inside], np.float32)
            for before, book in enumerate(books):
                rest -= book[codes[inside, before]]
            own = codes[inside, level]
            order = np.argsort(own, kind="stable")
            present, begin = np.unique(own[order], return_index=True)
            if len(own):
                total[present] += np.add.reduceat(rest[order], begin, axis=0)
        book = total / np.maximum(count, 1)[:, None].astype(np.float32)
        if count.any():
            book[count == 0] = book[count > 0].mean(axis=0)
        books.append(book)
    return books
