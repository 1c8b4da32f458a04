"""Comparisons with their verdicts, gated by the room above SFT; levels with intervals.

Without room there is no verdict (docs/evaluation.md): where even the order of the true utility,
which no method knows better, gains less over SFT than the primary comparison could have seen, the
word is "cannot tell here".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from experiments.raddpo.report.cells import Evidence
from experiments.raddpo.report.contrast import (
    DAY,
    LEAST_SEEDS,
    NOT_RUN,
    Contrast,
    Result,
    Side,
    assess,
    difference,
)
from experiments.raddpo.report.names import TARGETS
from sidar.evaluate.stats import bootstrap_intervals

CONTROL, START = "sft-continued", "sft"


def compare(
    evidence: Evidence, contrasts: Sequence[Contrast], *, permutations: int = 10_000
) -> list[Result]:
    """:func:`assess`, and "cannot tell here" where there is no room."""
    return [
        _gated(evidence, result)
        for result in assess(evidence, contrasts, permutations=permutations)
    ]


def _gated(evidence: Evidence, result: Result) -> Result:
    sides = (*result.contrast.plus, *result.contrast.minus)
    metrics = {side.metric for side in sides}
    if result.test is None or result.contrast.set != DAY or len(metrics) > 1:
        return result
    (metric,) = metrics
    if metric.partition(".")[0] not in TARGETS or any(
        side.system.startswith("oracle") for side in sides
    ):
        return result
    return result if room(evidence, metric).enough else replace(result, no_room=True)


def methods(evidence: Evidence) -> list[str]:
    """The rows of the main table, as registered."""
    return list(evidence.registration["expected"])


@cache
def _family(evidence: Evidence, control: str, metric: str) -> list[Result]:
    rules, target = evidence.registration["expected"], metric.partition(".")[0]
    rows = [m for m in methods(evidence) if m != control]
    if control != CONTROL and CONTROL not in rows:
        rows.insert(0, CONTROL)
    contrasts = []
    for system in rows:
        sign = str(rules[system].get(target, "+")) if control == CONTROL else "+"
        contrasts.append(difference(system, control, metric, sign=sign))
    return assess(evidence, contrasts)


@cache
def against(evidence: Evidence, control: str, metric: str) -> dict[str, Result]:
    """{method: method − control}, Holm over the methods; the claimed sign is the registered one
    where it is known.
    """
    return {
        r.contrast.plus[0].system: _gated(evidence, r) for r in _family(evidence, control, metric)
    }


@dataclass(frozen=True)
class Room:
    """What lies above SFT on one measure of day 8, and what the primary comparison could have seen
    of it.

    ``utility``: all SIDs in the order of the true utility; ``reachable``: SFT's own beam in that
    order; ``hindsight``: the target's own oracle. The room is the smaller of the first two, and
    hindsight's where neither was measured.
    """

    utility: Result
    reachable: Result
    hindsight: Result
    seen: float

    @property
    def least(self) -> float:
        known = [r.test.effect for r in (self.utility, self.reachable) if r.test is not None]
        if not known and self.hindsight.test is not None:
            known = [self.hindsight.test.effect]
        return min(known, default=float("nan"))

    @property
    def enough(self) -> bool:
        """False only where both are known and the room is the smaller one."""
        return not self.least < self.seen


@cache
def room(evidence: Evidence, metric: str) -> Room:
    """The room above SFT; effects only, so each stands alone without Holm."""
    contrasts = (
        difference("oracle-utility", START, metric),
        Contrast((Side(START, f"reachable.{metric}"),), (Side(START, metric),)),
        difference("oracle-sid", START, metric),
    )
    found = [assess(evidence, [each])[0] for each in contrasts]
    system = evidence.registration["primary"]["system"]
    own = next(
        (r for r in _family(evidence, CONTROL, metric) if r.contrast.plus[0].system == system), None
    )
    return Room(*found, own.detectable if own else float("nan"))


# ---------------------------------------------------------------------- levels


@dataclass(frozen=True)
class Level:
    """A mean over queries and seeds with its interval; ``seeds`` is 0 for what has none."""

    mean: float
    low: float
    high: float
    seeds: int
    n: int


def levels(
    evidence: Evidence,
    system: str,
    metrics: Sequence[str],
    *,
    set_name: str = DAY,
    variant: str = "",
    seeds: Sequence[int | None] | None = None,
) -> dict[str, Level]:
    """Means of ``metrics`` with 95 % intervals clustered by query; measures without a value are
    left out.
    """
    runs = {
        s: c
        for s, c in evidence.runs(system, variant).items()
        if seeds is None or s is None or s in seeds
    }
    if not runs or set_name not in evidence.queries:
        return {}
    clusters = np.tile(evidence.queries[set_name][1], len(runs))
    columns = {
        m: np.concatenate([evidence.values(c, set_name, m) for c in runs.values()]) for m in metrics
    }
    groups: dict[bytes, list[str]] = defaultdict(list)
    for metric, column in columns.items():
        if np.isfinite(column).any():
            groups[np.isfinite(column).tobytes()].append(metric)
    out = {}
    for members in groups.values():
        kept = np.isfinite(columns[members[0]])
        values = np.stack([columns[m][kept] for m in members], axis=1)
        for metric, column, (low, high) in zip(
            members, values.T, bootstrap_intervals(values, clusters[kept]).tolist(), strict=True
        ):
            parts = np.split(kept, len(runs))
            there = sum(
                bool(part.any()) for seed, part in zip(runs, parts, strict=True) if seed is not None
            )
            out[metric] = Level(float(column.mean()), low, high, there, len(column))
    return {m: out[m] for m in metrics if m in out}


def shared_seeds(
    evidence: Evidence,
    rows: Sequence[tuple[str, str]],
    metrics: Sequence[str],
    *,
    set_name: str = DAY,
) -> tuple[list[int], bool]:
    """The seeds that all (system, variant) rows have values for, and whether the rows differ in
    them.

    What has no seed is left out, and rows with fewer than three do not narrow a table in which
    others have three: they show what they have. Without a seed in common the list is empty.
    """
    have = []
    for system, variant in rows:
        runs = {s: c for s, c in evidence.runs(system, variant).items() if s is not None}
        known = {
            s
            for s, c in runs.items()
            if any(np.isfinite(evidence.values(c, set_name, m)).any() for m in metrics)
        }
        have += [known] if known else []
    enough = [each for each in have if len(each) >= LEAST_SEEDS] or have
    shared = sorted(set.intersection(*enough)) if enough else []
    return shared, any(each != set(shared) for each in have)


def all_of(words: Sequence[str]) -> str:
    """The verdict of "every one of these holds"."""
    if not words or all(word == NOT_RUN for word in words):
        return NOT_RUN
    if "does not hold" in words:
        return "does not hold"
    return "holds" if all(word == "holds" for word in words) else "cannot tell here"
