"""Where codes become language-model tokens: the only such place.

Levels have disjoint token ranges, so "same token" means same level *and* same code.  SID tokens are
not words of any text tokenizer, hence nothing that a user types can become one.  Loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sidar.types import SemanticIds


@dataclass(frozen=True)
class SidVocab:
    """The tokens that spell SIDs: code c of level l is token ``offsets[l] + c``; the last token,
    ``eos``, ends an SID.

    In tensors that mix text and SIDs, token s appears as ``text_vocab + s``; ids below
    ``text_vocab`` are text (it is the number of rows of the backbone's word embeddings, which may
    exceed the tokenizer's).  ``variable_length`` says that SIDs of several lengths exist, so that
    ending after d < L codes is a choice that log π(y|x) must count.
    """

    codebook_sizes: tuple[int, ...]
    text_vocab: int = 0
    variable_length: bool = False

    def __post_init__(self) -> None:
        sizes = tuple(int(k) for k in self.codebook_sizes)
        if not sizes or min(sizes) < 1:
            raise ValueError(f"codebook sizes {sizes} must be one or more positive numbers")
        object.__setattr__(self, "codebook_sizes", sizes)

    @property
    def n_levels(self) -> int:
        return len(self.codebook_sizes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """(L,) first token of each level."""
        return tuple(int(x) for x in np.cumsum((0, *self.codebook_sizes[:-1])))

    @property
    def eos(self) -> int:
        return sum(self.codebook_sizes)

    @property
    def size(self) -> int:
        """Number of SID tokens, EOS included."""
        return self.eos + 1

    @property
    def separator(self) -> int:
        """The token between two SIDs of one answer: the one that ends an SID.

        It has an input row in every model, which nothing else reads, so that models of older
        versions can be taught answers of several SIDs.
        """
        return self.eos

    def continued(self, prompt: Sequence[int], codes: Sequence[int]) -> list[int]:
        """Mixed token ids: ``prompt``, an SID that was answered, and the separator; the next SID
        follows.
        """
        answered = [*self.tokens(codes), self.separator]
        return [*prompt, *(self.text_vocab + token for token in answered)]

    def n_codes(self, depth: int) -> int:
        """Codes among the choices after ``depth`` codes: level ``depth``'s, and at depth L the last
        level's again.

        Nothing follows level L, so the last level's codes serve as the distractors of the
        training-only EOS term [reconstruction; docs/methods/raddpo.md].
        """
        if not 0 <= depth <= self.n_levels:
            raise ValueError(f"depth {depth} leaves 0 … {self.n_levels}")
        return self.codebook_sizes[min(depth, self.n_levels - 1)]

    def has_eos(self, depth: int) -> bool:
        """Whether EOS is the last column of the choices after ``depth`` codes."""
        return depth == self.n_levels or (self.variable_length and depth > 0)

    def token(self, level: int, code: int) -> int:
        """The token of ``code`` at ``level`` (0-based)."""
        if not 0 <= code < self.codebook_sizes[level]:
            raise ValueError(
                f"code {code} leaves level {level + 1}, which has {self.codebook_sizes[level]} "
                "codes"
            )
        return self.offsets[level] + code

    def tokens(self, codes: Sequence[int]) -> list[int]:
        """The SID tokens of one SID or prefix (without ``text_vocab``), EOS not included."""
        if len(codes) > self.n_levels:
            raise ValueError(
                f"SID {tuple(codes)} is longer than the vocabulary's {self.n_levels} levels"
            )
        return [self.token(level, code) for level, code in enumerate(codes)]

    def spell(self, token: int) -> str:
        """How an exported tokenizer writes a token: ``<s1_12>`` is code 12 of the first level,
        ``<s_end>`` is EOS.
        """
        if token == self.eos:
            return "<s_end>"
        level = int(np.searchsorted(self.offsets, token, side="right")) - 1
        return f"<s{level + 1}_{token - self.offsets[level]}>"

    def check_fits(self, sids: SemanticIds, where: str = "this model") -> None:
        """Raise ``ValueError`` naming both sides when ``sids`` was made with other codebooks, or
        ends some SIDs early while this vocabulary knows one length only.
        """
        if tuple(sids.codebook_sizes) != self.codebook_sizes:
            ours, theirs = (
                "/".join(map(str, s)) for s in (self.codebook_sizes, sids.codebook_sizes)
            )
            raise ValueError(
                f"{where} writes SIDs of {self.n_levels} levels ({ours}), the SID table "
                f"{sids.version or sids.method!r} has {sids.n_levels} ({theirs}); train a model "
                "for this table with `sidar sft`, or use the table that the model was trained on"
            )
        if not self.variable_length and not sids.fixed_length:
            short = int(np.flatnonzero((sids.lengths > 0) & (sids.lengths < sids.n_levels))[0])
            raise ValueError(
                f"{where} writes SIDs of exactly {self.n_levels} codes, but row {short} of the SID "
                f"table {sids.version or sids.method!r} has {sids.lengths[short]}; train a model "
                "for it with `sidar sft`"
            )
