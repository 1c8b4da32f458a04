"""What a search needs to know of a model: log-probabilities of the next code, level by level.

A search never sees a language model, only a :class:`Scorer`; :class:`sidar.decode.TableScorer` is
one without any network, :class:`sidar.lm.scorer.LmScorer` one with.  Q queries, W rows (prefixes)
of each query, K codes of a level.

The choice set at *depth* d < L (codes already written) has these columns, the same as
``SidLM.level_logits``: the K_d codes of that level, then EOS as last column where the model has IDs
of variable length and d ≥ 1.  After L codes EOS is certain and costs no step, and with one fixed
length it is never asked for (docs/concepts.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from sidar.decode.trie import Trie
from sidar.index import PrefixIndex


class Scorer(Protocol):
    """Scores prefixes of SIDs for prompts. Implementations hold no per-search data: that lives in
    the state.

    The state remembers one set of rows per depth. ``extend`` at depth d replaces the rows of depth
    d (and forgets deeper ones), so a search may go breadth first (beam) or depth first in chunks
    (exact search, invalid mass).
    """

    codebook_sizes: tuple[int, ...]
    variable_length: bool

    @property
    def device(self) -> torch.device:
        """Where the log-probabilities are."""
        ...

    def prefill(self, prompts: Sequence[Any]) -> Any:
        """Read Q prompts (token lists of any lengths) and return the state that the other calls
        take.
        """
        ...

    def first(self, state: Any) -> Tensor:
        """(Q, K_0) float32 log-probabilities of the first code."""
        ...

    def extend(self, state: Any, parents: Tensor, codes: Tensor, depth: int) -> Tensor:
        """(Q, W, n) float32 log-probabilities of what follows W prefixes of 1 ≤ ``depth`` < L
        codes.

        ``codes`` (Q, W) int64 is the last code of each, ``parents`` (Q, W) int64 its row among the
        rows of depth − 1 (anything at depth 1: the prompt is the parent). A row that only fills up
        has some parent and code in range.
        """
        ...


class FreeScorer(Scorer, Protocol):
    """A scorer that also tells what it would write if nothing constrained it: the columns of free
    decoding.

    With level heads these are the columns of the level; with ``head="full"`` all tokens of the
    vocabulary, so that a model can write a token that is no code of the level at all.
    """

    def free_columns(self, depth: int) -> tuple[Tensor, int]:
        """Codes (V,) int64 that the columns at ``depth`` write (−1 = not a code of this level); EOS
        column or −1.
        """
        ...

    def free_first(self, state: Any) -> Tensor:
        """(Q, V) float32 log-probabilities of the first token."""
        ...

    def free_extend(self, state: Any, parents: Tensor, columns: Tensor, depth: int) -> Tensor:
        """As ``extend``, but the last token is named by its column among the free columns of depth
        − 1. (Q, W, V).
        """
        ...


def fitted(scorer: Scorer, index: PrefixIndex | Trie) -> Trie:
    """The index on the scorer's device; ``ValueError`` where the two do not fit or nothing can be
    found.
    """
    trie = index if isinstance(index, Trie) else Trie(index, scorer.device)
    if trie.codebook_sizes != tuple(scorer.codebook_sizes):
        raise ValueError(
            f"the model writes codebooks {tuple(scorer.codebook_sizes)}, the index holds "
            f"{trie.codebook_sizes}; rebuild the index with sidar index, or train the model on "
            "this SID table"
        )
    if trie.n_sids == 0:
        raise ValueError(
            "the index holds no SID, so nothing can be found; run sidar sid and sidar index on a "
            "catalogue"
        )
    if not trie.fixed_length and not scorer.variable_length:
        raise ValueError(
            "the index holds SIDs of different lengths, but the model has no EOS and writes one "
            "length only; train it on this SID table"
        )
    return trie
