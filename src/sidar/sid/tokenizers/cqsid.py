"""CQ-SID: an RQ-VAE whose first code is the category and whose latents know queries (arXiv
2605.14434).

    s_1 = category where it is known, else argmin_k ‖z − e_k^(1)‖;   s_2, s_3 as in RQ-VAE
    L = ‖x − x̂‖² + β Σ_l ‖r_{l−1} − sg e‖² + γ L_bi-InfoNCE,   β = 1, γ = .001, τ = .1
    an SID of more than T_max = 50 items is split into min(⌈c / 50⌉, 100) groups

An ID is a cluster: uniqueness is not wanted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from safetensors.numpy import load_file, save_file

from sidar.config import CqSidConfig, SidConfig
from sidar.sid.autoencoders.autoencoder import Autoencoder
from sidar.sid.autoencoders.contrast import QueryPairs
from sidar.sid.categories import CategoryCodes, load_categories, save_categories
from sidar.sid.codebooks.split import BucketSplit, projection
from sidar.sid.tokenizer import checked_vectors, register_tokenizer
from sidar.sid.tokenizers.rqvae import RqVae
from sidar.types import PathLike, SemanticIds, SidInputs

SPLIT = "split.safetensors"


@register_tokenizer("cqsid", options=CqSidConfig)
class CqSid(RqVae):
    """``options.category`` and ``options.contrast`` false are the paper's ablations −category and
    −QI.
    """

    options: CqSidConfig
    split_: BucketSplit | None = None

    @classmethod
    def wants_queries(cls, config: SidConfig) -> int:
        return config.cqsid.max_queries if config.cqsid.contrast and config.cqsid.gamma > 0 else 0

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes per level; splitting adds codes to the last."""
        return self.base_sizes if self.split_ is None else (*self.base_sizes[:-1], self.split_.size)

    def fit(self, inputs: SidInputs) -> Self:
        """As RQ-VAE, with the category's code first, queries contrasted and large SIDs split."""
        self.split_, self.categories_ = None, None
        return super().fit(inputs)

    def _first(self, inputs: SidInputs, fitting: bool = False) -> np.ndarray | None:
        if not self.options.category:
            return None
        if fitting:
            self.categories_ = CategoryCodes.fit(inputs.categories, self.base_sizes[0])
            self.notes_ += self.categories_.notes(inputs.categories or ())
        assert self.categories_ is not None
        return self.categories_.codes_of(inputs.categories, len(inputs.vectors))

    def _prepare(self, inputs: SidInputs, model: Autoencoder) -> None:
        if self.categories_ is not None:
            model.quantiser.reserved = len(self.categories_)
            model.quantiser.used.fill_(self.categories_.used)

    def _pairs(self, inputs: SidInputs) -> QueryPairs | None:
        """None, with a note, where the log says nothing that could be contrasted."""
        if not self.options.contrast or self.options.gamma == 0:
            return None
        vectors, pairs = inputs.query_vectors, inputs.query_item_pairs
        if vectors is None or pairs is None or not len(vectors) or not len(pairs):
            self.notes_.append(
                "no query led to an item on training days, so codes are fitted without the query "
                "contrast; sid.cqsid.contrast: false says so on purpose"
            )
            return None
        if vectors.shape[1] != inputs.vectors.shape[1]:
            raise ValueError(
                f"query vectors have {vectors.shape[1]} dimensions, item vectors "
                f"{inputs.vectors.shape[1]}; embed both "
                "with one encoder"
            )
        return QueryPairs(vectors, pairs, len(inputs.vectors), self.seed)

    def _settle(self, inputs: SidInputs, codes: np.ndarray) -> SemanticIds:
        projected = projection(inputs.vectors, self.seed)
        options = self.options
        self.split_ = BucketSplit.fit(
            codes, projected, self.base_sizes, options.max_bucket, options.max_groups
        )
        return self.full_table(self.split_.apply(codes, projected, whole=True))

    def encode(self, inputs: SidInputs) -> SemanticIds:
        """Codes of items on their own: category or nearest, then nearest, then the group of a split
        SID.
        """
        return self._encoded(inputs, whole=False)

    def encode_catalogue(self, inputs: SidInputs) -> SemanticIds:
        """As :meth:`encode`; identical vectors of one split SID are spread over its groups."""
        return self._encoded(inputs, whole=True)

    def _encoded(self, inputs: SidInputs, whole: bool) -> SemanticIds:
        vectors = checked_vectors(inputs, self._fitted().dim)
        codes = self._codes(vectors, self._first(inputs))
        assert self.split_ is not None
        return self.full_table(
            self.split_.apply(codes, projection(vectors, self.seed), whole=whole)
        )

    def _base(self, codes: np.ndarray) -> np.ndarray:
        if self.split_ is None or codes.shape[1] < len(self.base_sizes):
            return codes
        return self.split_.base(codes)

    def save(self, folder: PathLike) -> None:
        """As RQ-VAE, with ``split.safetensors`` and ``categories.json``."""
        super().save(folder)
        assert self.split_ is not None
        save_file(
            {name: np.ascontiguousarray(a) for name, a in self.split_.arrays().items()},
            Path(folder) / SPLIT,
        )
        if self.categories_ is not None:
            save_categories(folder, self.categories_)

    @classmethod
    def load(cls, folder: PathLike, device: str = "cpu") -> Self:
        """Read what :meth:`save` wrote."""
        tokenizer = super().load(folder, device)
        tokenizer.split_ = BucketSplit(tokenizer.base_sizes[-1], **load_file(Path(folder) / SPLIT))
        if tokenizer.options.category:
            tokenizer.categories_ = load_categories(folder)
        return tokenizer
