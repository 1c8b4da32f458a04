"""Cutting a log into training, validation and test: by day, or leave-one-out per user.

Days count from the first day (UTC) of the log, which is day 1.  Days before ``valid_day`` train; days between
``valid_day`` and ``test_day`` and days after it belong to no split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sidar.config import SplitConfig
from sidar.data.clean import DAY_US
from sidar.data.log import LogFacts


@dataclass(frozen=True)
class Split:
    """A resolved split. ``day0`` is day 1's midnight in µs UTC; days are 1-based and mean nothing for leave-one-out."""

    unit: Literal["day", "leave_one_out"]
    day0: int
    valid_day: int
    test_day: int

    def day(self, ts: str) -> str:
        """SQL of the day of a timestamp."""
        return f"(({ts} - {self.day0}) // {DAY_US} + 1)::INTEGER"

    def label(self) -> str:
        """SQL of a request's split.

        ``day``: reads the column ``day``.  ``leave_one_out``: reads ``user_id``, ``engaged`` (a click or more),
        ``back`` (engaged requests of the user from here to the end, this one included) and ``total`` of the user: the
        last engaged request is the test, the one before it validation; users with fewer than three only train.
        """
        if self.unit == "day":
            return (
                f"CASE WHEN day < {self.valid_day} THEN 'train' WHEN day = {self.valid_day} THEN 'valid' "
                f"WHEN day = {self.test_day} THEN 'test' ELSE 'none' END"
            )
        return (
            "CASE WHEN user_id = '' OR total < 3 THEN 'train' WHEN engaged AND back = 1 THEN 'test' "
            "WHEN engaged AND back = 2 THEN 'valid' WHEN back < 2 THEN 'none' ELSE 'train' END"
        )


def resolve_split(config: SplitConfig, facts: LogFacts) -> Split:
    """The split of a log that covers ``facts.days`` days; negative days count from the end.

    Raises ``ValueError`` when validation or test fall outside the log or nothing is left to train on.
    """
    days = facts.days
    valid, test = (d if d > 0 else days + 1 + d for d in (config.valid_day, config.test_day))
    if config.unit == "day" and not 1 < valid < test <= days:
        raise ValueError(
            f"the log covers {days} day(s), so split.valid_day {config.valid_day} and split.test_day {config.test_day} "
            f"mean days {valid} and {test}; want 1 < valid < test <= {days}. Set both, or split.unit: leave_one_out"
        )
    return Split(config.unit, facts.day0, valid, test)
