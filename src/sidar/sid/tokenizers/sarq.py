"""SARQ: codes of adaptive length over any residual quantiser (arXiv 2602.23978; the rules are
[reconstruction]).

A popular item has been seen often enough to deserve a long, discriminative SID; a cold one gets a
short one that it shares with its neighbours.  The base tokenizer writes L_max codes; SARQ cuts each
SID where the information spent on its path exceeds what the item's interactions pay for
(:mod:`sidar.sid.codebooks.lengths`), with τ set so that all SIDs together cost as many bits as
those of a rival with a fixed length.  Truncation happens after the base is trained (post hoc).

Lengths depend on the item, so a short SID may be a prefix of a long one: EOS is a choice that is
scored (lm, decode).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from safetensors.numpy import load_file, save_file

from sidar.config import SidConfig
from sidar.sid.codebooks.lengths import (
    PrefixCounts,
    allowed,
    code_bits,
    soft_entropy,
    soft_temperature,
    spend,
)
from sidar.sid.sizes import extended
from sidar.sid.tokenizer import (
    Tokenizer,
    checked_counts,
    read_description,
    register_tokenizer,
    tokenizer_class,
    write_description,
)
from sidar.types import Json, PathLike, SemanticIds, SidInputs

FILE = "prefixes.safetensors"
BASE = "base"
Rule = Literal["e3", "e2", "e1"]
Lengths = Literal["rule", "shuffled", "fixed"]


@register_tokenizer("sarq")
class Sarq(Tokenizer):
    """``base`` of L_max levels, cut to lengths between ``min_levels`` and L_max.

    ``levels``: those of the fixed-length rival, whose cost is the default budget; ``budget``: mean
    bits per item instead. ``rule``, ``kappa``: see :mod:`sidar.sid.codebooks.lengths`.
    ``hysteresis`` (bits): in :meth:`refresh` an SID keeps its length unless the item's credit has
    left the range that pays for it by more than this. ``lengths``: ``shuffled`` deals the rule's
    lengths out at random (the control that must lose), ``fixed`` gives every SID ``levels`` codes
    (the rival itself).

    After ``fit``: ``tau_`` and ``paid_`` (bits; the last margin that was granted), ``bits_`` (mean
    bits per item), ``n_fixed_sids_`` (SIDs of the rival).
    """

    base: Tokenizer

    def __init__(
        self,
        base: Tokenizer,
        levels: int,
        seed: int = 0,
        *,
        rule: Rule = "e3",
        kappa: float = 1.0,
        min_levels: int = 2,
        budget: float | None = None,
        hysteresis: float = 1.0,
        lengths: Lengths = "rule",
    ) -> None:
        super().__init__([1] * levels, seed)  # the sizes are the base's: see codebook_sizes
        self.base, self.levels = base, levels
        self.rule, self.kappa, self.min_levels, self.budget = rule, kappa, min_levels, budget
        self.hysteresis, self.lengths = hysteresis, lengths
        self.tau_: float | None = None
        self.paid_ = -math.inf
        self.bits_ = 0.0
        self.temperature_: list[float] = []
        self.histogram_: list[int] = []
        self.prefixes_: PrefixCounts | None = None
        if not 1 <= min_levels <= levels:
            raise ValueError(
                f"sid.sarq.min_levels is {min_levels}; it must be between 1 and sid.levels, "
                f"{levels}"
            )

    @classmethod
    def from_config(
        cls, config: SidConfig, codebook_sizes: Sequence[int], seed: int, device: str = "cpu"
    ) -> Self:
        """SARQ over ``sid.sarq.base`` with ``codebook_sizes`` and ``extra_levels`` further, halving
        ones.
        """
        own = config.sarq
        if config.balance_last:
            raise ValueError(
                "sid.balance_last spreads the last level, which most SIDs of sarq do not reach; "
                "set it false"
            )
        sizes = extended(codebook_sizes, len(codebook_sizes) + own.extra_levels)
        inner = config.model_copy(
            update={"method": own.base, "levels": len(sizes), "codebook_sizes": list(sizes)}
        )
        # lengths make large SIDs smaller; groups on the last level would be a second way
        if own.base == "cqsid":
            inner = inner.model_copy(
                update={"cqsid": config.cqsid.model_copy(update={"max_bucket": None})}
            )
        base = tokenizer_class(own.base).from_config(inner, sizes, seed, device)
        return cls(
            base,
            len(codebook_sizes),
            seed,
            rule=own.rule,
            kappa=own.kappa,
            min_levels=min(own.min_levels, len(codebook_sizes)),
            budget=own.budget,
            hysteresis=own.hysteresis,
            lengths=own.lengths,
        )

    # ------------------------------------------------------------------ what it knows

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        sizes = tuple(len(book) for book in self.base.codebooks_)
        return sizes[: self.levels] if self.lengths == "fixed" else sizes

    def _adopt(self, prefixes: PrefixCounts) -> None:
        """Take the base's codebooks and the fitted catalogue's prefixes for its own.

        With ``lengths: fixed`` the codebooks are those of the rival's levels. Sizes are chosen by
        how many SIDs the rival has on the items that this was fitted to.
        """
        books = self.base.codebooks_
        self.codebooks_ = books[: self.levels] if self.lengths == "fixed" else books
        self.prefixes_ = prefixes
        self.n_fixed_sids_ = len(prefixes.keys[self.levels - 1])

    @classmethod
    def wants_queries(cls, config: SidConfig) -> int:
        return tokenizer_class(config.sarq.base).wants_queries(config)

    def _prefixes(self) -> PrefixCounts:
        if self.prefixes_ is None:
            raise ValueError("this tokenizer has no codebooks yet; call fit first")
        return self.prefixes_

    # ------------------------------------------------------------------ fitting and encoding

    def fit(self, inputs: SidInputs) -> Self:
        """Fit the base, count its prefixes, and find τ for the budget.

        Raises ``ValueError`` where the rule asks for ``counts`` and they are missing, not numbers,
        or all 0.
        """
        counts = self._counts(inputs, need=True)
        self.base.fit(inputs)
        full = self._full(self.base.encode_catalogue(inputs))
        sizes = tuple(len(book) for book in self.base.codebooks_)
        weight = counts if self.rule == "e2" else None
        self._adopt(PrefixCounts.build(full, sizes, weight))
        if self.rule == "e1":
            self.temperature_ = soft_temperature(inputs.vectors, full, self.base.codebooks_)
        lengths, self.tau_, self.paid_ = self._spend(inputs, full)
        self.bits_ = code_bits(lengths, sizes) / max(len(lengths), 1)
        self.histogram_ = np.bincount(lengths, minlength=len(sizes) + 1).tolist()
        return self

    def encode(self, inputs: SidInputs) -> SemanticIds:
        """SIDs of items on their own: frozen codebooks, stored prefix counts and τ; without
        ``counts`` all are cold.
        """
        full = self._full(self.base.encode(inputs))
        return self._table(full, self._alone(inputs, full))

    def _alone(self, inputs: SidInputs, full: np.ndarray) -> np.ndarray:
        """(n,) int32 lengths of items on their own; a control draws from the fitted lengths."""
        if self.lengths == "shuffled":
            share = np.asarray(self.histogram_, float) / sum(self.histogram_)
            return (
                np.random.default_rng([self.seed, 78])
                .choice(len(share), len(full), p=share)
                .astype(np.int32)
            )
        return allowed(self._margin(inputs, full), self.min_levels, self._tau())

    def encode_catalogue(self, inputs: SidInputs) -> SemanticIds:
        """SIDs of a whole catalogue: the budget is spent to the last code that fits (ties beyond τ
        are broken).
        """
        full = self._full(self.base.encode_catalogue(inputs))
        self._tau()
        lengths = self._spend(inputs, full)[0]
        if self.lengths == "shuffled":
            lengths = np.random.default_rng([self.seed, 77]).permutation(lengths)
        return self._table(full, lengths)

    def refresh(
        self, inputs: SidInputs, previous: SemanticIds, stays: np.ndarray | None = None
    ) -> SemanticIds:
        """Tomorrow's SIDs: an old item whose codes are unchanged keeps its length within
        ``hysteresis`` bits. [ours]

        With today's margin M(l) = C(l) − B, length l was right while M(l) ≤ τ < M(l + 1); it is
        kept while M(l) − h ≤ τ < M(l + 1) + h, so it changes only if credit or cost moved by more
        than h since it was given. ``stays`` (n,) bool: items whose vector is yesterday's, or
        nearly. Where the base would write other codes for one of them all the same (its popularity
        class changed, its bucket was split), it keeps the SID that it has.
        """
        full = self._full(self.base.encode(inputs))
        had = previous.lengths > 0
        before = _widened(previous.codes, full.shape[1])
        inside = np.arange(full.shape[1]) < previous.lengths[:, None]
        same = had & ((before == full) | ~inside).all(axis=1)
        kept = same
        if self.lengths == "rule":
            margin, tau = self._margin(inputs, full), self._tau()
            # paid for with room to spare
            low = allowed(margin + self.hysteresis, self.min_levels, tau)
            # … and with debt
            high = allowed(margin - self.hysteresis, self.min_levels, max(tau, self.paid_))
            kept = same & (low <= previous.lengths) & (previous.lengths <= high)
        found = self._table(full, np.where(kept, previous.lengths, self._alone(inputs, full)))
        held = had & ~same & (False if stays is None else stays)
        codes = np.where(held[:, None], previous.codes, found.codes)
        return SemanticIds(
            codes,
            np.where(held, previous.lengths, found.lengths),
            found.codebook_sizes,
            method=self.method,
        )

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """(n, D) float32: what codes (n, L), −1 past the end, keep of their items, as the base
        restores it.
        """
        return self.base.reconstruct(_widened(codes, len(self.base.codebooks_)))

    # ------------------------------------------------------------------ inside

    def _full(self, sids: SemanticIds) -> np.ndarray:
        if not (sids.lengths == sids.n_levels).all():
            raise ValueError(
                f"sarq needs a base whose SIDs all have {sids.n_levels} codes; {self.base.method} "
                "cuts some"
            )
        return sids.codes

    def _tau(self) -> float:
        if self.tau_ is None:
            raise ValueError("this tokenizer has no codebooks yet; call fit first")
        return self.tau_

    def _counts(self, inputs: SidInputs, *, need: bool = False) -> np.ndarray:
        """(n,) int64 interactions; 0 where none were given."""
        wanted = self.lengths != "fixed" and (
            self.rule == "e2" or (self.rule == "e3" and self.kappa > 0)
        )
        way_out = (
            "give SidInputs.counts (training-day clicks), or set sid.sarq.kappa: 0 (lengths "
            "by crowding alone)"
        )
        counts = checked_counts(inputs)
        if counts is None:
            if need and wanted:
                raise ValueError(
                    f"sarq gives popular items longer SIDs and has no counts; {way_out}"
                )
            return np.zeros(len(inputs.vectors), np.int64)
        if need and wanted and len(counts) and not counts.any():
            raise ValueError(f"all {len(counts)} counts are 0, so no item is popular; {way_out}")
        return counts

    def _margin(self, inputs: SidInputs, full: np.ndarray) -> np.ndarray:
        """(n, L) float64 C − B of the rule, rising along L."""
        if self.rule == "e1":
            return soft_entropy(inputs.vectors, full, self.base.codebooks_, self.temperature_)
        if self.rule == "e2":
            return self._prefixes().information(full, least=0)
        credit = self.kappa * np.log2(1.0 + self._counts(inputs))
        return self._prefixes().information(full) - credit[:, None]

    def _spend(self, inputs: SidInputs, full: np.ndarray) -> tuple[np.ndarray, float, float]:
        sizes = tuple(len(book) for book in self.base.codebooks_)
        if self.lengths == "fixed":
            return np.full(len(full), self.levels, np.int32), 0.0, 0.0
        each = code_bits(np.array([self.levels]), sizes) if self.budget is None else self.budget
        first = self._counts(inputs)
        return spend(self._margin(inputs, full), sizes, self.min_levels, each * len(full), first)

    def _table(self, full: np.ndarray, lengths: np.ndarray) -> SemanticIds:
        if self.lengths == "fixed":
            full, lengths = full[:, : self.levels], np.full(len(full), self.levels)
        codes = np.where(np.arange(full.shape[1]) < lengths[:, None], full, -1).astype(np.int32)
        return SemanticIds(codes, lengths.astype(np.int32), self.codebook_sizes, method=self.method)

    # ------------------------------------------------------------------ on disk

    def params(self) -> Json:
        return {
            "levels": self.levels,
            "seed": self.seed,
            "rule": self.rule,
            "kappa": self.kappa,
            "min_levels": self.min_levels,
            "budget": self.budget,
            "hysteresis": self.hysteresis,
            "lengths": self.lengths,
            "base": self.base.method,
            "fitted": {
                "tau": self._tau() if np.isfinite(self._tau()) else None,
                "paid": self.paid_ if np.isfinite(self.paid_) else None,
                "bits": self.bits_,
                "temperature": self.temperature_,
                "histogram": self.histogram_,
                "total": self._prefixes().total,
            },
        }

    def save(self, folder: PathLike) -> None:
        """Write ``prefixes.safetensors`` and ``tokenizer.json`` into ``folder`` and the base into
        ``folder/base``.
        """
        prefixes = self._prefixes()
        tensors = {f"keys.{level}": keys for level, keys in enumerate(prefixes.keys)}
        tensors |= {f"counts.{level}": counts for level, counts in enumerate(prefixes.counts)}
        save_file(tensors, Path(folder) / FILE)
        inner = Path(folder) / BASE
        inner.mkdir(exist_ok=True)
        self.base.save(inner)
        write_description(folder, self)

    @classmethod
    def load(cls, folder: PathLike, device: str = "cpu") -> Self:
        """Read what :meth:`save` wrote."""
        params = read_description(folder)["params"]
        fitted, base = params.pop("fitted"), params.pop("base")
        tokenizer = cls(tokenizer_class(base).load(Path(folder) / BASE, device), **params)
        arrays = load_file(Path(folder) / FILE)
        sizes = tuple(len(book) for book in tokenizer.base.codebooks_)
        keys, counts = (
            [arrays[f"{name}.{level}"] for level in range(len(sizes))]
            for name in ("keys", "counts")
        )
        tokenizer._adopt(PrefixCounts(sizes, keys, counts, fitted["total"]))
        tokenizer.tau_, tokenizer.paid_ = (
            -math.inf if fitted[name] is None else fitted[name] for name in ("tau", "paid")
        )
        tokenizer.bits_, tokenizer.temperature_ = fitted["bits"], fitted["temperature"]
        tokenizer.histogram_ = fitted["histogram"]
        return tokenizer


def _widened(codes: np.ndarray, levels: int) -> np.ndarray:
    """``codes`` (n, ≤ levels) filled up with −1."""
    return np.pad(codes, ((0, 0), (0, levels - codes.shape[1])), constant_values=-1)
