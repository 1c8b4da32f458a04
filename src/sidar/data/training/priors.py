"""Popularity of every item on training days: the order inside an SID, the popularity baseline, head
and tail.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.data.duck import Duck, text
from sidar.types import PathLike


@dataclass(frozen=True)
class Priors:
    """Counts per row, each (N,); an item counts once per request, with its highest action.

    ``impressions`` counts training requests that showed it (or, in a log without impressions,
    touched it); ``clicks`` those with a click or more, ``carts`` with a cart or more, ``orders``
    with an order.  ``first_day`` is the day on which the log first shows the item, over all days, 0
    = never.
    """

    impressions: np.ndarray
    clicks: np.ndarray
    carts: np.ndarray
    orders: np.ndarray
    first_day: np.ndarray

    @property
    def prior(self) -> np.ndarray:
        """(N,) float32 log(1 + clicks + 3 carts + 9 orders): commitment weighs
        threefold per step.
        """
        weight = self.clicks + 3 * self.carts + 9 * self.orders
        return np.log1p(weight).astype(np.float32)

    def sampling_weights(self) -> np.ndarray:
        """(N,) float64 (1 + clicks)^{3/4}: sampled negatives follow popularity, flattened as in
        word2vec.
        """
        return (1.0 + self.clicks) ** 0.75

    def popularity(self) -> np.ndarray:
        """(N,) labels: ``head`` items take the first half of all training clicks, ``torso`` up to
        90 %, then ``tail``.

        ``cold`` items have no click on training days.  Ties in clicks go by row.
        """
        order = np.argsort(-self.clicks, kind="stable")
        # clicks of all more popular items
        before = np.cumsum(self.clicks[order]) - self.clicks[order]
        share = before / max(int(self.clicks.sum()), 1)
        labels = np.empty(len(order), dtype=object)
        labels[order] = np.where(share < 0.5, "head", np.where(share < 0.9, "torso", "tail"))
        labels[self.clicks == 0] = "cold"
        return labels

    def save(self, path: PathLike) -> None:
        """Write ``priors.parquet``."""
        columns = {
            name: getattr(self, name) for name in ("impressions", "clicks", "carts", "orders")
        }
        rows = np.arange(len(self.clicks), dtype=np.int32)
        pq.write_table(
            pa.table({"row": rows, **columns, "prior": self.prior, "first_day": self.first_day}),
            path,
        )

    @classmethod
    def load(cls, path: PathLike) -> Priors:
        """Read ``priors.parquet``."""
        table = pq.read_table(path)
        names = ("impressions", "clicks", "carts", "orders", "first_day")
        return cls(*(table.column(name).to_numpy() for name in names))


def count_priors(duck: Duck, requests: Path, n_items: int) -> Priors:
    """Count over ``requests.parquet``; only its training split counts, except for ``first_day``."""
    counted = duck.table(
        f"""SELECT row, count(*) FILTER (train) AS impressions, count(*) FILTER (train
            AND action >= 1) AS clicks,
                count(*) FILTER (train AND action >= 2) AS carts, count(*) FILTER (train
                AND action >= 3) AS orders,
                min(day) AS first_day
            FROM (SELECT unnest(rows) AS row, unnest(actions) AS action, day, split = 'train'
            AS train
                  FROM read_parquet({text(requests)})) GROUP BY row"""
    )
    rows = counted.column("row").to_numpy()
    arrays = {}
    for name in ("impressions", "clicks", "carts", "orders", "first_day"):
        arrays[name] = np.zeros(n_items, dtype=np.int32 if name == "first_day" else np.int64)
        arrays[name][rows] = counted.column(name).to_numpy()
    return Priors(**arrays)
