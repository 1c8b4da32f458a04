"""The forward of Llama-like decoders without what short sequences pay for nothing; same weights,
same function.

transformers computes every padding token, and spends a quarter of a small model's step in RMSNorm
and rotary arithmetic made of a dozen passes.  Here the projections, norms and MLPs see only real
tokens (padded just inside attention), the last block computes queries and MLP only where somebody
asks for a state, and norm and rotation have backward passes of their own.  Slow twin: the
transformers module itself, to 1e-5 in values and gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sidar.lm.llama import Block, inverse_rms, misfit, rotate

#: On a CPU, torch's fused attention loses to plain matrix products up to about this many tokens a
#: row.
EAGER_UP_TO = 256


def fits(decoder: Any) -> bool:
    """Return whether :func:`states` computes what ``decoder`` computes."""
    checkpointing = decoder.training and getattr(decoder, "gradient_checkpointing", False)
    return misfit(decoder) is None and not checkpointing


def states(
    decoder: Any,
    embeds: Tensor,
    position_ids: Tensor,
    bias: Tensor,
    real: Tensor,
    asked: Tensor,
    attention: str,
) -> Tensor:
    """Return the states after the final norm at the positions ``asked``, in their order: (n, d).

    ``embeds`` (B, T, d); ``bias`` (B, 1, T, T) additive; ``real`` (r,) ascending flat positions b·T
    + t of tokens that are not padding; ``asked`` (n,) flat positions among them; ``attention`` ∈
    auto, sdpa, eager.
    """
    B, T = embeds.shape[:2]
    # (r, 1, head_dim)
    cos, sin = (x.flatten(0, 1)[real][:, None] for x in decoder.rotary_emb(embeds, position_ids))
    if attention == "auto":
        attention = "eager" if embeds.device.type == "cpu" and T <= EAGER_UP_TO else "sdpa"
    place = torch.full((B * T,), -1, device=real.device)
    place[real] = torch.arange(len(real), device=real.device)
    inner = _Layout(real, B, T)  # every token in its own place, so that the bias fits
    last = _Layout.compact(asked, B, T)
    last_bias = bias.flatten(0, 2)[last.source].view(B, 1, last.width, T)
    x = embeds.flatten(0, 1)[real]  # (r, d)
    n_layers = decoder.config.num_hidden_layers
    for number, layer in enumerate(decoder.layers[:n_layers]):
        block = LiveBlock(layer)
        if number < n_layers - 1:
            mix = Attend(inner, inner, bias, block.scaling, attention)
            x = block(x, (cos, sin), mix)
        else:
            mix = Attend(last, inner, last_bias, block.scaling, attention)
            x = block(x, (cos, sin), mix, chosen=place[asked])
    return norm(decoder.norm, x)


class LiveBlock(Block[tuple[Tensor, Tensor, Tensor]]):
    """The modules of a layer of transformers, with gradients and adapters, on a flat list of
    tokens.
    """

    def __init__(self, layer: Any) -> None:
        self.layer, self.attention = layer, layer.self_attn
        self.scaling: float = layer.self_attn.scaling

    def project(
        self, x: Tensor, turn: tuple[Tensor, Tensor], chosen: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        attention, heads = self.attention, (-1, self.attention.head_dim)
        y = norm(self.layer.input_layernorm, x)
        k = attention.k_proj(y).unflatten(-1, heads)
        v = attention.v_proj(y).unflatten(-1, heads)
        angles = turn
        if chosen is not None:
            y, angles = y[chosen], (turn[0][chosen], turn[1][chosen])
        q = attention.q_proj(y).unflatten(-1, heads)
        if hasattr(attention, "q_norm"):
            q, k = norm(attention.q_norm, q), norm(attention.k_norm, k)
        return Rotate.apply(q, *angles), Rotate.apply(k, *turn), v

    def output(self, x: Tensor, mixed: Tensor) -> Tensor:
        return x + self.attention.o_proj(mixed)

    def mlp(self, x: Tensor) -> Tensor:
        mlp = self.layer.mlp
        y = norm(self.layer.post_attention_layernorm, x)
        return x + mlp.down_proj(mlp.act_fn(mlp.gate_proj(y)) * mlp.up_proj(y))


@dataclass(frozen=True)
class Attend:
    """Attention of flat tokens that are padded just for it."""

    queries: _Layout
    keys: _Layout
    bias: Tensor  # (B, 1, queries, keys)
    scaling: float
    kernel: str

    def __call__(self, projected: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        q, k, v = projected
        padded = self.queries.pad(q), self.keys.pad(k), self.keys.pad(v)
        return self.queries.unpad(attend(*padded, self.bias, self.scaling, self.kernel))


class _Layout:
    """Moves between a flat list of n tokens and rows (B, width); ``slot`` (n,) is each token's
    place b·width + t.
    """

    def __init__(self, slot: Tensor, rows: int, width: int) -> None:
        self.slot, self.rows, self.width = slot, rows, width
        self.source = slot

    @classmethod
    def compact(cls, positions: Tensor, rows: int, row_length: int) -> _Layout:
        """Only ``positions`` (n,) flat in rows of ``row_length``, moved up to the start of rows as
        short as can be.

        ``source`` (B·width,) is the position behind each place; places left over repeat the row's
        first, harmlessly.
        """
        owner = positions // row_length
        count = torch.bincount(owner, minlength=rows)
        order = torch.argsort(owner, stable=True)
        rank = torch.empty_like(order)
        rank[order] = (
            torch.arange(len(order), device=order.device) - (count.cumsum(0) - count)[owner[order]]
        )
        layout = cls(owner * int(count.max()) + rank, rows, int(count.max()))
        layout.source = (
            torch.arange(rows, device=positions.device) * row_length
        ).repeat_interleave(layout.width)
        layout.source[layout.slot] = positions
        return layout

    def pad(self, x: Tensor) -> Tensor:
        """(n, H, h) → (B, H, width, h)."""
        out = x.new_zeros(self.rows * self.width, *x.shape[1:]).index_copy(0, self.slot, x)
        return out.view(self.rows, self.width, *x.shape[1:]).transpose(1, 2)

    def unpad(self, x: Tensor) -> Tensor:
        """(B, H, width, h) → (n, H·h)."""
        return x.transpose(1, 2).flatten(0, 1).flatten(1)[self.slot]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scaling: float, attention: str) -> Tensor:
    """Attention with an additive bias: q (B, H, Q, h), k and v (B, G, T, h) with H a multiple of G
    → (B, H, Q, h).
    """
    groups = q.shape[1] // k.shape[1]
    if attention == "sdpa":
        mask = bias.to(q.dtype)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scaling, enable_gqa=groups > 1
        )
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    weights = (torch.matmul(q, k.transpose(-1, -2)).float() * scaling).add_(bias).softmax(-1)
    return torch.matmul(weights.to(v.dtype), v)


def norm(module: Any, x: Tensor) -> Tensor:
    """``module``, an RMSNorm of transformers, in as few passes as its backward allows; autocast's
    type comes out.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    out: Tensor = RmsNorm.apply(x, module.weight, module.variance_epsilon, dtype)
    return out


class RmsNorm(torch.autograd.Function):
    """y = w · x / √(mean(x²) + ε) over the last axis, in fp32; saves the normalised x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x32 = x.float()
        scale = inverse_rms(x32, eps)
        unit = x32 * scale
        ctx.save_for_backward(unit, weight, scale)
        ctx.dtype = x.dtype
        return (unit * weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, weight, scale = ctx.saved_tensors
        grad = grad.float()
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * unit).flatten(0, -2).sum(0)
        grad_x = grad * weight
        along = (grad_x * unit).mean(-1, keepdim=True)
        grad_x = grad_x.addcmul_(unit, along, value=-1).mul_(scale)
        return grad_x.to(ctx.dtype), grad_weight, None, None


class Rotate(torch.autograd.Function):
    """Rotary positions of queries or keys (:func:`sidar.lm.llama.rotate`)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return rotate(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return rotate(grad, cos, -sin), None, None
