"""A scorer without a network: its log-probabilities are arrays.

Tests, docs and the tabular lab use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class TableState:
    """Which table each query reads and, per depth, where its rows are."""

    prompts: Tensor  # (Q,) int64
    # depth -> (Q, W) flat number of the prefix
    nodes: dict[int, Tensor] = field(default_factory=dict)


class TableScorer:
    """A policy given by its logits: prompt ``[i]`` reads the i-th table.

    ``tables[d]`` (P, K_0·…·K_{d−1}, n_d): logits of what follows each prefix of depth d (prefixes
    numbered in lexicographic order over the *whole* code product), with the columns of
    :mod:`sidar.decode.protocol`.  Whole tables are meant for small codebooks.
    """

    def __init__(
        self, tables: Sequence[Tensor], codebook_sizes: Sequence[int], variable_length: bool = False
    ) -> None:
        self.codebook_sizes = tuple(codebook_sizes)
        self.variable_length = variable_length
        if len(tables) != len(self.codebook_sizes):
            raise ValueError(
                f"{len(tables)} tables for {len(self.codebook_sizes)} levels; want one per level"
            )
        self.tables = [table.float().log_softmax(-1) for table in tables]
        nodes = 1
        for depth, table in enumerate(self.tables):
            want = (len(table), nodes, self._columns(depth))
            if table.shape != want:
                raise ValueError(
                    f"the table of depth {depth} has shape {tuple(table.shape)}, want {want}"
                )
            nodes *= self.codebook_sizes[depth]

    @classmethod
    def random(
        cls,
        codebook_sizes: Sequence[int],
        prompts: int = 1,
        *,
        variable_length: bool = False,
        scale: float = 1.0,
        seed: int = 0,
    ) -> TableScorer:
        """Tables of normal logits with standard deviation ``scale``; 0 gives the uniform model."""
        generator = torch.Generator().manual_seed(seed)
        tables, nodes = [], 1
        for depth, size in enumerate(codebook_sizes):
            columns = size + (variable_length and depth > 0)
            tables.append(scale * torch.randn(prompts, nodes, columns, generator=generator))
            nodes *= size
        return cls(tables, codebook_sizes, variable_length)

    def _columns(self, depth: int) -> int:
        return self.codebook_sizes[depth] + (self.variable_length and depth > 0)

    @property
    def device(self) -> torch.device:
        return self.tables[0].device

    def prefill(self, prompts: Sequence[Sequence[int]]) -> TableState:
        """Each prompt is ``[i]``: the number of its table."""
        return TableState(torch.tensor([prompt[0] for prompt in prompts], device=self.device))

    def first(self, state: TableState) -> Tensor:
        return self.tables[0][state.prompts, 0]

    def extend(self, state: TableState, parents: Tensor, codes: Tensor, depth: int) -> Tensor:
        above = state.nodes[depth - 1].gather(1, parents) if depth > 1 else torch.zeros_like(codes)
        state.nodes[depth] = above * self.codebook_sizes[depth - 1] + codes
        return self.tables[depth][state.prompts[:, None], state.nodes[depth]]

    def free_columns(self, depth: int) -> tuple[Tensor, int]:
        return level_columns(self.codebook_sizes, self.variable_length, depth, self.device)

    def free_first(self, state: TableState) -> Tensor:
        return self.first(state)

    def free_extend(
        self, state: TableState, parents: Tensor, columns: Tensor, depth: int
    ) -> Tensor:
        return self.extend(state, parents, columns, depth)


def level_columns(
    codebook_sizes: tuple[int, ...], variable_length: bool, depth: int, device: torch.device
) -> tuple[Tensor, int]:
    """What the columns of a level head write at ``depth``: codes (V,), −1 for EOS; the EOS column,
    or −1.
    """
    size = codebook_sizes[depth]
    codes = torch.arange(size, device=device)
    if not variable_length or depth == 0:
        return codes, -1
    return torch.cat([codes, codes.new_tensor([-1])]), size
