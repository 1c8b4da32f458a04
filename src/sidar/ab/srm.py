"""Sample-ratio mismatch: are the buckets as large as they were drawn?

A mismatch means that users were lost or doubled in a way that depends on the bucket, and then no
metric can be trusted.  The usual alarm is at p < .001, since the test is run on every experiment
and sees small shifts.  [known: Fabijan and others, KDD 2019]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

ALARM = 0.001


@dataclass(frozen=True)
class RatioTest:
    """Users per bucket against the planned shares, by Pearson's χ²."""

    users: dict[str, int]
    planned: dict[str, float]  # shares that sum to 1
    p: float

    @property
    def alarm(self) -> bool:
        """Whether the sizes are no chance."""
        return self.p < ALARM

    def line(self) -> str:
        """Return the test in words."""
        total = sum(self.users.values())
        sizes = ", ".join(
            f"{name} {count:,} ({count / total:.2%}, planned {self.planned[name]:.2%})"
            for name, count in self.users.items()
        )
        if not self.alarm:
            return f"users: {sizes}; no sample-ratio mismatch (p = {self.p:.3g})"
        return (
            f"users: {sizes}. SAMPLE-RATIO MISMATCH (p = {self.p:.2g}): users are missing from a "
            "bucket, or the shares are others. No metric below can be trusted. Give the planned "
            "sizes with --shares; look for redirects, crashes or filters that differ between "
            "buckets, and for a bucket that started later"
        )


def sample_ratio(
    names: Sequence[str], counts: np.ndarray, shares: Mapping[str, float] | None = None
) -> RatioTest:
    """Return the test of ``counts`` (K,) users per bucket; without ``shares`` equal ones.

    Raises ``ValueError`` where ``shares`` names other buckets.
    """
    planned = dict.fromkeys(names, 1.0) if not shares else dict(shares)
    if set(planned) != set(names):
        raise ValueError(
            f"--shares names the buckets {', '.join(planned)}, the experiment has "
            f"{', '.join(names)}; name the same ones"
        )
    total_share = sum(planned.values())
    planned = {name: planned[name] / total_share for name in names}
    counts = np.asarray(counts, dtype=np.float64)
    expected = counts.sum() * np.asarray([planned[name] for name in names])
    statistic = float((np.square(counts - expected) / expected).sum())
    p = float(stats.chi2.sf(statistic, len(names) - 1))
    users = {name: int(count) for name, count in zip(names, counts, strict=True)}
    return RatioTest(users, planned, p)
