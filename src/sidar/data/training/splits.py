"""Cutting a log into training, validation and test: by calendar day, by time, by share, or
leave-one-out per user.

Days count from the first day (UTC) of the log, which is day 1.  Every unit but ``leave_one_out``
has windows in time: training ends where validation begins (or the test, where nothing validates),
and requests between two windows or after the test belong to no split.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sidar.config import SplitConfig
from sidar.data.cleaning.clean import DAY_US
from sidar.data.log import LogFacts
from sidar.types import Json

Unit = Literal["day", "time", "fraction", "leave_one_out"]
#: A window in time: from the first moment (µs UTC) up to the second, which is outside; empty where
#: they are equal.
Window = tuple[int, int]


@dataclass(frozen=True)
class Split:
    """A resolved split.

    ``day0`` is day 1's midnight in µs UTC; the windows mean nothing for leave-one-out.
    """

    unit: Unit
    day0: int
    valid: Window = (0, 0)
    test: Window = (0, 0)

    @classmethod
    def of_days(cls, day0: int, valid: tuple[int, int] | None, test: tuple[int, int]) -> Split:
        """Return the split by calendar day; windows are their first and last day, ``valid`` None =
        no validation.
        """

        def window(days: tuple[int, int]) -> Window:
            return day0 + (days[0] - 1) * DAY_US, day0 + days[1] * DAY_US

        first_of_test = window(test)[0]
        return cls(
            "day",
            day0,
            (first_of_test, first_of_test) if valid is None else window(valid),
            window(test),
        )

    @classmethod
    def of_no_log(cls) -> Split:
        """Return the split of a shop without a log: windows that hold nothing."""
        return cls("time", 0)

    @property
    def validates(self) -> bool:
        """Whether there is a validation window."""
        return self.unit == "leave_one_out" or self.valid[0] < self.valid[1]

    @property
    def train_until(self) -> int:
        """The moment (µs) at which training ends."""
        return self.valid[0] if self.validates else self.test[0]

    def day(self, ts: str) -> str:
        """SQL of the day of a timestamp."""
        return f"(({ts} - {self.day0}) // {DAY_US} + 1)::INTEGER"

    def label(self) -> str:
        """SQL of a request's split.

        Windows in time read the column ``ts``.  ``leave_one_out`` reads ``user_id``, ``engaged`` (a
        click or more), ``back`` (engaged requests of the user from here to the end, this one
        included) and ``total`` of the user: the last engaged request is the test, the one before it
        validation; users with fewer than three only train.
        """
        if self.unit != "leave_one_out":
            (valid_from, valid_until), (test_from, test_until) = self.valid, self.test
            return (
                f"CASE WHEN ts < {self.train_until} THEN 'train' "
                f"WHEN ts >= {valid_from} AND ts < {valid_until} THEN 'valid' "
                f"WHEN ts >= {test_from} AND ts < {test_until} THEN 'test' ELSE 'none' END"
            )
        return (
            "CASE WHEN user_id = '' OR total < 3 THEN 'train' WHEN engaged AND back = 1 THEN "
            "'test' WHEN engaged AND back = 2 THEN 'valid' WHEN back < 2 THEN 'none' ELSE 'train' "
            "END"
        )

    def before(self, role: str) -> str:
        """SQL that is true of the requests before the window of ``role`` (``valid`` or ``test``).

        Reads the columns ``ts`` and ``split`` of ``requests.parquet``.  Requests that held-out
        rules took out of training count where the unit has windows in time; leave-one-out has no
        time that is common to all users.
        """
        if self.unit == "leave_one_out":
            return "split = 'train'" if role == "valid" else "split IN ('train', 'valid')"
        return f"ts < {self.train_until if role == 'valid' else self.test[0]}"

    def days_of(self, window: Window) -> tuple[int, int]:
        """The first and the last day of a window."""
        first, last = ((moment - self.day0) // DAY_US + 1 for moment in (window[0], window[1] - 1))
        return int(first), int(last)

    def prefix(self, role: str) -> str:
        """Return how names of the log's sets of ``role`` begin: ``day8``, ``day7-8``, ``test`` or
        ``last-test``.
        """
        if self.unit == "leave_one_out":
            return f"last-{role}"
        if self.unit != "day":
            return role
        first, last = self.days_of(self.valid if role == "valid" else self.test)
        return f"day{first}" if first == last else f"day{first}-{last}"

    def report(self) -> Json:
        """Return the split as JSON; :meth:`from_report` reads it back.

        ``valid_day`` and ``test_day`` are the first days of the windows, for ``unit: day`` only.
        """
        facts: Json = {"unit": self.unit, "valid_day": None, "test_day": None}
        if self.unit == "leave_one_out":
            return facts
        if self.unit == "day":
            facts["test_day"], facts["test_until_day"] = self.days_of(self.test)
            if self.validates:
                facts["valid_day"], facts["valid_until_day"] = self.days_of(self.valid)
        facts["valid_us"], facts["test_us"] = list(self.valid), list(self.test)
        return facts

    @classmethod
    def from_report(cls, facts: Json, day0: int) -> Split:
        """Read what :meth:`report` wrote; older data folders hold only the two days."""
        if "test_us" in facts:
            return cls(facts["unit"], day0, tuple(facts["valid_us"]), tuple(facts["test_us"]))
        if facts["unit"] == "leave_one_out":
            return cls("leave_one_out", day0)
        valid, test = facts["valid_day"], facts["test_day"]
        return cls.of_days(day0, (valid, valid), (test, test))


def resolve_split(
    config: SplitConfig, facts: LogFacts, cuts: tuple[int, int] | None = None
) -> Split:
    """Return the split of a log; ``cuts`` are the first moments of validation and test for ``unit:
    fraction``.

    Raises ``ValueError`` when a window falls outside the log or nothing is left to train on.
    """
    check_unit(config)
    if config.unit == "leave_one_out":
        return Split("leave_one_out", facts.day0)
    if config.unit == "day":
        return _by_day(config, facts)
    if config.unit == "time":
        return _by_time(config, facts)
    if cuts is None:
        raise ValueError(
            "split.unit: fraction needs the moments at which the log is cut "
            "(sidar.data.requests.cuts)"
        )
    return Split("fraction", facts.day0, cuts, (cuts[1], facts.last_ts + 1))


def check_unit(config: SplitConfig) -> None:
    """Raise ``ValueError`` for an option that ``split.unit`` does not read."""
    asked = [
        key for key in ("test_days", "valid_days", "test_from") if getattr(config, key) is not None
    ]
    old = [key for key in ("valid_day", "test_day") if getattr(config, key) is not None]
    if config.unit == "time" and old:
        raise ValueError(
            f"split.{old[0]} is a calendar day and split.unit is time; use split.test_from and "
            "split.valid_days"
        )
    if config.unit == "fraction" and (asked or old):
        raise ValueError(
            f"split.{(asked or old)[0]} means nothing for split.unit: fraction; use "
            "split.test_fraction and split.valid_fraction, or split.unit: time"
        )
    # the older keys had numbers as defaults and are left alone
    if config.unit == "leave_one_out" and asked:
        raise ValueError(
            f"split.{asked[0]} means nothing for split.unit: leave_one_out; remove it or use "
            "unit: day"
        )


def _by_day(config: SplitConfig, facts: LogFacts) -> Split:
    days = facts.days

    def numbered(day: int) -> int:
        return day if day > 0 else days + 1 + day

    if config.test_day is not None:
        first, last = numbered(config.test_day), numbered(config.test_day)
    elif config.test_from is not None:
        first = (_moment(config.test_from) - facts.day0) // DAY_US + 1
        last = days if config.test_days is None else first + config.test_days - 1
    else:
        first, last = days + 1 - (config.test_days or 1), days
    length = 1 if config.valid_days is None else config.valid_days
    valid = (first - length, first - 1) if length else None
    if config.valid_day is not None:
        valid = (numbered(config.valid_day), numbered(config.valid_day))

    before_test = valid or (first, first - 1)  # without validation only the test bounds training
    if before_test[0] > 1 and before_test[1] < first <= last <= days:
        return Split.of_days(facts.day0, valid, (first, last))
    if config.valid_day is not None and config.test_day is not None:
        raise ValueError(
            f"the log covers {days} day(s), so split.valid_day {config.valid_day} and "
            f"split.test_day {config.test_day} mean days {before_test[0]} and {first}; want 1 < "
            f"valid < test <= {days}. Set both, or split.unit: leave_one_out"
        )
    validation = f"validation is {_days(*valid)} and " if valid else ""
    raise ValueError(
        f"the log covers {days} day(s), from {date_of(facts.day0)} to {date_of(facts.last_ts)}, so "
        f"{validation}the test is {_days(first, last)}; want 1 < validation < test <= {days}. "
        "Change split.test_days, split.valid_days or split.test_from, or take split.unit: time, "
        "fraction or leave_one_out"
    )


def _by_time(config: SplitConfig, facts: LogFacts) -> Split:
    end = facts.last_ts + 1
    if config.test_from is None:
        start = end - (config.test_days or 1) * DAY_US
    else:
        start = _moment(config.test_from)
        end = end if config.test_days is None else start + config.test_days * DAY_US
    length = 1 if config.valid_days is None else config.valid_days
    valid_from = start - length * DAY_US
    # The last span of 24 hours must begin inside the log; it may end after the last event.
    if valid_from <= facts.day0 or start > facts.last_ts or end - DAY_US > facts.last_ts:
        validation = f"validation starts at {_time(valid_from)} and " if length else ""
        raise ValueError(
            f"the log runs from {date_of(facts.day0)} to {_time(facts.last_ts)}, so "
            f"{validation}the test is {_time(start)} to {_time(end)}; both must lie inside the log "
            "with something before them to train on. Change split.test_days, split.valid_days or "
            "split.test_from, or take split.unit: fraction"
        )
    return Split("time", facts.day0, (valid_from, start), (start, end))


def check_windows(split: Split, counts: dict[str, int]) -> None:
    """Raise ``ValueError`` where a window in time holds no request; ``counts`` has the requests by
    window.

    Training counts before held-out queries are taken out of it.
    """
    if split.unit == "leave_one_out":
        return
    wanted = {"train": "training", "test": "the test"} | (
        {"valid": "validation"} if split.validates else {}
    )
    if empty := [name for role, name in wanted.items() if not counts.get(role)]:
        numbers = ", ".join(f"{counts.get(role, 0):,} in {name}" for role, name in wanted.items())
        raise ValueError(
            f"no request falls into {' or '.join(empty)} ({numbers}); training ends at "
            f"{_time(split.train_until)}, the test is {_time(split.test[0])} to "
            f"{_time(split.test[1])}. Change split.test_days, split.valid_days (0 = no "
            "validation), split.test_from or split.unit"
        )


def _moment(text: str) -> int:
    """µs UTC of ``split.test_from``; a date is its midnight."""
    moment = datetime.fromisoformat(text)
    elapsed = moment.replace(tzinfo=moment.tzinfo or UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds


def _days(first: int, last: int) -> str:
    return f"day {first}" if first == last else f"days {first} to {last}"


def _time(moment: int) -> str:
    return datetime.fromtimestamp(moment / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def date_of(moment: int) -> str:
    """The UTC date of µs since 1970."""
    return _time(moment)[:10]
