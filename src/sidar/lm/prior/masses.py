"""The log-sum-exp of the scores of all SIDs below each first code: the dense part of the prior
(lm/prior/geometry.py).

Every SID is scored for every prompt, so this decides what a training step with the prior costs. It
is done in blocks of SIDs that stay in the processor's cache, and no (SIDs × prompts) table is kept:
the backward pass makes each block again. Sums over rows go through ``embedding_bag``, which reads
the rows of a small table in place.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sidar.lm.prior.legal import Legal, weighted_sums

#: Numbers in a block on a CPU (1 MB) and on other devices, where a block should fill the device
#: instead.
BLOCK = {"cpu": 1 << 18}
BLOCK_ELSEWHERE = 1 << 24
#: Fewest SIDs in a block: below, dispatch costs more than arithmetic.
LEAST = 256
#: Smallest sum of exponentials whose logarithm is taken.
TINY = 1e-37


class FirstMasses(torch.autograd.Function):
    """``scores`` (ΣK, B) of every code → S (n_1, B) of the prefixes of depth 1, fp32.

    S(p) = log Σ_{y below p} exp s(y), s(y) = Σ_l weight(y) · scores[y_l], and ∂S(p) / ∂s(y) =
    exp(s(y) − S(p)).
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, legal: Legal) -> Tensor:
        out = scores.new_empty(len(legal.count[1]), scores.shape[1])
        for p, q, a, b in legal.blocks(_rows(scores)):
            leaf = weighted_sums(legal.codes[a:b], legal.weights[a:b], scores)
            top = leaf.amax(0)
            weight = leaf.sub_(top).exp_()
            places = torch.arange(b - a, device=weight.device)
            total = F.embedding_bag(places, weight, legal.low[1][p:q] - a, mode="sum")
            torch.add(total.clamp_(min=TINY).log_(), top, out=out[p:q])
        ctx.legal = legal
        ctx.save_for_backward(scores, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        legal: Legal = ctx.legal
        scores, mass = ctx.saved_tensors
        gradient = grads[0].contiguous()
        found = torch.zeros_like(scores)
        by_level = found.split(legal.sizes)
        for group in legal.groups:
            # exp(s(y) − S(p)) · ∂/∂S(p)
            share = scores.new_empty(group.b - group.a, scores.shape[1])
            for p, q, a, b in legal.blocks(_rows(scores), group.p, group.q):
                here = legal.first_of[a:b] - p
                leaf = weighted_sums(legal.codes[a:b], legal.weights[a:b], scores)
                posterior = leaf.sub_(_spread(mass[p:q], here)).exp_()
                torch.mul(
                    posterior, _spread(gradient[p:q], here), out=share[a - group.a : b - group.a]
                )
            for total, order, starts, weights in zip(
                by_level, group.order, group.starts, group.weights, strict=True
            ):
                total += F.embedding_bag(
                    order, share, starts, mode="sum", per_sample_weights=weights
                )
        return found, None


def _rows(scores: Tensor) -> int:
    """SIDs of a block for scores of this many prompts."""
    return max(LEAST, BLOCK.get(scores.device.type, BLOCK_ELSEWHERE) // scores.shape[1])


def _spread(values: Tensor, rows: Tensor) -> Tensor:
    """(n, B) rows of ``values`` (m, B); ``values[rows]`` at a quarter of its cost on a CPU."""
    starts = torch.arange(len(rows), dtype=rows.dtype, device=rows.device)
    return F.embedding_bag(rows, values, starts, mode="sum")
