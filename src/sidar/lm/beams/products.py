"""Matrix products of a frozen decoder with states that are columns (d, N): in fp32, bf16 or int8.

int8 is W8A8: a weight matrix has one scale per row, the states get one per column when they come
(symmetric, round to nearest, largest magnitude = 127), so that what a position is given does not
depend on its neighbours in the batch.  Products of integers are exact; only the two roundings
before them cost accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Largest magnitude of a quantised number.
TOP = 127
#: Smallest scale, for rows and columns of zeros.
TINY = 1e-30


@dataclass(frozen=True)
class Dense:
    """W and b in fp32 or bf16."""

    weight: Tensor  # (n, d)
    bias: Tensor | None  # (n, 1) fp32

    def __call__(self, x: Tensor) -> Tensor:
        """Return W x + b, (n, N), in the type of W; x (d, N) of any."""
        out = torch.mm(self.weight, x.to(self.weight.dtype))
        return out if self.bias is None else out.add_(self.bias)

    def add_to(self, states: Tensor, x: Tensor) -> Tensor:
        """Add W x + b to the fp32 ``states`` (n, N), in place."""
        if self.weight.dtype == states.dtype == x.dtype:
            states.addmm_(self.weight, x)
        else:  # widened first: a sum of mixed types takes twice as long
            states += torch.mm(self.weight, x.to(self.weight.dtype)).float()
        return states if self.bias is None else states.add_(self.bias)


@dataclass(frozen=True)
class Int8:
    """W = ``weight`` · ``scale`` in eight bits, and b."""

    weight: Tensor  # (n, d) int8
    scale: Tensor  # (n, 1) fp32
    bias: Tensor | None  # (n, 1) fp32

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Int8:
        """Quantise an fp32 weight (n, d) row by row."""
        scale = weight.abs().amax(1, keepdim=True).clamp_(min=TINY) / TOP
        return cls((weight / scale).round_().to(torch.int8), scale, bias)

    def __call__(self, x: Tensor) -> Tensor:
        """Return W x + b, (n, N) fp32, with x (d, N) rounded to eight bits column by column."""
        scale = x.abs().amax(0, keepdim=True).clamp_(min=TINY) / TOP
        rounded = (x / scale).round_().to(torch.int8)
        out = torch._int_mm(self.weight, rounded).float().mul_(self.scale).mul_(scale)
        return out if self.bias is None else out.add_(self.bias)

    def add_to(self, states: Tensor, x: Tensor) -> Tensor:
        """Add W x + b to the fp32 ``states`` (n, N), in place."""
        return states.add_(self(x))


Product = Dense | Int8


def fused(
    parts: Sequence[tuple[Tensor, Tensor | None]],
    norm: Tensor | float,
    dtype: torch.dtype,
    old: Product | None = None,
) -> Product:
    """Return projections (W_i, b_i) of the same states as one product, W's columns times ``norm``,
    in ``dtype`` (``torch.int8`` quantises): in the memory of ``old`` where it is given and not
    quantised, an earlier result for the same shapes.
    """
    weights, biases = [weight for weight, _ in parts], [bias for _, bias in parts]
    bias = _joined(biases)
    if dtype == torch.int8:
        return Int8.of(joined_rows(weights, norm, torch.float32), bias)
    return Dense(joined_rows(weights, norm, dtype, old.weight if old else None), bias)


def plain(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Product:
    """Return one projection as it is; its fp32 weight is shared, not copied."""
    bias = _joined([bias])
    if dtype == torch.int8:
        return Int8.of(weight, bias)
    return Dense(weight.to(dtype).contiguous(), bias)


def joined_rows(
    parts: Sequence[Tensor],
    norm: Tensor | float,
    dtype: torch.dtype,
    into: Tensor | None = None,
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


def _joined(biases: Sequence[Tensor | None]) -> Tensor | None:
    """Return biases as one fp32 column (Σ n_i, 1)."""
    present = [bias for bias in biases if bias is not None]
    if present and len(present) != len(biases):
        raise ValueError(
            "some projections of this backbone have a bias and some have none; use engine='tree'"
        )
    return torch.cat(present).float()[:, None].contiguous() if present else None
