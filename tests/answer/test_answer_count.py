"""What is counted: requests.parquet against a slow loop, users, actions, positions, splits, and
days.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reference_answer as slow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidar.answer.count import count_memory, without_request
from sidar.answer.memory import ACTION_WEIGHT, Memory, MemoryFacts, key_check, query_key
from sidar.config import Config
from sidar.data import toy
from sidar.data.cleaning.clean import DAY_US
from sidar.data.cleaning.normalise import normalise_query
from sidar.data.day_log import write_day_requests
from sidar.data.duck import Duck
from sidar.data.training.propensity import Propensities

SECRET = b"secret"
# the first two are one query, the last has no normal form
QUERIES = ("Red mug", "red  MUG!", "blue mug", "?!")
SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("ts", pa.int64()),
        ("user_id", pa.string()),
        ("session_id", pa.string()),
        ("query", pa.string()),
        ("rows", pa.list_(pa.int32())),
        ("positions", pa.list_(pa.int32())),
        ("actions", pa.list_(pa.int8())),
        ("split", pa.string()),
    ]
)


def request(
    name, user="", session="", query="red mug", day=0, actions=None, positions=None, split="train"
):
    """``actions``: {row: action}."""
    actions = actions or {}
    rows = list(actions)
    return {
        "request_id": name,
        "ts": day * DAY_US + 5,
        "user_id": user,
        "session_id": session,
        "query": query,
        "rows": rows,
        "positions": [(positions or {}).get(row, 0) for row in rows],
        "actions": list(actions.values()),
        "split": split,
    }


def who(one):
    if one["user_id"]:
        return "user " + one["user_id"]
    return "session " + one["session_id"] if one["session_id"] else "request " + one["request_id"]


def as_slow(requests):
    return [
        (
            who(one),
            one["query"],
            one["ts"] // DAY_US,
            dict(zip(one["rows"], one["actions"], strict=True)),
        )
        for one in requests
        if normalise_query(one["query"])
    ]


@pytest.fixture(scope="module")
def duck(tmp_path_factory):
    with Duck(tmp_path_factory.mktemp("duck"), "256MB", 1) as duck:
        yield duck


def count(duck, requests, splits=("train",), **options):
    path = duck.new_file()
    pq.write_table(pa.Table.from_pylist(requests, schema=SCHEMA), path)
    return count_memory(duck, path, splits, SECRET, "l", **options), path


def counts_of(memory, half_life, queries=QUERIES):
    """{normal form: {row: count}} of what ``memory`` holds."""
    found = {}
    for query in queries:
        rows, counts = memory.counts(query, SECRET, half_life)
        if len(rows):
            found[normalise_query(query)] = dict(zip(rows.tolist(), counts.tolist(), strict=True))
    return found


def same(found, want):
    assert found.keys() == want.keys()
    for query, rows in want.items():
        assert found[query] == pytest.approx(rows)


ASKED = st.lists(
    st.tuples(
        st.sampled_from(["", "", "ann", "bob"]),
        st.sampled_from(["", "s1", "ann"]),  # a session that is called like a user is no user
        st.sampled_from(QUERIES),
        st.integers(0, 3),
        st.dictionaries(st.integers(0, 4), st.integers(0, 3), min_size=1, max_size=4),
    ),
    max_size=12,
)
PATIENT = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@PATIENT
@given(ASKED)
def test_counts_equal_a_slow_loop(duck, asked):
    requests = [request(f"r{n}", *one) for n, one in enumerate(asked)]
    memory, _ = count(duck, requests, last_day=3)
    for half_life in (1.5, 7.0):
        same(
            counts_of(memory, half_life),
            slow.memory_counts(as_slow(requests), normalise_query, half_life, 3),
        )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ann", "bob", ""]),
            st.integers(0, 5),
            st.integers(0, 2),
            st.integers(0, 4),
            st.sampled_from(["impression", "click", "cart", "order"]),
        ),
        min_size=1,
        max_size=25,
    ),
    st.integers(0, 10**6),
)
def test_a_raw_log_is_counted_as_a_slow_loop_over_its_events_does(tmp_path_factory, events, seed):
    """From the shop's own columns through the readers of the data stage; users are hashed and count
    all the same.
    """
    folder = tmp_path_factory.mktemp("raw")
    requests = {}
    log = []
    for user, number, day, row, action in events:
        name = f"{user}{day}-{number}"
        query = QUERIES[number % 3]
        ts = toy.FIRST_DAY + day * DAY_US + number * 1_000_000
        ids = toy.catalogue().item_ids
        log.append(
            {
                "ts": ts,
                "user_id": user,
                "request_id": name,
                "query": query,
                "item_id": ids[row],
                "action": action,
            }
        )
        chosen = requests.setdefault(
            name, (f"user {user}" if user else name, query, ts // DAY_US, {})
        )[3]
        code = ("impression", "click", "cart", "order").index(action)
        chosen[row] = max(chosen.get(row, 0), code)
    np.random.default_rng(seed).shuffle(log)
    pq.write_table(pa.Table.from_pylist(log), folder / "log.parquet")
    cfg = Config.model_validate({"threads": 1, "events": {"path": str(folder / "log.parquet")}})
    with Duck(folder / "work", "256MB", 1) as duck:
        facts, grouped, bad = write_day_requests(duck, cfg, toy.catalogue(), folder / "r.parquet")
        memory = count_memory(
            duck,
            folder / "r.parquet",
            ("train",),
            SECRET,
            "l",
            last_day=toy.FIRST_DAY // DAY_US + 2,
        )
    assert (facts.rows, grouped.requests, bad.bad, bad.unknown) == (
        len(events),
        len(requests),
        0,
        0,
    )
    want = slow.memory_counts(requests.values(), normalise_query, 3.0, toy.FIRST_DAY // DAY_US + 2)
    same(counts_of(memory, 3.0), want)


def test_the_highest_action_counts_once_a_user_query_item_and_day(duck):
    requests = [
        request("a", "ann", "s", "red mug", 0, {1: 1, 2: 3}),
        # the same user, query and day: 1 now counts as a cart
        request("b", "ann", "t", "Red MUG", 0, {1: 2, 2: 1}),
        request("c", "ann", "t", "red mug", 1, {1: 1}),  # another day counts again
        request("d", "", "s", "red mug", 0, {1: 1}),  # nobody known: the session
        request("e", "", "s", "red mug", 0, {1: 1}),  # the same session
        request("f", "", "", "red mug", 0, {1: 1}),  # nothing known: each request
        request("g", "", "", "red mug", 0, {1: 1}),
        request("h", "ann", "s", "red mug", 0, {3: 0}),  # only shown
        request("i", "ann", "s", "", 0, {1: 3}),  # no query
    ]
    memory, _ = count(duck, requests)
    assert counts_of(memory, np.inf) == {"red mug": {1: 2.0 + 1.0 + 1.0 + 2.0, 2: 4.0}}
    users = dict(zip(memory.rows.tolist(), memory.users.tolist(), strict=True))
    assert users == {1: 4, 2: 1}  # ann, the session, two requests
    assert memory.facts.last_day == 1


def test_choices_weigh_by_their_position_where_asked(duck):
    """By hand: p is 1 at position 1 and 1/4 at 3; position 2 was never shown and
    takes that of 1.
    """
    propensities = Propensities(
        np.array([1, 3]), np.array([100, 100]), np.array([40, 10]), np.array([1.0, 0.25])
    )
    requests = [
        request(
            "a",
            "ann",
            query="red mug",
            actions={0: 1, 1: 1, 2: 3, 3: 1, 4: 2},
            positions={0: 1, 1: 2, 2: 3, 3: 0},
        ),
        request("b", "bob", query="red mug", actions={0: 1}, positions={0: 900}),  # as the deepest
        # the larger of 2 and 1
        request("c", "ann", query="red mug", actions={0: 2}, positions={0: 1}),
    ]
    memory, _ = count(duck, requests, propensities=propensities)
    assert counts_of(memory, np.inf) == {"red mug": {0: 2.0 + 4.0, 1: 1.0, 2: 16.0, 3: 1.0, 4: 2.0}}
    assert memory.facts.debias == "ips"
    weights = np.array([2.0, 4.0, 1.0, 16.0, 1.0, 2.0])
    assert memory.facts.effective_n == pytest.approx(weights.sum() ** 2 / (weights**2).sum())


def test_pairs_of_few_users_are_left_out_and_only_the_splits_asked_for_count(duck):
    requests = [
        request("a", "ann", actions={1: 1, 2: 1}),
        request("b", "bob", day=2, actions={1: 1}),
        request("c", "cid", actions={2: 3}, split="none"),  # its query is held out
        request("d", "dan", actions={2: 3}, split="test"),
        request("e", "eva", actions={2: 1}, split="valid"),
    ]
    assert counts_of(count(duck, requests)[0], np.inf) == {"red mug": {1: 2.0, 2: 1.0}}
    assert counts_of(count(duck, requests, min_users=2)[0], np.inf) == {"red mug": {1: 2.0}}
    assert counts_of(count(duck, requests, ("train", "valid"), min_users=2)[0], np.inf) == {
        "red mug": {1: 2.0, 2: 2.0}
    }


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ASKED)
def test_what_one_request_adds_is_what_counting_without_it_lacks(duck, asked):
    requests = [request(f"r{n}", *one) for n, one in enumerate(asked)]
    _, path = count(duck, requests)
    names = [one["request_id"] for one in requests]
    taken = without_request(duck, path, ("train",), SECRET, names).to_pylist()

    def entries(left_out):
        """{(query, row, day): weight} by the slow loop."""
        found = {}
        for n, one in enumerate(requests):
            if n == left_out or not normalise_query(one["query"]):
                continue
            for row, action in zip(one["rows"], one["actions"], strict=True):
                key = (who(one), normalise_query(one["query"]), row, one["ts"] // DAY_US)
                found[key] = max(found.get(key, 0.0), ACTION_WEIGHT.get(action, 0.0))
        total = {}
        for (_, query, row, day), weight in found.items():
            total[query, row, day] = total.get((query, row, day), 0.0) + weight
        return total

    whole = entries(None)
    for n, name in enumerate(names):
        less = entries(n)
        want = {
            key: weight - less.get(key, 0.0)
            for key, weight in whole.items()
            if weight > less.get(key, 0.0)
        }
        mine = {
            (one["key"], one["row"], one["day"]): one["weight"]
            for one in taken
            if one["request_id"] == name
        }
        assert mine == {
            (query_key(query, SECRET), row, day): weight
            for (query, row, day), weight in want.items()
        }


ENTRIES = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(0, 4),
        st.integers(1, 9),
        st.integers(1, 4),
    ),
    unique_by=lambda entry: entry[:3],
    max_size=20,
)


def memory_of(entries, min_users=1, last_day=4, **facts):
    """``entries``: (key, row, day, weight, users)."""
    columns = list(zip(*entries, strict=True)) or [()] * 5
    table = pa.table(
        dict(zip(("key", "row", "day", "weight", "users"), map(pa.array, columns), strict=True))
    )
    table = table.cast(pa.schema([(name, pa.float64()) for name in table.column_names]))
    return Memory.of(table, MemoryFacts("l", last_day, key_check(SECRET), min_users, **facts))


def listed(memory):
    columns = (memory.keys, memory.rows, memory.days, memory.weights, memory.users)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@settings(max_examples=100, deadline=None)
@given(ENTRIES, ENTRIES, st.integers(1, 3), st.sets(st.integers(0, 4)))
def test_days_are_replaced_as_a_slow_loop_does_and_twice_changes_nothing(before, day, least, days):
    mine = memory_of(before, least)
    found = mine.with_days(memory_of(day), np.array(sorted(days), int))
    entries = [e for e in listed(mine) if e[2] not in days] + [
        e for e in listed(memory_of(day)) if e[2] in days
    ]
    users = {}
    for key, row, _, _, n in entries:
        users[key, row] = max(users.get((key, row), 0), n)
    assert listed(found) == sorted(e for e in entries if users[e[0], e[1]] >= least)
    assert listed(found.with_days(memory_of(day), np.array(sorted(days), int))) == listed(found)


def test_a_day_without_any_choice_is_replaced_by_nothing():
    mine = memory_of([(1, 1, 0, 1, 1), (1, 1, 1, 1, 1)])
    assert listed(mine.with_days(memory_of([]))) == listed(mine)
    assert listed(mine.with_days(memory_of([]), np.array([1]))) == [(1, 1, 0, 1.0, 1)]


def test_counts_of_other_weights_or_keys_do_not_mix():
    mine = memory_of([(1, 1, 0, 1, 1)])
    with pytest.raises(ValueError, match="debias is 'none' and 'ips'"):
        mine.with_days(memory_of([], debias="ips"))
    other = Memory.of(mine._table(), MemoryFacts("l", 4, key_check(b"other")))
    with pytest.raises(ValueError, match="key is"):
        mine.with_days(other)


@settings(max_examples=50, deadline=None)
@given(ENTRIES, st.integers(1, 4))
def test_an_export_keeps_pairs_of_enough_users_with_all_their_days(entries, least):
    users = {}
    for key, row, _, _, n in entries:
        users[key, row] = max(users.get((key, row), 0), n)
    whole = memory_of(entries)
    thin = whole.for_export(least)
    assert listed(thin) == [e for e in listed(whole) if users[e[0], e[1]] >= least]
    assert thin.n_pairs == sum(n >= least for n in users.values())
    assert thin.facts.min_users == least


@settings(max_examples=50, deadline=None)
@given(ENTRIES, st.lists(st.booleans(), min_size=4, max_size=4))
def test_rows_follow_a_new_numbering(entries, kept):
    new = np.where(kept, np.cumsum(kept) - 1, -1)
    found = memory_of(entries).with_rows(new, "m")
    assert listed(found) == sorted(
        (k, int(new[r]), d, w, u) for k, r, d, w, u in entries if kept[r]
    )
    assert found.facts.lineage == "m"
