"""Why an item is not in an answer: the level at which its prefix fell out of the beam, against whom
and by how much; or its place behind the last item that was returned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sidar.serve.request import RequestError, SearchRequest
from sidar.serve.results import FellOut, Result, Why
from sidar.serve.trace import Codes, TracingScorer, sid_text
from sidar.types import Catalogue, SemanticIds

if TYPE_CHECKING:
    from sidar.decode import Beams

#: Places of a ranking that are looked through for the item.
DEEPEST = 2000


class WhyRequest(SearchRequest):
    """A search, and the item whose place in it is asked for; it is answered alone."""

    item_id: str


def row_of(catalogue: Catalogue, sids: SemanticIds, item_id: str) -> int:
    """Return the row of a live item that has an SID; ``RequestError`` where there is none."""
    row = int(catalogue.rows([item_id])[0])
    if row < 0:
        raise RequestError(f"item_id: the catalogue has no {item_id!r}")
    if not catalogue.alive[row]:
        raise RequestError(f"item_id: {item_id!r} is retired, so no search returns it")
    if not sids.lengths[row]:
        raise RequestError(f"item_id: {item_id!r} has no Semantic ID, so no beam reaches it")
    return row


def fell_out(sid: Codes, traced: TracingScorer, beams: Beams) -> FellOut | None:
    """Return where the first query's beam lost ``sid``; None where it is among its SIDs."""
    kept = _sids_of(beams)
    if sid in kept:
        return None
    for level in range(1, len(sid) + 1):
        prefix = sid[:level]
        rivals = _followed(traced, level)
        if prefix in rivals:
            continue
        above = traced.paths.get(prefix[:-1], 0.0)
        logp = above + float(traced.steps[prefix[:-1]][prefix[-1]])
        # at the last level nothing goes on from a prefix: those kept are the SIDs of the beam
        return _lost(level, prefix, logp, rivals or kept)
    return _outlived(sid, traced, kept)


def why(
    item: Mapping[str, Any], sid: Codes, k: int, ranked: Sequence[Result], lost: FellOut | None
) -> Why:
    """Return the place of ``item`` in ``ranked``, which is longer than the answer's ``k``."""
    place = next((hit for hit in ranked if hit.item_id == item["item_id"]), None)
    returned = place is not None and place.rank <= k
    last = ranked[min(k, len(ranked)) - 1].score if ranked else None
    behind = None
    if place is not None and last is not None and not returned:
        behind = last - place.score
    return Why(
        item_id=item["item_id"],
        title=item["title"] or "",
        sid=sid,
        returned=returned,
        rank=None if place is None else place.rank,
        score=None if place is None else place.score,
        behind=behind,
        fell_out=lost,
        words=_words(place, returned, behind, lost),
    )


def _outlived(sid: Codes, traced: TracingScorer, kept: Mapping[Codes, float]) -> FellOut:
    """Return where an SID fell out all of whose codes were followed.

    It ended, kept its score, and lost its place when a beam full of others had more: prefixes of a
    later level, and SIDs that had ended as well.
    """
    logp = traced.ends[sid]
    for level in range(len(sid) + 1, len(traced.codebook_sizes) + 1):
        running = _followed(traced, level)
        ended = {codes: other for codes, other in kept.items() if len(codes) < level}
        better = {c: other for c, other in (running | ended).items() if other >= logp}
        if len(better) >= len(kept):
            return _lost(level, sid, logp, better)
    return _lost(len(traced.codebook_sizes), sid, logp, kept)


def _followed(traced: TracingScorer, level: int) -> dict[Codes, float]:
    """The prefixes of ``level`` that the beam went on from; a search may fill its rows up with
    some of probability 0.
    """
    return {
        codes: logp
        for codes, logp in traced.paths.items()
        if len(codes) == level and logp > -math.inf
    }


def _sids_of(beams: Beams) -> dict[Codes, float]:
    """The SIDs of the first query with their log-probabilities."""
    return {
        tuple(codes[:length].tolist()): float(score)
        for codes, length, score in zip(
            beams.codes[0], beams.lengths[0], beams.scores[0], strict=True
        )
        if length
    }


def _lost(level: int, prefix: Codes, logp: float, rivals: Mapping[Codes, float]) -> FellOut:
    weakest = min(rivals, key=lambda codes: (rivals[codes], codes))
    return FellOut(
        level=level,
        prefix=sid_text(prefix),
        logp=logp,
        against=sid_text(weakest),
        against_logp=rivals[weakest],
        margin=rivals[weakest] - logp,
    )


def _words(place: Result | None, returned: bool, behind: float | None, lost: FellOut | None) -> str:
    """Return the reason in one sentence."""
    if returned:
        assert place is not None
        return f"it is returned, at place {place.rank}"
    beam = ""
    if lost is not None:
        beam = (
            f"its prefix {lost.prefix} fell out of the beam at level {lost.level}: its "
            f"log-probability is {lost.margin:.3f} below that of {lost.against}, the last one kept"
        )
    if place is None:
        return beam or f"it is not among the first {DEEPEST:,} of the items that were reached"
    rank = f"it is at place {place.rank}, its score {behind:.3f} below the last one returned"
    return f"{rank}; {beam}" if beam else rank
