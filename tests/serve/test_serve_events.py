"""Events come back: kept once, on the disk when acknowledged, as a history, in files, or erased."""

import hashlib
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from shop import write_bundle, write_stages

from sidar import Retriever
from sidar.ab.assign import bucket
from sidar.config import Config, load_config
from sidar.config.serve import ExperimentConfig, KeyConfig, ServeConfig
from sidar.data.duck import Duck
from sidar.data.log import hashed_user, pseudonym
from sidar.serve import create_app
from sidar.serve.events import Chosen, EventLog, Shown, open_events

KEY = KeyConfig(name="w", sha256=hashlib.sha256(b"write").hexdigest(), role="write")
HEADERS = {"Authorization": "Bearer write"}
NOON = 1_795_867_200_000_000  # 2026-11-28 12:00 UTC


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Retriever.load(write_bundle(write_stages(tmp_path_factory.mktemp("run"))))


def config(folder, **more):
    kept = {"store": str(folder / "serve.db"), "answers_log": str(folder / "log"), "keys": [KEY]}
    return ServeConfig(**kept | more)


@pytest.fixture
def client(shop, tmp_path):
    with TestClient(create_app(shop, config=config(tmp_path)), headers=HEADERS) as client:
        yield client


def search(client, **more):
    return client.post("/v1/search", json={"query": "tent", "k": 3, **more}).json()


def event(n, answer, place=0, action="click", **more):
    hit = answer["hits"][place]["item_id"]
    named = {"event_id": f"e{n}", "request_id": answer["request_id"], "item_id": hit}
    return named | {"action": action, **more}


def send(client, *events):
    reply = client.post("/v1/events", json={"events": list(events)})
    assert reply.status_code == 200, reply.text
    return reply.json()


def day_log(folder):
    (file,) = (folder / "log").glob("events-*.parquet")
    return pq.read_table(file).to_pylist()


def test_an_event_is_kept_once_and_takes_the_rest_from_its_impression(client, tmp_path):
    answer = search(client, user_id="u1")
    assert answer["hits"][0]["channels"] == ["generative"]
    first = event(1, answer, 1, "cart", value=9.5)
    assert send(client, first, event(2, answer)) == {"accepted": 2, "repeated": 0}
    assert send(client, first | {"value": 1.0}) == {"accepted": 0, "repeated": 1}
    stranger = {"event_id": "e3", "request_id": "elsewhere", "item_id": "T203", "action": "order"}
    send(client, stranger | {"query": "hose", "position": 7, "user_id": "u2", "bucket": "b"})
    assert client.post("/v1/events/files").json()["files"][0].startswith("events-20")
    rows = day_log(tmp_path)
    shown = [row for row in rows if row["action"] == "impression"]
    assert [(row["item_id"], row["position"]) for row in shown] == [
        (hit["item_id"], hit["rank"]) for hit in answer["hits"]
    ]
    (cart,) = [row for row in rows if row["action"] == "cart"]
    assert cart["value"] == 9.5
    for name in ("query", "user_id", "request_id", "channels", "position"):
        assert cart[name] == shown[1][name]
    assert cart["query"] == "tent"
    assert cart["user_id"] == pseudonym("u1", "")
    (order,) = [row for row in rows if row["action"] == "order"]
    assert (order["query"], order["position"], order["bucket"]) == ("hose", 7, "b")
    assert order["channels"] == ""


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"action": "impression"}, "action: Input should be 'click', 'cart' or 'order'"),
        ({"event_id": ""}, "event_id: String should have at least 1 character"),
        ({"colour": 1}, "colour: Extra inputs are not permitted"),
        ({"ts": 4_000_000_000_000_000}, "is after tomorrow"),
        ({"ts": 5}, "ts: Input should be greater than or equal to"),
        ({"dwell_s": -1}, "dwell_s: Input should be greater than or equal to 0"),
        ({"position": 0}, "position: Input should be greater than or equal to 1"),
    ],
)
def test_a_wrong_event_is_refused_and_none_of_its_request_is_kept(client, wrong, words, tmp_path):
    good = {"event_id": "a", "request_id": "r", "item_id": "T203", "action": "click"}
    reply = client.post("/v1/events", json={"events": [good, good | {"event_id": "b"} | wrong]})
    assert reply.status_code == 422
    assert words in reply.json()["error"]
    assert client.post("/v1/events/files").json() == {"files": []}
    half = b'{"events": [{"event_id": "a\\ud800", "request_id": "r", "item_id": "x"'
    half += b', "action": "cart"}]}'
    reply = client.post("/v1/events", content=half, headers={"Content-Type": "application/json"})
    assert reply.status_code == 422
    many = [good | {"event_id": str(n)} for n in range(1001)]
    reply = client.post("/v1/events", json={"events": many})
    assert "1001 events are above this server's limit of 1,000" in reply.json()["error"]


def test_events_need_a_key_that_may_write_and_a_server_that_keeps_them(client, shop):
    for path, method in (("/v1/events", "POST"), ("/v1/users/u", "DELETE")):
        reply = client.request(method, path, headers={"Authorization": "Bearer guess"})
        assert reply.status_code == 401
    with TestClient(create_app(shop)) as plain:
        assert plain.post("/v1/events", json={"events": []}).status_code == 404
        answer = search(plain, user_id="u")
        assert (len(answer["request_id"]), answer["bucket"]) == (32, "")


def test_a_search_reads_the_history_of_its_user_until_that_is_erased(client, shop, tmp_path):
    answer = search(client, k=10)
    items = [hit["item_id"] for hit in answer["hits"]]
    assert search(client, user_id="u1")["hits"] == answer["hits"][:3]
    clicks = [event(n, answer, n, user_id="u1", ts=NOON + n) for n in (5, 2, 8)]
    clicks.append(event("again", answer, 2, user_id="u1", ts=NOON + 9))
    send(client, *clicks)
    scores = [hit["score"] for hit in search(client, user_id="u1")["hits"]]
    history = [items[n] for n in (5, 8, 2)]  # by their last event
    want = shop.search("tent", 3, history=history)
    assert scores == pytest.approx([hit.score for hit in want], abs=1e-5)
    told = search(client, user_id="u1", history=["T203"])["hits"]
    other = shop.search("tent", 3, history=["T203"])
    assert [hit["score"] for hit in told] == pytest.approx([hit.score for hit in other], abs=1e-5)

    client.post("/v1/events/files")
    kept = [row["user_id"] for row in day_log(tmp_path)]
    assert pseudonym("u1", "") in kept
    # three impressions of each of three searches, and four events
    assert client.delete("/v1/users/u1").json() == {"rows": 3 * 3 + 4}
    search(client, user_id="u2")
    assert pseudonym("u1", "") not in [row["user_id"] for row in day_log(tmp_path)]
    client.post("/v1/events/files")
    assert pseudonym("u2", "").encode() in (tmp_path / "serve.db-wal").read_bytes()
    for file in tmp_path.glob("serve.db*"):
        assert pseudonym("u1", "").encode() not in file.read_bytes()


def test_pseudonyms_are_those_of_the_logs_readers(tmp_path):
    cfg = Config.model_validate({"privacy": {"salt": "pepper's"}})
    with Duck(tmp_path, "64MB", 1) as duck:
        ((made,),) = duck.rows(f"SELECT {hashed_user(repr('Ann é'), cfg)}")
    assert made == pseudonym("Ann é", "pepper's")
    store = open_events(tmp_path / "s.db")
    assert EventLog(store, salt=None).user("Ann é") == "Ann é"
    assert EventLog(store, salt="pepper's").user("Ann é") == made
    assert EventLog(store).user(None) == ""


def test_buckets_are_drawn_as_ab_draws_them_and_choose_the_model(shop, tmp_path):
    shares = {"a": 1.0, "b": 1.0}
    experiment = ExperimentConfig(name="ranks", shares=shares, models={"b": "new"})
    app = create_app({"old": shop, "new": shop}, config=config(tmp_path, experiment=experiment))
    with TestClient(app, headers=HEADERS) as client:
        for user in map(str, range(8)):
            want = bucket(pseudonym(user, ""), "ranks", shares)
            answer = search(client, user_id=user)
            assert (answer["bucket"], answer["model"]) == (want, {"a": "old", "b": "new"}[want])
        assert search(client, user_id="0", model="old")["model"] == "old"
        assert (search(client)["bucket"], search(client)["model"]) == ("", "old")
    # the end of the server has written the day
    assert {row["bucket"] for row in day_log(tmp_path)} == {"a", "b", ""}


def test_an_experiment_and_a_log_are_whole_or_refused():
    for wrong, words in (
        ({"answers_log": "log"}, "answers_log needs a store"),
        ({"experiment": {"name": "x", "shares": {"a": 1}}}, "at least two shares"),
        (
            {"experiment": {"name": "x", "shares": {"a": 1, "b": 1}, "models": {"c": "m"}}},
            "the shares have no bucket 'c'",
        ),
        ({"keys": [KEY.model_dump(), KEY.model_dump()]}, "two keys are named 'w'"),
    ):
        with pytest.raises(ValueError, match=words):
            ServeConfig.model_validate(wrong)


def test_paths_of_the_store_are_relative_to_the_config(tmp_path):
    file = tmp_path / "sidar.yaml"
    file.write_text("serve: {store: s.db, answers_log: log}\n")
    cfg = load_config(file).serve
    assert (cfg.store, cfg.answers_log) == (str(tmp_path / "s.db"), str(tmp_path / "log"))


def test_a_file_that_is_no_store_is_refused_by_name(tmp_path):
    file = tmp_path / "note.txt"
    file.write_text("this is no database, only text that is long enough to be one of some kind")
    with pytest.raises(ValueError, match=r"note\.txt is no store of events"):
        open_events(file)


def test_a_day_that_changes_while_it_is_written_is_written_again(tmp_path):
    store = open_events(tmp_path / "s.db")
    chosen = Chosen("e1", "r", NOON, "T203", 1, user="u")
    assert store.choose([chosen]) == 1
    before = store.changed_days()
    store.choose([Chosen("e2", "r", NOON + 1, "T204", 1, user="u")])
    store.written(before)
    assert list(store.changed_days()) == list(before)
    log = EventLog(store, tmp_path / "log")
    assert [path.name for path in log.write_days()] == ["events-2026-11-28.parquet"]
    assert log.write_days() == []
    shown = Shown("r2", NOON, "", "", "q", "", "T203", 1, "bm25 dense")
    log.show([shown])
    assert len(log.write_days()) == 1
    assert {row["request_id"] for row in day_log(tmp_path)} == {"r", "r2"}


KILLED = """
import itertools, sys
from sidar.serve.events import Chosen, open_events
store = open_events(sys.argv[1])
for n in itertools.count():
    names = [f"{sys.argv[2]}-{n}-{part}" for part in "ab"]
    store.choose([Chosen(name, "r", 1795867200000000, "T1", 1) for name in names])
    print(n, flush=True)
"""


def test_a_kill_loses_nothing_that_was_acknowledged_and_keeps_no_half(tmp_path):
    file = tmp_path / "s.db"
    acknowledged = {}
    for life in range(2):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(file), str(life)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.05)
        writer.kill()
        rest = writer.stdout.read().split()
        writer.wait()
        writer.stdout.close()
        acknowledged[life] = int(rest[-1]) if rest else 0
    open_events(file).close()
    with closing(sqlite3.connect(file)) as kept_file:
        kept = [row[0] for row in kept_file.execute("SELECT event_id FROM chosen")]
    for life, last in acknowledged.items():
        for n in range(last + 1):
            assert f"{life}-{n}-a" in kept
    assert all(name[:-1] + "b" in kept for name in kept if name.endswith("a"))
    assert Path(file).exists()
