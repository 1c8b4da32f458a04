"""The stores of a service over a file of SQLite and over a PostgreSQL server: one behaviour."""

import hashlib
import itertools
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import postgres
import pytest
from fastapi.testclient import TestClient

from sidar.config import load_config
from sidar.config.serve import KeyConfig, ServeConfig
from sidar.data.log import pseudonym
from sidar.serve import create_app
from sidar.serve.database import StoreUnreachableError
from sidar.serve.database.backup import copy_store
from sidar.serve.events import Chosen, EventLog, Shown, open_events
from sidar.serve.live import BehindError, ItemState, open_items
from sidar.serve.live.encode import ItemEncoder
from sidar.serve.live.searcher import LiveSearcher

NOON = 1_795_867_200_000_000  # 2026-11-28 12:00 UTC
DAY = 20_785
NAMES = itertools.count()
KEY = KeyConfig(name="w", sha256=hashlib.sha256(b"write").hexdigest(), role="write")
HEADERS = {"Authorization": "Bearer write"}


@pytest.fixture(scope="module")
def server():
    with postgres.running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    """What ``serve.store`` says: a file, or the URL of an empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "serve.db")
    server = request.getfixturevalue("server")
    return new_database(server)


def new_database(server):
    import psycopg

    name = f"shop{next(NAMES)}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.url(name)


@pytest.fixture
def opened():
    """Opens stores and closes them in the end."""
    all_of_them = []

    def open_(opener, store):
        all_of_them.append(opener(store))
        return all_of_them[-1]

    yield open_
    for one in all_of_them:
        one.close()


def state(n, **more):
    of_n = {"fields": {"item_id": f"i{n}", "price": float(n)}, "encoded": True, "codes": (n, 1)}
    return ItemState(f"i{n}", **of_n | {"vector": np.full(4, n, np.float32)} | more)


class TestItems:
    def test_states_come_back_as_they_were_in_the_order_of_their_first_change(self, store, opened):
        items = opened(open_items, store)
        assert items.read("b") == ([], 0)
        assert items.write([state(2), state(1)], "b", 0) == 2
        patched = state(2, fields={"item_id": "i2", "price": 9.5, "title": "Ä \x00 \U0001f600"})
        assert items.write([patched, state(3, alive=False, codes=None, vector=None)], "b", 2) == 4
        states, version = opened(open_items, store).read("b")
        assert version == items.version() == 4
        assert [one.item_id for one in states] == ["i2", "i1", "i3"]
        assert [one.alive for one in states] == [True, True, False]
        assert states[0].fields == patched.fields
        assert states[0].codes == (2, 1)
        np.testing.assert_array_equal(states[0].vector, np.full(4, 2, np.float32))
        assert (states[2].codes, states[2].vector) == (None, None)
        # another bundle must encode anew; and what was changed later is read alone
        assert [one.codes for one in items.read("other")[0]] == [None] * 3
        assert [one.item_id for one in items.read("b", since=2)[0]] == ["i2", "i3"]

    def test_who_has_not_seen_all_changes_writes_none(self, store, opened):
        one, two = opened(open_items, store), opened(open_items, store)
        one.write([state(1)], "b", 0)
        with pytest.raises(BehindError):
            two.write([state(2)], "b", 0)
        assert two.version() == 1
        assert two.write([state(2)], "b", 1) == 2

    def test_two_writers_at_a_time_get_numbers_of_their_own(self, store, opened):
        numbers = []

        def write(who):
            items = open_items(store)
            for n in range(15):
                while True:
                    try:
                        numbers.append(items.write([state(100 * who + n)], "b", items.version()))
                        break
                    except BehindError:
                        continue
            items.close()

        threads = [threading.Thread(target=write, args=(who,)) for who in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(numbers) == list(range(1, 31))
        assert len(opened(open_items, store).read("b")[0]) == 30


def chosen(n, **more):
    return Chosen(f"e{n}", "r", NOON + n, f"i{n}", 1, **{"user": "u", **more})


class TestEvents:
    def test_an_event_counts_once_and_takes_the_rest_from_its_impression(self, store, opened):
        one, two = opened(open_events, store), opened(open_events, store)
        shown = Shown("r", NOON, "u", "s", "hose", "b", "i1", 3, "bm25 dense")
        one.show([shown, shown])
        two.show([shown])
        event = chosen(1, user=None, value=1.5)
        assert one.choose([event, chosen(2)]) == 2
        assert two.choose([event, chosen(3)]) == 1
        assert one.choose([]) == 0
        first, second, *rest = two.day(DAY)
        impression = ("u", "s", "r", "hose", "i1", 3)
        assert first == (NOON, *impression, 0, None, None, "b", "bm25 dense")
        assert second == (NOON + 1, *impression, 1, 1.5, None, "b", "bm25 dense")
        assert len(rest) == 2
        assert one.day(DAY - 1) == []

    def test_history_erasure_and_days_that_changed(self, store, opened):
        events = opened(open_events, store)
        events.choose([chosen(1), chosen(2), chosen(3)])
        events.choose([Chosen("again", "r", NOON + 9, "i1", 1, user="u")])
        events.choose([chosen(5, user="other"), chosen(6, user=None)])
        assert events.history("u", 2) == ["i3", "i1"]
        assert events.history("", 5) == []
        before = events.changed_days()
        assert before == {DAY: 3}
        events.choose([chosen(7, user="other")])
        events.written(before)
        assert events.changed_days() == {DAY: 4}
        events.written({DAY: 4})
        assert events.changed_days() == {}
        assert events.erase("u") == 4
        assert events.erase("u") == 0
        assert events.history("u", 5) == []
        assert {row[1] for row in events.day(DAY)} == {"other", ""}
        assert list(events.changed_days()) == [DAY]

    def test_text_of_any_kind_is_kept(self, store, opened):
        events = opened(open_events, store)
        strange = "Ä % ? \U0001f600 'quote' \\ %s {x}"
        events.choose([chosen(1, query=strange), chosen(2, query="a\x00b")])
        queries = [row[4] for row in events.day(DAY)]
        assert queries[0] == strange
        assert queries[1] in ("a\x00b", "a\ufffdb")


KILLED = """
import itertools, sys
from sidar.serve.events import Chosen, open_events
store = open_events(sys.argv[1])
for n in itertools.count():
    names = [f"{n}-{part}" for part in "ab"]
    store.choose([Chosen(name, "r", 1795867200000000, "T1", 1) for name in names])
    print(n, flush=True)
"""


def test_a_kill_loses_nothing_that_was_acknowledged_and_keeps_no_half(server, opened):
    url = new_database(server)
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE, text=True
    )
    writer.stdout.readline()
    time.sleep(0.05)
    writer.kill()
    last = int([0, *writer.stdout.read().split()][-1])
    writer.wait()
    writer.stdout.close()
    events = opened(open_events, url)
    kept = len(events.day(DAY))
    assert kept >= 2 * (last + 1)
    assert kept % 2 == 0


def test_a_server_that_was_started_again_is_used_again(server, opened, tmp_path, monkeypatch):
    monkeypatch.setattr("sidar.serve.events.log.MOST_KEPT", 2050)
    url = new_database(server)
    events = opened(open_events, url)
    events.choose([chosen(1)])
    server.stop()
    try:
        with pytest.raises(StoreUnreachableError):
            events.history("u", 5)
        log = EventLog(events, tmp_path / "log")
        assert log.history("u", 5) == ()
        many = [Shown(str(n), NOON, "u", "", "q", "", "i1", 1, "bm25") for n in range(2100)]
        log.show(many)
        assert len(log._waiting) == 2050  # the newest
        with pytest.raises(ValueError, match=r"serve\.store is no store of items: "):
            open_items(url)
    finally:
        server.start()
    assert events.choose([chosen(1), chosen(2)]) == 1
    assert events.history("u", 5) == ["i1", "i2"]
    log.flush()
    assert len(events.day(DAY)) == 2 + 2050


def test_a_store_is_copied_as_it_is_at_one_moment(store, server, opened, tmp_path):
    items, events = opened(open_items, store), opened(open_events, store)
    items.write([state(2), state(1)], "b", 0)
    items.write([state(2, alive=False)], "b", 2)
    events.show([Shown("r", NOON, "u", "s", "hose", "b", "i1", 3, "bm25 dense")])
    events.choose([chosen(1), chosen(2)])
    snapshot = tmp_path / "snapshot.db"
    want = {"items": 2, "shown": 1, "chosen": 2, "changed": 1}
    assert copy_store(store, snapshot) == want
    items.write([state(3)], "b", 3)  # later, so no part of it
    back = new_database(server)
    assert copy_store(snapshot, back) == want
    again, theirs = opened(open_items, back), opened(open_events, back)
    states, version = again.read("b")
    assert (version, [(one.item_id, one.alive) for one in states]) == (
        3,
        [("i2", False), ("i1", True)],
    )
    assert states[1].codes == (1, 1)
    assert [one.item_id for one in again.read("b", since=2)[0]] == ["i2"]
    assert theirs.day(DAY) == events.day(DAY)
    assert theirs.history("u", 5) == ["i1", "i2"]
    assert again.write([state(4)], "b", 3) == 4
    with pytest.raises(ValueError, match=r"holds items already; copy into an empty store"):
        copy_store(snapshot, back)
    with pytest.raises(ValueError, match=r"nothing\.db does not exist"):
        copy_store(tmp_path / "nothing.db", back)


def test_a_file_of_an_earlier_version_is_taken_over(tmp_path, opened):
    file = tmp_path / "old.db"
    with sqlite3.connect(file) as old:
        old.executescript("""
            CREATE TABLE items (
                place INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL UNIQUE,
                fields TEXT NOT NULL, alive INTEGER NOT NULL, encoded INTEGER NOT NULL, codes TEXT,
                vector BLOB, bundle TEXT NOT NULL);
            CREATE TABLE version (changes INTEGER NOT NULL);
            INSERT INTO version VALUES (5);
            INSERT INTO items (item_id, fields, alive, encoded, bundle)
                VALUES ('a', '{"item_id": "a"}', 1, 0, 'b'), ('c', '{"item_id": "c"}', 0, 0, 'b');
        """)
    old.close()
    items = opened(open_items, file)
    assert [one.item_id for one in items.read("b")[0]] == ["a", "c"]
    assert items.write([state(1)], "b", 5) == 6
    assert [one.item_id for one in items.read("b", since=5)[0]] == ["i1"]


def test_the_url_of_a_server_is_no_path(tmp_path):
    file = tmp_path / "sidar.yaml"
    file.write_text("serve: {store: 'postgresql://shop@db/sidar'}\n")
    assert load_config(file).serve.store == "postgresql://shop@db/sidar"


@pytest.fixture(scope="module")
def encoder(shop, served):
    return ItemEncoder.open(shop / "runs/shop/bundle", served.vectors.embedder)


LAMP = {"item_id": "NEW1", "title": "Zephyrine Brass Reading Lamp", "price": 49.5}


def test_what_one_replica_is_told_the_other_answers(
    store, opened, served, encoder, tmp_path, monkeypatch
):
    monkeypatch.setattr("sidar.serve.http.items.FOLLOW_SECONDS", 0.05)
    config = ServeConfig(keys=[KEY], store=store, answers_log=str(tmp_path / "log"))
    items = opened(open_items, store), opened(open_items, store)
    apps = [create_app(LiveSearcher(served, one, encoder), config=config) for one in items]
    with TestClient(apps[0], headers=HEADERS) as one, TestClient(apps[1], headers=HEADERS) as two:

        def first(client):
            answer = client.post("/v1/search", json={"query": LAMP["title"], "k": 2}).json()
            return answer["hits"][0]["item_id"], answer["catalogue_version"]

        assert one.put("/v1/items", json={"items": [LAMP]}).json()["catalogue_version"] == 1
        assert first(one) == ("NEW1", 1)
        until = time.monotonic() + 5
        while first(two) != ("NEW1", 1):
            assert time.monotonic() < until
            time.sleep(0.01)
        # a change at the other is made of what the first one wrote, seen or not
        one.patch("/v1/items", json={"items": [{"item_id": "NEW1", "price": 5.0}]})
        patched = two.patch("/v1/items", json={"items": [{"item_id": "NEW1", "in_stock": False}]})
        assert patched.json()["catalogue_version"] == 3
        found = {"query": LAMP["title"], "k": 1, "filter": "price = 5 AND in_stock = false"}
        assert two.post("/v1/search", json=found).json()["hits"][0]["item_id"] == "NEW1"
        event = {"event_id": "e1", "request_id": "r", "item_id": "NEW1", "action": "click"}
        event["user_id"] = "u1"
        for client, new in ((one, 1), (two, 0)):
            reply = client.post("/v1/events", json={"events": [event]}).json()
            assert reply == {"accepted": new, "repeated": 1 - new}
        log = EventLog(open_events(store), salt="")
        assert log.history("u1", 5) == ("NEW1",)
        assert two.delete("/v1/users/u1").json()["rows"] == 1
        assert log.history("u1", 5) == ()
        assert pseudonym("u1", "") != "u1"
        log.close()
