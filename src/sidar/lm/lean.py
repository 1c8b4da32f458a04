"""A lean forward of plain rotary decoders (Llama, Qwen2, Qwen3) for beams that share a prompt.

What transformers spends on a beam step is overhead, not arithmetic.  Here the projections of a
block are fused once, norm weights are folded into them, and the prompt's keys and values are
computed once and shared by all beams: a beam reads them as one matrix product and owns only the
keys and values of its own ≤ L − 1 codes, found through its parent. The slow twin is
:mod:`sidar.lm.tree`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Families whose blocks are exactly: x + o(attention(norm(x))), then x + down(silu(gate) · up) of
#: norm(x).
FAMILIES = ("llama", "qwen2", "qwen3")
#: Rotary schemes whose frequencies are fixed when the model is made.
ROPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class _Block:
    """The weights of one block, norm weights folded in; q and k rows are interleaved (see
    :func:`_interleave`).
    """

    qkv: Tensor  # (H·h + 2·Hkv·h, d)
    qkv_bias: Tensor | None
    qk_norm: Tensor | None  # (H + Hkv, h), with the softmax scale in the q part
    o: Tensor
    o_bias: Tensor | None
    gate_up: Tensor  # (2·I, d)
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


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
    """The decoder ``backbone`` as it is now; later changes of its weights are not seen.

    ``dtype`` bf16 runs the four products of a block in bf16; the residual stream, norms and the
    softmax stay fp32. ``final_norm`` (d,) is left to the caller to fold into what reads the states.
    """

    def __init__(self, backbone: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        config: Any = backbone.config
        self.heads = config.num_attention_heads
        self.kv_heads = getattr(config, "num_key_value_heads", None) or self.heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.dtype = dtype
        self.eps = float(config.rms_norm_eps)
        decoder: Any = backbone
        self._rotary = decoder.rotary_emb
        self.final_norm: Tensor = decoder.norm.weight.detach().float()
        with torch.no_grad():
            self.blocks = [self._fuse(layer) for layer in decoder.layers]

    @staticmethod
    def misfit(backbone: nn.Module) -> str | None:
        """Why this backbone needs the generic path, or None."""
        config: Any = backbone.config
        if config.model_type not in FAMILIES:
            return f"its family is {config.model_type!r}"
        if getattr(config, "hidden_act", "silu") not in ("silu", "swish"):
            return f"its activation is {config.hidden_act!r}"
        if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
            return "some layers attend inside a window"
        if getattr(getattr(backbone, "rotary_emb", None), "rope_type", None) not in ROPES:
            return "its rotary frequencies depend on the length"
        if any(any(getattr(m, "use_dora", {}).values()) for m in backbone.modules()):
            return "DoRA adapters do not merge into a matrix"
        return None

    def _fuse(self, layer: Any) -> _Block:
        attention, mlp = layer.self_attn, layer.mlp
        scale = self.head_dim**-0.5
        q, q_bias = _dense(attention.q_proj)
        k, k_bias = _dense(attention.k_proj)
        v, v_bias = _dense(attention.v_proj)
        qk_norm = None
        if getattr(attention, "q_norm", None) is not None:
            q_norm, k_norm = (
                attention.q_norm.weight.float() * scale,
                attention.k_norm.weight.float(),
            )
            qk_norm = torch.cat([q_norm.expand(self.heads, -1), k_norm.expand(self.kv_heads, -1)])
            qk_norm = self._interleave(qk_norm.flatten()).view_as(qk_norm).contiguous()
        else:
            q, q_bias = q * scale, None if q_bias is None else q_bias * scale
        o, o_bias = _dense(attention.o_proj)
        gate, gate_bias = _dense(mlp.gate_proj)
        up, up_bias = _dense(mlp.up_proj)
        down, down_bias = _dense(mlp.down_proj)
        before, between = (
            layer.input_layernorm.weight.float(),
            layer.post_attention_layernorm.weight.float(),
        )

        def ready(weight: Tensor | None) -> Tensor | None:
            return None if weight is None else weight.to(self.dtype).contiguous()

        weights = {
            "qkv": torch.cat([self._interleave(q), self._interleave(k), v]) * before,
            "qkv_bias": _joined(
                [None if b is None else self._interleave(b) for b in (q_bias, k_bias)] + [v_bias]
            ),
            "o": o,
            "o_bias": o_bias,
            "gate_up": torch.cat([gate, up]) * between,
            "gate_up_bias": _joined([gate_bias, up_bias]),
            "down": down,
            "down_bias": down_bias,
        }
        made = {name: ready(weight) for name, weight in weights.items()}
        return _Block(qk_norm=qk_norm, **made)  # type: ignore[arg-type]  # only biases are ever None, and they may be

    def _interleave(self, rows: Tensor) -> Tensor:
        """Rows of each head from halves (x, y) to pairs (x₀, y₀, x₁, …): rotary positions become a
        complex product.

        Applied to q and k alike, so their dot products do not change.
        """
        halves = rows.unflatten(0, (-1, 2, self.head_dim // 2))
        return halves.transpose(1, 2).reshape(rows.shape)

    def _turn(self, positions: Tensor) -> Tensor:
        """Unit complex numbers (*positions.shape, 1, h/2) of the rotary angle at each position."""
        probe = torch.zeros(1, device=positions.device)
        cos, sin = self._rotary(probe, positions.reshape(1, -1))
        half = self.head_dim // 2
        turn = torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())
        return turn.view(*positions.shape, 1, half)

    def _norm(self, x: Tensor) -> Tensor:
        """RMS norm over the last dimension without a weight, in the dtype of the products."""
        return (x * _inverse_rms(x, self.eps)).to(self.dtype)

    def _qkv(self, block: _Block, x: Tensor, turn: Tensor) -> Tensor:
        """(…, H + 2·Hkv, h) fp32 queries, keys (normed and turned) and values of
        states x (…, d).
        """
        qkv = F.linear(self._norm(x), block.qkv, block.qkv_bias).float()
        qkv = qkv.unflatten(-1, (self.heads + 2 * self.kv_heads, self.head_dim))
        qk = qkv[..., : self.heads + self.kv_heads, :]
        if block.qk_norm is not None:
            qk.mul_(_inverse_rms(qk, self.eps)).mul_(block.qk_norm)
        torch.view_as_complex(qk.unflatten(-1, (-1, 2))).mul_(turn)
        return qkv

    def _mix(self, block: _Block, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of a block, added to the residual stream x in place."""
        x += F.linear(attended.to(self.dtype), block.o, block.o_bias)
        gate, up = F.linear(self._norm(x), block.gate_up, block.gate_up_bias).chunk(2, dim=-1)
        x += F.linear(F.silu(gate, inplace=True).mul_(up), block.down, block.down_bias)
        return x

    def prefill(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, LeanState]:
        """Embedded prompts x (Q, P, d), padded on the right → states (Q, d) at their ends, before
        the final norm.

        Padding is behind everything that counts, so a causal mask alone keeps it out.
        """
        q, p, _ = x.shape
        state = LeanState(lengths)
        if int(lengths.min()) < p:
            outside = torch.arange(p, device=x.device) >= lengths[:, None]
            state.padding = torch.zeros(q, p, device=x.device).masked_fill_(outside, -torch.inf)[
                :, None, None
            ]
        turn = self._turn(torch.arange(p, device=x.device))
        grouped = {"enable_gqa": True} if self.heads != self.kv_heads else {}
        last = (torch.arange(q, device=x.device), lengths - 1)
        x = x.float().clone()
        for number, block in enumerate(self.blocks):
            queries, keys, values = (
                self._qkv(block, x, turn)
                .transpose(1, 2)
                .split((self.heads, self.kv_heads, self.kv_heads), dim=1)
            )
            state.keys.append(keys.contiguous())
            state.values.append(values.contiguous())
            if number == len(self.blocks) - 1:  # nobody reads the other positions of the last block
                bias = state.padding
                queries, x, causal = (
                    queries[last[0], :, last[1]][:, :, None],
                    x[last][:, None],
                    False,
                )
            else:
                bias, causal = None, True
            attended = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=bias, is_causal=causal, scale=1.0, **grouped
            )
            x = self._mix(block, x, attended.transpose(1, 2).flatten(2))
        return x[:, 0], state

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
        for number, block in enumerate(self.blocks):
            qkv = self._qkv(block, x, turn).flatten(0, 1)  # (Q·W, H + 2·Hkv, h)
            own = qkv[:, self.heads :].unflatten(1, (2, self.kv_heads))
            rows.append(own)
            chain = [
                own,
                *(state.rows[d][number].index_select(0, at) for d, at in enumerate(above, start=1)),
            ]
            attended = self._attend(qkv[:, : self.heads], chain, state, number)
            x = self._mix(block, x, attended.view(q, w, -1))
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


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    return (
        torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        .square_()
        .mul_(1 / x.shape[-1])
        .add_(eps)
        .rsqrt_()
    )


def _joined(biases: list[Tensor | None]) -> Tensor | None:
    present = [b for b in biases if b is not None]
    if present and len(present) != len(biases):
        raise ValueError(
            "some projections of this backbone have a bias and some have none; use engine='tree'"
        )
    return torch.cat(present) if present else None


def _dense(linear: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer in fp32, LoRA adapters merged in."""
    base = getattr(linear, "base_layer", linear)
    weight = base.weight.detach().float()
    if base is not linear and not linear.merged:
        for adapter in linear.active_adapters:
            weight = weight + linear.get_delta_weight(adapter).detach().float()
    return weight, None if base.bias is None else base.bias.detach().float()
