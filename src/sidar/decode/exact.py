"""Exact answers: best-first search that proves its result, and plain scoring of the whole index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sidar.decode.beam import Beams, joined
from sidar.decode.protocol import Scorer, fitted
from sidar.decode.trie import Trie
from sidar.decode.walk import Finished, walk
from sidar.index import PrefixIndex


@torch.inference_mode()
def exact_search(
    scorer: Scorer,
    prompts: Sequence[Any],
    index: PrefixIndex | Trie,
    k: int | Sequence[int],
    *,
    rows: int = 256,
) -> Beams:
    """The k best SIDs of the whole index, as exhaustive scoring would rank them (ties by SID
    number); ``k``: one number, or one per prompt.

    Best first in batches of ``rows``: log-probabilities are ≤ 0, so the score of a prefix bounds
    every SID below it, and the search ends when no open prefix reaches the k-th best SID found.
    Min(k, live) SIDs come back.
    """
    trie = fitted(scorer, index)
    wanted = list(k) if isinstance(k, Sequence) else [k] * len(prompts)
    if min(k if isinstance(k, Sequence) else [k], default=1) < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    parts = [
        _one(scorer, prompt, trie, best, rows) for prompt, best in zip(prompts, wanted, strict=True)
    ]
    return joined(parts, np.arange(len(parts)), trie)


def _one(scorer: Scorer, prompt: Any, trie: Trie, k: int, rows: int) -> Beams:
    zero = torch.zeros(0, dtype=torch.long, device=trie.device)
    top = Finished(zero, zero.double(), torch.zeros(0, trie.n_levels + 1, device=trie.device))

    def floor() -> float:
        return float(top.scores[-1]) if len(top.sids) == k else -math.inf

    for some in walk(scorer, prompt, trie, rows, floor=floor):
        top = _best(top, some, k)
    sids = top.sids.cpu().numpy()
    codes = trie.index.table[sids]
    return Beams(
        sids=sids[None],
        codes=codes[None],
        lengths=(codes >= 0).sum(-1).astype(np.int32)[None],
        scores=top.scores.cpu().numpy()[None],
        level_logp=top.level_logp.cpu().numpy()[None],
    )


def _best(top: Finished, some: Finished, k: int) -> Finished:
    """The k best of both; SIDs of probability 0 do not count as found."""
    possible = some.scores > -torch.inf
    sids, scores, steps = (torch.cat([a, b[possible]]) for a, b in zip(top, some, strict=True))
    order = sids.argsort(stable=True)
    order = order[scores[order].argsort(descending=True, stable=True)][:k]
    return Finished(sids[order], scores[order], steps[order])


@torch.inference_mode()
def score_all(
    scorer: Scorer, prompts: Sequence[Any], index: PrefixIndex | Trie, *, rows: int = 1024
) -> Tensor:
    """(Q, n_sids) float64: log π(y | x) of every SID of the index, by SID number.

    No pruning, no beam.
    """
    trie = fitted(scorer, index)
    scores = torch.full(
        (len(prompts), trie.n_sids), -torch.inf, dtype=torch.float64, device=trie.device
    )
    for query, prompt in enumerate(prompts):
        for some in walk(scorer, prompt, trie, rows):
            scores[query, some.sids] = some.scores
    return scores
