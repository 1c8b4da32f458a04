"""Exact invalid mass: how much probability a model gives to what is no product
(docs/evaluation.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sidar.decode.protocol import FreeScorer, Scorer, fitted
from sidar.decode.trie import Trie
from sidar.decode.walk import walk
from sidar.index import PrefixIndex


@torch.inference_mode()
def invalid_mass(
    scorer: Scorer,
    prompts: Sequence[Any],
    index: PrefixIndex | Trie,
    *,
    rows: int = 1024,
    tolerance: float = 1e-6,
) -> np.ndarray:
    """(Q,) float64: 1 − Σ π(y | x) over every SID y of the index; no beam, live prefixes in chunks
    of ``rows``.

    Accumulated in log space and float64. Prefixes that hold less than ``tolerance`` *together* are
    not followed, so the value is at most that much too large (float32 log-probs are no better); 0
    follows every one. A fully trained model is near 0, the uniform one at
    :func:`uniform_invalid_mass`. Stands beside every recall, since constrained decoding cannot show
    it.
    """
    trie = fitted(scorer, index)
    masses = np.empty(len(prompts))
    spare = tolerance / max(1, trie.n_levels - 1)  # the last level is summed, not followed
    for query, prompt in enumerate(prompts):
        valid = torch.full((), -torch.inf, dtype=torch.float64, device=trie.device)
        for some in walk(scorer, prompt, trie.of_prompts([query]), rows, spare=spare):
            valid = torch.logaddexp(valid, some.scores.logsumexp(0))
        # rounding may lift the sum above 1 by 1e-7
        masses[query] = -math.expm1(min(float(valid), 0.0))
    return masses


def uniform_invalid_mass(scorer: FreeScorer, index: PrefixIndex) -> float:
    """The invalid mass of a model that knows nothing: each column of each choice set equally
    likely.
    """
    columns = [len(scorer.free_columns(d)[0]) for d in range(index.n_levels)]
    valid = 0.0
    for length in range(1, index.n_levels + 1):
        # EOS is a choice before depth L only, where the slice ends by itself
        steps = length + scorer.variable_length
        valid += int(index.terminal[length].sum()) / math.prod(columns[:steps])
    return 1.0 - valid
