"""Exact answers: best-first search that proves its result, and plain scoring of the whole index."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
    bonuses: Sequence[np.ndarray | None] | None = None,
) -> Beams:
    """The k best SIDs of the whole index, as exhaustive scoring would rank them (ties by SID
    number); ``k``: one number, or one per prompt.

    Best first in batches of ``rows``: log-probabilities are ≤ 0, so the score of a prefix bounds
    every SID below it, and the search ends when no open prefix reaches the k-th best SID found.
    Min(k, live) SIDs come back.

    ``bonuses``: per prompt (n_sids,) ≤ 0, None = 0: the k SIDs are chosen by score + bonus, and
    come back in the order of their scores. With the log share of an SID's best allowed item the k
    best *items* are among theirs: an item scores no more than its SID's best one.
    """
    trie = fitted(scorer, index)
    wanted = list(k) if isinstance(k, Sequence) else [k] * len(prompts)
    if min(k if isinstance(k, Sequence) else [k], default=1) < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    parts = []
    for place, (prompt, best) in enumerate(zip(prompts, wanted, strict=True)):
        bonus = None if bonuses is None else bonuses[place]
        parts.append(_one(scorer, prompt, trie.of_prompts([place]), best, rows, bonus))
    return joined(parts, np.arange(len(parts)), trie)


def _one(
    scorer: Scorer, prompt: Any, trie: Trie, k: int, rows: int, bonus: np.ndarray | None
) -> Beams:
    zero = torch.zeros(0, dtype=torch.long, device=trie.device)
    top = Finished(zero, zero.double(), torch.zeros(0, trie.n_levels + 1, device=trie.device))
    added = None if bonus is None else torch.as_tensor(bonus, device=trie.device).double()

    def value(some: Finished) -> Tensor:
        return some.scores if added is None else some.scores + added[some.sids]

    def floor() -> float:
        return float(value(top)[-1]) if len(top.sids) == k else -math.inf

    for some in walk(scorer, prompt, trie, rows, floor=floor):
        top = _best(top, some, k, value)
    top = _best(top, top.take(slice(0)), k, lambda some: some.scores)
    sids = top.sids.cpu().numpy()
    codes = trie.index.table[sids]
    return Beams(
        sids=sids[None],
        codes=codes[None],
        lengths=(codes >= 0).sum(-1).astype(np.int32)[None],
        scores=top.scores.cpu().numpy()[None],
        level_logp=top.level_logp.cpu().numpy()[None],
    )


def _best(top: Finished, some: Finished, k: int, value: Callable[[Finished], Tensor]) -> Finished:
    """The k best of both by ``value``; SIDs of probability 0 do not count as found."""
    possible = some.scores > -torch.inf
    both = Finished(*(torch.cat([a, b[possible]]) for a, b in zip(top, some, strict=True)))
    order = both.sids.argsort(stable=True)
    return both.take(order[value(both)[order].argsort(descending=True, stable=True)][:k])


@torch.inference_mode()
def score_all(
    scorer: Scorer, prompts: Sequence[Any], index: PrefixIndex | Trie, *, rows: int = 1024
) -> Tensor:
    """(Q, n_sids) float64: log π(y | x) of every SID of the index, by SID number.

    No pruning, no beam; −∞ for an SID that the filter of a prompt rules out.
    """
    trie = fitted(scorer, index)
    scores = torch.full(
        (len(prompts), trie.n_sids), -torch.inf, dtype=torch.float64, device=trie.device
    )
    for query, prompt in enumerate(prompts):
        for some in walk(scorer, prompt, trie.of_prompts([query]), rows):
            scores[query, some.sids] = some.scores
    return scores
