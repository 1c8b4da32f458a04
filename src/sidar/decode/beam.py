"""Constrained beam search: only SIDs of the index can come out, each with its exact score.

A step gathers the live children of all beams (ragged, no mask over the vocabulary), adds their
log-probabilities and keeps the best W.  With SIDs of different lengths a finished SID (its EOS is
in its score) keeps its place among the W as long as no running prefix overtakes it; a prefix's
score only falls, so nothing better is lost by that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sidar.decode.protocol import Scorer, fitted
from sidar.decode.trie import Children, Trie
from sidar.index import PrefixIndex

#: Rows of a step that are searched together: on a CPU what its cache holds, so that every kernel
#: finds what the last one wrote; elsewhere what keeps the device busy.
ROWS = {"cpu": 512}
ROWS_ELSEWHERE = 2048

NOT_A_NUMBER = (
    "the model answered NaN; its weights are damaged or its precision overflows (try fp32)"
)


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
class Front:
    """The beams between two steps; every field is (Q, W, …). ``sid`` ≥ 0 marks a finished one."""

    prefix: Tensor  # int64 prefix id, −1 = finished or padding
    sid: Tensor  # int64
    score: Tensor  # float64, what the beams are ordered by
    row: Tensor  # int64, row of the prefix's parent in the scorer's rows
    codes: Tensor  # int64 (…, L)
    logp: Tensor  # float32 (…, L + 1)

    @classmethod
    def start(cls, queries: int, trie: Trie, width: int = 1) -> Front:
        """``width`` beams for each of Q queries, at the root with score 0."""
        number = torch.zeros(queries, width, dtype=torch.long, device=trie.device)
        return cls(
            prefix=number,
            sid=torch.full_like(number, -1),
            score=number.double(),
            row=number,
            codes=number.new_full((queries, width, trie.n_levels), -1),
            logp=torch.zeros(queries, width, trie.n_levels + 1, device=trie.device),
        )

    @property
    def is_over(self) -> bool:
        """True when no beam goes on."""
        return not bool((self.prefix >= 0).any())


class Growth(NamedTuple):
    """What may follow the R running beams of each of Q queries: m live children in all, or EOS."""

    slot: Tensor  # (Q, R) int64, where the running beams stand among the W
    prefix: Tensor  # (Q, R) int64
    logp: Tensor  # (Q, R, n) float32, the scorer's columns
    children: Children  # of the Q · R prefixes
    start: Tensor  # (Q + 1,) int64, where a query's children begin
    child_logp: Tensor  # (m,) float32
    ends: Tensor  # (Q, R) int64 SID number of each prefix, −1 = it is no SID
    # (Q, R) float32 log-prob of EOS, −inf where it is no choice; None with one fixed length
    stop_logp: Tensor | None


class Origin(NamedTuple):
    """Where the beams (Q, W') that a step kept come from."""

    kept: Tensor  # bool, a beam that was finished before
    is_child: Tensor  # bool; neither = ended in this step, or padding
    source: Tensor  # int64 beam before the step
    row: Tensor  # int64 running beam, where not ``kept``
    child: Tensor  # int64 child of :class:`Growth`, where ``is_child``


@torch.inference_mode()
def beam_search(
    scorer: Scorer,
    prompts: Sequence[Any],
    index: PrefixIndex | Trie,
    beam: int | Sequence[int] = 128,
    k: int | None = None,
    *,
    batch: int | None = None,
) -> Beams:
    """The W = max(beam, k) best SIDs that a beam of that width finds; min(W, live) come back, each
    scored exactly.

    ``beam``: one width, or one per prompt; then all are searched together and cut after every step,
    so that each finds what it would find alone, and W is the widest.  Equals exhaustive scoring
    where W covers every level: its live prefixes and the SIDs that ended above.  ``prompts`` are
    whatever the scorer reads; ``batch`` of them (default: so many that a step has :data:`ROWS`)
    are searched together, prompts of similar length with each other.  A view of a trie
    (:meth:`Trie.within`) restricts each prompt to what its filter allows.
    ``ValueError`` for an index that is empty or not the model's, or if the model answers NaN.
    """
    trie = fitted(scorer, index)
    widths = _widths(beam, k or 1, len(prompts))
    batch = batch or at_once(trie, max(widths, default=1))
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    parts = []
    for at in range(0, len(prompts), batch):
        places = order[at : at + batch]
        some, limits = [prompts[i] for i in places], [widths[i] for i in places]
        parts.append(_search(scorer, some, trie.of_prompts(places), limits))
    return joined(parts, np.argsort(np.asarray(order, dtype=np.int64)), trie)


def at_once(trie: Trie, rows: int) -> int:
    """Return how many prompts to search together where a step has ``rows`` of each."""
    return max(1, ROWS.get(trie.device.type, ROWS_ELSEWHERE) // rows)


def _widths(beam: int | Sequence[int], k: int, prompts: int) -> list[int]:
    """Return the width of every prompt; ``ValueError`` where one is below 1 or there are not as
    many as prompts.
    """
    asked = list(beam) if isinstance(beam, Sequence) else [int(beam)] * max(prompts, 1)
    if isinstance(beam, Sequence) and len(asked) != prompts:
        raise ValueError(f"{len(asked)} beams for {prompts} prompts; give one, or one per prompt")
    if min(asked, default=1) < 1:
        raise ValueError(f"beam is {min(asked)}; it must be at least 1")
    return [max(width, k) for width in asked]


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


def _search(scorer: Scorer, prompts: list[Any], trie: Trie, widths: list[int]) -> Beams:
    state = scorer.prefill(prompts)
    front, limits = Front.start(len(prompts), trie), torch.tensor(widths, device=trie.device)
    for depth in range(trie.n_levels):
        growth = grow(scorer, state, trie, front, depth)
        score = front.score.gather(1, growth.slot)
        child_score = score.flatten()[growth.children.rows] + growth.child_logp
        stop_score = None if growth.stop_logp is None else score + growth.stop_logp
        front, _ = keep(trie, front, growth, depth, child_score, stop_score, limits)
        if front.is_over:
            break
    return Beams(
        sids=front.sid.cpu().numpy(),
        codes=front.codes.int().cpu().numpy(),
        lengths=(front.codes >= 0).sum(-1).int().cpu().numpy(),
        scores=front.score.cpu().numpy(),
        level_logp=front.logp.cpu().numpy(),
    )


def grow(scorer: Scorer, state: Any, trie: Trie, front: Front, depth: int) -> Growth:
    """Score what may follow the running beams of ``front``, which have ``depth`` codes."""
    q = len(front.prefix)
    slot = _running(front.prefix)
    prefix = front.prefix.gather(1, slot)
    if depth == 0:
        logp = scorer.first(state)[:, None]
    else:
        last = front.codes[:, :, depth - 1].gather(1, slot).clamp(min=0)
        logp = scorer.extend(state, front.row.gather(1, slot), last, depth)
    children = trie.children(depth, prefix.flatten())
    at = children.rows * logp.shape[2] + children.codes  # of each child in the flattened logp
    end = children.counts.view(q, -1).sum(1).cumsum(0)  # one past each query's children
    ends = trie.sid_of(depth, prefix)  # the root is no SID
    return Growth(
        slot=slot,
        prefix=prefix,
        logp=logp,
        children=children,
        start=torch.cat([end.new_zeros(1), end]),
        child_logp=logp.flatten()[at],
        ends=ends,
        stop_logp=(
            logp[:, :, -1].masked_fill(ends < 0, -torch.inf) if scorer.variable_length else None
        ),
    )


def keep(
    trie: Trie,
    front: Front,
    growth: Growth,
    depth: int,
    child_score: Tensor,
    stop_score: Tensor | None,
    width: int | Tensor,
) -> tuple[Front, Origin]:
    """Keep the best ``width``, one or (Q,), of the finished beams, of those that end here and of
    the children.

    ``child_score`` (m,) and ``stop_score`` (Q, R; None as ``stop_logp``) float64 order them.
    """
    q, w = front.score.shape
    children, slot, r = growth.children, growth.slot, growth.slot.shape[1]
    pool, offset = [_padded(child_score, children.rows, r, growth.start)], 0
    if stop_score is not None:  # finished beams, then beams that end here, then children
        finished = front.score.masked_fill(front.sid < 0, -torch.inf)
        pool, offset = [finished, stop_score, *pool], w + r

    last_child = max(len(children.ids) - 1, 0)

    def child_of(chosen: Tensor) -> Tensor:
        return (growth.start[:-1, None] + chosen - offset).clamp(0, last_child)

    def number(chosen: Tensor) -> Tensor:
        """Lowest SID number that a candidate can still become."""
        numbers = take(children.ids, child_of(chosen))
        numbers = trie.first_sid(depth + 1, numbers)
        if offset:
            done = torch.cat([front.sid, growth.ends], dim=1)
            numbers = torch.where(
                chosen < offset, done.gather(1, chosen.clamp(max=offset - 1)), numbers
            )
        return numbers

    most = width if isinstance(width, int) else int(width.max())
    top, chosen = best(torch.cat(pool, dim=1), most, number)
    if not isinstance(width, int):
        # a narrower beam among wider ones gives up here what it would have given up alone
        place = torch.arange(top.shape[1], device=top.device)
        top = top.masked_fill(place >= width[:, None], -torch.inf)
    alive = top > -torch.inf
    is_child = alive & (chosen >= offset)
    child = child_of(chosen)
    child_row = take(children.rows, child) - torch.arange(q, device=top.device)[:, None] * r
    row = torch.where(is_child, child_row, (chosen - w).clamp(0, r - 1))  # among the R rows
    kept = chosen < min(w, offset)
    source = torch.where(kept, chosen.clamp(max=w - 1), slot.gather(1, row))  # among the W beams
    columns = growth.logp.shape[2]
    column = torch.where(is_child, take(children.codes, child), columns - 1)
    value = growth.logp.flatten(1).gather(1, row * columns + column)

    codes = front.codes.gather(1, source[:, :, None].expand(-1, -1, front.codes.shape[2]))
    steps = front.logp.gather(1, source[:, :, None].expand(-1, -1, front.logp.shape[2]))
    codes[:, :, depth] = column.masked_fill(~is_child, -1)
    steps[:, :, depth] = value.masked_fill(kept | ~alive, 0.0)
    prefix = take(children.ids, child).masked_fill(~is_child, -1)
    sid = torch.where(kept, front.sid.gather(1, source), growth.ends.gather(1, row)).masked_fill(
        is_child | ~alive, -1
    )
    if depth == trie.n_levels - 1:  # EOS is certain after L codes
        sid, prefix = (
            torch.where(is_child, trie.sid_of(depth + 1, prefix), sid),
            torch.full_like(prefix, -1),
        )
    codes.masked_fill_(~alive[:, :, None], -1)
    steps.masked_fill_(~alive[:, :, None], 0.0)
    origin = Origin(kept, is_child, source, row, child)
    return Front(prefix, sid, top, row, codes, steps), origin


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
        raise ValueError(NOT_A_NUMBER)
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
    most = int(start.diff().max())
    if len(values) == q * most:  # nobody has fewer: one query, or the root
        return values.view(q, most)
    # a lookup, because a division of integers costs several times as much
    query = torch.arange(q, device=rows.device).repeat_interleave(per_query)[rows]
    padded = values.new_full((q, most), -torch.inf)
    padded[query, torch.arange(len(values), device=values.device) - start[query]] = values
    return padded


def take(values: Tensor, at: Tensor) -> Tensor:
    """``values[at]``, or zeros where there is nothing to take from and nobody reads the answer."""
    return values[at] if len(values) else torch.zeros_like(at)
