"""Channel shares against a hand count, in the forms in which logs write them; interleaving."""

import json

import numpy as np
import pytest
from ab_logs import event, write_log
from hypothesis import given
from hypothesis import strategies as st

from sidar.ab.channels import channel_names
from sidar.ab.events import LogFile
from sidar.ab.interleave import preference, team_draft
from sidar.ab.run import Question, analyse
from sidar.ab.users import Design
from sidar.config import Config, load_config

#: ann and bob are in bucket a, cat is in b.
ROWS = [
    ("ann", "impression", "i1", ["bm25", "dense"]),
    ("ann", "impression", "i2", ["generative"]),
    ("ann", "impression", "i3", ["dense", "generative"]),
    ("ann", "impression", "i4", []),  # unknown
    ("ann", "click", "i1", None),  # its channels stand in the impression
    ("ann", "click", "i2", ["generative"]),
    ("bob", "impression", "i1", ["bm25"]),
    ("bob", "click", "i1", ["bm25"]),
    ("cat", "impression", "i2", ["generative", "bm25"]),
    ("cat", "click", "i2", None),
]


def log(**written):
    """The rows as events; an order comes from a request that showed nothing."""
    events = [
        event(user, action, item, second=at, channels=channels, bucket="ab"[user == "cat"])
        for at, (user, action, item, channels) in enumerate(ROWS)
    ]
    order = event("ann", "order", "i2", request="basket", second=99, channels=None, bucket="a")
    return [*events, order]


def analysed(folder, events, *options):
    path = write_log(folder / "log.parquet", events)
    return analyse(
        load_config(None, ["threads=1", *options]), [LogFile(str(path))], Design(), Question()
    )


def check(report):
    assert report.known == {"exposures": 5, "clicks": 4, "orders": 1}
    assert report.unknown == {"exposures": 1, "clicks": 0, "orders": 0}
    shares = {one.channel: one for one in report.channels}
    assert list(shares) == ["bm25", "dense", "generative"]
    bm25, dense, generative = shares.values()
    assert bm25.share == {"exposures": 3 / 5, "clicks": 3 / 4, "orders": 0}
    assert bm25.exclusive == {"exposures": 1 / 5, "clicks": 1 / 4, "orders": 0}
    assert dense.share == {"exposures": 2 / 5, "clicks": 1 / 4, "orders": 0}
    assert dense.exclusive == {"exposures": 0, "clicks": 0, "orders": 0}
    assert generative.share == {"exposures": 3 / 5, "clicks": 2 / 4, "orders": 1}
    assert generative.exclusive == {"exposures": 1 / 5, "clicks": 1 / 4, "orders": 1}


@pytest.mark.parametrize("written", ["lists", "json", "commas", "python", "mapped"])
def test_shares_equal_the_hand_count(tmp_path, written):
    events, options = log(), []
    for one in events:
        value = one["channels"]
        if written == "mapped":
            one["sources"] = one.pop("channels")
            options = ["events.columns.channels=sources"]
        elif value is not None and written != "lists":
            forms = {"json": json.dumps(value), "commas": ",".join(value), "python": str(value)}
            one["channels"] = forms[written]
    outcome = analysed(tmp_path, events, *options)
    check(outcome.channels[0])
    assert [report.group for report in outcome.channels] == ["all", "a", "b"]
    assert outcome.channels[2].known == {"exposures": 1, "clicks": 1, "orders": 0}
    assert np.isnan(outcome.channels[2].channels[0].share["orders"])


def test_a_log_without_channels_has_no_report(tmp_path):
    events = [{k: v for k, v in one.items() if k != "channels"} for one in log()]
    assert analysed(tmp_path, events).channels == []


def test_jsonl_and_ubi_logs_have_channels_and_buckets(tmp_path):
    lines = [json.dumps(one) for one in log()]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    source = LogFile(str(tmp_path / "log.jsonl"))
    check(analyse(Config(threads=1), [source], Design(), Question()).channels[0])
    with open(tmp_path / "ubi.ndjson", "w") as file:
        for one in log():
            attributes = {"object": {"object_id": one["item_id"]}, "bucket": one["bucket"]}
            if one["channels"] is not None:
                attributes["channels"] = one["channels"]
            names = {"order": "purchase"}
            record = {
                "action_name": names.get(one["action"], one["action"]),
                "query_id": one["request_id"],
                "user_id": one["user_id"],
                "timestamp": one["ts"] // 1000,
                "event_attributes": attributes,
            }
            file.write(json.dumps(record) + "\n")
    config = load_config(None, ["threads=1", "events.format=ubi"])
    source = LogFile(str(tmp_path / "ubi.ndjson"))
    check(analyse(config, [source], Design(), Question()).channels[0])


def test_a_column_that_is_no_list_of_channels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sidar.ab.channels.MOST_SETS", 3)
    with pytest.raises(ValueError, match="should list the few channels"):
        analysed(tmp_path, log())


def test_channel_names():
    assert channel_names('["bm25", "dense"]') == ["bm25", "dense"]
    assert channel_names("dense; bm25 |generative") == ["bm25", "dense", "generative"]
    assert channel_names("['dense' 'bm25']") == ["bm25", "dense"]
    assert channel_names("[]") == []


LISTS = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)


@given(LISTS, LISTS, st.text(max_size=5), st.integers(0, 10))
def test_team_draft(first, second, request_id, k):
    made = team_draft(first, second, request_id, k, names=("x", "y"))
    assert made == team_draft(first, second, request_id, k, names=("x", "y"))
    assert len(set(made.items)) == len(made.items) == min(k, len({*first, *second}))
    sides = {"x": first, "y": second}
    for at, (item, team) in enumerate(zip(made.items, made.teams, strict=True)):
        # each pick is the best of the team's list that was still there
        left = [other for other in sides[team] if other not in made.items[:at]]
        assert item == left[0]
        counts = [made.teams[:at].count(name) for name in ("x", "y")]
        mine, other = counts if team == "x" else counts[::-1]
        rest = sides["y" if team == "x" else "x"]
        assert mine <= other or not [i for i in rest if i not in made.items[:at]]
    assert made.channels() == [f"team:{team}" for team in made.teams]


def test_the_coins_are_fair_and_pinned():
    lists = (["a", "b", "c", "d"], ["e", "f", "g", "h"])
    made = [team_draft(*lists, f"r{i}", 4) for i in range(4000)]
    starts = sum(one.teams[0] == "a" for one in made)
    thirds = sum(one.teams[2] == "a" for one in made)
    assert abs(starts - 2000) < 110
    assert abs(thirds - 2000) < 110
    # lists that were served must not change with a new version
    assert ["".join(one.teams) for one in made[:6]] == [
        "baab",
        "baab",
        "baab",
        "abba",
        "abba",
        "baab",
    ]


def test_wins_and_ties_by_hand(tmp_path):
    """r1: a wins 2 : 1.  r2: tie.  r3: b wins.  r4: no click."""
    shown = {"r1": "aabb", "r2": "abab", "r3": "baab", "r4": "ab"}
    clicked = {"r1": [0, 1, 2], "r2": [0, 1], "r3": [0], "r4": []}
    events = []
    for request, teams in shown.items():
        for place, team in enumerate(teams):
            about = {"request": request, "second": place}
            channels = ["bm25", f"team:{team}"]
            user = f"user of {request}"
            events.append(event(user, "impression", f"i{place}", channels=channels, **about))
            if place in clicked[request]:
                events.append(event(user, "click", f"i{place}", channels=None, **about))
    outcome = analysed(tmp_path, events)
    clicks, orders = outcome.preferences
    assert clicks.teams == ("a", "b")
    assert (clicks.wins, clicks.ties, clicks.without) == ((1, 1), 1, 1)
    assert clicks.effect == 0
    assert clicks.p_sign == 1
    assert orders.without == 4
    assert outcome.rows == []  # no buckets are needed
    assert [one.channel for one in outcome.channels[0].channels] == ["bm25"]
    events[0]["channels"] = ["team:c"]
    with pytest.raises(ValueError, match=r"items of 3 team\(s\), a, b, c"):
        analysed(tmp_path, events)


def simulated(rng, users, requests, better, spread):
    """Credits (R, 2) of requests whose users differ in which team suits them."""
    leaning = np.repeat(rng.normal(better, spread, users), requests)
    first = rng.random(users * requests) < 0.5 - leaning
    return np.stack([first, ~first], axis=1).astype(int), np.repeat(np.arange(users), requests)


def test_preference_finds_a_planted_one_and_allows_for_users():
    rng = np.random.default_rng(3)
    credits, users = simulated(rng, 400, 5, better=0.05, spread=0.0)
    planted = preference(credits, users, ("a", "b"))
    assert planted.low < 0.1 < planted.high
    assert planted.p < 0.05
    assert "b is preferred" in planted.line()
    alarms = []
    for _ in range(200):
        credits, users = simulated(rng, 60, 20, better=0.0, spread=0.2)
        one = preference(credits, users, ("a", "b"), samples=50)
        alarms.append((one.p < 0.05, one.p_sign < 0.05))
    clustered, independent = np.mean(alarms, axis=0)
    assert clustered < 0.05 + 0.05
    assert independent > 0.15  # requests of one user are no independent requests


def test_preference_of_one_user_has_no_interval():
    one = preference(np.array([[1, 0], [0, 0]]), np.array(["u", "u"]), ("a", "b"))
    assert one.effect == -1
    assert np.isnan(one.low)
    assert "1 without clicks" in one.line()
