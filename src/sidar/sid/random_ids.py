"""Random IDs: codes that say nothing of the item. The control that every tokenizer must beat (protocol.md §3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from sidar.config import SidConfig
from sidar.sid.quality import row_hashes
from sidar.sid.standin import standin_codebooks
from sidar.sid.tokenizer import checked_vectors, read_description, register, write_description
from sidar.types import PathLike, SemanticIds, SidInputs

FILE = "codebooks.safetensors"


@register("random")
class RandomIds:
    """Uniform codes from a hash of the seed and the vector's bits: the same item always gets the same SID.

    Identical vectors share an SID; any other two share codes by chance alone. ``codebooks_``: means by code
    (:mod:`sidar.sid.standin`), which lie near one another, as they should.
    """

    method: str
    keeps_nothing = True  # sizes go by items per SID alone: quantised dense has nothing to say of them

    def __init__(self, codebook_sizes: Sequence[int], seed: int = 0, *, device: str = "cpu") -> None:
        if not codebook_sizes or min(codebook_sizes) < 1:
            raise ValueError(f"codebook_sizes must be positive, got {tuple(codebook_sizes)}")
        self.codebook_sizes, self.seed = tuple(int(k) for k in codebook_sizes), seed
        self.codebooks_: list[np.ndarray] = []

    @classmethod
    def from_config(cls, config: SidConfig, codebook_sizes: Sequence[int], seed: int, device: str = "cpu") -> RandomIds:
        return cls(codebook_sizes, seed)

    def fit(self, inputs: SidInputs) -> RandomIds:
        vectors = checked_vectors(inputs)
        if not len(vectors):
            raise ValueError("no vectors to give codes to: the catalogue is empty")
        self.codebooks_ = standin_codebooks(vectors, self._codes(vectors), self.codebook_sizes)
        return self

    def encode(self, inputs: SidInputs) -> SemanticIds:
        if not self.codebooks_:
            raise ValueError("this tokenizer has no codebooks yet; call fit first")
        codes = self._codes(checked_vectors(inputs, self.codebooks_[0].shape[1]))
        return SemanticIds(codes, np.full(len(codes), codes.shape[1], np.int32), self.codebook_sizes, self.method)

    def encode_catalogue(self, inputs: SidInputs) -> SemanticIds:
        return self.encode(inputs)

    def _codes(self, vectors: np.ndarray) -> np.ndarray:
        """(N, L) int32: each level's own mixture (splitmix64's finaliser [known]) of the row's hash."""
        hashes = row_hashes(vectors)
        codes = np.empty((len(vectors), len(self.codebook_sizes)), np.int32)
        salts = np.random.default_rng([self.seed, 17]).integers(0, 2**63, codes.shape[1], dtype=np.uint64)
        for level, (size, salt) in enumerate(zip(self.codebook_sizes, salts, strict=True)):
            x = hashes ^ salt
            with np.errstate(over="ignore"):
                x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            codes[:, level] = ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) % np.uint64(size)
        return codes

    def params(self) -> dict[str, Any]:
        return {"codebook_sizes": list(self.codebook_sizes), "seed": self.seed}

    def save(self, folder: PathLike) -> None:
        books = {f"level.{level}": np.ascontiguousarray(book) for level, book in enumerate(self.codebooks_)}
        save_file(books, Path(folder) / FILE)
        write_description(folder, self)

    @classmethod
    def load(cls, folder: PathLike, device: str = "cpu") -> RandomIds:
        tokenizer = cls(**read_description(folder)["params"])
        books = load_file(Path(folder) / FILE)
        tokenizer.codebooks_ = [books[f"level.{level}"] for level in range(len(books))]
        return tokenizer
