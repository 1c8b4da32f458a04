"""RQ-VAE: codes of an encoder's output, trained so that a decoder restores the vector (TIGER
[known]; PLUM's options).

    z = E(x),   r_0 = z,   s_l = argmin_k ‖r_{l−1} − e_k^(l)‖,   r_l = r_{l−1} − e_{s_l}^(l)
    ẑ = Σ_l e_{s_l}^(l),   x̂ = D(ẑ)
    L = ‖x − x̂‖² + β Σ_l ‖r_{l−1} − sg e_{s_l}^(l)‖²

Gradients pass the quantiser straight through; codebooks follow moving averages (decay .99), begin
as k-means of the residuals level by level, and dead codes are restarted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from sidar.config import RqVaeConfig
from sidar.sid.autoencoders.autoencoder import Autoencoder
from sidar.sid.autoencoders.contrast import QueryPairs
from sidar.sid.autoencoders.fit import AutoencoderFit
from sidar.sid.codebooks.standin import standin_codebooks
from sidar.sid.collapse import collapsed, usable_codes, warning
from sidar.sid.quality import count_distinct
from sidar.sid.tokenizer import (
    Tokenizer,
    checked_vectors,
    read_description,
    register_tokenizer,
    write_description,
)
from sidar.types import PathLike, SemanticIds, SidInputs

WEIGHTS, LOG = "autoencoder.safetensors", "fit.jsonl"
_BLOCK = 8192  # rows that are encoded together


@register_tokenizer("rqvae", options=RqVaeConfig)
class RqVae(Tokenizer):
    """Codes of a residual-quantised autoencoder.

    Codes add up in latent space, so ``codebooks_`` are a linear stand-in in the space of the
    vectors: per code the mean of what the codes before it leave of the items that carry it
    (:mod:`sidar.sid.codebooks.standin`). :meth:`reconstruct` asks the decoder. ``work`` (a folder)
    makes :meth:`fit` resumable; ``history_`` is its log; ``notes_`` is what a user should know
    about the fit.
    """

    is_trained = True
    options: RqVaeConfig
    model: Autoencoder | None = None

    @property
    def collapse_below(self) -> float:
        return self.options.collapse_below

    # ------------------------------------------------------------------ fitting

    def fit(self, inputs: SidInputs) -> Self:
        """Train on the vectors (N, D), then average them by code into ``codebooks_``."""
        vectors = checked_vectors(inputs)
        if not len(vectors):
            raise ValueError("no vectors to fit codebooks to: the catalogue is empty")
        self.notes_ = []
        self.model = Autoencoder(vectors.shape[1], self.base_sizes, self.options, self.seed)
        first, pairs = self._first(inputs, fitting=True), self._pairs(inputs)
        self._prepare(inputs, self.model)
        fitting = AutoencoderFit(
            self.model,
            self.options,
            vectors,
            seed=self.seed,
            device=self.device,
            first=first,
            pairs=pairs,
            work=self.work,
            progress=self.progress,
            title=self.method,
        )
        self.history_ = fitting.fit()
        codes = self._codes(vectors, first)
        below, usable = self.options.collapse_below, usable_codes(self)
        for level in collapsed(codes, self.base_sizes, usable, count_distinct(vectors), below):
            step = self.history_[-1]["step"] if self.history_ else 0
            self.history_.append({"step": step, "warning": warning(level, self.method, "trained")})
        sids = self._settle(inputs, codes)
        self.codebooks_ = standin_codebooks(vectors, sids.codes, sids.codebook_sizes)
        return self

    def _first(self, inputs: SidInputs, fitting: bool = False) -> np.ndarray | None:
        """(N,) int64 first codes that are given, −1 = the nearest; None = all the nearest."""
        return None

    def _pairs(self, inputs: SidInputs) -> QueryPairs | None:
        """Queries to contrast items with."""
        return None

    def _prepare(self, inputs: SidInputs, model: Autoencoder) -> None:
        """Set what of the quantiser does not come from training."""

    def _settle(self, inputs: SidInputs, codes: np.ndarray) -> SemanticIds:
        """The SIDs of the fitted catalogue, from its codes (N, L)."""
        return self.full_table(codes)

    # ------------------------------------------------------------------ encoding

    def encode(self, inputs: SidInputs) -> SemanticIds:
        """The nearest code at every level of each vector's latent: codes (N, L), all of full
        length.
        """
        return self.full_table(
            self._codes(checked_vectors(inputs, self._fitted().dim), self._first(inputs))
        )

    def latents(self, vectors: np.ndarray) -> np.ndarray:
        """(N, d) float32: what is quantised, of vectors (N, D); codes' sums are in
        ``model.quantiser``.
        """
        return np.concatenate(
            [z.cpu().numpy() for z in self._latents(vectors)] or [np.zeros((0, 1), np.float32)]
        )

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """(n, D) float32: what the decoder makes of codes (n, L), −1 past the end."""
        model = self._fitted()
        base = self._base(np.asarray(codes, np.int64))
        restored = np.empty((len(base), model.dim), np.float32)
        with torch.no_grad():
            for start in range(0, len(base), _BLOCK):
                block = torch.from_numpy(base[start : start + _BLOCK]).to(self.device)
                restored[start : start + _BLOCK] = (
                    model.decode(model.quantiser.restore(block)).cpu().numpy()
                )
        return restored

    def _latents(self, vectors: np.ndarray) -> Iterator[torch.Tensor]:
        model = self._fitted()
        with torch.no_grad():
            for start in range(0, len(vectors), _BLOCK):
                block = torch.tensor(
                    np.asarray(vectors[start : start + _BLOCK], np.float32), device=self.device
                )
                yield model.encode(block)

    def _codes(self, vectors: np.ndarray, first: np.ndarray | None) -> np.ndarray:
        """(N, L) int32 codes of the quantiser; latents are fp32 whatever the
        precision of training.
        """
        model = self._fitted()
        codes = np.empty((len(vectors), len(self.base_sizes)), np.int32)
        for number, z in enumerate(self._latents(vectors)):
            rows = slice(number * _BLOCK, number * _BLOCK + len(z))
            given = None if first is None else torch.from_numpy(first[rows]).to(self.device)
            codes[rows] = model.quantiser.assign(z, given)[0].cpu().numpy()
        return codes

    def _base(self, codes: np.ndarray) -> np.ndarray:
        """Codes of the quantiser for codes as they are written."""
        return codes

    def _fitted(self) -> Autoencoder:
        if self.model is None:
            raise ValueError("this tokenizer has no codebooks yet; call fit first")
        return self.model

    # ------------------------------------------------------------------ on disk

    def save(self, folder: PathLike) -> None:
        """Write weights, codebooks, ``fit.jsonl`` and ``tokenizer.json`` into ``folder``."""
        folder = Path(folder)
        tensors = {
            name: tensor.detach().cpu().contiguous() for name, tensor in self._weights().items()
        }
        save_file(tensors, folder / WEIGHTS)
        self.save_codebooks(folder)
        (folder / LOG).write_text("".join(json.dumps(record) + "\n" for record in self.history_))
        write_description(folder, self)

    def _weights(self) -> dict[str, torch.Tensor]:
        return self._fitted().state_dict()

    @classmethod
    def load(cls, folder: PathLike, device: str = "cpu") -> Self:
        """Read what :meth:`save` wrote."""
        folder = Path(folder)
        tokenizer = cls(**read_description(folder)["params"], device=device)
        weights = load_file(folder / WEIGHTS)
        model = Autoencoder(
            len(weights["mean"]), tokenizer.base_sizes, tokenizer.options, tokenizer.seed
        )
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"{folder / WEIGHTS} does not fit tokenizer.json ({error}); run `sidar sid`"
            ) from error
        tokenizer.model = model.to(device).eval()
        tokenizer.load_codebooks(folder)
        tokenizer.history_ = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
        return tokenizer
