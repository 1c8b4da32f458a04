"""ACRQ: codebooks of the head, frozen; the tail learns to live in them (arXiv 2602.23978; the
losses [reconstruction]).

Stage H trains an RQ-VAE on the head items alone: encoder, decoder and codebooks become a frozen
manifold.  Stage T goes from torso over tail to cold items: an encoder of their own, started from
the head's and anchored to its codes, and a few extension codes per level for what the head does not
have (:mod:`sidar.sid.autoencoders.curriculum`).  Cold items, now and at serving, get frozen codes
only: what nobody has touched is described in words that popular items have taught.

SA²CRQ is SARQ over this: ``sid.method: sarq``, ``sid.sarq.base: acrq``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel
from safetensors.torch import load_file

from sidar.config import AcrqConfig
from sidar.sid.autoencoders.autoencoder import Autoencoder
from sidar.sid.autoencoders.curriculum import COLD, HEAD, WARM, TailFit
from sidar.sid.autoencoders.extension import AnchoredModel
from sidar.sid.autoencoders.fit import AutoencoderFit
from sidar.sid.codebooks.standin import standin_codebooks
from sidar.sid.tokenizer import (
    checked_counts,
    checked_vectors,
    read_description,
    register_tokenizer,
)
from sidar.sid.tokenizers.rqvae import LOG, WEIGHTS, RqVae
from sidar.types import PathLike, SemanticIds, SidInputs

_BLOCK = 8192  # rows that are encoded together
#: Share of the variance of tail or cold items; where the frozen codebooks lose more, the user is
#: told.
_STRANGE = 0.6


@register_tokenizer("acrq", options=AcrqConfig)
class Acrq(RqVae):
    """``codebook_sizes`` count frozen and extension codes together, so that a table costs the bits
    of its rivals.

    After ``fit``: ``head_from_`` (least count of a head item), ``n_frozen`` codes per level that
    are the head's.
    """

    options: AcrqConfig

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        seed: int = 0,
        *,
        options: BaseModel | Mapping[str, Any] | None = None,
        head_from: int | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(codebook_sizes, seed, options=options, device=device)
        self.head_from_ = head_from
        self.anchored: AnchoredModel | None = None

    @property
    def n_frozen(self) -> tuple[int, ...]:
        """Codes per level that belong to the head; the others are the extension."""
        return tuple(max(1, round(size / (1 + self.options.extension))) for size in self.base_sizes)

    # ------------------------------------------------------------------ fitting

    def fit(self, inputs: SidInputs) -> Self:
        """Stage H on the head items, stage T on all others.

        Raises ``ValueError`` where ``counts`` name no head.
        """
        vectors = checked_vectors(inputs)
        counts = self._counts(inputs, need=True)
        self.head_from_ = head_threshold(counts, self.options.head_items, self.options.head_traffic)
        kinds = self._kinds(counts)
        head = np.flatnonzero(kinds == HEAD)
        self.notes_ = self._notes(kinds)
        self.model = Autoencoder(vectors.shape[1], self.n_frozen, self.options, self.seed)
        first = AutoencoderFit(
            self.model,
            self.options,
            np.ascontiguousarray(vectors[head]),
            seed=self.seed,
            device=self.device,
            work=None if self.work is None else self.work / "head",
            progress=self.progress,
            title="acrq",
        )
        self.history_ = [{"stage": "head", **record} for record in first.fit()]
        self.anchored = self._anchored(self.model)
        self._learn_prefixes(vectors[head])
        if len(head) < len(vectors):
            second = TailFit(
                self.anchored,
                self.options,
                vectors,
                counts,
                kinds,
                seed=self.seed,
                device=self.device,
                work=None if self.work is None else self.work / "tail",
                progress=self.progress,
            )
            self.history_ += [
                {"stage": "tail", **record, "step": record["step"] + self.options.steps}
                for record in second.fit()
            ]
        self.anchored.eval()
        codes = self._codes_of(vectors, kinds)
        self._warn_of_strangers(vectors, codes, kinds)
        self.codebooks_ = standin_codebooks(vectors, codes, self.codebook_sizes)
        return self

    def _anchored(self, base: Autoencoder) -> AnchoredModel:
        extra = [size - frozen for size, frozen in zip(self.base_sizes, self.n_frozen, strict=True)]
        return AnchoredModel(base, extra, self.options.decay, self.options.handicap).to(self.device)

    def _learn_prefixes(self, head: np.ndarray) -> None:
        """The head's first m codes, as they occur: where residual transfer starts from."""
        assert self.anchored is not None
        if self.options.transfer:
            every = np.full(len(head), HEAD, np.int8)
            codes = self._codes_of(head, every)[:, : self.options.anchor_levels]
            self.anchored.quantiser.prefixes = (
                torch.from_numpy(np.unique(codes, axis=0)).long().to(self.device)
            )

    def _counts(self, inputs: SidInputs, *, need: bool = False) -> np.ndarray:
        """(n,) int64 interactions; 0 where none were given."""
        counts = checked_counts(inputs)
        if counts is None:
            if need:
                raise ValueError(
                    "acrq learns from popular items first and has no counts; give SidInputs.counts"
                )
            return np.zeros(len(inputs.vectors), np.int64)
        if need and not counts.any():
            raise ValueError(
                f"all {len(counts)} counts are 0, so there is no head to learn from; without a "
                "log use rqvae"
            )
        return counts

    def _kinds(self, counts: np.ndarray) -> np.ndarray:
        """(n,) int8 HEAD, WARM or COLD."""
        assert self.head_from_ is not None
        return np.where(counts >= self.head_from_, HEAD, np.where(counts > 0, WARM, COLD)).astype(
            np.int8
        )

    def _notes(self, kinds: np.ndarray) -> list[str]:
        head = int((kinds == HEAD).sum())
        if head >= self.n_frozen[0]:
            return []
        return [
            f"{head} head items for {self.n_frozen[0]} frozen first codes: each head item has a "
            "code of its own and teaches the tail little; raise sid.acrq.head_items or lower "
            "sid.codebook_sizes"
        ]

    def _warn_of_strangers(self, vectors: np.ndarray, codes: np.ndarray, kinds: np.ndarray) -> None:
        """Say so where the head's manifold has no place for the items that it is meant to teach."""
        for kind, name in ((WARM, "tail"), (COLD, "cold")):
            rows = np.flatnonzero(kinds == kind)
            rows = rows[:: max(1, len(rows) // _BLOCK)]
            if len(rows) < 2:
                continue
            x = np.asarray(vectors[rows], np.float32)
            spread = float(np.square(x - x.mean(0)).sum())
            lost = (
                float(np.square(x - self.reconstruct(codes[rows])).sum()) / spread
                if spread
                else 0.0
            )
            if lost > _STRANGE:
                self.notes_.append(
                    f"the head's codebooks lose {lost:.0%} of what {name} items differ in: popular "
                    "items have little in common with them; raise sid.acrq.head_items, or use "
                    "sid.method: rqvae (docs/methods/acrq.md)"
                )

    # ------------------------------------------------------------------ encoding

    def encode(self, inputs: SidInputs) -> SemanticIds:
        """Head items by the frozen encoder, others by their own; without a count an item is cold:
        frozen codes only.
        """
        vectors = checked_vectors(inputs, self._fitted().dim)
        return self.full_table(self._codes_of(vectors, self._kinds(self._counts(inputs))))

    def _codes_of(self, vectors: np.ndarray, kinds: np.ndarray) -> np.ndarray:
        """(N, L) int32 codes of vectors (N, D) whose items are HEAD, WARM or COLD (N,)."""
        model = self._tail()
        codes = np.empty((len(vectors), len(self.base_sizes)), np.int32)
        with torch.no_grad():
            for start in range(0, len(vectors), _BLOCK):
                rows = slice(start, start + _BLOCK)
                x = torch.tensor(np.asarray(vectors[rows], np.float32), device=self.device)
                kind = torch.from_numpy(kinds[rows]).to(self.device)
                z = model.encode(x, kind == HEAD)
                transfer = kind != HEAD if self.options.transfer else None
                codes[rows] = model.quantiser.assign(z, kind == WARM, transfer)[0].cpu().numpy()
        return codes

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """(n, D) float32: what the frozen decoder makes of codes (n, L), −1 past the end."""
        model = self._tail()
        restored = np.empty((len(codes), model.dim), np.float32)
        with torch.no_grad():
            for start in range(0, len(codes), _BLOCK):
                block = torch.from_numpy(np.asarray(codes[start : start + _BLOCK], np.int64)).to(
                    self.device
                )
                restored[start : start + _BLOCK] = (
                    model.decode(model.quantiser.restore(block)).cpu().numpy()
                )
        return restored

    def _tail(self) -> AnchoredModel:
        if self.anchored is None:
            raise ValueError("this tokenizer has no codebooks yet; call fit first")
        return self.anchored

    # ------------------------------------------------------------------ on disk

    def params(self) -> dict[str, Any]:
        return {**super().params(), "head_from": self.head_from_}

    def _weights(self) -> dict[str, torch.Tensor]:
        return self._tail().state_dict()

    @classmethod
    def load(cls, folder: PathLike, device: str = "cpu") -> Self:
        """Read what :meth:`save` wrote."""
        folder = Path(folder)
        tokenizer = cls(**read_description(folder)["params"], device=device)
        weights = load_file(folder / WEIGHTS)
        base = Autoencoder(
            len(weights["base.mean"]), tokenizer.n_frozen, tokenizer.options, tokenizer.seed
        )
        tokenizer.model, tokenizer.anchored = base, tokenizer._anchored(base)
        tokenizer.anchored.quantiser.prefixes = torch.zeros_like(weights["quantiser.prefixes"])
        try:
            tokenizer.anchored.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"{folder / WEIGHTS} does not fit tokenizer.json ({error}); run `sidar sid`"
            ) from error
        tokenizer.anchored.to(device).eval()
        tokenizer.load_codebooks(folder)
        tokenizer.history_ = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
        return tokenizer


def head_threshold(counts: np.ndarray, items: float, traffic: float | None = None) -> int:
    """The least count of a head item: of the most popular ``items`` share of (N,) items, or of
    those with ``traffic``.

    Items of equal count are head together or not at all; an item without interactions never is.
    Where ties would make a head of ``items`` larger than asked, it is smaller, but the most popular
    items are always in it; a head of ``traffic`` has at least that share of all interactions.
    """
    values, count = np.unique(counts[counts > 0], return_counts=True)
    if traffic is not None:
        # interactions of items with at least this count
        above = np.cumsum((values * count)[::-1])[::-1]
        return int(values[above >= traffic * above[0] - 1e-9].max())
    upwards = np.cumsum(count[::-1])[::-1]  # items with at least this count
    fits = values[upwards <= max(1, round(items * len(counts)))]
    return int(fits.min()) if len(fits) else int(values.max())
