"""The distance between two encoders' views of the same texts (docs/methods/sci.md)."""

from __future__ import annotations

import numpy as np


def modality_gap(a: np.ndarray, b: np.ndarray) -> float:
    """‖mean a − mean b‖ of unit vectors (n, D) and (m, D); 0 = the clouds share a centre [known:
    arXiv 2203.02053].
    """
    return float(
        np.linalg.norm(a.mean(axis=0, dtype=np.float64) - b.mean(axis=0, dtype=np.float64))
    )


def linear_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Linear CKA of two views (n, D), (n, E) of the same n things: 1 = equal up to rotation and
    scale, 0 = unrelated.

    ‖bᵀa‖² / (‖aᵀa‖ ‖bᵀb‖) of centred views, Frobenius norms [known: Kornblith et al. 2019, arXiv
    1905.00414]. NaN where a view does not vary.
    """
    a, b = (x.astype(np.float64) - x.mean(axis=0, dtype=np.float64) for x in (a, b))
    norms = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    return float(np.linalg.norm(b.T @ a) ** 2 / norms) if norms > 0 else float("nan")


def self_ranks(asked: np.ndarray, kept: np.ndarray, block: int = 2048) -> np.ndarray:
    """(n,) rank of row i of ``kept`` (n, D) when row i of ``asked`` (n, D) asks for it: 1 = it
    finds itself first.

    Others that score the same count half, so that identical items do not look lost.
    """
    if asked.shape != kept.shape:
        raise ValueError(f"views {asked.shape} and {kept.shape} are not of the same things")
    ranks = np.empty(len(asked))
    for start in range(0, len(asked), block):
        scores = asked[start : start + block] @ kept.T
        own = np.take_along_axis(scores, np.arange(start, start + len(scores))[:, None], axis=1)
        ranks[start : start + block] = (
            0.5 + (scores > own).sum(axis=1) + (scores == own).sum(axis=1) / 2
        )
    return ranks
