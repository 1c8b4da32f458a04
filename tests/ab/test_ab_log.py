"""From a log to users: definitions by hand and event by event, periods, buckets, bad input."""

import numpy as np
import pytest
from ab_logs import DAY, START, event, shop_log, slow_sums, write_log

from sidar.ab import buckets
from sidar.ab.events import LogFile, parse_file, read_events
from sidar.ab.metrics import COLUMNS, METRICS
from sidar.ab.run import Question, analyse
from sidar.ab.users import Design, read_users
from sidar.config import Config, load_config
from sidar.data.duck import Duck


def read(folder, events, design=None, config=None):
    """The users of a log, ``{user_id: number}`` beside them."""
    config = config or load_config(None, ["privacy.hash_users=false"])
    with Duck(folder / "work", threads=1) as duck:
        path = write_log(folder / "log.parquet", events)
        facts = read_events(duck, config, [LogFile(str(path))])
        log = read_users(duck, design or Design(), facts.first_ts, facts.last_ts)
        return log, dict(duck.rows("SELECT user_id, number FROM ab_users")), facts


def run(folder, events, design=None, **question):
    path = write_log(folder / "log.parquet", events)
    return analyse(
        Config(threads=1), [LogFile(str(path))], design or Design(), Question(**question)
    )


def test_the_definitions_by_hand(tmp_path):
    events = [
        # ann sees two items in two requests, one of them twice; clicks one, orders it from the
        # basket of a later request; 12 s on it
        event("ann", "impression", "i1", bucket="a"),
        event("ann", "impression", "i1", second=1, bucket="a"),
        event("ann", "impression", "i2", bucket="a"),
        event("ann", "impression", "i1", request="r2", second=9, bucket="a"),
        event("ann", "click", "i1", second=10, dwell_s=12.0),
        event("ann", "order", "i1", request="basket", second=99, value=30.0),
        # bob orders without a click, and clicks what no list showed him
        event("bob", "impression", "i1", bucket="b"),
        event("bob", "order", "i1", second=5, value=7.0, bucket="b"),
        event("bob", "click", "i9", second=6, bucket="b"),
        # cat only looks
        event("cat", "impression", "i3", bucket="b"),
    ]
    log, number, facts = read(tmp_path, events)
    sums = log.totals()
    by_user = {user: {c: sums[c][at] for c in COLUMNS} for user, at in number.items()}
    zero = dict.fromkeys(COLUMNS, 0.0)
    assert by_user["ann"] == zero | {
        "shown": 3, "clicks": 1, "orders": 1, "clicked_orders": 1, "gmv": 30, "dwell": 12
    }  # fmt: skip
    assert by_user["bob"] == zero | {"shown": 1, "orders": 1, "gmv": 7, "unseen_clicks": 1}
    assert by_user["cat"] == zero | {"shown": 1}
    assert log.names == ("a", "b")
    assert [log.bucket[number[user]] for user in ("ann", "bob", "cat")] == [0, 1, 1]
    values = {m.name: m.values(sums) for m in METRICS}
    b = log.bucket == 1
    assert values["UCVR"][0][b].mean() == 0.5
    assert values["UCTCVR"][0][b].mean() == 0
    x, w = values["CTR"]
    assert x[~b].sum() / w[~b].sum() == pytest.approx(1 / 3)
    assert facts.used == 10


def test_sums_are_those_of_a_loop_over_events(tmp_path):
    """Small ranges, so that requests, items and moments meet in every way."""
    rng = np.random.default_rng(0)
    users = [f"u{i}" for i in range(60)]
    # a first event fixes every user's bucket
    events = [event(u, "cart", "i0", bucket="xy"[i % 2], second=-1) for i, u in enumerate(users)]
    for user in users:
        for _ in range(rng.integers(0, 12)):
            action = rng.choice(["impression", "click", "cart", "order"])
            item, request = f"i{rng.integers(2)}", f"r{rng.integers(2)}"
            value = [None, 1.0, 2.5][rng.integers(3)]
            more = {"request": request, "second": int(rng.integers(7)), "value": value}
            events.append(event(user, str(action), item, dwell_s=value, bucket="", **more))
    log, number, _ = read(tmp_path, events)
    sums = log.totals()
    expected = slow_sums(events)
    assert sums["clicked_orders"].sum() > 5
    for user, at in number.items():
        assert {c: sums[c][at] for c in COLUMNS} == pytest.approx(expected[user]), user


def test_days_and_the_pre_period(tmp_path):
    events = [
        event("ann", "impression", day=-2),
        event("ann", "order", day=-2, second=5, value=3.0),
        event("ann", "impression", request="r2", bucket="a"),
        event("ann", "order", request="r2", day=1, second=5, value=4.0),
        event("bob", "impression", day=1, bucket="b"),
        event("late", "impression", day=5, bucket="b"),
    ]
    design = Design(start=START, end=START + 3 * DAY)
    log, number, _ = read(tmp_path, events, design)
    assert set(number) == {"ann", "bob"}
    assert log.n_days == 3
    assert log.totals()["gmv"][number["ann"]] == 4
    assert log.before["gmv"][number["ann"]] == 3
    assert log.before["seen"].tolist() == [1.0, 0.0]
    assert log.joined[number["bob"]] == 1
    assert sorted(zip(log.days.day.tolist(), log.days.user.tolist(), strict=True)) == [
        (0, number["ann"]), (1, number["ann"]), (1, number["bob"])
    ]  # fmt: skip


def test_a_user_counts_from_the_first_bucket_on(tmp_path):
    events = [
        event("ann", "impression", "i0", request="r0"),  # before she enters
        event("ann", "impression", second=10, bucket="a"),
        event("ann", "impression", "i2", second=20),
        event("bob", "impression", bucket="b"),
    ]
    log, number, _ = read(tmp_path, events)
    assert log.totals()["shown"][number["ann"]] == 2


def test_requests_without_ids_are_sessions_and_queries(tmp_path):
    rows = [
        ("ann", "impression", "s1", "shoes"),
        ("ann", "impression", "s1", "shoes"),
        ("ann", "impression", "s1", "socks"),
        ("ann", "impression", "s2", "shoes"),
        ("bob", "impression", "s3", "shoes"),
    ]
    events = [
        event(user, action, request=None, second=i, session_id=session, query=query)
        | {"bucket": user}
        for i, (user, action, session, query) in enumerate(rows)
    ]
    log, number, _ = read(tmp_path, events)
    assert log.totals()["shown"][number["ann"]] == 3


def users(n, bucket, **more):
    return [
        event(f"{bucket}{i}", action, bucket=bucket, second=at, **more)
        for i in range(n)
        for at, action in enumerate(("impression", "click", "order"))
    ]


def test_users_in_two_buckets(tmp_path):
    events = [*users(10, "a"), *users(10, "b"), event("a0", "impression", "i2", bucket="b", day=1)]
    assert run(tmp_path, events).crossed == 1
    dropped, number, _ = read(tmp_path, events)
    assert len(dropped.bucket) == 19
    assert "a0" not in number
    kept, number, _ = read(tmp_path, events, Design(crossing="first"))
    assert kept.bucket[number["a0"]] == 0
    with pytest.raises(ValueError, match=r"1 of 20 users \(5.0%\) are in several buckets; leave"):
        read(tmp_path, events, Design(crossing="error"))
    warned = [w for w in run(tmp_path, events).warnings if "several buckets" in w]
    assert len(warned) == 1
    both = [event(f"u{i}", "click", bucket=b, second=i) for i in range(5) for b in "ab"]
    with pytest.raises(ValueError, match="drawn by request, not by user"):
        read(tmp_path, both)


@pytest.mark.parametrize(
    ("events", "design", "message"),
    [
        (users(3, "a"), Design(), "all 3 users are in one bucket, 'a'.*--plan"),
        (users(3, ""), Design(), "names a bucket; map your column with events.columns.bucket"),
        (users(3, "a"), Design(names=("x", "y")), "its buckets are a"),
        (
            [*users(3, "a"), *users(3, "b")],
            Design(names=("a", "c")),
            "'c' has no users; the log has a, b",
        ),
        ([*users(3, "a"), *users(3, "b")], Design(control="c"), "no such bucket; want a, b"),
        (users(3, "a"), Design(start=START + 9 * DAY), "check --from and --to"),
        ([event("", "click", bucket="a")], Design(), "no event has a user_id.*events.columns"),
        (
            [event("u", "impression", bucket="a"), event("v", "impression", bucket="b")],
            Design(),
            "no clicks on shown items, no orders and no dwell times; map",
        ),
        (
            [*users(3, "a"), *users(3, "b")],
            Design(shares={"a": 1, "c": 1}, names=("a", "b")),
            None,
        ),
        ([*users(3, "a"), *users(3, "b"), *users(3, "c")], Design(shares={"a": 1, "b": 1}), "name"),
        (
            [*users(3, "a"), *users(3, "b")],
            Design(shares=dict.fromkeys("abc", 1)),
            "'c' has no user",
        ),
    ],
)
def test_bad_input_names_the_next_step(tmp_path, events, design, message):
    if message is None:
        assert run(tmp_path, events, design).ratio.p == 1
        return
    with pytest.raises(ValueError, match=message):
        run(tmp_path, events, design)


def test_a_log_with_no_usable_row(tmp_path):
    with pytest.raises(ValueError, match=r"look \(3\). Map them with events.actions"):
        run(tmp_path, [event("u", "look", bucket="a", second=i) for i in range(3)])


def test_missing_columns_and_actions_leave_metrics_out_and_say_so(tmp_path):
    events = [*users(30, "a"), *users(30, "b")]
    outcome = run(tmp_path, [one for one in events if one["action"] != "order"])
    assert [row.metric for row in outcome.rows] == ["CTR"]
    notes = "\n".join(outcome.notes)
    assert "UCVR is left out: the experiment has no order; map yours with events.actions" in notes
    assert "dwell is left out: no event has a dwell time" in notes
    outcome = run(tmp_path, [one for one in events if one["action"] != "click"])
    assert [row.metric for row in outcome.rows] == ["UCVR"]
    assert "UCTCVR is left out: no user ordered an item after a click on it" in outcome.notes
    assert "CTR is left out: no shown item was clicked" in "\n".join(outcome.notes)
    write_log(tmp_path / "x.parquet", [{"ts": 1, "user_id": "u", "action": "click"}])
    with pytest.raises(ValueError, match=r"events.columns.*item_id"):
        analyse(Config(), [LogFile(str(tmp_path / "x.parquet"))], Design(), Question())


def test_a_control_that_nobody_named_is_said(tmp_path):
    events = [*users(30, "new"), *users(30, "old")]
    said = "new is the control because its name comes first; --control names another"
    assert said in run(tmp_path, events).notes
    named = run(tmp_path, events, Design(control="old"))
    assert (named.names[0], said in named.notes) == ("old", False)


def test_few_users_and_lost_clicks_are_warned_of(tmp_path):
    events = [*users(30, "a"), *users(30, "b", value=3.0)]
    events += [event(f"a{i}", "click", "i7", bucket="a") for i in range(30)]
    warned = "\n".join(run(tmp_path, events).warnings)
    assert "fewer than 100 users in a, b" in warned
    outcome = run(tmp_path, [*events, event("a1", "look", bucket="a")])
    assert outcome.events["ignored"] == {"look": 1}
    assert "1 rows have actions that nothing maps and are left out: look (1)" in outcome.warnings[0]
    assert "33% of the clicks have no impression" in warned
    assert "30 order events of 60 orders have no value" in warned
    outcome = run(tmp_path, [*users(5, "a"), *users(5, "b")])
    assert "fewer than 25 users with any of UCVR, UCTCVR, CTR" in "\n".join(outcome.warnings)
    assert [row.p_any_time for row in outcome.rows] == [1, 1, 1]


def test_one_log_per_bucket(tmp_path):
    halves = {}
    for name in "ab":
        events = users(40, name)
        for one in events:
            del one["bucket"]
        halves[name] = str(write_log(tmp_path / f"{name}.parquet", events))
    sources = [LogFile(path, name) for name, path in halves.items()]
    outcome = analyse(Config(threads=1), sources, Design(), Question())
    assert outcome.ratio.users == {"a": 40, "b": 40}
    assert parse_file(f"a={halves['a']}") == LogFile(halves["a"], "a")
    odd = tmp_path / "day=1"
    odd.mkdir()
    assert parse_file(str(odd)) == LogFile(str(odd))
    assert parse_file("logs/day=*/x.parquet") == LogFile("logs/day=*/x.parquet")


def test_hash_buckets_are_checked_or_drawn(tmp_path):
    names = [f"u{i}" for i in range(60)]
    drawn = buckets(names, "x", {"a": 1, "b": 1})
    design = Design(experiment="x", shares={"a": 1, "b": 1})
    acts = ("impression", "click", "order")
    without = [event(user, act, second=i) for user in names for i, act in enumerate(acts)]
    logged = [one | {"bucket": drawn[names.index(one["user_id"])]} for one in without]
    checked = run(tmp_path, logged, design)  # users are hashed on reading otherwise
    assert (checked.agreement.users, checked.agreement.differing) == (60, 0)
    assert run(
        tmp_path, logged, Design(experiment="y", shares={"a": 1, "b": 1})
    ).agreement.differing
    seated = run(tmp_path, without, design)
    assert seated.agreement is None
    assert seated.ratio.users == {name: drawn.count(name) for name in "ab"}
    assert repr(seated.rows) == repr(checked.rows)


def test_several_treatments_and_holm(tmp_path):
    events = [*users(30, "a"), *users(40, "b"), *users(50, "c")]
    events = [e for e in events if e["action"] != "order" or int(e["user_id"][1:]) % 2]
    outcome = run(tmp_path, events, Design(control="b"))
    assert outcome.names == ("b", "a", "c")
    assert [(r.metric, r.treatment) for r in outcome.rows[:3]] == [
        ("UCVR", "a"), ("UCTCVR", "a"), ("CTR", "a")
    ]  # fmt: skip
    assert outcome.rows[0].users == 70
    for row in outcome.rows:
        if np.isfinite(row.effect.p):
            assert row.p_holm >= row.effect.p


def test_a_planted_lift_is_found_and_its_users_counted(tmp_path):
    path = shop_log(tmp_path / "log.parquet", lift=0.5, before=3)
    design = Design(start=START)
    outcome = analyse(Config(threads=1), [LogFile(str(path))], design, Question(lift=0.0034))
    rows = {row.metric: row for row in outcome.rows}
    assert list(rows) == ["UCVR", "UCTCVR", "CTR", "GMV", "dwell"]
    ctr = rows["CTR"]
    assert ctr.effect.relative_low < 0.5 < ctr.effect.relative_high
    assert ctr.verdict(0.05) == "higher"
    assert ctr.p_any_time < 0.05
    assert ctr.effect.variance_saved > 0.1
    assert len(ctr.looks["p"]) == 4
    assert ctr.any_time[0] < ctr.effect.relative_low
    sentence = next(s for s in outcome.sentences() if s.startswith("CTR in b: +"))
    assert "higher than in a" in sentence
    none = LogFile(str(shop_log(tmp_path / "none.parquet", users=200)))
    small = analyse(Config(threads=1), [none], Design(), Question(lift=0.0034))
    ucvr = next(row for row in small.rows if row.metric == "UCVR")
    assert ucvr.needed > 200
    assert "To see +0.34 % with 80% power takes" in small.sentences()[0]


def test_a_plan_needs_no_buckets(tmp_path):
    path = shop_log(tmp_path / "log.parquet", a="", b="")
    outcome = analyse(Config(threads=1), [LogFile(str(path))], Design(), Question(0.05), plan=True)
    need = {need.metric: need for need in outcome.needs}["UCVR"]
    sd = np.sqrt(need.value * (1 - need.value))
    assert need.sd == pytest.approx(sd, rel=0.01)
    assert need.users == pytest.approx(4 * 7.849 * (sd / (0.05 * need.value)) ** 2, rel=0.02)


@pytest.mark.parametrize(
    ("question", "message"), [({"lift": 0.0}, "--lift 0"), ({"alpha": 1.5}, "between 0 and 1")]
)
def test_questions_that_are_none(question, message):
    with pytest.raises(ValueError, match=message):
        Question(**question)
