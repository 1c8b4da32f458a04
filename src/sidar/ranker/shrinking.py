"""Choosing how much of a learner is added to the smoothed answer (sidar.ranker.residual)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sidar.evaluate.stats import standard_error
from sidar.ranker.learner import Table, ndcg
from sidar.ranker.residual import SHRINKAGES, Shrinkage
from sidar.types import Json

#: Standard errors between a lead and its lower bound: a two-sided 95 % interval.
Z = 1.96


@dataclass(frozen=True)
class Group:
    """Requests that speak for a λ: ``values`` (L, R) of each under every λ, and their ``queries``
    (R,), by which intervals are clustered.
    """

    name: str
    values: np.ndarray
    queries: np.ndarray

    def leads(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (L,) the mean lead of every λ over λ = 0, and its lower bound.

        Fewer than two queries have no bound: −inf for all but λ = 0.
        """
        lead = self.values - self.values[:1]
        mean = lead.mean(1) if lead.shape[1] else np.zeros(len(lead))
        numbers = np.unique(self.queries, return_inverse=True)[1]
        error = np.array([standard_error(row, numbers) for row in lead])
        low = np.where(np.isfinite(error), mean - Z * error, -np.inf)
        low[0] = 0.0
        return mean, low

    def about(self) -> Json:
        """Return what every λ reached, for the facts of a ranker."""
        mean, low = self.leads()
        bounds = [round(float(one), 5) if np.isfinite(one) else None for one in low]
        return {
            "requests": self.values.shape[1],
            "lead": [round(float(one), 5) for one in mean],
            "low": bounds,
        }


def choose(seen: Sequence[Group], unseen: Sequence[Group]) -> Shrinkage:
    """Return the λ of the highest worst lower bound in either kind of groups.

    A tie goes to the smaller λ, so that 0 stands where no lead is more than chance.
    """
    chosen = []
    for groups in (seen, unseen):
        worst = np.min([group.leads()[1] for group in groups], axis=0)
        chosen.append(SHRINKAGES[int(np.argmax(worst))])
    why = {group.name: group.about() for group in (*seen, *unseen)}
    return Shrinkage(chosen[0], chosen[1], why)


def shrink(table: Table, gains: np.ndarray, hidden: np.ndarray) -> Shrinkage:
    """Choose λ on ``table``, which has a prior; ``gains`` (P,) are g of its candidates, ``hidden``
    (P,) the same where nobody had asked the queries before.

    For new queries speak those that are new, and all requests as if nobody had asked them.
    """
    prior = table.prior
    assert prior is not None
    known = np.stack([ndcg(table, prior.logs + one * gains) for one in SHRINKAGES])
    new = np.stack([ndcg(table, prior.unseen + one * hidden) for one in SHRINKAGES])
    return choose(*groups_of(known, new, prior.seen, prior.queries))


def groups_of(
    known: np.ndarray, new: np.ndarray, seen: np.ndarray, queries: np.ndarray
) -> tuple[list[Group], list[Group]]:
    """Return the groups that speak for seen and for new queries; ``known`` (L, R) values of the
    requests, ``new`` (L, R) as if nobody had asked them.
    """
    at, rest = np.flatnonzero(seen), np.flatnonzero(~seen)
    return (
        [Group("seen", known[:, at], queries[at])],
        [Group("unseen", known[:, rest], queries[rest]), Group("as unseen", new, queries)],
    )


def as_unseen(table: Table, features: np.ndarray) -> Table:
    """Return ``table`` with ``features`` (P, F) and its prior as if nobody had asked before."""
    prior = None if table.prior is None else table.prior.hidden()
    return replace(table, features=features, prior=prior)
