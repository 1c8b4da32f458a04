"""Depth-first walk over the live prefixes of an index in chunks: what exact search and invalid mass
are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sidar.decode.protocol import Scorer
from sidar.decode.trie import Trie


class Finished(NamedTuple):
    """Some SIDs with their exact scores."""

    sids: Tensor  # (m,) int64
    scores: Tensor  # (m,) float64
    level_logp: Tensor  # (m, L + 1) float32

    def take(self, at: Tensor | slice) -> Finished:
        return Finished(*(part[at] for part in self))


class _Rows(NamedTuple):
    """Prefixes of one depth that wait for their turn."""

    prefix: Tensor  # (n,) int64
    code: Tensor  # (n,) int64 last code
    parent: Tensor  # (n,) int64 row in the chunk of the depth above
    score: Tensor  # (n,) float64
    logp: Tensor  # (n, L + 1) float32

    def take(self, at: Tensor | slice) -> _Rows:
        return _Rows(*(part[at] for part in self))


def walk(
    scorer: Scorer,
    prompt: Any,
    trie: Trie,
    rows: int,
    *,
    floor: Callable[[], float] | None = None,
    spare: float = 0.0,
) -> Iterator[Finished]:
    """Every SID of the index with its score under one prompt, a chunk of at most ``rows`` prefixes
    at a time.

    With ``floor`` the walk is a branch and bound: better prefixes first, and none whose score is
    below ``floor()``, asked anew before each chunk; a prefix's score bounds the score of every SID
    below it.  With ``spare`` the least probable prefixes below each chunk are left out, together at
    most that share of the chunk's probability, so at most ``spare`` per level in all.  Memory:
    ``rows`` × children per level, never the whole index.
    """
    state = scorer.prefill([prompt])
    levels = trie.n_levels

    def visit(pending: _Rows, depth: int) -> Iterator[Finished]:
        for at in range(0, len(pending.prefix), rows):
            chunk = pending.take(slice(at, at + rows))
            if floor is not None:
                chunk = chunk.take(chunk.score >= floor())
                if not len(chunk.prefix):
                    return  # rising order: everything behind is worse
            if depth == 0:
                logp = scorer.first(state)
            else:
                logp = scorer.extend(state, chunk.parent[None], chunk.code[None], depth)[0]
            if scorer.variable_length and depth:
                sids = trie.sid_of(depth, chunk.prefix)
                ends = sids >= 0
                steps = chunk.logp[ends]
                steps[:, depth] = logp[ends, -1]
                yield Finished(sids[ends], chunk.score[ends] + logp[ends, -1], steps)
            children = trie.children(depth, chunk.prefix)
            value = logp[children.rows, children.codes]
            steps = chunk.logp[children.rows]
            steps[:, depth] = value
            below = _Rows(
                children.ids,
                children.codes,
                children.rows,
                chunk.score[children.rows] + value,
                steps,
            )
            if depth == levels - 1:  # EOS is certain after L codes
                yield Finished(trie.sid_of(levels, below.prefix), below.score, below.logp)
                continue
            if floor is not None:
                below = below.take(below.score >= floor())
            below = below.take(below.score.argsort(descending=True, stable=True))
            if spare:
                mass = below.score.exp()
                # what this prefix and all behind it hold together
                left = mass.flip(0).cumsum(0).flip(0)
                below = below.take(left > spare * chunk.score.exp().sum())
            yield from visit(below, depth + 1)

    zero = torch.zeros(1, dtype=torch.long, device=trie.device)
    root = _Rows(zero, zero, zero, zero.double(), torch.zeros(1, levels + 1, device=trie.device))
    yield from visit(root, 0)
