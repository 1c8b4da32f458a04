"""Constrained beam search: only SIDs of the index can come out, each with its exact score.

A step gathers the live children of all beams (ragged, no mask over the vocabulary), adds their
log-probabilities and keeps the best W.  With SIDs of different lengths a finished SID (its EOS is
in its score) keeps its place among the W as long as no running prefix overtakes it; a prefix's
score only falls, so nothing better is lost by that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sidar.decode.protocol import Scorer, fitted
from sidar.decode.trie import Trie
from sidar.index import PrefixIndex


@dataclass(frozen=True)
class Beams:
    """SIDs per query, best first, ties by SID number. Padding: SID −1, code −1, score −inf.

    ``scores`` are sums in float64 of the float32 ``level_logp``: exact for a handful of terms, so
    that equal SIDs stay equal in whatever order their terms are added.
    """

    sids: np.ndarray  # (Q, W) int64 SID numbers of the index
    codes: np.ndarray  # (Q, W, L) int32, −1 past the end
    lengths: np.ndarray  # (Q, W) int32
    scores: np.ndarray  # (Q, W) float64, log π(y | x)
    # (Q, W, L + 1) float32, one per code, then EOS at column length < L; 0 where absent
    level_logp: np.ndarray


@dataclass
class _Front:
    """The beams between two steps; every field is (Q, W, …). ``sid`` ≥ 0 marks a finished one."""

    prefix: Tensor  # int64 prefix id, −1 = finished or padding
    sid: Tensor  # int64
    score: Tensor  # float64
    row: Tensor  # int64, row of the prefix's parent in the scorer's rows
    codes: Tensor  # int64 (…, L)
    logp: Tensor  # float32 (…, L + 1)


@torch.inference_mode()
def beam_search(
    scorer: Scorer,
    prompts: Sequence[Any],
    index: PrefixIndex | Trie,
    beam: int = 128,
    k: int | None = None,
    *,
    batch: int | None = None,
) -> Beams:
    """The W = max(beam, k) best SIDs that a beam of that width finds; min(W, live) come back, each
    scored exactly.

    Equals exhaustive scoring where W covers every level: its live prefixes and the SIDs that ended
    above.  ``prompts`` are whatever the scorer reads; ``batch`` of them (default: so many that a
    step has some 2,048 rows) are searched together, prompts of similar length with each other.
    ``ValueError`` for an index that is empty or not the model's, or if the model answers NaN.
    """
    trie = fitted(scorer, index)
    width = max(beam, k or 1)
    if beam < 1:
        raise ValueError(f"beam is {beam}; it must be at least 1")
    batch = batch or max(1, 2048 // width)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    parts = [
        _search(scorer, [prompts[i] for i in order[at : at + batch]], trie, width)
        for at in range(0, len(prompts), batch)
    ]
    return joined(parts, np.argsort(np.asarray(order, dtype=np.int64)), trie)


def row_of(beams: Beams, query: int) -> Beams:
    """The beams of one query, with copies of its arrays, so that the others can be freed."""
    return Beams(
        **{
            field.name: getattr(beams, field.name)[query : query + 1].copy()
            for field in fields(Beams)
        }
    )


def joined(parts: list[Beams], order: np.ndarray, trie: Trie) -> Beams:
    """``parts`` as one value, padded to the widest, with query i taken from place ``order[i]``."""
    if not parts:
        none, levels = np.zeros((0, 0)), trie.n_levels
        steps = np.zeros((0, 0, levels + 1), np.float32)
        return Beams(
            none.astype(int), np.zeros((0, 0, levels), np.int32), none.astype(np.int32), none, steps
        )
    if len(parts) == 1 and len(order) == 1:
        return parts[0]
    width = max(part.sids.shape[1] for part in parts)
    padding = {"sids": -1, "codes": -1, "lengths": 0, "scores": -np.inf, "level_logp": 0}
    columns = {}
    for field in fields(Beams):
        arrays = [getattr(part, field.name) for part in parts]
        padded = [
            np.pad(
                a,
                [(0, 0), (0, width - a.shape[1])] + [(0, 0)] * (a.ndim - 2),
                constant_values=padding[field.name],
            )
            for a in arrays
        ]
        columns[field.name] = np.concatenate(padded)[order]
    return Beams(**columns)


def _search(scorer: Scorer, prompts: list[Any], trie: Trie, width: int) -> Beams:
    state = scorer.prefill(prompts)
    q, levels, device = len(prompts), trie.n_levels, trie.device
    front = _Front(
        prefix=torch.zeros(q, 1, dtype=torch.long, device=device),
        sid=torch.full((q, 1), -1, device=device),
        score=torch.zeros(q, 1, dtype=torch.float64, device=device),
        row=torch.zeros(q, 1, dtype=torch.long, device=device),
        codes=torch.full((q, 1, levels), -1, device=device),
        logp=torch.zeros(q, 1, levels + 1, device=device),
    )
    for depth in range(levels):
        front = _step(scorer, state, trie, front, depth, width)
        if not (front.prefix >= 0).any():
            break
    return Beams(
        sids=front.sid.cpu().numpy(),
        codes=front.codes.int().cpu().numpy(),
        lengths=(front.codes >= 0).sum(-1).int().cpu().numpy(),
        scores=front.score.cpu().numpy(),
        level_logp=front.logp.cpu().numpy(),
    )


def _step(scorer: Scorer, state: Any, trie: Trie, front: _Front, depth: int, width: int) -> _Front:
    """Extend the running beams by one code (or EOS) and keep the best ``width`` of everything."""
    q, w = front.score.shape
    slot = _running(front.prefix)  # (Q, R) beams that go on
    prefix, score = front.prefix.gather(1, slot), front.score.gather(1, slot)
    r = slot.shape[1]
    if depth == 0:
        logp = scorer.first(state)[:, None]
    else:
        last = front.codes[:, :, depth - 1].gather(1, slot).clamp(min=0)
        logp = scorer.extend(state, front.row.gather(1, slot), last, depth)  # (Q, R, n)
    columns = logp.shape[2]
    children = trie.children(depth, prefix.flatten())
    at = children.rows * columns + children.codes  # of each child's log-prob in the flattened logp
    child_score = score.flatten()[children.rows] + logp.flatten()[at]
    start = children.counts.view(q, r).sum(1).cumsum(0)  # one past each query's children
    start = torch.cat([start.new_zeros(1), start])
    pool, offset = [_padded(child_score, children.rows, r, start)], 0
    ends = trie.sid_of(depth, prefix)  # the root is no SID
    if scorer.variable_length:  # finished beams, then beams that end here, then children
        stop = score + logp[:, :, -1]
        pool = [
            front.score.masked_fill(front.sid < 0, -torch.inf),
            stop.masked_fill(ends < 0, -torch.inf),
            *pool,
        ]
        offset = w + r

    last_child = max(len(children.ids) - 1, 0)

    def child_of(chosen: Tensor) -> Tensor:
        return (start[:-1, None] + chosen - offset).clamp(0, last_child)

    def number(chosen: Tensor) -> Tensor:
        """Lowest SID number that a candidate can still become."""
        numbers = _take(children.ids, child_of(chosen))
        numbers = trie.first_sid(depth + 1, numbers)
        if offset:
            done = torch.cat([front.sid, ends], dim=1)
            numbers = torch.where(
                chosen < offset, done.gather(1, chosen.clamp(max=offset - 1)), numbers
            )
        return numbers

    top, chosen = best(torch.cat(pool, dim=1), width, number)
    alive = top > -torch.inf
    is_child = alive & (chosen >= offset)
    child = child_of(chosen)
    child_row = _take(children.rows, child) - torch.arange(q, device=top.device)[:, None] * r
    row = torch.where(is_child, child_row, (chosen - w).clamp(0, r - 1))  # among the R rows
    kept = chosen < min(w, offset)
    source = torch.where(kept, chosen.clamp(max=w - 1), slot.gather(1, row))  # among the W beams
    column = torch.where(is_child, _take(children.codes, child), columns - 1)
    value = logp.flatten(1).gather(1, row * columns + column)

    codes = front.codes.gather(1, source[:, :, None].expand(-1, -1, front.codes.shape[2]))
    steps = front.logp.gather(1, source[:, :, None].expand(-1, -1, front.logp.shape[2]))
    codes[:, :, depth] = column.masked_fill(~is_child, -1)
    steps[:, :, depth] = value.masked_fill(kept | ~alive, 0.0)
    prefix = _take(children.ids, child).masked_fill(~is_child, -1)
    sid = torch.where(kept, front.sid.gather(1, source), ends.gather(1, row)).masked_fill(
        is_child | ~alive, -1
    )
    if depth == trie.n_levels - 1:  # EOS is certain after L codes
        sid, prefix = (
            torch.where(is_child, trie.sid_of(depth + 1, prefix), sid),
            torch.full_like(prefix, -1),
        )
    codes.masked_fill_(~alive[:, :, None], -1)
    return _Front(prefix, sid, top, row, codes, steps.masked_fill_(~alive[:, :, None], 0.0))


def best(scores: Tensor, width: int, number: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Values and positions of the ``width`` best of ``scores`` (Q, C), best first; ties go to the
    lower ``number``.

    ``number`` maps positions (Q, n) to the integer that ties are broken by; it is asked only where
    there are ties, so the usual case costs one top-k. Columns that hold nothing but −inf are cut.
    NaN is a ``ValueError``.
    """
    q, c = scores.shape
    top, chosen = scores.topk(min(width + 1, c), dim=1)
    if torch.isnan(top[:, :1]).any():  # NaN counts as largest, so the first column shows it
        raise ValueError(
            "the model answered NaN; its weights are damaged or its precision overflows (try fp32)"
        )
    tied = (top[:, 1:] == top[:, :-1]) & (top[:, 1:] > -torch.inf)
    if tied[:, width - 1 :].any():  # at the border: order all candidates
        everything = torch.arange(c, device=scores.device).expand(q, c)
        chosen = everything.gather(1, number(everything).argsort(dim=1, stable=True))
        chosen = chosen.gather(
            1, scores.gather(1, chosen).argsort(dim=1, descending=True, stable=True)
        )[:, :width]
        top = scores.gather(1, chosen)
    elif tied.any():
        chosen = chosen[:, :width]
        chosen = chosen.gather(1, number(chosen).argsort(dim=1, stable=True))
        top = scores.gather(1, chosen)
        again = top.argsort(dim=1, descending=True, stable=True)
        chosen, top = chosen.gather(1, again), top.gather(1, again)
    n = max(1, int((top[:, :width] > -torch.inf).any(0).sum()))
    return top[:, :n], chosen[:, :n]


def _running(prefix: Tensor) -> Tensor:
    """(Q, R) positions of the running beams, first of all queries alike; R = the most that any
    query has.
    """
    running = prefix >= 0
    most = int(running.sum(1).max())
    if most == prefix.shape[1]:
        return torch.arange(most, device=prefix.device).expand(len(prefix), most)
    return (~running).int().argsort(dim=1, stable=True)[:, :most]


def _padded(values: Tensor, rows: Tensor, per_query: int, start: Tensor) -> Tensor:
    """(Q, C) the ragged ``values`` of each query side by side, −inf past its end; C = the most that
    any query has.

    ``rows`` says which of Q · ``per_query`` rows a value belongs to, ``start`` (Q + 1,) where a
    query's values begin.
    """
    q = len(start) - 1
    if q == 1:
        return values[None]
    query = rows // per_query
    padded = values.new_full((q, int(start.diff().max())), -torch.inf)
    padded[query, torch.arange(len(values), device=values.device) - start[query]] = values
    return padded


def _take(values: Tensor, at: Tensor) -> Tensor:
    return values[at] if len(values) else torch.zeros_like(at)
