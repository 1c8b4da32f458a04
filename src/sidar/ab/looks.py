"""One estimate at the end of every day of an experiment: what always-valid p-values are made from.

A look at day t compares the users who had joined by then, by their sums up to then.  The sums of a
user who stays grow from look to look, so that a user who buys more than others does so in every
look: estimates of successive looks are at least as alike as those of the martingale behind the
p-values (for conversions, which count once, about as alike).  That keeps their error at or below
its level (Slepian's inequality, for estimates that are jointly normal); docs/ab.md has the
simulation.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sidar.ab.effects import Effect, compare
from sidar.ab.metrics import Metric
from sidar.ab.sequential import always_valid_p, half_width
from sidar.ab.users import UserLog

#: Users with any of a metric, per bucket, from which a look counts: normal theory needs some.
#: [ours]
ENOUGH = 25


@dataclass(frozen=True)
class Looks:
    """T daily looks at one metric: relative lifts with their confidence sequence, and the
    always-valid p-value so far.  NaN, and p = 1, before there were enough users.
    """

    relative: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def all_looks(
    log: UserLog, metrics: list[Metric], lift: float, alpha: float = 0.05
) -> dict[tuple[str, str], Looks]:
    """Return ``{(metric, treatment): looks}``; ``lift`` is the relative lift that matters."""
    effects: dict[tuple[str, str], list[Effect | None]] = {
        (metric.name, name): [] for metric in metrics for name in log.names[1:]
    }
    so_far = {column: np.zeros(len(log.bucket)) for column in log.days.sums}
    edges = np.searchsorted(log.days.day, np.arange(log.n_days + 1))
    for day, (start, stop) in enumerate(pairwise(edges)):
        users = log.days.user[start:stop]
        for column, values in log.days.sums.items():
            so_far[column][users] += values[start:stop]  # a user has one row a day
        for metric in metrics:
            for number, name in enumerate(log.names[1:], start=1):
                chosen = (log.joined <= day) & np.isin(log.bucket, (0, number))
                effects[metric.name, name].append(
                    effect_of(log, metric, so_far, number, chosen, ENOUGH)
                )
    return {key: _sequence(daily, lift, alpha) for key, daily in effects.items()}


def effect_of(
    log: UserLog,
    metric: Metric,
    sums: dict[str, np.ndarray],
    number: int,
    chosen: np.ndarray,
    enough: int = 0,
    *,
    level: float = 0.95,
) -> Effect | None:
    """Return the effect of bucket ``number`` on the users ``chosen`` (U,); None where a bucket has
    fewer than ``enough`` users with any of the metric.
    """
    x, w = metric.values(sums)
    treated = log.bucket[chosen] == number
    x = x[chosen]
    if min(np.count_nonzero(x[treated]), np.count_nonzero(x[~treated])) < enough:
        return None
    covariates = None
    if log.before is not None:
        covariates = _covariates(metric, log.before)[chosen]
    return compare(x, treated, None if w is None else w[chosen], covariates, level=level)


def _covariates(metric: Metric, before: dict[str, np.ndarray]) -> np.ndarray:
    """Return (U, k): the metric's sums in the pre-period, and whether the user was seen there."""
    x, w = metric.values(before)
    return np.stack([x, before["seen"], *([] if w is None else [w])], axis=1)


def _sequence(effects: list[Effect | None], lift: float, alpha: float) -> Looks:
    nan = float("nan")

    def column(name: str) -> np.ndarray:
        return np.asarray([nan if one is None else getattr(one, name) for one in effects])

    # the scale of the lift at each look: both buckets together, which no difference moves
    scale = (column("control") + column("treatment")) / 2
    p = always_valid_p(column("absolute"), np.square(column("absolute_se")), lift * scale)
    relative = column("relative")
    half = half_width(np.square(column("relative_se")), lift, alpha)
    half = np.where(np.isfinite(half), half, nan)
    return Looks(relative, relative - half, relative + half, p)
