"""Requests and histories against the slow twin, and the rules that the twin does not know."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reference_data as slow
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.config import Config
from sidar.data import toy
from sidar.data.cleaning.clean import DAY_US
from sidar.data.duck import Duck
from sidar.data.log import LogFacts
from sidar.data.requests import RequestFacts, write_requests
from sidar.data.training.splits import Split, resolve_split
from sidar.types import INTERACTIONS_SCHEMA

SPLIT = Split.of_days(toy.FIRST_DAY, (7, 7), (8, 8))
MINUTE = 60_000_000


def group(
    folder: Path,
    log: pa.Table,
    split: Split = SPLIT,
    shard_events: int = 10**9,
    held_out: tuple[str, ...] = (),
    config: dict | None = None,
) -> tuple[list[dict], RequestFacts]:
    folder.mkdir(parents=True, exist_ok=True)
    log_file, out = folder / "i.parquet", folder / "r.parquet"
    pq.write_table(log, log_file)
    cfg = Config.model_validate({"threads": 1, **(config or {})})
    facts = LogFacts(log.num_rows, toy.FIRST_DAY, 0, {}, log.column("request_id").null_count)
    with Duck(folder / "w", "256MB", 1) as duck:
        duck.register("users", pa.table({"user_id": ["user00"], "profile": ["home: flat"]}))
        duck.register("dead_rows", pa.table({"row": pa.array([63], pa.int32())}))
        duck.register("held_out", pa.table({"query": pa.array(held_out, pa.string())}))
        found = write_requests(duck, cfg, log_file, facts, split, out, shard_events=shard_events)
    return pq.read_table(out).to_pylist(), found


def log_of(events: list[dict]) -> pa.Table:
    base = {
        "ts": toy.FIRST_DAY,
        "user_id": "u",
        "session_id": "s",
        "request_id": None,
        "query": "q",
        "row": 0,
    }
    base |= {"position": 0, "action": 1, "bucket": ""}
    return pa.Table.from_pylist([base | e for e in events], schema=INTERACTIONS_SCHEMA).sort_by(
        "ts"
    )


def compare(requests: list[dict], log: pa.Table, max_history: int) -> None:
    twin = slow.group_requests(log, max_history)
    assert len(requests) == len(twin)
    for r in requests:
        want = twin[r["user_id"], r["request_id"]]
        assert r["ts"] == want["ts"]
        assert r["query"] == want["query"]
        assert r["history"] == want["history"]
        assert (
            dict(zip(r["rows"], zip(r["positions"], r["actions"], strict=True), strict=True))
            == want["items"]
        )
        known = [p for p in r["positions"] if p]
        assert r["positions"] == sorted(known) + [0] * (len(r["positions"]) - len(known))


def test_the_toy_log_groups_as_the_slow_twin_does(tmp_path: Path) -> None:
    log = toy.interactions().filter(pa.compute.not_equal(toy.interactions().column("row"), 63))
    requests, facts = group(tmp_path, toy.interactions())
    compare(requests, log, 20)
    assert facts.filtered_events == toy.interactions().num_rows - log.num_rows > 0
    assert [r["ts"] for r in requests] == sorted(r["ts"] for r in requests)
    assert {r["profile"] for r in requests if r["user_id"] == "user00"} == {"home: flat"}
    assert {r["profile"] for r in requests if r["user_id"] != "user00"} == {""}
    assert {(r["day"], r["split"]) for r in requests} == {(d, "train") for d in range(1, 7)} | {
        (7, "valid"),
        (8, "test"),
    }


def test_shards_change_nothing_but_the_order(tmp_path: Path) -> None:
    one, facts = group(tmp_path / "one", toy.interactions())
    many, sharded = group(tmp_path / "many", toy.interactions(), shard_events=500)
    assert (facts.shards, sharded.shards) == (1, 9)
    key = lambda r: (r["user_id"], r["request_id"])  # noqa: E731
    assert sorted(one, key=key) == sorted(many, key=key)
    assert (facts.requests, facts.repeated_events) == (sharded.requests, sharded.repeated_events)
    assert facts.filtered_events == sharded.filtered_events


events = st.lists(
    st.fixed_dictionaries(
        {
            "ts": st.integers(0, 12).map(lambda t: toy.FIRST_DAY + t),  # many ties
            "user_id": st.sampled_from(["", "u", "v"]),
            "request_id": st.sampled_from(["a", "b", "c", "d"]),
            "row": st.integers(0, 4),
            "position": st.integers(0, 3),
            "action": st.integers(0, 3),
        }
    ),
    min_size=1,
    max_size=25,
)


@settings(deadline=None, max_examples=25)
@given(events, st.integers(0, 3))
def test_any_log_groups_as_the_slow_twin_does(
    tmp_path_factory: pytest.TempPathFactory, log: list[dict], n: int
) -> None:
    table = log_of(log)
    requests, facts = group(
        tmp_path_factory.mktemp("log"), table, config={"split": {"max_history": n}}
    )
    compare(requests, table, n)
    distinct = {(e["user_id"], e["request_id"], e["row"], e["action"]) for e in log}
    assert facts.repeated_events == len(log) - len(distinct)


steps = st.tuples(
    st.sampled_from("uv"), st.sampled_from("st"), st.sampled_from("pq"), st.integers(0, 200)
)


@settings(deadline=None, max_examples=15)
@given(st.lists(steps, min_size=1, max_size=15))
def test_without_request_ids_a_silence_of_thirty_minutes_ends_a_request(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, str, str, int]]
) -> None:
    moments = [(u, s, q, toy.FIRST_DAY + m * MINUTE) for u, s, q, m in said]
    log = log_of(
        [
            {"user_id": u, "session_id": s, "query": q, "ts": t, "row": n}
            for n, (u, s, q, t) in enumerate(moments)
        ]
    )
    requests, _ = group(tmp_path_factory.mktemp("log"), log)
    assert {frozenset(r["rows"]) for r in requests} == {
        frozenset(g) for g in slow.sessions(moments)
    }
    assert len({r["request_id"] for r in requests}) == len(requests)


def test_anonymous_events_without_ids_stand_alone(tmp_path: Path) -> None:
    log = log_of(
        [{"user_id": "", "session_id": "", "row": n} for n in range(3)]
        + [{"row": 7}, {"row": 8, "request_id": "own"}]
    )
    requests, _ = group(tmp_path, log)
    assert sorted(r["rows"] for r in requests) == [[0], [1], [2], [7], [8]]
    assert all(r["history"] == [] for r in requests)


def test_history_is_strictly_before_and_never_of_the_request_itself(tmp_path: Path) -> None:
    log = log_of(
        [
            {"request_id": "a", "ts": toy.FIRST_DAY + 10, "row": 1, "action": 0},
            {"request_id": "a", "ts": toy.FIRST_DAY + 20, "row": 1, "action": 1},
            # ordered later: still one entry
            {"request_id": "a", "ts": toy.FIRST_DAY + 90, "row": 1, "action": 3},
            # begins in the very moment of a's click
            {"request_id": "b", "ts": toy.FIRST_DAY + 20, "row": 2},
            {"request_id": "c", "ts": toy.FIRST_DAY + 21, "row": 3},
            {"request_id": "d", "ts": toy.FIRST_DAY + 100, "row": 1},
        ]
    )
    requests, _ = group(tmp_path, log)
    histories = {r["request_id"]: r["history"] for r in requests}
    assert histories == {"a": [], "b": [], "c": [1, 2], "d": [1, 2, 3]}
    assert next(r for r in requests if r["request_id"] == "a")["actions"] == [3]


def test_unknown_positions_come_last_in_seeded_order(tmp_path: Path) -> None:
    log = log_of(
        [{"request_id": "a", "row": n, "position": 2 if n == 30 else 0} for n in range(40)]
    )
    orders = []
    for seed in (0, 0, 1):
        orders.append(group(tmp_path / str(len(orders)), log, config={"seed": seed})[0][0]["rows"])
    assert [order[0] for order in orders] == [30, 30, 30]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][1:] != sorted(orders[0][1:])


def test_leave_one_out_takes_the_last_two_engaged_requests(tmp_path: Path) -> None:
    def request(user: str, name: str, moment: int, action: int = 1) -> dict:
        return {"user_id": user, "request_id": name, "ts": toy.FIRST_DAY + moment, "action": action}

    log = log_of(
        [request("u", f"u{n}", 10 * n) for n in range(5)]
        + [request("u", "u-looked", 99, action=0), request("u", "u-between", 35, action=0)]
        + [request("u", "u-early", 25, action=0)]
        + [request("short", f"short{n}", n) for n in range(2)]
        + [request("", f"nobody{n}", n) for n in range(4)]
    )
    requests, _ = group(tmp_path, log, Split("leave_one_out", toy.FIRST_DAY))
    splits = {r["request_id"]: r["split"] for r in requests}
    assert {k for k, v in splits.items() if v == "test"} == {"u4"}
    assert {k for k, v in splits.items() if v == "valid"} == {"u3"}
    assert {k for k, v in splits.items() if v == "none"} == {"u-looked", "u-between"}


def test_held_out_queries_leave_training_only(tmp_path: Path) -> None:
    log = log_of(
        [
            {"request_id": f"r{d}", "ts": toy.FIRST_DAY + d * DAY_US, "query": "held"}
            for d in range(8)
        ]
    )
    requests, _ = group(tmp_path, log, held_out=("held",))
    assert [r["split"] for r in requests] == ["none"] * 6 + ["valid", "test"]


@pytest.mark.parametrize(
    ("days", "valid", "test", "resolved"),
    [
        (8, -2, -1, (7, 8)),
        (8, 5, 8, (5, 8)),
        (3, -2, -1, (2, 3)),
        (2, -2, -1, None),
        (8, 8, 7, None),
        (8, 7, 9, None),
        (8, 1, 2, None),
    ],
)
def test_days_resolve_or_say_what_they_want(
    days: int, valid: int, test: int, resolved: tuple[int, int] | None
) -> None:
    config = Config.model_validate({"split": {"valid_day": valid, "test_day": test}}).split
    facts = LogFacts(1, toy.FIRST_DAY, toy.FIRST_DAY + days * DAY_US - 1, {}, 0)
    if resolved is None:
        with pytest.raises(
            ValueError, match=rf"covers {days} day.*want 1 < valid < test <= {days}"
        ):
            resolve_split(config, facts)
    else:
        split = resolve_split(config, facts)
        assert (split.report()["valid_day"], split.report()["test_day"]) == resolved
