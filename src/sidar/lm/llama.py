"""One block of Llama-like decoders, which training and decoding share.

    y = norm(x),   q, k = turn(norm(W_q y)), turn(norm(W_k y)),   v = W_v y
    h = x + W_o attention(q, k, v),   z = norm(h)
    block(x) = h + W_down (silu(W_gate z) · W_up z)

Only Qwen3 norms queries and keys.  :class:`Block` is this order of steps; how weights are kept
differs: modules with gradients, adapters included (:mod:`sidar.lm.unpadded`), or copies with fused
products (:mod:`sidar.lm.beams.lean`).  How queries meet keys is handed in: packed rows in training,
beams that share a prompt in decoding.  Slow twin: the modules of transformers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

#: Decoders of one shape: RMSNorm, rotary attention (with or without query/key norms and biases),
#: gated MLP.
FAMILIES = frozenset({"qwen3", "qwen2", "llama", "mistral"})

Projected = TypeVar("Projected")


def misfit(decoder: Any) -> str | None:
    """Return why the blocks of ``decoder`` are other ones, or None."""
    config = decoder.config
    if config.model_type not in FAMILIES:
        return f"its family is {config.model_type!r}"
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotary = getattr(decoder, "rotary_emb", None)
    if rotary is None or rotary.inv_freq.numel() * 2 != head_dim:
        return "its rotary positions turn only a part of each head"
    return None


class Block(ABC, Generic[Projected]):
    """One block on states x (…, d).

    ``turn`` is what :meth:`project` rotates queries and keys by.
    """

    def __call__(
        self, x: Tensor, turn: Any, attend: Callable[[Projected], Tensor], chosen: Any = None
    ) -> Tensor:
        """Return the states after the block; of the positions ``chosen`` (an index into x) alone
        where given, as in the last block, whose other positions nobody reads.

        ``attend`` makes of queries, keys and values what W_o takes, (…, H·h).
        """
        mixed = attend(self.project(x, turn, chosen))
        if chosen is not None:
            x = x[chosen]
        return self.mlp(self.output(x, mixed))

    @abstractmethod
    def project(self, x: Tensor, turn: Any, chosen: Any) -> Projected:
        """Return queries, keys and values of the normed states, queries and keys turned.

        Queries of other positions than ``chosen`` may be left out.
        """

    @abstractmethod
    def output(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Return x + W_o mixed."""

    @abstractmethod
    def mlp(self, x: Tensor) -> Tensor:
        """Return x + MLP(norm(x))."""


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """Return 1 / √(mean(x²) + ε) over the last axis of x, in fp32 or x's own type, (…, 1)."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves (a, b) of each head to (a·cos − b·sin, b·cos + a·sin).

    Both halves have the same angles, so the first half of ``cos`` and ``sin`` is read.
    """
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    cos, sin = cos[..., :half].to(x.dtype), sin[..., :half].to(x.dtype)
    out = torch.empty_like(x)
    torch.mul(a, cos, out=out[..., :half]).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=out[..., half:]).addcmul_(a, sin)
    return out


def rotate_columns_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """As :func:`rotate`, in place, for positions that are columns: x (H, h, N), ``cos`` and
    ``sin`` (h/2, N), or (h/2, 1) for all.
    """
    a, b = x.chunk(2, dim=1)
    turned = (a * cos).addcmul_(b, sin, value=-1)
    b.mul_(cos).addcmul_(a, sin)
    a.copy_(turned)
