"""Free beam search: what the model would write if nothing held it to the catalogue.

It exists to be measured: RAD-DPO's hallucination is a rate of such beams [reconstruction: the share
of beam outputs that are not in the SID set, at 10 and at the reported width; docs/evaluation.md].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sidar.decode.beam import at_once, best
from sidar.decode.protocol import FreeScorer, fitted
from sidar.decode.trie import Trie
from sidar.index import PrefixIndex

VALID, NOT_A_CODE, NO_PRODUCT = 0, 1, 2
#: Words for the kinds of :class:`FreeBeams`.
KINDS = ("valid", "not a code of this level", "no such product")

#: Log-probs of all queries that are searched together: 64 MB.
CELLS = 1 << 24


@dataclass(frozen=True)
class FreeBeams:
    """What free decoding wrote per query, best first.

    Padding (fewer than W exist): kind −1, score −inf.
    """

    sids: np.ndarray  # (Q, W) int64, −1 where it is no product
    codes: np.ndarray  # (Q, W, L) int32, −1 past the end or where a token is no code of its level
    lengths: np.ndarray  # (Q, W) int32 tokens written, EOS not counted
    scores: np.ndarray  # (Q, W) float64
    kind: np.ndarray  # (Q, W) int8: VALID, NOT_A_CODE or NO_PRODUCT

    def invalid_rate(self, at: int) -> np.ndarray:
        """(Q,) share of the first ``at`` outputs of each query that are no product."""
        kind = self.kind[:, :at]
        return (kind > VALID).sum(1) / (kind >= VALID).sum(1)

    @property
    def valid(self) -> np.ndarray:
        """(Q, W) bool."""
        return self.kind == VALID


@torch.inference_mode()
def free_beam_search(
    scorer: FreeScorer,
    prompts: Sequence[Any],
    index: PrefixIndex | Trie,
    beam: int = 10,
    *,
    batch: int | None = None,
) -> FreeBeams:
    """Beam search over everything that the model can write, without the index; then each output is
    looked up.

    A sequence ends after L tokens, or with variable lengths at its EOS. With level heads each token
    is a code of its level by construction; with ``head="full"`` a text token or another level's
    code can come out, stays in the beam and makes the output NOT_A_CODE.
    """
    trie = fitted(scorer, index)
    columns = max(len(scorer.free_columns(depth)[0]) for depth in range(trie.n_levels))
    batch = batch or max(1, min(at_once(trie, beam), CELLS // (beam * columns)))
    parts = [
        _free(scorer, list(prompts[at : at + batch]), trie, beam)
        for at in range(0, len(prompts), batch)
    ]
    width = max((p.kind.shape[1] for p in parts), default=0)

    def column(name: str, fill: float, dtype: type, tail: tuple[int, ...] = ()) -> np.ndarray:
        out = np.full((len(prompts), width, *tail), fill, dtype)
        for part, at in zip(parts, range(0, len(prompts), batch), strict=True):
            values = getattr(part, name)
            out[at : at + len(values), : values.shape[1]] = values
        return out

    return FreeBeams(
        column("sids", -1, np.int64),
        column("codes", -1, np.int32, (trie.n_levels,)),
        column("lengths", 0, np.int32),
        column("scores", -np.inf, np.float64),
        column("kind", -1, np.int8),
    )


def _free(scorer: FreeScorer, prompts: list[Any], trie: Trie, beam: int) -> FreeBeams:
    state = scorer.prefill(prompts)
    q, levels, device = len(prompts), trie.n_levels, trie.device
    score = torch.zeros(q, 1, dtype=torch.float64, device=device)
    running = torch.ones(q, 1, dtype=torch.bool, device=device)
    strange = torch.zeros_like(running)  # holds a token that is no code of its level
    length = torch.zeros(q, 1, dtype=torch.long, device=device)
    codes = torch.full((q, 1, levels), -1, device=device)
    parent = token = torch.zeros_like(length)
    for depth in range(levels):
        if not running.any():
            break
        logp = (
            scorer.free_first(state)[:, None]
            if depth == 0
            else scorer.free_extend(state, parent, token, depth)
        )
        w, columns = logp.shape[1:]
        meaning, eos = scorer.free_columns(depth)
        top, which = logp.topk(min(beam, columns), dim=-1)  # more of one parent cannot survive
        going = (score[:, :, None] + top).masked_fill(~running[:, :, None], -torch.inf)
        # finished ones first
        pool = torch.cat([score.masked_fill(running, -torch.inf), going.flatten(1)], dim=1)
        score, chosen = best(pool, beam, lambda place: place)
        new = chosen >= w
        place = (chosen - w).clamp(min=0)
        source = torch.where(new, place // top.shape[-1], chosen)
        column = which.flatten(1).gather(1, place).masked_fill(~new, 0)
        ends = new & (column == eos)
        code = meaning[column].masked_fill(~new | ends, -1)
        strange = strange.gather(1, source) | (new & ~ends & (code < 0)) | (ends & (depth == 0))
        length = length.gather(1, source) + (new & ~ends)
        codes = codes.gather(1, source[:, :, None].expand(-1, -1, levels))
        codes[:, :, depth] = torch.where(new, code, codes[:, :, depth])
        running = new & ~ends & (score > -torch.inf)
        # finished beams keep a row that nobody reads
        parent, token = source, column.masked_fill(ends, 0)
    sids = torch.full_like(length, -1).cpu().numpy()
    written, fine = codes.cpu().numpy(), ~strange.cpu().numpy()
    sids[fine] = trie.index.lookup(written[fine])
    kind = np.where(fine, np.where(sids >= 0, VALID, NO_PRODUCT), NOT_A_CODE)
    kind[score.cpu().numpy() == -np.inf] = -1
    return FreeBeams(
        sids,
        written.astype(np.int32),
        length.int().cpu().numpy(),
        score.cpu().numpy(),
        kind.astype(np.int8),
    )


def kind_shares(beams: FreeBeams, at: int) -> dict[str, float]:
    """Mean share of each kind among the first ``at`` outputs, over all queries; keys are
    :data:`KINDS`.
    """
    kind: Any = beams.kind[:, :at]
    return {
        name: float((kind == value).sum() / (kind >= 0).sum()) for value, name in enumerate(KINDS)
    }
