"""Slow twins of sidar.lm: one candidate at a time through the transformers module, log-softmax
written out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sidar.lm import Candidate, SidLM


def columns(model: SidLM, depth: int) -> Tensor:
    """Rows of the head that may follow ``depth`` codes, EOS last where an SID may end there."""
    levels = len(model.heads)
    rows = model.heads[depth] if depth < levels else model.heads[levels - 1]
    if depth == levels or (model.config.variable_length and depth >= 1):
        rows = torch.cat([rows, model.eos_head])
    return rows


def log_prob(model: SidLM, state: Tensor, depth: int, column: int) -> Tensor:
    rows = columns(model, depth)
    logits = rows @ state
    if model.config.head == "full":
        text = model.word_embeddings if model.text_head is None else model.text_head
        everything = torch.cat([text, *model.heads, model.eos_head]) @ state
        return logits[column] - everything.exp().sum().log()
    return torch.log_softmax(logits, 0)[column]


def score_one(
    model: SidLM, prompt: list[int], candidate: Candidate
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Counted steps of one candidate, the training-only EOS term (0 where EOS counts), the state
    that outputs EOS.
    """
    vocab, codes = model.vocab, candidate.codes
    row = torch.tensor(
        [prompt + [vocab.text_vocab + vocab.offsets[i] + c for i, c in enumerate(codes)]]
    )
    states = model(row, torch.arange(row.shape[1])[None], None)[0]  # plain causal attention
    steps = [log_prob(model, states[len(prompt) - 1 + d], d, code) for d, code in enumerate(codes)]
    depth = len(codes)
    eos = log_prob(model, states[-1], depth, len(columns(model, depth)) - 1)
    if depth < vocab.n_levels:
        return [*steps, eos], torch.zeros(()), states[-1]
    return steps, eos, states[-1]
