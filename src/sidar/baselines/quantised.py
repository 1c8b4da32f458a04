"""Quantised dense: the query's vector against what the codes keep of the items. A ceiling of the
codes' geometry.

A model that writes SIDs can only tell clusters apart. This row ranks the same clusters with nothing
learnt: each SID stands for the sum of its centroids (or what its tokenizer's decoder restores), and
the SIDs come in order of their cosine with the query's vector, so that only the quantisation parts
it from the row ``dense`` (docs/evaluation.md). The cosine and not the inner product or the distance
[reconstruction]: the items' vectors have length 1, and how much shorter a sum of centroids is says
how well it was fitted, not what it is about; on the validation sets it was the best of the three
for most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from sidar.baselines.channel import Kind, SidSystem
from sidar.baselines.dense import Dense, Encoder
from sidar.baselines.ranking import DEPTH
from sidar.types import Hits, Prompt


class Expand(Protocol):
    """``PrefixIndex.expand_with_source``: (Q, W) SID numbers → (Q, k) rows and the place in W each
    came from, or −1.
    """

    def __call__(self, sid_numbers: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]: ...


class QuantisedDense(SidSystem):
    """Exact search over the reconstructions (n_sids, D): SIDs by falling cosine, ties by lower
    number.

    ``expand`` turns ranked SIDs into items, inside an SID by the prior. It ranks SIDs and so has
    :meth:`sid_ranking`, but it writes none (``kind``). The query's vector must come from the
    encoder that the codebooks were fitted to.
    """

    name = "quantised-dense"
    kind: Kind = "baseline"
    about = (
        "cosine of the query's vector and the sum of an SID's centroids, expanded by the "
        "prior; no model"
    )

    def __init__(self, vectors: np.ndarray, expand: Expand, embedder: Encoder) -> None:
        self._expand = expand
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        self._dense = Dense(vectors / np.where(lengths > 0, lengths, 1), embedder)

    def search(self, queries: Sequence[str], k: int = DEPTH) -> Hits:
        """The items of the nearest SIDs, (Q, k); all items of an SID have its score."""
        k = min(k, DEPTH)
        # an SID of an index has an item at least, so k of them are enough
        found = self._dense.search(queries, k)
        if not found.rows.shape[1]:
            return Hits(
                np.full((len(queries), k), -1, np.int32), np.zeros((len(queries), k), np.float32)
            )
        rows, source = self._expand(found.rows, k)
        scores = np.take_along_axis(found.scores, np.maximum(source, 0), axis=1)
        return Hits(rows, np.where(rows >= 0, scores, 0).astype(np.float32))

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        """As :meth:`search`, by the query text of each prompt."""
        return self.search([prompt.query for prompt in prompts], k)

    def sid_ranking(self, prompts: Sequence[Prompt], beam: int) -> tuple[np.ndarray, np.ndarray]:
        """(Q, beam) SID numbers, best first, −1 = none, and their scores; at most 500."""
        found = self._dense.search([prompt.query for prompt in prompts], beam)
        return found.rows, found.scores
