"""The beams of an explained search, level by level, with what its filter cut from them: prefixes
that the search would have gone on from, and how probable they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sidar.index import LivePrefixes, PrefixIndex
from sidar.serve.filtering import Allowed
from sidar.serve.trace import (
    Codes,
    Level,
    PrefixStats,
    PrefixView,
    TracingScorer,
    levels,
    sid_text,
)

if TYPE_CHECKING:
    from sidar.decode import Beams

#: Cut prefixes of a level that are named.
NAMED = 3


def beam_levels(
    traced: TracingScorer,
    beams: Beams,
    results: Sequence[Codes],
    index: PrefixIndex,
    stats: PrefixStats,
    allowed: Allowed | None,
) -> list[Level]:
    """Return the beams of the first query level by level, with the SIDs that they ended at.

    ``results``: the SID of each result in rank order; ``allowed``: what the filter allows.
    """
    running = beams.level_logp[0].astype(float).cumsum(-1)
    ends = {
        tuple(codes[:length].tolist()): float(logp[length - 1])
        for codes, length, logp in zip(beams.codes[0], beams.lengths[0], running, strict=True)
        if length
    }
    shown = levels(traced.paths | ends, results, index, stats, traced.ends)
    if allowed is None:
        return shown
    return with_cuts(shown, traced, index, stats, allowed.rows, allowed.live)


def with_cuts(
    levels: Sequence[Level],
    traced: TracingScorer,
    index: PrefixIndex,
    stats: PrefixStats,
    rows: np.ndarray,
    live: LivePrefixes,
) -> list[Level]:
    """Return ``levels`` with what a filter cut at each of them, and the allowed items below each
    prefix.

    ``rows`` (N,) bool are the allowed rows and ``live`` the prefixes that lead to one.
    """
    shown = []
    for level in levels:
        cut, mass = _cut_children(level.depth, traced, index, stats, live)
        named = sorted(cut, key=lambda codes: (-cut[codes], codes))[:NAMED]
        shown.append(
            replace(
                level,
                prefixes=[
                    replace(view, allowed=_allowed_below(view.codes, index, stats, rows))
                    for view in level.prefixes
                ],
                cut=index.n_prefixes[level.depth] - live.counts[level.depth],
                cut_mass=mass,
                cut_prefixes=[_view(codes, cut[codes], stats) for codes in named],
            )
        )
    return shown


def _cut_children(
    depth: int,
    traced: TracingScorer,
    index: PrefixIndex,
    stats: PrefixStats,
    live: LivePrefixes,
) -> tuple[dict[Codes, float], float]:
    """Return the :data:`NAMED` most probable children of each followed prefix that lead to no
    allowed item, by log-probability, and the probability of all such children together.
    """
    parents = [codes for codes in traced.steps if len(codes) == depth - 1]
    found: dict[Codes, float] = {}
    mass = 0.0
    for parent, prefix in zip(parents, stats.locate(parents).tolist(), strict=True):
        if prefix < 0:
            continue
        start, end = (int(at) for at in index.child_start[depth - 1][prefix : prefix + 2])
        gone = ~live.masks[depth][start:end]
        codes = index.codes[depth - 1][start:end][gone].astype(np.int64)
        steps = np.asarray(traced.steps[parent], float)[codes]
        logps = traced.paths.get(parent, 0.0) + steps
        mass += float(np.exp(logps).sum())
        for place in np.argsort(-logps, kind="stable")[:NAMED].tolist():
            found[(*parent, int(codes[place]))] = float(logps[place])
    return found, min(mass, 1.0)


def _allowed_below(codes: Codes, index: PrefixIndex, stats: PrefixStats, rows: np.ndarray) -> int:
    first, end = stats.sid_range(codes)
    inside = index.rows[int(index.rows_start[first]) : int(index.rows_start[end])]
    return int(rows[inside].sum())


def _view(codes: Codes, logp: float, stats: PrefixStats) -> PrefixView:
    below = stats.below(codes)
    return PrefixView(
        codes, sid_text(codes), logp, float(np.exp(logp)), *below, ranks=(), allowed=0
    )
