"""Random IDs: codes that say nothing of the item.

The control that every tokenizer must beat (docs/evaluation.md).
"""

from __future__ import annotations

from typing import Self

import numpy as np

from sidar.sid.codebooks.standin import standin_codebooks
from sidar.sid.quality import row_hashes
from sidar.sid.tokenizer import Tokenizer, checked_vectors, register_tokenizer
from sidar.types import SemanticIds, SidInputs


@register_tokenizer("random")
class RandomIds(Tokenizer):
    """Uniform codes from a hash of the seed and the vector's bits: the same item always gets the
    same SID.

    Identical vectors share an SID; any other two share codes by chance alone. ``codebooks_``: means
    by code (:mod:`sidar.sid.codebooks.standin`), which lie near one another, as they should.
    """

    keeps_vectors = False

    def fit(self, inputs: SidInputs) -> Self:
        vectors = checked_vectors(inputs)
        if not len(vectors):
            raise ValueError("no vectors to give codes to: the catalogue is empty")
        self.codebooks_ = standin_codebooks(vectors, self._codes(vectors), self.codebook_sizes)
        return self

    def encode(self, inputs: SidInputs) -> SemanticIds:
        self.check_fitted()
        return self.full_table(self._codes(checked_vectors(inputs, self.codebooks_[0].shape[1])))

    def _codes(self, vectors: np.ndarray) -> np.ndarray:
        """(N, L) int32: each level's own mixture (splitmix64's finaliser [known]) of the row's
        hash.
        """
        hashes = row_hashes(vectors)
        codes = np.empty((len(vectors), len(self.codebook_sizes)), np.int32)
        salts = np.random.default_rng([self.seed, 17]).integers(
            0, 2**63, codes.shape[1], dtype=np.uint64
        )
        for level, (size, salt) in enumerate(zip(self.codebook_sizes, salts, strict=True)):
            x = hashes ^ salt
            with np.errstate(over="ignore"):
                x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            codes[:, level] = ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) % np.uint64(size)
        return codes
