"""Made-up catalogues for the tests of tokenizers: topics on the unit sphere, with categories and
queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sidar.types import SidInputs


def topics(n: int, seed: int = 0, dim: int = 24) -> np.ndarray:
    """(n, dim) unit vectors around a dozen topics."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((12, dim))[rng.integers(12, size=n)] + 0.5 * rng.standard_normal(
        (n, dim)
    )
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Shop:
    """Items (N, D) with a category path and a theme that queries ask for; themes cut across what
    vectors say.
    """

    inputs: SidInputs
    theme: np.ndarray


def shop(n: int = 600, seed: int = 0, dim: int = 24, unknown: float = 0.1, themes: int = 8) -> Shop:
    """``unknown``: share of items without a category.

    Queries of a theme lead to items of the theme alone.
    """
    rng = np.random.default_rng(seed)
    department, shelf = rng.integers(4, size=n), rng.integers(3, size=n)
    theme = rng.integers(themes, size=n)
    places = rng.standard_normal((4, 3, dim))
    along = rng.standard_normal((themes, dim))
    x = places[department, shelf] + 0.5 * along[theme] + 0.7 * rng.standard_normal((n, dim))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    known = rng.random(n) >= unknown
    paths = [
        [f"d{d}", f"d{d}s{s}"] if k else []
        for d, s, k in zip(department, shelf, known, strict=True)
    ]
    of = np.repeat(np.arange(themes), 6)  # six wordings of each theme
    queries = along[of] + 0.3 * rng.standard_normal((len(of), dim))
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    pairs = [
        [q, i] for q in range(len(of)) for i in np.flatnonzero(theme == of[q]) if rng.random() < 0.3
    ]
    return Shop(SidInputs(x, paths, None, queries, np.array(pairs)), theme)
