"""The metrics of an experiment, each computed from sums of a user's events.

The unit is the user, because users are what a bucket is drawn for: every metric is a mean over all
users of a bucket, or a ratio of two such means.  A denominator that the treatment may change, such
as "users who clicked", would compare different kinds of users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

#: Sums of a user's events that the log is reduced to (docs/ab.md); the last two only tell what is
#: missing: clicks on items without an impression, and order events without a value.
COLUMNS = (
    "shown",
    "clicks",
    "orders",
    "clicked_orders",
    "gmv",
    "dwell",
    "unseen_clicks",
    "unpriced",
)


@dataclass(frozen=True)
class Metric:
    """A mean over users of ``column``, or with ``per`` the ratio of the sums of two columns.

    ``binary``: users count who have any of ``column``, once.
    """

    name: str
    column: str
    definition: str
    per: str = ""
    binary: bool = False

    def values(self, sums: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return numerator (U,) and denominator (U,) of every user; None stands for ones."""
        numerator = sums[self.column]
        if self.binary:
            numerator = (numerator > 0).astype(np.float64)
        return numerator, sums[self.per] if self.per else None


METRICS = (
    Metric(
        "UCVR",
        "orders",
        "user conversion rate: users with an order / users",
        binary=True,
    ),
    Metric(
        "UCTCVR",
        "clicked_orders",
        "user click-through conversion rate: users who ordered an item after they clicked it / "
        "users",
        binary=True,
    ),
    Metric("CTR", "clicks", "click-through rate: clicks on shown items / shown items", per="shown"),
    Metric("GMV", "gmv", "gross merchandise value: sum of the orders' values / users"),
    Metric("dwell", "dwell", "seconds on items: sum of dwell_s / users"),
)
