"""Windows of every unit with dates worked by hand, and what is said where they do not fit."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidar.config import Config, SplitConfig
from sidar.data import build, open_dataset, toy
from sidar.data.cleaning.clean import DAY_US
from sidar.data.duck import Duck
from sidar.data.log import LogFacts
from sidar.data.requests import cuts
from sidar.data.training.splits import Split, check_windows, resolve_split
from sidar.types import INTERACTIONS_SCHEMA

HOUR = 3_600_000_000


def at(text: str) -> int:
    """µs UTC of an ISO time."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000_000)


#: 2026-10-25 to 2026-11-03 18:00: ten days, and November begins on day 8.
LOG = LogFacts(1, at("2026-10-25"), at("2026-11-03T18:00"), {}, 0)


def windows(facts: LogFacts = LOG, **options: Any) -> tuple[str, str, str]:
    """Where training ends, and the two windows, in words."""
    split = resolve_split(SplitConfig(**options), facts)

    def said(moment: int) -> str:
        return datetime.fromtimestamp(moment // 1_000_000, UTC).strftime("%m-%dT%H:%M")

    return said(split.train_until), *(
        "–".join(map(said, window)) for window in (split.valid, split.test)
    )


def labels(split: Split, moments: list[int]) -> list[str]:
    """The split of requests at ``moments``, by the SQL that the data stage runs."""
    import duckdb

    with duckdb.connect() as connection:
        connection.register(
            "requests",
            pa.table({"place": range(len(moments)), "ts": pa.array(moments, pa.int64())}),
        )
        return [
            row[0]
            for row in connection.sql(
                f"SELECT {split.label()} FROM requests ORDER BY place"
            ).fetchall()
        ]


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, ("11-02T00:00", "11-02T00:00–11-03T00:00", "11-03T00:00–11-04T00:00")),
        (
            {"test_days": 2, "valid_days": 3},
            ("10-30T00:00", "10-30T00:00–11-02T00:00", "11-02T00:00–11-04T00:00"),
        ),
        ({"valid_days": 0}, ("11-03T00:00", "11-03T00:00–11-03T00:00", "11-03T00:00–11-04T00:00")),
        (
            {"test_from": "2026-11-01"},
            ("10-31T00:00", "10-31T00:00–11-01T00:00", "11-01T00:00–11-04T00:00"),
        ),
        (
            {"test_from": "2026-11-01", "test_days": 1, "valid_days": 2},
            ("10-30T00:00", "10-30T00:00–11-01T00:00", "11-01T00:00–11-02T00:00"),
        ),
        (
            {"test_from": "2026-11-01T23:59:59"},
            ("10-31T00:00", "10-31T00:00–11-01T00:00", "11-01T00:00–11-04T00:00"),
        ),
        # 00:30 in Berlin's winter is still the day before in UTC
        (
            {"test_from": "2026-11-01T00:30+01:00"},
            ("10-30T00:00", "10-30T00:00–10-31T00:00", "10-31T00:00–11-04T00:00"),
        ),
        (
            {"valid_day": 5, "test_day": -1},
            ("10-29T00:00", "10-29T00:00–10-30T00:00", "11-03T00:00–11-04T00:00"),
        ),
        ({"test_day": 6}, ("10-29T00:00", "10-29T00:00–10-30T00:00", "10-30T00:00–10-31T00:00")),
        (
            {"valid_day": 4, "test_days": 2},
            ("10-28T00:00", "10-28T00:00–10-29T00:00", "11-02T00:00–11-04T00:00"),
        ),
        (
            {"test_day": 9, "valid_days": 2},
            ("10-31T00:00", "10-31T00:00–11-02T00:00", "11-02T00:00–11-03T00:00"),
        ),
    ],
)
def test_windows_by_calendar_day(options: dict[str, Any], want: tuple[str, str, str]) -> None:
    assert windows(**options) == want


def test_days_begin_and_end_at_midnight() -> None:
    split = resolve_split(SplitConfig(test_days=1, valid_days=1), LOG)
    valid, test = at("2026-11-02"), at("2026-11-03")
    moments = [valid - 1, valid, test - 1, test, test + DAY_US - 1, test + DAY_US]
    assert labels(split, moments) == ["train", "valid", "valid", "test", "test", "none"]


def test_spans_of_24_hours_end_with_the_last_event() -> None:
    split = resolve_split(SplitConfig(unit="time"), LOG)
    last = at("2026-11-03T18:00")
    assert split.test == (last + 1 - DAY_US, last + 1)
    assert split.valid == (last + 1 - 2 * DAY_US, last + 1 - DAY_US)
    moments = [last - 2 * DAY_US, last + 1 - 2 * DAY_US, last - DAY_US, last + 1 - DAY_US, last]
    assert labels(split, moments) == ["train", "valid", "valid", "test", "test"]


def test_time_starts_to_the_microsecond() -> None:
    split = resolve_split(
        SplitConfig(unit="time", test_from="2026-11-01T12:00:00.000007", test_days=1), LOG
    )
    start = at("2026-11-01T12:00") + 7
    assert split.valid == (start - DAY_US, start)
    assert split.test == (start, start + DAY_US)
    moments = [
        start - DAY_US - 1,
        start - DAY_US,
        start - 1,
        start,
        start + DAY_US - 1,
        start + DAY_US,
    ]
    assert labels(split, moments) == ["train", "valid", "valid", "test", "test", "none"]
    to_the_end = resolve_split(SplitConfig(unit="time", test_from="2026-11-01", valid_days=0), LOG)
    assert (to_the_end.test, to_the_end.validates) == ((at("2026-11-01"), LOG.last_ts + 1), False)


def log_at(moments: list[int], folder: Path) -> tuple[Path, LogFacts]:
    """A log with one request (of two events) per moment."""
    folder.mkdir(parents=True, exist_ok=True)
    base = {
        "user_id": "u",
        "session_id": "s",
        "query": "q",
        "position": 0,
        "action": 1,
        "bucket": "",
    }
    events = [
        base | {"ts": moment + later, "request_id": f"r{n:03d}", "row": later}
        for n, moment in enumerate(moments)
        for later in (0, 1)
    ]
    pq.write_table(
        pa.Table.from_pylist(events, schema=INTERACTIONS_SCHEMA).sort_by("ts"),
        folder / "log.parquet",
    )
    first = min(moments)
    return folder / "log.parquet", LogFacts(
        len(events), first - first % DAY_US, max(moments) + 1, {}, 0
    )


def cut(moments: list[int], folder: Path, shard_events: int = 10**9, **options: Any) -> Split:
    log, facts = log_at(moments, folder)
    config = SplitConfig(unit="fraction", **options)
    with Duck(folder / "work", "256MB", 1) as duck:
        return resolve_split(
            config, facts, cuts(duck, config, log, facts, shard_events=shard_events)
        )


def test_fractions_count_requests_in_the_order_of_time(tmp_path: Path) -> None:
    moments = [LOG.day0 + n * HOUR for n in range(20)]
    split = cut(moments, tmp_path / "a")
    assert Counter(labels(split, moments)) == {"train": 16, "valid": 2, "test": 2}
    assert (split.valid[0], split.test[0]) == (moments[16], moments[18])
    split = cut(moments, tmp_path / "b", test_fraction=0.25, valid_fraction=0.0)
    assert Counter(labels(split, moments)) == {"train": 15, "test": 5}
    assert not split.validates
    assert cut(moments, tmp_path / "c", shard_events=7) == cut(moments, tmp_path / "d")


def test_requests_of_one_moment_stay_together(tmp_path: Path) -> None:
    moments = [LOG.day0 + n * HOUR for n in range(17)] + 3 * [LOG.day0 + 30 * HOUR]
    split = cut(moments, tmp_path / "a")  # two of twenty would test: the cut falls inside the three
    assert Counter(labels(split, moments)) == {"train": 16, "valid": 1, "test": 3}
    with pytest.raises(
        ValueError, match=r"20 request\(s\), so the last 2 test .*nothing for validation"
    ):
        cut([LOG.day0] * 10 + [LOG.day0 + HOUR] * 10, tmp_path / "b")
    with pytest.raises(ValueError, match=r"has 2 request\(s\).*nothing for training"):
        cut([LOG.day0, LOG.day0 + HOUR], tmp_path / "c")


def test_windows_of_one_request(tmp_path: Path) -> None:
    moments = [LOG.day0, LOG.day0 + HOUR, LOG.day0 + 2 * HOUR]
    assert labels(cut(moments, tmp_path), moments) == ["train", "valid", "test"]
    days = [LOG.day0, LOG.day0 + DAY_US, LOG.day0 + 2 * DAY_US]
    facts = LogFacts(3, LOG.day0, days[-1], {}, 0)
    for unit in ("day", "time"):
        assert labels(resolve_split(SplitConfig(unit=unit, valid_days=1), facts), days) == [
            "train",
            "valid",
            "test",
        ]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    unit=st.sampled_from(["day", "time", "fraction"]),
    hours=st.lists(st.integers(0, 240), min_size=1, max_size=30),
    test=st.integers(1, 4),
    valid=st.integers(0, 4),
)
def test_every_request_has_one_split_and_they_follow_in_time(
    tmp_path_factory: pytest.TempPathFactory, unit: str, hours: list[int], test: int, valid: int
) -> None:
    moments = [LOG.day0 + hour * HOUR for hour in hours]
    facts = LogFacts(len(moments), LOG.day0 + min(hours) // 24 * DAY_US, max(moments), {}, 0)
    try:
        if unit == "fraction":
            folder = tmp_path_factory.mktemp("log")
            split = cut(moments, folder, test_fraction=test / 10, valid_fraction=valid / 10)
        else:
            split = resolve_split(SplitConfig(unit=unit, test_days=test, valid_days=valid), facts)
        placed = labels(split, moments)
        check_windows(split, Counter(placed))
    except ValueError:
        return
    spans = {
        name: [m for m, label in zip(moments, placed, strict=True) if label == name]
        for name in set(placed)
    }
    # to the end of the log nothing is unused
    assert set(spans) == {"train", "test"} | ({"valid"} if valid else set())
    order = [spans[name] for name in ("train", "valid", "test") if name in spans]
    assert all(max(before) < min(after) for before, after in pairwise(order))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"test_days": 5, "valid_days": 5},
            r"covers 10 day\(s\), from 2026-10-25 to 2026-11-03, so validation is days 1",
        ),
        (
            {"test_days": 12, "valid_days": 0},
            r"the test is days -1 to 10; want 1 < validation < test <= 10",
        ),
        ({"test_from": "2026-12-01"}, r"the test is days 38 to 10.*Change split\.test_days"),
        ({"test_from": "2026-10-01"}, r"the test is days -23 to 10"),
        ({"test_from": "2026-11-03", "test_days": 2}, r"the test is days 10 to 11"),
        (
            {"valid_day": 9, "test_day": 12},
            r"covers 10 day.*valid_day 9 and split\.test_day 12 mean days 9 and 12",
        ),
        (
            {"unit": "time", "test_days": 9},
            r"validation starts at 2026-10-24 18:00:00.*split\.unit: fraction",
        ),
        (
            {"unit": "time", "test_from": "2026-11-04"},
            r"runs from 2026-10-25 to 2026-11-03 18:00:00, so .*2026-11-04",
        ),
        (
            {"unit": "time", "test_from": "2026-11-03", "test_days": 2},
            r"2026-11-03 00:00:00 to 2026-11-05 00:00:00",
        ),
        (
            {"unit": "time", "test_day": 3},
            r"split\.test_day is a calendar day and split\.unit is time",
        ),
        (
            {"unit": "fraction", "test_days": 3},
            r"split\.test_days means nothing for split\.unit: fraction",
        ),
        (
            {"unit": "leave_one_out", "valid_days": 0},
            r"split\.valid_days means nothing for split\.unit: leave_one_out",
        ),
    ],
)
def test_windows_that_do_not_fit_name_numbers_and_the_next_step(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        resolve_split(SplitConfig(**options), LOG)


def test_a_window_without_a_request_is_an_error() -> None:
    split = resolve_split(SplitConfig(), LOG)
    check_windows(split, {"train": 3, "valid": 1, "test": 1, "none": 9})
    with pytest.raises(
        ValueError, match=r"into validation \(3 in training, 1 in the test, 0 in validation\)"
    ):
        check_windows(split, {"train": 3, "test": 1})
    with pytest.raises(ValueError, match=r"into training or the test"):
        check_windows(resolve_split(SplitConfig(valid_days=0), LOG), {"none": 4})
    check_windows(Split("leave_one_out", 0), {"train": 1})


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["day7-clicks", "day8-clicks"]),
        ({"test_days": 2, "valid_days": 3}, ["day4-6-clicks", "day7-8-clicks"]),
        ({"valid_days": 0}, ["day8-clicks"]),
        ({"unit": "time"}, ["valid-clicks", "test-clicks"]),
        ({"unit": "fraction", "valid_fraction": 0.2}, ["valid-clicks", "test-clicks"]),
        ({"unit": "leave_one_out"}, ["last-valid-clicks", "last-test-clicks"]),
    ],
)
def test_the_data_stage_keeps_to_the_windows(
    tmp_path: Path, options: dict[str, Any], names: list[str]
) -> None:
    paths = toy.write_inputs(tmp_path)
    cfg = Config.model_validate({"threads": 1, "split": options})
    cfg.catalogue.path, cfg.events.path = str(paths["catalogue"]), str(paths["events"])
    if options.get("unit") != "leave_one_out":
        cfg.catalogue.clicked_within_days = 30
    report = build(cfg, tmp_path / "data")
    data = open_dataset(tmp_path / "data")
    assert [each.name for each in data.eval_sets()] == names
    split = Split.from_report(report["split"], report["events"]["first_day_us"])
    parts = {role: list(data.requests(role)) for role in ("train", "valid", "test")}
    clicks = sum(sum(action > 0 for action in request.actions) for request in parts["train"])
    assert data.priors().clicks.sum() == clicks > 0
    assert data.lists("valid").num_rows <= len(parts["valid"])
    if split.unit == "leave_one_out":
        return
    assert max(r.ts for r in parts["train"]) < split.train_until <= min(r.ts for r in parts["test"])
    assert bool(parts["valid"]) == split.validates == ("valid" in report["requests"])
    if split.unit == "fraction":
        total = report["requests"]["total"]
        assert len(parts["test"]) == round(0.1 * total)
        assert len(parts["valid"]) == round(0.2 * total)


def test_older_data_folders_hold_their_two_days() -> None:
    split = Split.of_days(LOG.day0, (5, 5), (8, 8))
    assert Split.from_report(split.report(), LOG.day0) == split
    assert Split.from_report({"unit": "day", "valid_day": 5, "test_day": 8}, LOG.day0) == split
    old = {"unit": "leave_one_out", "valid_day": 7, "test_day": 8}
    assert Split.from_report(old, LOG.day0) == Split("leave_one_out", LOG.day0)
