"""A lean forward of Llama-like decoders for beams that share a prompt.

What transformers spends on a beam step is overhead, not arithmetic.  Here the projections of a
block are fused once, norm weights are folded into them, and the prompt's keys and values are
computed once and shared by all beams: a beam reads them as one matrix product and owns only the
keys and values of its own ≤ L − 1 codes, found through its parent. The slow twin is
:mod:`sidar.lm.tree`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidar.lm import llama
from sidar.lm.llama import Block, in_pairs, inverse_rms, rotate_pairs_

#: Rotary schemes whose frequencies are fixed when the model is made.
ROPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder's blocks."""

    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    dtype: torch.dtype  # of the four products; the residual stream, norms and softmax are fp32


@dataclass(frozen=True)
class FusedBlock(Block[Tensor]):
    """The weights of one block without gradients, norm weights folded in; q and k rows are laid out
    in pairs (:func:`~sidar.lm.llama.in_pairs`). What needs no change is the model's own tensor.
    """

    shape: Shape
    qkv: Tensor  # (H·h + 2·Hkv·h, d)
    qkv_bias: Tensor | None
    qk_norm: Tensor | None  # (H + Hkv, h), with the softmax scale in the q part
    o: Tensor
    o_bias: Tensor | None
    gate_up: Tensor  # (2·I, d)
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None

    @classmethod
    def of(cls, layer: Any, shape: Shape, old: FusedBlock | None = None) -> FusedBlock:
        """Fuse the weights that a layer of transformers has now, adapters merged in.

        The fused ones go into the memory of ``old`` where it is given, the same layer's block from
        before.
        """
        attention, mlp, scale = layer.self_attn, layer.mlp, shape.head_dim**-0.5
        qk_norm = None
        if getattr(attention, "q_norm", None) is not None:
            q_norm = (attention.q_norm.weight.float() * scale).expand(shape.heads, -1)
            k_norm = attention.k_norm.weight.float().expand(shape.kv_heads, -1)
            both = torch.cat([q_norm, k_norm])
            qk_norm = in_pairs(both.flatten(), shape.head_dim).view_as(both).contiguous()
            scale = 1.0
        q, q_bias = _dense_in_pairs(attention.q_proj, shape.head_dim, scale)
        k, k_bias = _dense_in_pairs(attention.k_proj, shape.head_dim)
        v, v_bias = _dense(attention.v_proj)
        o, o_bias = _dense(attention.o_proj)
        gate, gate_bias = _dense(mlp.gate_proj)
        up, up_bias = _dense(mlp.up_proj)
        down, down_bias = _dense(mlp.down_proj)
        before = layer.input_layernorm.weight.float()
        between = layer.post_attention_layernorm.weight.float()
        qkv_place, gate_up_place = (None, None) if old is None else (old.qkv, old.gate_up)
        return cls(
            shape,
            qkv=joined_rows([q, k, v], before, shape.dtype, qkv_place),
            qkv_bias=_as(shape.dtype, _joined([q_bias, k_bias, v_bias])),
            qk_norm=qk_norm,
            o=_as(shape.dtype, o),
            o_bias=_as(shape.dtype, o_bias),
            gate_up=joined_rows([gate, up], between, shape.dtype, gate_up_place),
            gate_up_bias=_as(shape.dtype, _joined([gate_bias, up_bias])),
            down=_as(shape.dtype, down),
            down_bias=_as(shape.dtype, down_bias),
        )

    def norm(self, x: Tensor) -> Tensor:
        """RMS norm over the last dimension without a weight, in the dtype of the products."""
        return (x * inverse_rms(x, self.shape.eps)).to(self.shape.dtype)

    def project(self, x: Tensor, turn: Tensor, chosen: Any) -> Tensor:
        """(…, H + 2·Hkv, h) fp32 queries, keys and values of every position."""
        shape = self.shape
        qkv = F.linear(self.norm(x), self.qkv, self.qkv_bias).float()
        qkv = qkv.unflatten(-1, (shape.heads + 2 * shape.kv_heads, shape.head_dim))
        qk = qkv[..., : shape.heads + shape.kv_heads, :]
        if self.qk_norm is not None:
            qk.mul_(inverse_rms(qk, shape.eps)).mul_(self.qk_norm)
        rotate_pairs_(qk, turn)
        return qkv

    def output(self, x: Tensor, mixed: Tensor) -> Tensor:
        """As the interface says, in place."""
        x += F.linear(mixed.to(self.shape.dtype), self.o, self.o_bias)
        return x

    def mlp(self, x: Tensor) -> Tensor:
        """As the interface says, in place."""
        gate, up = F.linear(self.norm(x), self.gate_up, self.gate_up_bias).chunk(2, dim=-1)
        x += F.linear(F.silu(gate, inplace=True).mul_(up), self.down, self.down_bias)
        return x


@dataclass
class LeanState:
    """Keys and values of Q prompts, and of the rows of each depth."""

    lengths: Tensor  # (Q,) int64 prompt tokens
    keys: list[Tensor] = field(default_factory=list)  # per layer (Q, Hkv, P, h)
    values: list[Tensor] = field(default_factory=list)
    padding: Tensor | None = None  # (Q, 1, 1, P) additive, None where no prompt is padded
    # depth -> per layer (Q·W, 2, Hkv, h): k, v
    rows: dict[int, list[Tensor]] = field(default_factory=dict)
    # depth -> per depth above, (Q·W,) row there
    ancestors: dict[int, list[Tensor]] = field(default_factory=dict)


class LeanDecoder:
    """The decoder ``backbone`` as it is now; after changes of its weights call :meth:`refresh`.

    ``dtype`` bf16 runs the four products of a block in bf16; the residual stream, norms and the
    softmax stay fp32. ``final_norm`` (d,) is left to the caller to fold into what reads the states.
    """

    def __init__(self, backbone: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        config: Any = backbone.config
        self.heads = config.num_attention_heads
        self.kv_heads = getattr(config, "num_key_value_heads", None) or self.heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps = float(config.rms_norm_eps)
        self._shape = Shape(self.heads, self.kv_heads, self.head_dim, self.eps, dtype)
        self._decoder: Any = backbone
        self._rotary: Any = self._decoder.rotary_emb
        self.blocks: list[FusedBlock] = []
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Read the weights that the backbone has now, into the memory that holds the old ones."""
        self.final_norm: Tensor = self._decoder.norm.weight.detach().float()
        layers = self._decoder.layers
        before: Sequence[FusedBlock | None] = self.blocks or [None] * len(layers)
        self.blocks = [
            FusedBlock.of(layer, self._shape, old)
            for layer, old in zip(layers, before, strict=True)
        ]

    @staticmethod
    def misfit(backbone: nn.Module) -> str | None:
        """Why this backbone needs the generic path, or None."""
        config: Any = backbone.config
        if (reason := llama.misfit(backbone)) is not None:
            return reason
        if getattr(config, "hidden_act", "silu") not in ("silu", "swish"):
            return f"its activation is {config.hidden_act!r}"
        windowed = config.model_type == "mistral" and config.sliding_window is not None
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if windowed or kinds != {"full_attention"}:
            return "some layers attend inside a window"
        if getattr(getattr(backbone, "rotary_emb", None), "rope_type", None) not in ROPES:
            return "its rotary frequencies depend on the length"
        if any(any(getattr(m, "use_dora", {}).values()) for m in backbone.modules()):
            return "DoRA adapters do not merge into a matrix"
        return None

    def _turn(self, positions: Tensor) -> Tensor:
        """Unit complex numbers (*positions.shape, 1, h/2) of the rotary angle at each position."""
        probe = torch.zeros(1, device=positions.device)
        cos, sin = self._rotary(probe, positions.reshape(1, -1))
        half = self.head_dim // 2
        turn = torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())
        return turn.view(*positions.shape, 1, half)

    def prefill(
        self, x: Tensor, lengths: Tensor, *, padded: bool | None = None
    ) -> tuple[Tensor, LeanState]:
        """Embedded prompts x (Q, P, d), padded on the right → states (Q, d) at their ends, before
        the final norm.

        Padding is behind everything that counts, so a causal mask alone keeps it out.  ``padded``:
        whether there is any; None = look, which waits for a GPU.
        """
        q, p, _ = x.shape
        state = LeanState(lengths)
        if int(lengths.min()) < p if padded is None else padded:
            outside = torch.arange(p, device=x.device) >= lengths[:, None]
            state.padding = torch.zeros(q, p, device=x.device).masked_fill_(outside, -torch.inf)[
                :, None, None
            ]
        turn = self._turn(torch.arange(p, device=x.device))
        ends = (torch.arange(q, device=x.device)[:, None], lengths[:, None] - 1)
        x = x.float().clone()
        for block in self.blocks[:-1]:
            x = block(x, turn, self._reader(state, None))
        # nobody reads the other positions of the last block
        x = self.blocks[-1](x, turn, self._reader(state, ends), chosen=ends)
        return x[:, 0], state

    def _reader(
        self, state: LeanState, ends: tuple[Tensor, Tensor] | None
    ) -> Callable[[Tensor], Tensor]:
        """Return the attention of one block over prompts, of all positions or of ``ends`` alone; it
        keeps the block's keys and values in ``state``.
        """
        grouped = {"enable_gqa": True} if self.heads != self.kv_heads else {}

        def attend(qkv: Tensor) -> Tensor:
            sizes = (self.heads, self.kv_heads, self.kv_heads)
            queries, keys, values = qkv.transpose(1, 2).split(sizes, dim=1)
            state.keys.append(keys.contiguous())
            state.values.append(values.contiguous())
            if ends is None:
                bias, causal = None, True
            else:
                queries = queries[ends[0][:, 0], :, ends[1][:, 0]][:, :, None]
                bias, causal = state.padding, False
            attended = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=bias, is_causal=causal, scale=1.0, **grouped
            )
            return attended.transpose(1, 2).flatten(2)

        return attend

    def step(self, state: LeanState, x: Tensor, parents: Tensor, depth: int) -> Tensor:
        """Embedded last codes x (Q, W, d) of prefixes of ``depth`` codes → states (Q, W, d) before
        the final norm.
        """
        q, w, _ = x.shape
        turn = self._turn(state.lengths + depth - 1)[:, None]  # (Q, 1, 1, h/2)
        above = state.ancestors[depth] = _ancestors(state, parents, depth)
        rows = state.rows[depth] = []
        for deeper in [d for d in state.rows if d > depth]:
            del state.rows[deeper], state.ancestors[deeper]
        x = x.float().clone()

        def attend(qkv: Tensor) -> Tensor:
            layer, qkv = len(rows), qkv.flatten(0, 1)  # (Q·W, H + 2·Hkv, h)
            own = qkv[:, self.heads :].unflatten(1, (2, self.kv_heads))
            rows.append(own)
            ancestors = (
                state.rows[d][layer].index_select(0, at) for d, at in enumerate(above, start=1)
            )
            attended = self._attend(qkv[:, : self.heads], [own, *ancestors], state, layer)
            return attended.view(q, w, -1)

        for block in self.blocks:
            x = block(x, turn, attend)
        return x

    def _attend(self, queries: Tensor, chain: list[Tensor], state: LeanState, layer: int) -> Tensor:
        """Queries (Q·W, H, h) against the prompt's keys (shared) and each row's ``chain`` of own
        keys → (Q·W, H·h).
        """
        keys, values = state.keys[layer], state.values[layer]
        q, groups = len(keys), self.heads // self.kv_heads
        queries = queries.unflatten(1, (self.kv_heads, groups))  # (Q·W, Hkv, G, h)
        w = len(queries) // q
        shared = (
            queries.unflatten(0, (q, w))
            .transpose(1, 2)
            .reshape(q, self.kv_heads, w * groups, self.head_dim)
        )
        scores = shared @ keys.transpose(2, 3)  # (Q, Hkv, W·G, P)
        if state.padding is not None:
            scores += state.padding
        personal = [(queries * link[:, 0, :, None]).sum(-1) for link in chain]  # (Q·W, Hkv, G) each
        # (Q, Hkv, W·G, t)
        side = torch.stack(personal, -1).unflatten(0, (q, w)).transpose(1, 2).flatten(2, 3)
        weights = torch.cat([scores, side], -1).softmax(-1)
        p = scores.shape[-1]
        mixed = (weights[..., :p] @ values).unflatten(2, (w, groups)).transpose(1, 2).flatten(0, 1)
        # (Q·W, Hkv, G, t)
        side = weights[..., p:].unflatten(2, (w, groups)).transpose(1, 2).flatten(0, 1)
        for i, link in enumerate(chain):
            mixed = torch.addcmul(mixed, side[..., i, None], link[:, 1, :, None])
        return mixed.flatten(1)


def _ancestors(state: LeanState, parents: Tensor, depth: int) -> list[Tensor]:
    """Per depth 1 … depth − 1: (Q·W,) flat row there of each new row's ancestor."""
    if depth == 1:
        return []
    width = len(state.rows[depth - 1][0]) // len(parents)
    direct = (
        parents + torch.arange(len(parents), device=parents.device)[:, None] * width
    ).flatten()
    return [*(above[direct] for above in state.ancestors[depth - 1]), direct]


def joined_rows(
    parts: list[Tensor], norm: Tensor | float, dtype: torch.dtype, into: Tensor | None = None
) -> Tensor:
    """Return matrices (n_i, d) as one (Σ n_i, d) of ``dtype``, columns times ``norm``: in the
    memory of ``into`` where it is given, an earlier result for the same shapes.
    """
    sizes = [len(part) for part in parts]
    if into is None:
        into = parts[0].new_empty(sum(sizes), parts[0].shape[1], dtype=dtype)
    for part, place in zip(parts, into.split(sizes), strict=True):
        torch.mul(part.float(), norm, out=place)
    return into


@overload
def _as(dtype: torch.dtype, weight: Tensor) -> Tensor: ...
@overload
def _as(dtype: torch.dtype, weight: None) -> None: ...
def _as(dtype: torch.dtype, weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.to(dtype).contiguous()


def _joined(biases: list[Tensor | None]) -> Tensor | None:
    present = [b for b in biases if b is not None]
    if present and len(present) != len(biases):
        raise ValueError(
            "some projections of this backbone have a bias and some have none; use engine='tree'"
        )
    return torch.cat(present) if present else None


def _dense_in_pairs(linear: Any, head_dim: int, scale: float = 1.0) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a projection to queries or keys, times ``scale``, heads laid out in
    pairs.
    """
    weight, bias = _dense(linear)
    return (
        in_pairs(weight * scale, head_dim),
        None if bias is None else in_pairs(bias * scale, head_dim),
    )


def _dense(linear: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer in fp32, LoRA adapters merged in."""
    base = getattr(linear, "base_layer", linear)
    weight = base.weight.detach().float()
    if base is not linear and not linear.merged:
        for adapter in linear.active_adapters:
            weight = weight + linear.get_delta_weight(adapter).detach().float()
    return weight, None if base.bias is None else base.bias.detach().float()
