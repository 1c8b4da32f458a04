"""Where untrained rows begin: vectors brought to a model's width, SID rows near the model's own
embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def project(vectors: Tensor, width: int, seed: int) -> Tensor:
    """(n, D) → (n, width): the identity where D = width, else a seeded orthogonal map.

    Widening keeps every angle; narrowing is a random projection, which keeps them approximately.
    """
    dim = vectors.shape[1]
    if dim == width:
        return vectors.clone()
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(max(dim, width), min(dim, width), generator=generator)
    basis = torch.linalg.qr(square).Q  # (max, min), orthonormal columns
    return vectors @ (basis.T if dim < width else basis)


@torch.no_grad()
def sid_rows(
    words: Tensor, codebook_sizes: Sequence[int], centroids: Tensor | None, seed: int
) -> Tensor:
    """(ΣK + 1, d) first rows of all SID tokens, EOS last, at the mean norm of the word embeddings
    ``words`` (V, d).

    With ``centroids`` (ΣK, D), each level starts from its centroids less their mean (what tells its
    codes apart); without, and for EOS, from the mean word plus a tenth of the words' spread as
    noise.
    """
    words = words.float()
    norm, noise = words.norm(dim=1).mean(), torch.Generator().manual_seed(seed)
    total, width = sum(codebook_sizes) + 1, words.shape[1]
    rows = words.mean(0) + 0.1 * words.std() * torch.randn(total, width, generator=noise)
    if centroids is not None:
        start = 0
        for size in codebook_sizes:
            if size > 1:
                book = centroids[start : start + size]
                level = project(book - book.mean(0), width, seed)
                rows[start : start + size] = level * (
                    norm / level.norm(dim=1).mean().clamp(min=1e-12)
                )
            start += size
    return rows
