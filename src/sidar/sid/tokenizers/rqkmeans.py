"""RQ-KMeans: k-means on vectors, then on what is left of them, level by level (QARM, OneRec; no
encoder). [known]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch

from sidar.config import SidConfig
from sidar.precision import Precision
from sidar.sid.categories import CategoryCodes, load_categories, save_categories
from sidar.sid.codebooks.balance import balanced_codes
from sidar.sid.codebooks.guided import first_book, first_codes
from sidar.sid.codebooks.kmeans import CHUNK, Nearest, group_sums, kmeans
from sidar.sid.tokenizer import (
    Tokenizer,
    checked_vectors,
    read_description,
    register_tokenizer,
    write_description,
)
from sidar.types import Json, PathLike, SemanticIds, SidInputs

_BALANCE_ROUNDS = 3


@register_tokenizer("rqkmeans")
class RqKmeans(Tokenizer):
    """Codebooks of halving sizes over residuals; a new item takes the nearest centroid at every
    level.

    ``balance_last``: in :meth:`encode_catalogue` the items of one parent (all codes but the last)
    are spread evenly over the last level's codes, and the last codebook is fitted so. Balancing
    every level destroys the hierarchy (OneSearch: code usage 48.95 % → 1.64 %), so only the last
    can be. A new item is not balanced [reconstruction].

    ``category_first``: items with a category have its code at level 1, the others the nearest, as
    in CQ-SID (:mod:`sidar.sid.categories`); without an encoder there is no gradient, so no query
    contrast [ours].

    Parameters are those of :func:`sidar.sid.codebooks.kmeans.kmeans`; ``device`` holds the matrices
    while fitting and encoding.
    """

    cheap_to_refit = True

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        seed: int = 0,
        *,
        iterations: int = 20,
        init: str = "kmeans++",
        restarts: int = 1,
        sample: int = 256,
        balance_last: bool = False,
        category_first: bool = False,
        precision: Precision = "auto",
        device: str = "cpu",
    ) -> None:
        super().__init__(codebook_sizes, seed, device=device)
        if category_first and balance_last and len(codebook_sizes) == 1:
            raise ValueError(
                "one level cannot be guided by categories and balanced; add a level or drop one "
                "of the two"
            )
        self.iterations = iterations
        self.init = init
        self.restarts = restarts
        self.sample = sample
        self.balance_last = balance_last
        self.category_first = category_first
        self.precision = precision

    @classmethod
    def from_config(
        cls, config: SidConfig, codebook_sizes: Sequence[int], seed: int, device: str = "cpu"
    ) -> Self:
        """The unfitted tokenizer with its part of the config."""
        return cls(
            codebook_sizes,
            seed,
            iterations=config.iterations,
            init=config.init,
            restarts=config.restarts,
            sample=config.sample,
            balance_last=config.balance_last,
            category_first=config.category_first,
            device=device,
        )

    def fit(self, inputs: SidInputs) -> Self:
        """Learn ``codebooks_``, one (K, D) float32 per level, from the vectors (N, D)."""
        vectors = checked_vectors(inputs)
        if not len(vectors):
            raise ValueError("no vectors to fit codebooks to: the catalogue is empty")
        generator = torch.Generator().manual_seed(self.seed)

        def cluster(points: torch.Tensor, k: int) -> torch.Tensor:
            return kmeans(
                points,
                k,
                generator=generator,
                iterations=self.iterations,
                init=self.init,
                restarts=self.restarts,
                sample=self.sample,
                precision=self.precision,
            )

        first = self._first(inputs, fitting=True)
        residual = torch.tensor(vectors, device=self.device)
        books: list[torch.Tensor] = []
        parents: list[np.ndarray] = []
        for level, size in enumerate(self.codebook_sizes):
            if level == 0 and first is not None and self.categories_ is not None:
                named = len(self.categories_)
                book = first_book(residual, first, size, named, self.categories_.used, cluster)
            else:
                book = cluster(residual, size)
            if self.balance_last and level == len(self.codebook_sizes) - 1:
                book = self._balanced_book(
                    residual, book, np.stack([np.zeros(len(vectors), np.int64), *parents], 1)
                )
            books.append(book)
            if level < len(self.codebook_sizes) - 1:
                codes = first_codes(residual, self._searcher(level, book), None if level else first)
                parents.append(codes.cpu().numpy())
                # no second copy
                for rows, found in zip(residual.split(CHUNK), codes.split(CHUNK), strict=True):
                    rows -= book.index_select(0, found)
        self.codebooks_ = [book.cpu().numpy() for book in books]
        return self

    def _first(self, inputs: SidInputs, fitting: bool = False) -> torch.Tensor | None:
        """(N,) int64 first code of each item with a category, −1 without; None where the level is
        not guided.
        """
        if not self.category_first:
            return None
        if fitting:
            self.categories_ = CategoryCodes.fit(inputs.categories, self.codebook_sizes[0])
            self.notes_ = self.categories_.notes(inputs.categories or ())
        assert self.categories_ is not None
        codes = self.categories_.codes_of(inputs.categories, len(inputs.vectors))
        return torch.from_numpy(codes).to(self.device)

    def _searcher(self, level: int, book: torch.Tensor) -> Nearest:
        """What finds a level's codes; of a guided first level, the codes that are open to items
        without a category.
        """
        if level == 0 and self.categories_ is not None:
            book = book[: self.categories_.used]
        return Nearest(book, self.precision)

    def _balanced_book(
        self, residual: torch.Tensor, book: torch.Tensor, parents: np.ndarray
    ) -> torch.Tensor:
        """The last codebook as the means of balanced assignments (OneRec's balanced k-means, per
        parent).
        """
        for _ in range(_BALANCE_ROUNDS):
            codes = torch.from_numpy(balanced_codes(residual, book, parents)).to(book.device)
            count = torch.bincount(codes, minlength=len(book))
            mean = group_sums(residual, codes, count) / count.clamp_min(1)[:, None]
            book = torch.where(count[:, None] > 0, mean, book)
        return book

    def encode(self, inputs: SidInputs) -> SemanticIds:
        """Nearest centroid at every level: codes (N, L), all of full length."""
        return self._encode(inputs, balance=False)

    def encode_catalogue(self, inputs: SidInputs) -> SemanticIds:
        """As :meth:`encode`, with the last level balanced inside every parent when ``balance_last``
        is set.
        """
        return self._encode(inputs, balance=self.balance_last)

    def _encode(self, inputs: SidInputs, *, balance: bool) -> SemanticIds:
        self.check_fitted()
        vectors = checked_vectors(inputs, self.codebooks_[0].shape[1])
        first = self._first(inputs)
        books = [torch.from_numpy(book).to(self.device) for book in self.codebooks_]
        codes = np.zeros((len(vectors), len(books)), np.int32)
        chosen = books[:-1] if balance else books
        searchers = [self._searcher(level, book) for level, book in enumerate(chosen)]
        left = torch.empty(vectors.shape if balance else (0,), device=self.device)
        # all levels of a block while it is in the cache
        for start in range(0, len(vectors), CHUNK):
            rows = slice(start, start + CHUNK)
            residual = torch.tensor(vectors[rows], device=self.device)
            for level, (book, searcher) in enumerate(zip(chosen, searchers, strict=True)):
                given = first[rows] if first is not None and level == 0 else None
                found = first_codes(residual, searcher, given)
                codes[rows, level] = found.cpu().numpy()
                residual -= book.index_select(0, found)
            if balance:
                left[rows] = residual
        if balance:
            codes[:, -1] = balanced_codes(left, books[-1], codes[:, :-1])
        return self.full_table(codes)

    def params(self) -> Json:
        guided = {"category_first": True} if self.category_first else {}
        return {
            "codebook_sizes": list(self.codebook_sizes),
            "seed": self.seed,
            "iterations": self.iterations,
            "init": self.init,
            "restarts": self.restarts,
            "sample": self.sample,
            "balance_last": self.balance_last,
            "precision": self.precision,
            **guided,
        }

    def save(self, folder: PathLike) -> None:
        """Write ``codebooks.safetensors`` and ``tokenizer.json`` into ``folder``."""
        self.save_codebooks(folder)
        if self.categories_ is not None:
            save_categories(folder, self.categories_)
        write_description(folder, self)

    @classmethod
    def load(cls, folder: PathLike, device: str = "cpu") -> Self:
        """Read what :meth:`save` wrote."""
        tokenizer = cls(**read_description(folder)["params"], device=device)
        tokenizer.load_codebooks(folder)
        if tokenizer.category_first:
            tokenizer.categories_ = load_categories(folder)
        found = tuple(len(book) for book in tokenizer.codebooks_)
        if found != tokenizer.codebook_sizes:
            raise ValueError(
                f"{folder}: codebooks of {found} codes, tokenizer.json says "
                f"{tokenizer.codebook_sizes}"
            )
        return tokenizer
