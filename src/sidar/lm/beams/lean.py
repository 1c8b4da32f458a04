"""A lean forward of Llama-like decoders for beams that share a prompt.

What transformers spends on a beam step is overhead, not arithmetic.  Here the projections of a
block are fused once, norm weights are folded into them, and the prompt's keys and values are
computed once and shared by all beams: a beam reads them as one matrix product and owns only the
keys and values of its own ≤ L − 1 codes, found through its parent.

Positions are *columns*: states are (d, N), and a product is W x, weights times states.  On a CPU
few columns times a large matrix are multiplied faster so than as rows (10–20 % in fp32, 40 % in
bf16), every head is a block of rows that no copy has to put together, and sums over features run
along the positions, which vectorises.  The slow twin is :mod:`sidar.lm.beams.tree`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidar.lm import llama
from sidar.lm.beams.products import Product, fused, plain
from sidar.lm.llama import Block, rotate_columns_

#: Rotary schemes whose frequencies are fixed when the model is made.
ROPES = ("default", "linear", "llama3", "yarn")
#: Scores of prompt positions with each other that exist at a time.
CELLS = 1 << 26


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder's blocks."""

    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    softmax_scale: float  # 1 / √h, times the square of what the rotary scheme scales by
    dtype: torch.dtype  # of the four products; the residual stream, norms and softmax are fp32


@dataclass(frozen=True)
class FusedBlock(Block[Tensor]):
    """The weights of one block without gradients, norm weights folded in, for states that are
    columns (d, N). What needs no change is the model's own tensor.
    """

    shape: Shape
    qkv: Product  # (H·h + 2·Hkv·h, d)
    qk_norm: Tensor | None  # (H + Hkv, h, 1) times √h, with the softmax scale in the q part
    o: Product
    gate_up: Product  # (2·I, d)
    down: Product

    @classmethod
    def of(cls, layer: Any, shape: Shape, old: FusedBlock | None = None) -> FusedBlock:
        """Fuse the weights that a layer of transformers has now, adapters merged in.

        The fused ones go into the memory of ``old`` where it is given, the same layer's block from
        before.
        """
        attention, mlp, scale = layer.self_attn, layer.mlp, shape.softmax_scale
        qk_norm = None
        if getattr(attention, "q_norm", None) is not None:
            q_norm = (attention.q_norm.weight.float() * scale).expand(shape.heads, -1)
            k_norm = attention.k_norm.weight.float().expand(shape.kv_heads, -1)
            qk_norm = torch.cat([q_norm, k_norm])[:, :, None] * shape.head_dim**0.5
            scale = 1.0
        projections = [
            _dense(attention.q_proj, scale),
            _dense(attention.k_proj),
            _dense(attention.v_proj),
        ]
        before = unit_norm_weight(layer.input_layernorm)
        between = unit_norm_weight(layer.post_attention_layernorm)
        qkv_place, gate_up_place = (None, None) if old is None else (old.qkv, old.gate_up)
        halves = [_dense(mlp.gate_proj), _dense(mlp.up_proj)]
        return cls(
            shape,
            qkv=fused(projections, before, shape.dtype, qkv_place),
            qk_norm=qk_norm,
            o=plain(*_dense(attention.o_proj), shape.dtype),
            gate_up=fused(halves, between, shape.dtype, gate_up_place),
            down=plain(*_dense(mlp.down_proj), shape.dtype),
        )

    def project(self, x: Tensor, turn: Any, chosen: Any) -> Tensor:
        """(H + 2·Hkv, h, N) fp32 queries, keys and values of every position; ``turn`` None leaves
        them unturned.
        """
        shape = self.shape
        qkv = self.qkv(unit_columns(x, shape.eps)).float()
        qkv = qkv.view(shape.heads + 2 * shape.kv_heads, shape.head_dim, -1)
        qk = qkv[: shape.heads + shape.kv_heads]
        if self.qk_norm is not None:
            squares = (qk * qk).sum(1, keepdim=True)
            qk.mul_(squares.add_(shape.head_dim * shape.eps).rsqrt_()).mul_(self.qk_norm)
        if turn is not None:
            rotate_columns_(qk, *turn)
        return qkv

    def output(self, x: Tensor, mixed: Tensor) -> Tensor:
        """As the interface says, in place."""
        return self.o.add_to(x, mixed)

    def mlp(self, x: Tensor) -> Tensor:
        """As the interface says, in place."""
        gate, up = self.gate_up(unit_columns(x, self.shape.eps)).chunk(2)
        return self.down.add_to(x, F.silu(gate, inplace=True).mul_(up))


def unit_columns(x: Tensor, eps: float) -> Tensor:
    """Return the columns of x (d, N) divided by √(Σ x² + d·ε): their RMS norm without its weight,
    over √d (:func:`unit_norm_weight`).
    """
    # a norm over the first axis takes several times as long as this sum
    return x * (x * x).sum(0, keepdim=True).add_(len(x) * eps).rsqrt_()


def unit_norm_weight(norm: Any) -> Tensor:
    """Return what an RMS norm multiplies :func:`unit_columns` by, (d,): its weight times √d."""
    weight: Tensor = norm.weight.detach().float()
    return weight * len(weight) ** 0.5


@dataclass
class LeanState:
    """Keys and values of Q prompts, and of the rows of each depth.

    Positions count from the end of each prompt, which is −1: rows of the first depth stand at 0, so
    they need no turn, and all rows of a depth turn alike, however long their prompts are.
    """

    lengths: Tensor  # (Q,) int64 prompt tokens
    keys: list[Tensor] = field(default_factory=list)  # per layer (Q·Hkv, h, P)
    values: list[Tensor] = field(default_factory=list)
    padding: Tensor | None = None  # (Q, P) additive, None where no prompt is padded
    # depth -> per layer (2·Hkv·h, Q·W): k, v
    rows: dict[int, list[Tensor]] = field(default_factory=dict)
    # depth -> per depth above, (Q·W,) row there
    ancestors: dict[int, list[Tensor]] = field(default_factory=dict)


class LeanDecoder:
    """The decoder ``backbone`` as it is now; after changes of its weights call :meth:`refresh`.

    ``dtype`` bf16 or int8 runs the four products of a block so; the residual stream, norms and the
    softmax stay fp32. ``final_norm`` (d,) is left to the caller to fold into what reads the states,
    which come as :func:`unit_columns`.
    """

    def __init__(self, backbone: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        config: Any = backbone.config
        self.heads = config.num_attention_heads
        self.kv_heads = getattr(config, "num_key_value_heads", None) or self.heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps = float(config.rms_norm_eps)
        self._decoder: Any = backbone
        self._rotary: Any = self._decoder.rotary_emb
        # yarn scales queries and keys alike; rows that are not turned need it too
        self._turn_scale = float(getattr(self._rotary, "attention_scaling", 1.0))
        softmax_scale = self._turn_scale**2 * self.head_dim**-0.5
        self._shape = Shape(
            self.heads, self.kv_heads, self.head_dim, self.eps, softmax_scale, dtype
        )
        none = torch.zeros(self.head_dim // 2, 0)
        self._angles = (0, none, none)  # first position, cosines and sines of this one and more
        self.blocks: list[FusedBlock] = []
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Read the weights that the backbone has now, into the memory that holds the old ones."""
        self.final_norm: Tensor = unit_norm_weight(self._decoder.norm)
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

    def _turn(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine (h/2, n) of the rotary angles at the positions ``first`` … ``last``."""
        start, cos, sin = self._angles
        if first < start or last >= start + cos.shape[1]:  # keep the widest range asked for
            start, stop = min(first, start), max(last + 1, start + cos.shape[1])
            places = torch.arange(start, stop, device=self.final_norm.device)
            both = self._rotary(torch.zeros(1, device=places.device), places[None])
            half = self.head_dim // 2
            columns = [part[0, :, :half].float().t() / self._turn_scale for part in both]
            cos, sin = (part.contiguous() for part in columns)
            self._angles = start, cos, sin
        span = slice(first - start, last + 1 - start)
        return cos[:, span], sin[:, span]

    def prefill(
        self, x: Tensor, lengths: Tensor, *, padded: bool | None = None
    ) -> tuple[Tensor, LeanState]:
        """Embedded prompts x (Q, P, d), padded on the right → states (Q, d) at their ends.

        Padding is behind everything that counts, so a causal mask alone keeps it out.  ``padded``:
        whether there is any; None = look, which waits for a GPU.
        """
        q, p, _ = x.shape
        state = LeanState(lengths)
        place = torch.arange(p, device=x.device)
        if int(lengths.min()) < p if padded is None else padded:
            outside = place >= lengths[:, None]
            state.padding = torch.zeros(q, p, device=x.device).masked_fill_(outside, -torch.inf)
        places = (place - lengths[:, None]).flatten() + p
        cos, sin = self._turn(-p, p - 1)
        turn = cos[:, places], sin[:, places]
        ends = torch.arange(q, device=x.device) * p + lengths - 1
        x = x.float().flatten(0, 1).t().contiguous()
        for block in self.blocks[:-1]:
            x = block(x, turn, self._reader(state, p, None))
        # nobody reads the other positions of the last block
        x = self.blocks[-1](x, turn, self._reader(state, p, ends), chosen=(slice(None), ends))
        return unit_columns(x, self.eps).t(), state

    def _reader(self, state: LeanState, p: int, ends: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Return the attention of one block over prompts of ``p`` tokens, of all positions or of
        ``ends`` alone; it keeps the block's keys and values in ``state``.
        """
        bias: Tensor | None
        if ends is None:  # a position sees itself and what stands before it
            bias = torch.full((p, p), -torch.inf, device=state.lengths.device).tril(-1)[
                None, :, None
            ]
        else:
            bias = None if state.padding is None else state.padding[:, :, None, None]

        def attend(qkv: Tensor) -> Tensor:
            heads, kv_heads, q = self.heads, self.kv_heads, len(state.lengths)
            own = qkv[heads:].view(2, kv_heads, self.head_dim, q, p).permute(0, 3, 1, 2, 4)
            keys, values = own.reshape(2, q * kv_heads, self.head_dim, p)
            state.keys.append(keys)
            state.values.append(values)
            queries = qkv[:heads] if ends is None else qkv[:heads, :, ends]
            at_once = max(1, CELLS // (heads * p * p))
            if ends is not None or q <= at_once:
                return self._attend(queries, [], keys, values, bias)
            split = zip(
                queries.split(at_once * p, dim=2),
                keys.split(at_once * kv_heads),
                values.split(at_once * kv_heads),
                strict=True,
            )
            parts = [self._attend(some, [], k, v, bias) for some, k, v in split]
            return torch.cat(parts, 1)

        return attend

    def step(self, state: LeanState, x: Tensor, parents: Tensor, depth: int) -> Tensor:
        """Embedded last codes x (Q, W, d) of prefixes of ``depth`` codes → states
        (Q, W, d).
        """
        q, w, _ = x.shape
        # depth 1 stands at position 0
        turn = self._turn(depth - 1, depth - 1) if depth > 1 else None
        above = state.ancestors[depth] = _ancestors(state, parents, depth)
        rows = state.rows[depth] = []
        for deeper in [d for d in state.rows if d > depth]:
            del state.rows[deeper], state.ancestors[deeper]
        bias = None if state.padding is None else state.padding[:, :, None, None]
        x = x.float().flatten(0, 1).t().contiguous()

        def attend(qkv: Tensor) -> Tensor:
            layer, own = len(rows), qkv[self.heads :].flatten(0, 1)  # (2·Hkv·h, Q·W)
            rows.append(own)
            ancestors = (
                # gather copies columns faster than index_select does
                state.rows[d][layer].gather(1, at.expand(len(own), -1))
                for d, at in enumerate(above, start=1)
            )
            keys, values = state.keys[layer], state.values[layer]
            return self._attend(qkv[: self.heads], [own, *ancestors], keys, values, bias)

        for block in self.blocks:
            x = block(x, turn, attend)
        return unit_columns(x, self.eps).t().view(q, w, -1)

    def _attend(
        self,
        queries: Tensor,
        chain: list[Tensor],
        keys: Tensor,
        values: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        """Queries (H, h, Q·W) against the prompt's keys and values (Q·Hkv, h, P), which all W
        share, and the ``chain`` of own ones (2·Hkv·h, Q·W) that each has → (H·h, Q·W).

        ``bias`` (Q or 1, P, 1, W or 1) is added to what the prompt's keys score.
        """
        kv_heads, groups, h = self.kv_heads, self.heads // self.kv_heads, self.head_dim
        n, q = queries.shape[2], len(keys) // kv_heads
        w = n // q
        queries = queries.reshape(kv_heads, groups, h, n)
        own = [link.view(2, kv_heads, 1, h, n) for link in chain]
        # with one query and one head a group nothing here copies
        shared = queries.view(kv_heads, groups, h, q, w).permute(3, 0, 2, 1, 4)
        shared = shared.reshape(len(keys), h, groups * w)
        scores = torch.bmm(keys.transpose(1, 2), shared)  # (Q·Hkv, P, G·W)
        p = scores.shape[1]
        if bias is not None:
            scores.view(q, kv_heads, p, groups, w).add_(bias[:, None])
        side = [(queries * link[0]).sum(2).view(kv_heads, groups, q, w) for link in own]
        side = [part.permute(2, 0, 1, 3).reshape(len(keys), 1, -1) for part in side]
        weights = torch.cat([scores, *side], 1).softmax(1)  # (Q·Hkv, P + t, G·W)
        mixed = torch.bmm(values, weights[:, :p])  # (Q·Hkv, h, G·W)
        mixed = mixed.view(q, kv_heads, h, groups, w).permute(1, 3, 2, 0, 4)
        mixed = mixed.reshape(kv_heads, groups, h, n)
        by_query = weights.view(q, kv_heads, -1, groups, w).permute(1, 3, 2, 0, 4)
        for i, link in enumerate(own, start=p):
            share = by_query[:, :, i].reshape(kv_heads, groups, 1, n)
            mixed.addcmul_(share, link[1])
        return mixed.reshape(self.heads * h, n)


def _ancestors(state: LeanState, parents: Tensor, depth: int) -> list[Tensor]:
    """Per depth 1 … depth − 1: (Q·W,) flat row there of each new row's ancestor."""
    if depth == 1:
        return []
    width = state.rows[depth - 1][0].shape[1] // len(parents)
    direct = (
        parents + torch.arange(len(parents), device=parents.device)[:, None] * width
    ).flatten()
    return [*(above[direct] for above in state.ancestors[depth - 1]), direct]


def _dense(linear: Any, scale: float = 1.0) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer in fp32 times ``scale``, LoRA adapters merged in."""
    base = getattr(linear, "base_layer", linear)
    weight = base.weight.detach().float()
    if base is not linear and not linear.merged:
        for adapter in linear.active_adapters:
            weight = weight + linear.get_delta_weight(adapter).detach().float()
    bias = None if base.bias is None else base.bias.detach().float()
    if scale != 1.0:
        weight, bias = weight * scale, None if bias is None else bias * scale
    return weight, bias
