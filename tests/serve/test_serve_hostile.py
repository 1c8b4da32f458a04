"""What comes from outside: nonsense in every field of every route, and the end of the process."""

import hashlib
import json
import random
import signal
import threading
import time

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from shop import write_bundle, write_stages

from sidar.config.serve import KeyConfig, ServeConfig
from sidar.serve import create_app
from sidar.serve.engine.copies import load_copies
from sidar.serve.events import EventLog, open_events
from sidar.serve.info import BundleInfo
from sidar.serve.live import open_items
from sidar.serve.plan import Defaults
from sidar.serve.results import SearchAnswer

ADMIN = KeyConfig(name="a", sha256=hashlib.sha256(b"admin").hexdigest(), role="admin")
NONSENSE = [
    *(None, True, -1, 0, 10**30, -(10**400), 1.5e308, 1e-320, "", " ", "\x00", "\ud800", "<s1_12>"),
    *("../../etc/passwd", "'; drop table shown; --", "x" * 5000, "毛巾" * 300, "％＜s1_1＞"),
    *([], [None], [[[[]]]], ["a"] * 3000, {}, {"a": {"b": {}}}, {"$gt": ""}, [1, "a", None]),
    *("2026-11-28T00:00:00Z", "NaN", "1e5", "false"),
]
FIELDS = {
    "/v1/search": "query k history profile user_id beam exact rerank fuse explain timeout_ms fields"
    " model filter unknown",
    "/v1/events": "event_id request_id item_id action ts user_id session_id query position value"
    " dwell_s bucket unknown",
    "/v1/items": "item_id title text category brand price image_url in_stock created attributes"
    " unknown",
}
GOOD = {
    "/v1/search": {"query": "tent", "k": 2},
    "/v1/events": {"event_id": "e", "request_id": "r", "item_id": "T203", "action": "click"},
    "/v1/items": {"item_id": "N1", "title": "a new item"},
}


class Fake:
    """Answers at once; what is tested is what comes before it."""

    info = BundleInfo(
        "h", 3, (2, 2), (), 0, Defaults("sft", 4, False, None, False, "none", False, 3)
    )

    def answer(self, requests):
        return [SearchAnswer(request.query, [], 4, {}) for request in requests]

    def put(self, items):
        return len(items)

    def patch(self, changes):
        return len(changes)

    retire = put

    def catch_up(self):
        pass


@pytest.fixture
def client(tmp_path):
    config = ServeConfig(
        store=str(tmp_path / "s.db"), answers_log=str(tmp_path / "log"), keys=[ADMIN]
    )
    headers = {"Authorization": "Bearer admin"}
    with TestClient(create_app(Fake(), config=config), headers=headers) as client:
        yield client


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(write_stages(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def shop(bundle):
    return load_copies(bundle)[0]


def wrapped(path, body):
    if path == "/v1/search":
        return [("POST", path, body), ("POST", "/v1/search/batch", {"requests": [body, body]})]
    if path == "/v1/events":
        return [("POST", path, {"events": [body]})]
    return [("PUT", path, {"items": [body]}), ("PATCH", path, {"items": [body]})]


def test_nonsense_in_every_field_is_refused_in_words_and_never_our_fault(client):
    rng = random.Random(0)
    seen = set()
    for path, names in FIELDS.items():
        for name in names.split():
            for value in rng.sample(NONSENSE, 8):
                for method, route, body in wrapped(path, GOOD[path] | {name: value}):
                    reply = client.request(
                        method,
                        route,
                        content=json.dumps(body).encode(),
                        headers={"Content-Type": "application/json"},
                    )
                    seen.add(reply.status_code)
                    assert reply.status_code in (200, 400, 413, 422), (route, name, value)
                    assert ("error" in reply.json()) == (reply.status_code != 200)
    assert {200, 422} <= seen


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"null", b"[]", b"1", b'"x"', b"{" * 5000, b"[" * 100_000, b"\xff\xfe"),
        *(b'{"k": 1e999}', b'{"query": "x", "k": ' + b"9" * 5000 + b"}"),
        b'{"query": "x", "query": 1}',
    ],
)
def test_broken_bodies_are_refused_in_words(client, content):
    for path in ("/v1/search", "/v1/search/batch", "/v1/events", "/v1/explain/T203"):
        reply = client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert reply.status_code in (400, 422)
        assert reply.json()["error"]


def test_paths_lead_nowhere_else(client):
    tricks = ["..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "a" * 300, "%ff", "x;y", "c:%5cw"]
    for trick in tricks:
        for method, route in (
            ("GET", "/page/{}"),
            ("POST", "/v1/bundles/{}/load"),
            ("POST", "/v1/bundles/{}/activate"),
            ("POST", "/v1/explain/{}"),
            ("DELETE", "/v1/users/{}"),
        ):
            reply = client.request(method, route.format(trick))
            assert reply.status_code < 500
            assert "root:" not in reply.text


def test_a_full_disk_is_told_and_nothing_is_acknowledged(tmp_path, monkeypatch):
    """SQLite's limit of pages stands for the disk."""
    store = open_events(tmp_path / "s.db")
    app = create_app(Fake(), config=ServeConfig(keys=[ADMIN]), log=EventLog(store))
    headers = {"Authorization": "Bearer admin"}
    with TestClient(app, headers=headers, raise_server_exceptions=False) as client:
        event = GOOD["/v1/events"]
        assert client.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1
        many = [event | {"event_id": f"{n}", "query": "x" * 4000} for n in range(200)]
        store._database._open.execute("PRAGMA max_page_count=20")
        reply = client.post("/v1/events", json={"events": many})
        assert reply.status_code == 503
        assert "nothing of this request was kept" in reply.json()["error"]
        store._database._open.execute("PRAGMA max_page_count=1000000")
        assert client.post("/v1/events", json={"events": many}).json()["accepted"] == 200


def test_sigterm_answers_what_was_accepted(shop):
    """Searches that wait in the queue, and what the server does at the signal."""
    server = uvicorn.Server(uvicorn.Config(create_app(shop), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    replies, gate = [], threading.Barrier(13)

    def search():
        with httpx.Client(base_url=address, timeout=60) as client:
            client.get("/livez")
            gate.wait()
            asked = {"query": "tent", "k": 20, "exact": True}
            replies.append(client.post("/v1/search", json=asked).status_code)

    threads = [threading.Thread(target=search) for _ in range(12)]
    for visit in threads:
        visit.start()
    gate.wait()
    time.sleep(0.05)
    server.handle_exit(signal.SIGTERM, None)
    for visit in [*threads, thread]:
        visit.join()
    assert replies == [200] * 12
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/livez")


def test_a_bundle_without_tokenizer_takes_patches_and_says_why_no_items(bundle, tmp_path):
    store = open_items(tmp_path / "s.db")
    with TestClient(
        create_app({"m": load_copies(bundle, items=store)}, config=ServeConfig(keys=[ADMIN])),
        headers={"Authorization": "Bearer admin"},
    ) as client:
        patch = {"items": [{"item_id": "T203", "price": 7.0}]}
        assert client.patch("/v1/items", json=patch).json()["catalogue_version"] == 1
        reply = client.put("/v1/items", json={"items": [GOOD["/v1/items"]]})
        assert (reply.status_code, "holds no tokenizer" in reply.json()["error"]) == (422, True)
        hits = client.post("/v1/search", json={"query": "tent", "k": 64}).json()["hits"]
        assert {hit["price"] for hit in hits if hit["item_id"] == "T203"} == {7.0}
    store.close()
