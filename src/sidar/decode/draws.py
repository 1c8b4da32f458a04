"""Draws of one batch of prompts: without replacement, with replacement, and without the index.

All noise of a request comes from its key (:mod:`sidar.decode.noise`).  Letters as in
:mod:`sidar.decode.protocol`; m children of all rows, one after another.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sidar.decode import noise
from sidar.decode.beam import NOT_A_NUMBER, Front, Growth, grow, keep, take
from sidar.decode.protocol import FreeScorer, Scorer
from sidar.decode.trie import Trie
from sidar.types import Rollouts

#: Counters of one level and kind of choice; more than an index has prefixes.
SPAN = 1 << 40


# ---------------------------------------------------------------------- without replacement


@torch.inference_mode()
def without_replacement(
    scorer: Scorer, prompts: list[Any], trie: Trie, group: int, temperature: float, keys: Tensor
) -> Rollouts:
    """Draw G different SIDs by stochastic beam search (Kool et al. 2019, algorithm 1).

    The beam is ordered by perturbed log-probs of the constrained, tempered policy. A prefix's is
    the maximum over its SIDs, so the best of a level hold the best SIDs. The beam is one wider than
    the group: the score that came last is the threshold κ of the inclusion probabilities.
    """
    state = scorer.prefill(prompts)
    front = Front.start(len(prompts), trie)
    drawn_logp = front.score  # (Q, W) φ, log-prob under the policy that is drawn from
    for depth in range(trie.n_levels):
        growth = grow(scorer, state, trie, front, depth)
        choices = _Choices(growth, temperature)
        above = drawn_logp.gather(1, growth.slot).flatten()
        choices.logp += choices.spread(above)
        score = choices.logp + choices.noise(keys, depth)
        if depth:  # the root's maximum is the Gumbel variable that the scores themselves make
            limit = front.score.gather(1, growth.slot).flatten()
            score = choices.below(limit, score)
        child_score, stop_score = choices.split(score)
        child_logp, stop_logp = choices.split(choices.logp)
        front, origin = keep(trie, front, growth, depth, child_score, stop_score, group + 1)
        drawn_logp = torch.where(
            origin.is_child,
            take(child_logp, origin.child),
            drawn_logp.gather(1, origin.source)
            if stop_logp is None
            else torch.where(
                origin.kept, drawn_logp.gather(1, origin.source), stop_logp.gather(1, origin.row)
            ),
        )
        if front.is_over:
            break
    return _weighted(front, drawn_logp, group, trie.n_levels)


class _Choices:
    """What may follow each of n = Q · R prefixes, in one ragged list: children, then the EOSs.

    ``rows`` (c,) the prefix that a choice belongs to, ``logp`` (c,) float64 its log-prob divided by
    the temperature, renormalised over the choices of its prefix.
    """

    def __init__(self, growth: Growth, temperature: float) -> None:
        self.growth = growth
        self.n = growth.prefix.numel()
        self.rows = growth.children.rows
        logp = growth.child_logp.double()
        if growth.stop_logp is not None:
            every = torch.arange(self.n, device=self.rows.device)
            self.rows = torch.cat([self.rows, every])
            logp = torch.cat([logp, growth.stop_logp.flatten().double()])
        # as at the root: equally many choices of each prefix are a matrix, and need no scatter
        most = int(growth.children.counts.max())
        self._is_matrix = growth.stop_logp is None and 0 < self.n * most == len(logp)
        self.logp = self._normalised(logp / temperature)

    def spread(self, values: Tensor) -> Tensor:
        """(c,) of ``values`` (n,) what the prefix of each choice has."""
        if self._is_matrix:  # a copy, several times as fast as a look-up
            return values[:, None].expand(self.n, len(self.rows) // self.n).flatten()
        return values.index_select(0, self.rows)

    def _largest(self, values: Tensor) -> Tensor:
        """(n,) the largest of ``values`` (c,) of each prefix; a finite number where none is."""
        lowest = torch.finfo(values.dtype).min
        if self._is_matrix:
            return values.view(self.n, -1).amax(1).clamp_(min=lowest)
        return values.new_full((self.n,), lowest).scatter_reduce_(0, self.rows, values, "amax")

    def _normalised(self, logp: Tensor) -> Tensor:
        logp = logp - self.spread(self._largest(logp))
        if self._is_matrix:
            mass = logp.exp().view(self.n, -1).sum(1)
        else:
            mass = logp.new_zeros(self.n).index_add_(0, self.rows, logp.exp())
        # a row that only fills up has no choice: all of its log-probs stay −inf
        mass = mass.clamp_(min=torch.finfo(mass.dtype).tiny)
        return logp - self.spread(mass.log_())

    def noise(self, keys: Tensor, depth: int) -> Tensor:
        """(c,) Gumbel noise of each choice, by its request and by what it is, not where it is."""
        counters = self.growth.children.ids + 2 * depth * SPAN
        if self.growth.stop_logp is not None:
            ends = self.growth.prefix.flatten().clamp(min=0) + (2 * depth + 1) * SPAN
            counters = torch.cat([counters, ends])
        of_row = keys.repeat_interleave(self.growth.prefix.shape[1])
        return noise.gumbel(self.spread(of_row), counters)

    def below(self, limit: Tensor, score: Tensor) -> Tensor:
        """Perturbed log-probs ``score`` (c,) given that the largest of prefix i is ``limit[i]``.

        With Z the largest score of a prefix that is −log(e^−limit − e^−Z + e^−score) (Kool et al.
        2019), here in a form that neither overflows nor cancels.
        """
        largest = self.spread(self._largest(score))
        limit = self.spread(limit.clamp(min=torch.finfo(limit.dtype).min))
        excess = limit - score + (score - largest).expm1_().neg_().log_()
        return limit - excess.relu() - excess.abs_().neg_().exp_().log1p_()

    def split(self, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """``values`` (c,) of the children (m,) and of EOS (Q, R), None where it is no choice."""
        children = len(self.growth.children.ids)
        if self.growth.stop_logp is None:
            return values, None
        return values[:children], values[children:].view_as(self.growth.prefix)


def _weighted(front: Front, drawn_logp: Tensor, group: int, levels: int) -> Rollouts:
    """The first G of the finished beams with their weights π(y | x) / q(y).

    q(y) = P(φ_y + Gumbel > κ) = 1 − exp(−exp(φ_y − κ)), κ = the perturbed score of number G + 1;
    where the index has no more than G SIDs all are drawn, and q = 1.
    """
    kappa = drawn_logp.new_full((len(drawn_logp), 1), -torch.inf)
    if front.score.shape[1] > group:
        kappa = front.score[:, group:]
    found = slice(0, group)
    level_logp = front.logp[:, found]
    logp = level_logp.double().sum(-1).masked_fill(front.sid[:, found] < 0, -torch.inf)
    log_q = (drawn_logp[:, found] - kappa).exp().neg().expm1().neg().log()
    weight = (logp - log_q).exp().masked_fill(logp == -torch.inf, 0.0)
    return _rollouts(
        sids=front.sid[:, found],
        codes=front.codes[:, found],
        lengths=(front.codes[:, found] >= 0).sum(-1),
        logp=logp,
        level_logp=level_logp,
        weight=weight,
        group=group,
    )


# ---------------------------------------------------------------------- with replacement


@torch.inference_mode()
def constrained(
    scorer: Scorer, prompts: list[Any], trie: Trie, group: int, temperature: float, keys: Tensor
) -> Rollouts:
    """Draw G SIDs with replacement, level by level among what the index leaves."""
    state = scorer.prefill(prompts)
    root, front = Front.start(len(prompts), trie), Front.start(len(prompts), trie, group)
    every = torch.arange(group, device=trie.device).expand(len(prompts), group)
    for depth in range(trie.n_levels):
        growth = grow(scorer, state, trie, front if depth else root, depth)
        member = growth.slot if depth else every  # (Q, n) whose turn it is; at the root all share
        row = torch.arange(growth.slot.shape[1], device=trie.device) if depth else every * 0
        row = row.expand_as(member)
        u = noise.uniform(keys[:, None].expand_as(member), member + depth * SPAN)
        is_child, child = _one_each(growth, row, u, temperature)
        _write(trie, front, growth, depth, member, row, is_child, child)
        if front.is_over:
            break
    return _rollouts(
        sids=front.sid,
        codes=front.codes,
        lengths=(front.codes >= 0).sum(-1),
        logp=front.logp.double().sum(-1),
        level_logp=front.logp,
        weight=None,
        group=group,
    )


def _one_each(growth: Growth, row: Tensor, u: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Turn ``u`` (Q, n) into one choice each of the prefixes ``row`` (Q, n): whether it is a child
    (else EOS, or nothing where a prefix has no choice), and which of all children.

    The cumulative probabilities of all prefixes stand one after another, so that one bisection
    serves all rows; EOS comes before a prefix's children.
    """
    q, r = growth.prefix.shape
    choices = _Choices(growth, temperature)
    logp, stop_logp = choices.split(choices.logp)
    cumulative = logp.exp().cumsum(0)
    padded = torch.cat([cumulative.new_zeros(1), cumulative])
    last = growth.children.counts.cumsum(0)  # one past each prefix's children
    at = (torch.arange(q, device=row.device)[:, None] * r + row).flatten()
    first, last = (last - growth.children.counts)[at], last[at]
    low, high = padded[first], padded[last]
    stop = torch.zeros_like(low) if stop_logp is None else stop_logp.flatten()[at].exp()
    target = u.flatten() * (stop + high - low)
    if torch.isnan(target[first < last]).any():
        raise ValueError(NOT_A_NUMBER)
    is_child = (target >= stop) & (first < last)
    # below the end in spite of rounding, so that nothing of probability 0 behind it is taken
    target = torch.minimum(low + target - stop, high.nextafter(low))
    child = torch.searchsorted(cumulative, target, right=True)
    child = torch.minimum(torch.maximum(child, first), (last - 1).clamp(min=0))
    return is_child.view_as(row), child.view_as(row)


def _write(
    trie: Trie,
    front: Front,
    growth: Growth,
    depth: int,
    member: Tensor,
    row: Tensor,
    is_child: Tensor,
    child: Tensor,
) -> None:
    """Write the choices (Q, n) of the prefixes ``row`` into the rows ``member`` of ``front``."""
    goes_on = growth.prefix.gather(1, row) >= 0  # the others are over and only fill up
    ends = goes_on & ~is_child
    column = torch.where(is_child, take(growth.children.codes, child), growth.logp.shape[2] - 1)
    at = row * growth.logp.shape[2] + column
    value = growth.logp.flatten(1).gather(1, at).masked_fill(~goes_on, 0.0)
    prefix = take(growth.children.ids, child).masked_fill(~is_child, -1)
    sid = growth.ends.gather(1, row)
    if depth == trie.n_levels - 1:  # EOS is certain after L codes
        sid = torch.where(is_child, trie.sid_of(depth + 1, prefix), sid)
        ends, prefix = goes_on, torch.full_like(prefix, -1)
    sid = torch.where(ends, sid, front.sid.gather(1, member))
    front.codes[:, :, depth] = front.codes[:, :, depth].scatter(
        1, member, column.masked_fill(~is_child, -1)
    )
    front.logp[:, :, depth] = front.logp[:, :, depth].scatter(1, member, value)
    front.sid = front.sid.scatter(1, member, sid)
    front.prefix = front.prefix.scatter(1, member, prefix)
    front.row = front.row.scatter(1, member, row)


# ---------------------------------------------------------------------- without the index


@torch.inference_mode()
def free(
    scorer: FreeScorer, prompts: list[Any], trie: Trie, group: int, temperature: float, keys: Tensor
) -> Rollouts:
    """Draw G outputs with replacement from all that the model can write; the index looks them up.

    ``lengths`` counts the tokens that are no EOS, codes or not. An output that begins with EOS is
    empty: length 0 and SID −1.
    """
    state = scorer.prefill(prompts)
    q, levels, device = len(prompts), trie.n_levels, trie.device
    member = torch.arange(group, device=device).expand(q, group)
    codes = torch.full((q, group, levels), -1, device=device)
    steps = torch.zeros(q, group, levels + 1, device=device)
    length = torch.zeros(q, group, dtype=torch.long, device=device)
    running = torch.ones(q, group, dtype=torch.bool, device=device)
    strange = torch.zeros_like(running)  # holds a token that is no code of its level
    token = torch.zeros_like(length)
    for depth in range(levels):
        if not running.any():
            break
        logp = (
            scorer.free_first(state)[:, None]
            if depth == 0
            else scorer.free_extend(state, member, token, depth)
        )
        u = noise.uniform(keys[:, None].expand_as(member), member + depth * SPAN)
        column = _one_of_all(logp, u, temperature)
        logp = logp.expand(-1, group, -1).gather(2, column[:, :, None])[:, :, 0]
        meaning, eos = scorer.free_columns(depth)
        ends = running & (column == eos)
        writes = running & ~ends
        code = meaning[column].masked_fill(~writes, -1)
        codes[:, :, depth] = code
        steps[:, :, depth] = logp.masked_fill(~running, 0.0)
        length += writes
        strange |= writes & (code < 0)
        running = writes
        token = column.masked_fill(~running, 0)  # the others keep a row that nobody reads
    sids = torch.full_like(length, -1)
    fine = ~strange & (length > 0)
    if fine.any():
        numbers = trie.index.lookup(codes[fine].cpu().numpy())
        sids[fine] = torch.as_tensor(numbers, dtype=torch.long, device=device)
    return _rollouts(
        sids=sids,
        codes=codes,
        lengths=length,
        logp=steps.double().sum(-1),
        level_logp=steps,
        weight=None,
        group=group,
    )


def _one_of_all(logp: Tensor, u: Tensor, temperature: float) -> Tensor:
    """Turn ``u`` (Q, G) into columns (Q, G) of ``logp`` (Q, G, V), or (Q, 1, V) that all share."""
    if torch.isnan(logp[..., :1]).any():
        raise ValueError(NOT_A_NUMBER)
    scaled = (logp - logp.amax(-1, keepdim=True)) / temperature
    cumulative = scaled.exp_().cumsum(-1, dtype=torch.float64)
    u = u[:, None] if logp.shape[1] == 1 else u[:, :, None]
    high = cumulative[..., -1:]
    target = torch.minimum(u * high, high.nextafter(torch.zeros_like(high)))
    return torch.searchsorted(cumulative, target, right=True).view(len(u), -1)


# ---------------------------------------------------------------------- all of them


def _rollouts(
    *,
    sids: Tensor,
    codes: Tensor,
    lengths: Tensor,
    logp: Tensor,
    level_logp: Tensor,
    weight: Tensor | None,
    group: int,
) -> Rollouts:
    """Tensors (B, n ≤ G, …) as arrays (B, G, …) of :class:`Rollouts`."""

    def padded(values: Tensor, fill: float, dtype: type) -> np.ndarray:
        out = np.full((len(values), group, *values.shape[2:]), fill, dtype)
        out[:, : values.shape[1]] = values.cpu().numpy()
        return out

    return Rollouts(
        sids=padded(sids, -1, np.int64),
        codes=padded(codes, -1, np.int32),
        lengths=padded(lengths, 0, np.int32),
        logp=padded(logp, -np.inf, np.float64),
        level_logp=padded(level_logp, 0.0, np.float32),
        weight=None if weight is None else padded(weight, 0.0, np.float64),
    )
