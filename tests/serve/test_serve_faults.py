"""What comes from outside and from below: hostile requests, slow clients, full disks, damaged
files. The same at full size: benchmarks/reliability.py.
"""

import hashlib
import importlib
import json
import random
import resource
import shutil
import socket
import sqlite3
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from shop import write_bundle, write_stages

from benchmarks.faults import damage, formats, hostile, paths
from sidar import Retriever
from sidar.artifacts import MANIFEST, SEAL
from sidar.config.serve import KeyConfig, ServeConfig
from sidar.serve import create_app
from sidar.serve.bundle import open_bundle
from sidar.serve.database import StoreError
from sidar.serve.engine.copies import load_copies
from sidar.serve.events import EventLog, open_events
from sidar.serve.events import log as event_log
from sidar.serve.events.rows import Chosen, Shown
from sidar.serve.http import events as event_http
from sidar.serve.http.guards.bodies import BodyLimit
from sidar.serve.http.guards.connections import guarded
from sidar.serve.live import open_items

ROOT = Path(__file__).parent.parent.parent
ADMIN = KeyConfig(name="boss", sha256=hashlib.sha256(b"boss").hexdigest(), role="admin")
BOSS = {"Authorization": "Bearer boss"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    runs = [write_stages(tmp_path_factory.mktemp(f"run{seed}"), seed=seed) for seed in range(2)]
    return {f"day{n}": write_bundle(run) for n, run in enumerate(runs)}


@contextmanager
def served(app, header_seconds=10.0, stall_seconds=10.0):
    """The server of an app in a thread, with the port that it listens on."""
    protocol = guarded(header_seconds, stall_seconds)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", http=protocol))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    server.port = server.servers[0].sockets[0].getsockname()[1]
    server.address = f"http://127.0.0.1:{server.port}"
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join()


def test_generated_requests_are_answered_as_declared(folders, tmp_path):
    config = ServeConfig(keys=[ADMIN], store=str(tmp_path / "s.db"), bundles={"a": "/nowhere"})
    items = open_items(config.store)
    app = create_app({"m": load_copies(folders["day0"], items=items)}, config=config)
    with served(app) as server:
        answers = hostile.send(server.address, 110, [BOSS, BOSS, {}], rng_seed=3)
    items.close()
    assert answers.broken == {}, answers.examples
    assert answers.undeclared_5xx == 0
    assert answers.sent == 110
    assert len(answers.routes) == sum(map(len, app.openapi()["paths"].values()))
    assert {200, 401, 422} <= set(answers.statuses)


HALF = "\ud800"  # of a character, which JSON can escape and nothing can write
ITEM = {"item_id": "n", "title": "t"}
EVENT = {"event_id": "e", "request_id": "r", "item_id": "i", "action": "click"}
UNKEEPABLE = [
    *({HALF: 1}, {"timeout_ms": 10**400}, {"fields": [HALF]}, {"facets": [f"attributes.{HALF}"]}),
    *({"filter": f'brand = "{HALF}" AND'}, {"filter": {HALF: []}}),
    {"filter": {"must": [{"key": HALF}]}},
    *({"created": "9999-12-31T23:59:59-12:00"}, {"attributes": {"a": HALF}}),
    *({"attributes": {"a": 10**400}}, {"attributes": {"a": [float("nan")]}}),
    {"user_id": HALF},
]


def place_of(fields):
    """(method, path, body) of the request that holds ``fields``."""
    if {"created", "attributes"} & set(fields):
        return "PUT", "/v1/items", {"items": [ITEM | fields]}
    if "user_id" in fields:
        return "POST", "/v1/events", {"events": [EVENT | fields]}
    return "POST", "/v1/search", {"query": "x"} | fields


@pytest.mark.parametrize("fields", UNKEEPABLE, ids=lambda fields: next(iter(fields)))
def test_what_nobody_could_keep_or_repeat_is_refused_in_words(open_client, fields):
    client, _ = open_client
    method, path, body = place_of(fields)
    content = json.dumps(body).encode()
    reply = client.request(
        method, path, content=content, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code == 422, reply.text
    assert reply.json()["error"]


@pytest.fixture(scope="module")
def open_client(folders, tmp_path_factory):
    """A server with a store, over a bundle whose items can be put by a stand-in."""
    folder = tmp_path_factory.mktemp("open")
    config = ServeConfig(
        keys=[ADMIN], store=str(folder / "s.db"), answers_log=str(folder / "answers")
    )

    class Takes(Retriever):
        def put(self, items):
            self.taken += items
            return len(items)

        patch = retire = put

        def catch_up(self):
            pass

    shop = Retriever.load(folders["day0"])
    takes = Takes(shop.model, shop.index, shop.sids, shop.catalogue)
    takes.taken = []
    with TestClient(create_app(takes, config=config), headers=BOSS) as client:
        yield client, takes


def test_the_extremes_of_an_item_are_taken_as_the_catalogue_has_them(open_client):
    client, takes = open_client
    item = {"item_id": "x" * 256, "title": "", "price": -1.7e308, "created": "0001-01-01T00:00:00"}
    item |= {"attributes": {"deep": [[[[{"a": None}]]]], "n": 2**70, "é": "\x00"}}
    assert client.put("/v1/items", json={"items": [item]}).status_code == 200
    row = takes.taken[-1]
    assert row["created"].isoformat() == "0001-01-01T00:00:00+00:00"
    assert json.loads(row["attributes"])["n"] == 2**70


# ------------------------------------------------------------------ connections


def said(wire):
    wire.settimeout(10)
    content = b""
    while part := wire.recv(65536):
        content += part
    return content


class Quick:
    """An ASGI application that answers with ``size`` bytes."""

    def __init__(self, size=2):
        self.size = size

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            for _ in range(2):
                message = await receive()
                await send({"type": message["type"] + ".complete"})
            return
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * self.size})


@pytest.mark.parametrize("sent", [b"", b"GET /livez HT", b"GET / HTTP/1.1\r\nHost: s\r\n"])
def test_headers_that_do_not_end_are_cut(sent):
    with served(Quick(), header_seconds=0.3) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as wire:
            wire.sendall(sent)
            answer = said(wire)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'{"error": "the headers took longer than 0.3 s"}' in answer
        # a connection that is used again has as long for each of its requests
        with httpx.Client(base_url=server.address) as client:
            for _ in range(4):
                assert client.get("/").status_code == 200
                time.sleep(0.15)


def test_what_is_no_http_is_refused_in_words():
    with (
        served(Quick()) as server,
        socket.create_connection(("127.0.0.1", server.port)) as wire,
    ):
        wire.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = said(wire)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b'{"error": "Invalid HTTP request received."}')


def test_a_client_that_does_not_read_is_let_go():
    with served(Quick(1 << 24), stall_seconds=0.4) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as wire:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire.sendall(b"GET / HTTP/1.1\r\nHost: s\r\n\r\n")
            for _ in range(100):
                time.sleep(0.05)
                if not server.server_state.connections and server.server_state.total_requests:
                    break
            assert not server.server_state.connections
        # one that reads slowly gets all of it
        with httpx.stream("GET", server.address) as reply:
            got = 0
            for part in reply.iter_raw(1 << 21):
                got += len(part)
                time.sleep(0.1)
            assert got == 1 << 24


def test_half_a_body_is_no_request():
    """A whole JSON object may stand before the end that was announced."""
    asked = []

    async def app(scope, receive, send):
        asked.append(await receive())

    async def visit(*messages):
        left = list(messages)

        async def receive():
            return left.pop(0)

        scope = {"type": "http", "headers": []}
        await BodyLimit(app, most=100, seconds=1)(scope, receive, None)

    part = {"type": "http.request", "body": b"{}", "more_body": True}
    anyio.run(visit, part, {"type": "http.disconnect"})
    assert asked == []
    anyio.run(visit, part, {"type": "http.request", "body": b" "})
    assert [message["body"] for message in asked] == [b"{} "]


# ------------------------------------------------------------------ bundles


def test_every_file_of_a_damaged_bundle_is_named(folders, tmp_path):
    rng = random.Random(0)
    bundle, broken = folders["day1"], tmp_path / "broken"
    seen = 0
    for name in damage.names_of(bundle):
        for act in (damage.flip, damage.truncate, damage.obstruct):
            shutil.rmtree(broken, ignore_errors=True)
            shutil.copytree(bundle, broken, copy_function=link_all_but(bundle / name))
            act(broken / name, rng)
            with pytest.raises(ValueError, match=Path(name).name):
                open_bundle(broken, verify=True)
            seen += 1
    assert seen == 3 * len(damage.names_of(bundle)) > 40
    shutil.rmtree(broken)
    shutil.copytree(bundle, broken)
    (broken / MANIFEST).unlink()
    with pytest.raises(ValueError, match=r"broken/manifest\.json is missing"):
        open_bundle(broken, verify=True)
    # a bundle of an older version has no seal, and says as much as it did
    (broken / SEAL).unlink()
    assert open_bundle(broken, verify=True).label == "sft"


def link_all_but(changed):
    def copy(source, target):
        if Path(source) == changed:
            shutil.copyfile(source, target)
        else:
            Path(target).hardlink_to(source)

    return copy


def test_a_bundle_that_fails_in_an_unforeseen_way_is_refused(folders):
    def opened(folder):
        raise KeyError("layers")

    config = ServeConfig(keys=[ADMIN], bundles={"odd": "/odd"})
    app = create_app(Retriever.load(folders["day0"]), config=config, open_copies=opened)
    with TestClient(app, headers=BOSS) as client:
        reply = client.post("/v1/bundles/odd/activate")
        assert reply.status_code == 422
        assert reply.json()["error"] == "'odd' cannot be served: KeyError: 'layers'"
        assert client.get("/v1/bundles").json()["active"] == "sft"


def test_a_server_goes_on_with_the_bundle_that_was_activated(folders, tmp_path):
    config = ServeConfig(
        keys=[ADMIN],
        store=str(tmp_path / "s.db"),
        bundles={name: str(folder) for name, folder in folders.items()},
    )
    hashes = {name: open_bundle(folder).hash for name, folder in folders.items()}

    def active(start, change=None):
        app = create_app(lambda: {"m": load_copies(folders[start])}, config=config)
        with TestClient(app, headers=BOSS) as client:
            while client.get("/readyz").status_code != 200:
                time.sleep(0.02)
            if change:
                assert client.post(f"/v1/bundles/{change}/activate").status_code == 200
            bundle = client.post("/v1/search", json={"query": "x", "k": 1}).json()["bundle"]
            return client.get("/v1/bundles").json()["active"], bundle

    assert active("day0") == ("m", hashes["day0"])
    assert active("day0", "day1") == ("day1", hashes["day1"])
    assert active("day0") == ("day1", hashes["day1"])
    # whoever starts it with another bundle wants that one
    assert active("day1") == ("m", hashes["day1"])
    # one that is gone is passed over
    config.bundles["day1"] = str(tmp_path / "gone")
    assert active("day0") == ("m", hashes["day0"])


# ------------------------------------------------------------------ the disk


@contextmanager
def full_disk(size=1):
    """No file of this process grows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_refuses_writes_and_nothing_else(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(event_http, "FLUSH_SECONDS", 0.02)
    monkeypatch.setattr(event_http, "WRITE_SECONDS", 0.04)
    monkeypatch.setattr(event_log, "MOST_WAITING", 3)
    config = ServeConfig(
        keys=[ADMIN], store=str(tmp_path / "s.db"), answers_log=str(tmp_path / "answers")
    )
    items = open_items(config.store)
    app = create_app({"m": load_copies(folders["day0"], items=items)}, config=config)
    with TestClient(app, headers=BOSS) as client:
        event = {"event_id": "a", "request_id": "r", "item_id": "T203", "action": "click"}
        patch = {"items": [{"item_id": "T203", "price": 7.0}]}
        with full_disk():
            for reply in (
                client.post("/v1/events", json={"events": [event]}),
                client.patch("/v1/items", json=patch),
            ):
                assert reply.status_code == 503
                assert int(reply.headers["retry-after"]) >= 1
                assert "nothing of this request was kept" in reply.json()["error"]
            replies = [client.post("/v1/search", json={"query": "x", "k": 3}) for _ in range(4)]
            assert [reply.status_code for reply in replies] == [200] * 4
            time.sleep(0.1)  # so that the log is written, which fails, too
        assert client.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1
        assert client.patch("/v1/items", json=patch).json()["catalogue_version"] == 1
        client.post("/v1/events/files").raise_for_status()
        assert len(list((tmp_path / "answers").glob("events-*.parquet"))) == 1
    items.close()
    with sqlite3.connect(config.store) as store:
        assert store.execute("SELECT count(*) FROM shown").fetchone() == (12,)
    assert not list((tmp_path / "answers").glob(".*"))


def test_a_store_that_failed_at_its_commit_goes_on(tmp_path):
    store = open_events(tmp_path / "s.db")
    log = EventLog(store, tmp_path / "log")
    chosen = Chosen("e", "r", 1, "i", 1, query="q" * 100_000)
    log.show([Shown("r", 1, "", "", "q", "", "i", 1, "")])
    with full_disk(), pytest.raises(StoreError, match="the store cannot be written"):
        log.choose([chosen])
    assert log.choose([chosen]) == 1
    assert log.choose([chosen]) == 0
    assert len(log.write_days()) == 1
    log.close()


# ------------------------------------------------------------------ names and formats


def test_names_lead_nowhere(open_client, tmp_path):
    client, _ = open_client
    secret = tmp_path / "secret.txt"
    secret.write_text("open sesame")
    deep = "../" * 12 + str(secret)
    for name in [*paths.names(40), deep, str(secret)]:
        for method, route in (
            ("GET", "/page/{}"),
            ("GET", "/{}"),
            ("POST", "/v1/bundles/{}/activate"),
            ("POST", "/v1/explain/{}"),
            ("DELETE", "/v1/users/{}"),
        ):
            try:
                reply = client.request(method, route.format(name))
            except httpx.InvalidURL:
                continue
            assert reply.status_code < 500, (method, route, name)
            assert "sesame" not in reply.text
            assert "root:x" not in reply.text
    assert [path.name for path in tmp_path.iterdir()] == ["secret.txt"]


def test_no_file_that_is_read_can_run(folders):
    files = sorted((ROOT / "src").rglob("*.py"))
    assert [place for file in files for place in formats.unsafe(file)] == []
    for name in damage.names_of(folders["day0"]):
        assert Path(name).suffix in formats.SAFE


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("import pickle", "imports pickle"),
        ("from joblib import load", "imports joblib"),
        ("torch.load(f)", "torch.load without weights_only=True"),
        ("torch.load(f, weights_only=False)", "torch.load without weights_only=True"),
        ("np.load(f, allow_pickle=True)", "allow_pickle"),
        ("yaml.load(f)", "yaml.load"),
        ("yaml.load(f, yaml.Loader)", "yaml.load"),
        ("torch.save(x, f)", "torch.save, whose files are pickles"),
        ("eval(x)", "eval"),
    ],
)
def test_what_could_run_is_seen(tmp_path, line, why):
    file = tmp_path / "source"
    file.write_text(line + "\n")
    assert formats.unsafe(file) == [f"{file}:1: {why}"]
    file.write_text("torch.load(f, weights_only=True); yaml.load(f, yaml.SafeLoader); np.load(f)\n")
    assert formats.unsafe(file) == []


def test_the_benchmark_knows_its_parts():
    reliability = importlib.import_module("benchmarks.reliability")
    experiment = object.__new__(reliability.Experiment)
    assert list(experiment.parts) == [
        *("formats", "hostile", "kills", "sigterms", "swaps", "damaged", "paths", "wire")
    ]
