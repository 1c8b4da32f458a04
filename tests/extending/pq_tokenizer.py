"""Product quantisation as a tokenizer: each code quantises its own slice of the vector."""

from __future__ import annotations

from itertools import pairwise

import faiss
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sidar.sid import Tokenizer, register_tokenizer
from sidar.types import SemanticIds, SidInputs


class PqOptions(BaseModel):
    """Product quantisation (Jegou et al., 2011)."""

    model_config = ConfigDict(extra="forbid")
    iterations: int = Field(20, ge=1, description="Rounds of k-means per slice.")


@register_tokenizer("pq", options=PqOptions)
class ProductQuantiser(Tokenizer):
    """Slices of equal width, one k-means each; the sum of an item's centroids is
    near its vector.
    """

    options: PqOptions

    def fit(self, inputs: SidInputs) -> ProductQuantiser:
        dim = inputs.vectors.shape[1]
        self.codebooks_ = []
        for columns, size in zip(self._slices(dim), self.codebook_sizes, strict=True):
            part = np.ascontiguousarray(inputs.vectors[:, columns], np.float32)
            kmeans = faiss.Kmeans(
                part.shape[1],
                size,
                niter=self.options.iterations,
                seed=self.seed,
                min_points_per_centroid=1,
            )
            kmeans.train(part)
            book = np.zeros((size, dim), np.float32)
            book[:, columns] = kmeans.centroids
            self.codebooks_.append(book)
        return self

    def encode(self, inputs: SidInputs) -> SemanticIds:
        self.check_fitted()
        dim = inputs.vectors.shape[1]
        codes = np.empty((len(inputs.vectors), len(self.codebooks_)), np.int32)
        for level, columns in enumerate(self._slices(dim)):
            book = self.codebooks_[level][:, columns]
            part = inputs.vectors[:, columns]
            distances = (book**2).sum(1) - 2 * part @ book.T
            codes[:, level] = distances.argmin(1)
        return self.full_table(codes)

    def _slices(self, dim: int) -> list[slice]:
        """One slice of the vector's columns per level."""
        edges = np.linspace(0, dim, len(self.codebook_sizes) + 1).astype(int)
        return [slice(start, stop) for start, stop in pairwise(edges)]
