"""The generic beam forward: any backbone that packing accepts, through the module itself with a
tree mask.

Nothing is cached: each step runs ``[prompt | codes of beam 1 | codes of beam 2 | …]`` again.  It
serves families that :mod:`sidar.lm.beams.lean` does not know, and is its slow twin in tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sidar.lm.backbone import MASKED
from sidar.lm.model import SidLM


@dataclass
class TreeState:
    """Q prompts and, per depth, the codes of each row."""

    tokens: Tensor  # (Q, P) int64, padded on the right
    lengths: Tensor  # (Q,) int64
    vectors: Tensor | None = None  # (Q, D) sentence vectors, where the model reads them
    # depth -> (Q, W, depth) mixed token ids
    chains: dict[int, Tensor] = field(default_factory=dict)


class TreeDecoder:
    """Runs ``model`` as it is. ``dtype`` bf16 means autocast."""

    def __init__(self, model: SidLM, dtype: torch.dtype = torch.float32) -> None:
        self.model = model
        self.dtype = dtype

    def prefill(
        self, tokens: Tensor, lengths: Tensor, vectors: Tensor | None = None
    ) -> tuple[Tensor, TreeState]:
        """Prompts (Q, P) padded on the right → states (Q, d) at each prompt's end, after the final
        norm.
        """
        state = TreeState(tokens, lengths, vectors)
        return self._forward(state, tokens.new_empty(len(tokens), 0, 0))[:, 0], state

    def step(self, state: TreeState, tokens: Tensor, parents: Tensor, depth: int) -> Tensor:
        """Last tokens (Q, W) of rows of ``depth`` codes → states (Q, W, d) after the final norm."""
        chain = tokens[..., None]
        if depth > 1:
            above = state.chains[depth - 1]
            chain = torch.cat(
                [above.gather(1, parents[..., None].expand(-1, -1, depth - 1)), chain], -1
            )
        state.chains[depth] = chain
        return self._forward(state, chain)

    def _forward(self, state: TreeState, chain: Tensor) -> Tensor:
        """States of the last token of each chain (Q, W, t); of the prompts' last tokens where there
        are none.
        """
        q, p = state.tokens.shape
        _, w, t = chain.shape
        device = chain.device
        tokens = torch.cat([state.tokens, chain.reshape(q, w * t)], 1)
        place = torch.arange(p, device=device).expand(q, p)
        after = (
            (state.lengths[:, None, None] + torch.arange(t, device=device))
            .expand(q, w, t)
            .reshape(q, w * t)
        )
        n = p + w * t
        owner = torch.arange(w * t, device=device) // max(t, 1)
        sees = torch.ones(q, n, n, dtype=torch.bool, device=device).tril()
        sees[:, p:, p:] &= owner[:, None] == owner
        padding = place >= state.lengths[:, None]  # (Q, P)
        sees[:, p:, :p] &= ~padding[:, None]
        bias = torch.where(sees, 0.0, MASKED)[:, None]
        ends = torch.arange(q, device=device) * n + state.lengths - 1
        with torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            embeds = self.model.embed(tokens, state.vectors, ends)
            hidden = self.model(tokens, torch.cat([place, after], 1), bias, embeds).float()
        if t == 0:
            return hidden[torch.arange(q, device=device), state.lengths - 1][:, None]
        return hidden[:, p:].unflatten(1, (w, t))[:, :, -1]
