"""How likely a position is to be seen, from the log's randomised bucket: weights for inverse
propensity scoring.

    p(k) = CTR(k) / CTR(1)   in requests of bucket ``random``, on training requests          [known]
    v    = min(1 / p(position), 10), over the mean of all positives of the training lists

Where the order is random, relevance is the same at every position on average, so what is left of a
click rate is the position's (Joachims, Swaminathan, Schnabel 2017, "Unbiased Learning-to-Rank with
Biased Feedback").  Rates are made non-increasing by pooling adjacent violators, weighted by
impressions [known].  The cap of 10 and the mean of 1, which keeps the learning rate's meaning, are
this project's [reconstruction].
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from sidar.data.duck import Duck, text
from sidar.types import Json

#: The ``bucket`` of requests that were shown in random order.
RANDOM = "random"
#: Deeper positions count as this one.
DEEPEST = 200
#: No positive weighs more than this before the division by the mean.
CLIP = 10.0


@dataclass(frozen=True)
class Propensities:
    """Click rates by position in the randomised bucket, each (P,), for the positions that it
    showed, ascending.
    """

    positions: np.ndarray
    impressions: np.ndarray
    clicks: np.ndarray
    p: np.ndarray  # relative to the first position, non-increasing

    def weights(self) -> np.ndarray:
        """(DEEPEST + 1,) clipped 1/p by position; 0 at position 0, which means unknown.

        A position that the bucket never showed takes the p of the next better one that it showed.
        """
        at = np.searchsorted(self.positions, np.arange(1, DEEPEST + 1), side="right") - 1
        p = self.p[at.clip(min=0)]
        return np.concatenate([[0.0], 1.0 / p.clip(min=1.0 / CLIP)])

    def report(self) -> Json:
        """The table, JSON-able."""
        return {
            "bucket": RANDOM,
            "clip": CLIP,
            "positions": self.positions.tolist(),
            "impressions": self.impressions.tolist(),
            "clicks": self.clicks.tolist(),
            "p": [round(float(p), 4) for p in self.p],
        }


class Counted(Protocol):
    """What is asked of a log: how often each action occurs."""

    @property
    def actions(self) -> dict[str, int]: ...


def measure_propensities(duck: Duck, requests: Path, facts: Counted) -> Propensities:
    """Propensities from the training requests of ``requests.parquet``.

    Raises ``ValueError`` where the log has no impressions, or no click in a randomised bucket with
    known positions.
    """
    if not facts.actions["impression"]:
        raise ValueError(
            "preference.debias is 'ips' but the log has no impressions, so a position has no click "
            "rate; set preference.debias to 'none'"
        )
    counted = duck.table(
        f"""SELECT least(position, {DEEPEST}) AS position, count(*) AS shown,
            count(*) FILTER (action > 0) AS clicked
            FROM (SELECT unnest(positions) AS position, unnest(actions) AS action
            FROM read_parquet({text(requests)})
                  WHERE split = 'train' AND bucket = {text(RANDOM)})
            WHERE position > 0 GROUP BY 1 ORDER BY 1"""
    )
    positions, shown, clicked = (
        counted.column(name).to_numpy() for name in ("position", "shown", "clicked")
    )
    if not clicked.sum():
        found = "has no clicks" if len(positions) else "does not exist or has no positions"
        raise ValueError(
            f"preference.debias is 'ips' but the bucket {RANDOM!r} of the log's training days "
            f"{found}; propensities need requests in random order: map the column that marks them "
            "to `bucket` (value `random`) in events.columns, or set preference.debias to 'none'"
        )
    rates = non_increasing(clicked / shown, shown)
    return Propensities(positions, shown, clicked, rates / rates[0])


def non_increasing(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(n,) the non-increasing sequence nearest to ``values`` (n,) in weighted squares: pool
    adjacent violators.
    """
    means: list[float] = []
    masses: list[float] = []
    counts: list[int] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, mass, count = value, weight, 1
        while means and means[-1] < mean:
            before, heavy = means.pop(), masses.pop()
            mean, mass = (mean * mass + before * heavy) / (mass + heavy), mass + heavy
            count += counts.pop()
        means.append(mean)
        masses.append(mass)
        counts.append(count)
    return np.repeat(means, counts)
