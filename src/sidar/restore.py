"""What codes keep of a vector: the sum of their centroids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def reconstruct(codebooks: Sequence[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """(n, D) float32: the sum of the centroids of ``codes`` (n, L), −1 past the end; ``codebooks``:
    (K, D) per level.

    Raises ``ValueError`` where a code has no centroid.
    """
    if codes.ndim != 2 or codes.shape[1] != len(codebooks):
        raise ValueError(
            f"codes {codes.shape} need {codes.shape[-1]} codebooks, got {len(codebooks)}"
        )
    vectors = np.zeros((len(codes), codebooks[0].shape[1]), np.float32)
    for level, book in enumerate(codebooks):
        if codes[:, level].max(initial=-1) >= len(book):
            raise ValueError(
                f"level {level} has code {codes[:, level].max()}, its codebook only {len(book)} "
                "rows"
            )
        has = codes[:, level] >= 0
        vectors[has] += book[codes[has, level]]
    return vectors
