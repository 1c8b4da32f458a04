"""What a server refuses: bodies, keys, rates, floods; and what it counts."""

import hashlib
import threading
import time

import anyio
import httpx
import pytest
from fastapi.testclient import TestClient
from shop import write_bundle, write_stages

from sidar import Retriever
from sidar.config.serve import KeyConfig, LimitsConfig, ServeConfig
from sidar.serve import create_app


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Retriever.load(write_bundle(write_stages(tmp_path_factory.mktemp("run"))))


def key(secret, role="read", **more):
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return KeyConfig(name=f"the {secret}", sha256=digest, role=role, **more)


def bearer(secret):
    return {"Authorization": f"Bearer {secret}"}


KEYS = [key("reader", per_minute=60), key("boss", "admin")]


def test_a_body_is_short_unpacked_and_soon_there(shop):
    config = ServeConfig(limits=LimitsConfig(body=200, body_seconds=0.1))

    async def visit():
        transport = httpx.ASGITransport(create_app(shop, config=config))
        async with httpx.AsyncClient(transport=transport, base_url="http://s") as http:

            async def slow():
                yield b'{"query": '
                await anyio.sleep(0.5)
                yield b'"x"}'

            async def endless():
                while True:
                    yield b" " * 64

            long = await http.post("/v1/search", content=b" " * 201)
            chunked = await http.post("/v1/search", content=endless())
            late = await http.post("/v1/search", content=slow())
            packed = await http.post(
                "/v1/search", content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}
            )
            good = await http.post("/v1/search", json={"query": "x", "k": 1})
            return long, chunked, late, packed, good

    long, chunked, late, packed, good = anyio.run(visit)
    for reply, status, words in (
        (long, 413, "longer than this server's limit of 200 bytes"),
        (chunked, 413, "longer than this server's limit of 200 bytes"),
        (late, 408, "longer than 0.1 s"),
        (packed, 415, "without a content coding"),
    ):
        assert reply.status_code == status
        assert words in reply.json()["error"]
    assert good.status_code == 200


def test_keys_open_what_their_role_may(shop):
    config = ServeConfig(keys=KEYS, read_key=True)
    with TestClient(create_app(shop, config=config)) as client:
        asked = {"query": "tent", "k": 1}
        for headers, status, words in (
            ({}, 401, "needs a key that may read: send Authorization: Bearer KEY"),
            (bearer("guess"), 401, "this key is not known here"),
            (bearer("reader"), 200, ""),
            (bearer("boss"), 200, ""),
        ):
            reply = client.post("/v1/search", json=asked, headers=headers)
            assert reply.status_code == status
            assert words in reply.text
        assert client.get("/v1/bundles", headers=bearer("boss")).status_code == 200
        refused = client.get("/v1/bundles", headers=bearer("reader"))
        assert refused.status_code == 403
        assert refused.json()["error"] == "the key 'the reader' may read; this needs admin"
        assert client.get("/metrics").status_code == 401
        assert [client.get(path).status_code for path in ("/livez", "/readyz")] == [200, 200]


def test_without_keys_searches_are_open_and_nothing_can_be_changed(shop):
    with TestClient(create_app(shop)) as client:
        assert client.post("/v1/search", json={"query": "x", "k": 1}).status_code == 200
        reply = client.post("/v1/bundles/x/load")
        assert reply.status_code == 401
        assert "the server has none: set serve.keys" in reply.json()["error"]
        assert reply.headers["www-authenticate"] == "Bearer"


def test_a_key_has_so_many_requests_a_minute(shop):
    config = ServeConfig(keys=[key("slow", per_minute=2), key("fast")])
    with TestClient(create_app(shop, config=config)) as client:
        asked = {"json": {"query": "x", "k": 1}, "headers": bearer("slow")}
        assert [client.post("/v1/search", **asked).status_code for _ in range(3)] == [200, 200, 429]
        reply = client.post("/v1/search", **asked)
        assert reply.json()["error"] == "the key 'the slow' has 2 requests a minute"
        assert 1 <= int(reply.headers["retry-after"]) <= 30
        asked["headers"] = bearer("fast")
        assert client.post("/v1/search", **asked).status_code == 200


def test_a_batch_is_answered_as_its_searches_are(shop):
    asked = [{"query": "tent", "k": 2}, {"query": "red shoe", "k": 70, "fields": ["item_id"]}]
    with TestClient(create_app(shop)) as client:
        together = client.post("/v1/search/batch", json={"requests": asked}).json()["answers"]
        alone = [client.post("/v1/search", json=one).json() for one in asked]
        for ours, want in zip(together, alone, strict=True):
            assert [hit["item_id"] for hit in ours["hits"]] == [h["item_id"] for h in want["hits"]]
            assert ours["reason"] == want["reason"]
        assert set(together[1]["hits"][0]) == {"item_id"}
        for requests, words in (
            ([{"query": "x"}] * 65, "65 searches are above this server's limit of 64"),
            ([{"query": "x"}, {"query": "x", "k": 501}], "1: k: 501 is above this server's limit"),
            ([{"query": "x", "fuse": "memory"}], "0: fuse: this bundle holds no memory"),
            ([{}], "requests.0.query: Field required"),
        ):
            reply = client.post("/v1/search/batch", json={"requests": requests})
            assert reply.status_code == 422
            assert words in reply.json()["error"]
        assert client.post("/v1/search/batch", json={"requests": []}).json() == {"answers": []}


class Held(Retriever):
    """A model that answers when it may."""

    def answer(self, requests):
        assert may.wait(10)
        return super().answer(requests)


may = threading.Event()


@pytest.fixture
def slow(shop):
    may.clear()
    yield Held(shop.model, shop.index, shop.sids, shop.catalogue)
    may.set()


def test_a_flood_is_shed_deadlines_are_kept_and_both_are_counted(slow):
    config = ServeConfig(queue=2, timeout_ms=60_000)

    async def visit():
        transport = httpx.ASGITransport(create_app(slow, config=config))
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://s") as http,
            anyio.create_task_group() as group,
        ):
            replies = []

            async def search(**more):
                asked = {"query": "tent", "k": 1, **more}
                replies.append(await http.post("/v1/search", json=asked))

            group.start_soon(search)
            await anyio.sleep(0.05)
            began = time.monotonic()
            await search(timeout_ms=100)
            waited = time.monotonic() - began
            for _ in range(3):
                group.start_soon(search)
            await anyio.sleep(0.05)
            may.set()
        async with httpx.AsyncClient(transport=transport, base_url="http://s") as http:
            return replies, waited, (await http.get("/metrics")).text

    (late, *replies), waited, counted = anyio.run(visit)
    assert late.status_code == 200
    assert (late.json()["hits"], late.json()["reason"]) == ([], "deadline")
    assert 0.1 <= waited < 1
    assert sorted(reply.status_code for reply in replies) == [200, 200, 503, 503]
    shed = next(reply for reply in replies if reply.status_code == 503)
    assert int(shed.headers["retry-after"]) >= 1
    assert "serve.queue" in shed.json()["error"]
    for line in (
        'sidar_requests_total{route="/v1/search",status="200"} 3.0',
        'sidar_requests_total{route="/v1/search",status="503"} 2.0',
        'sidar_short_answers_total{reason="deadline"} 1.0',
        "sidar_refused_total 2.0",
        'sidar_waiting{model="model"} 0.0',
    ):
        assert line in counted


def test_metrics_hold_no_query_and_no_unknown_path(shop):
    with TestClient(create_app(shop)) as client:
        client.post("/v1/search", json={"query": "zyzzogeton", "user_id": "somebody", "k": 1})
        client.get("/nowhere/zyzzogeton")
        text = client.get("/metrics").text
    assert "zyzzogeton" not in text
    assert "somebody" not in text
    assert 'sidar_requests_total{route="none",status="404"} 1.0' in text
    assert f'sidar_bundle{{bundle="{shop.hash}",model="sft"}} 1.0' in text


def test_a_search_that_would_be_refused_is_refused_before_its_route(shop):
    """Where nobody waits the route answers, here for want of a key; where too many do, nothing is
    looked at but the queue.
    """
    config = ServeConfig(queue=1, keys=KEYS, read_key=True)
    asked, free = threading.Event(), threading.Event()
    answer = shop.answer

    class Held:
        info = shop.info

        def answer(self, requests):
            asked.set()
            assert free.wait(10)
            return answer(requests)

    with TestClient(create_app(Held(), config=config)) as client:
        body = {"query": "tent"}
        assert client.post("/v1/search", json=body).status_code == 401
        key = bearer("boss")
        threads = [
            threading.Thread(target=client.post, args=("/v1/search",), kwargs=more)
            for more in ({"json": body, "headers": key}, {"json": body, "headers": key})
        ]
        threads[0].start()
        assert asked.wait(10)
        threads[1].start()
        deadline = time.monotonic() + 10
        while (refused := client.post("/v1/search", json=body)).status_code != 503:
            assert time.monotonic() < deadline
        assert int(refused.headers["Retry-After"]) >= 1
        assert "1 requests wait" in refused.json()["error"]
        # what is wrong otherwise, the route says
        assert client.post("/v1/search", json={"nonsense": 1}).status_code == 401
        free.set()
        for thread in threads:
            thread.join()
        page = client.get("/metrics", headers=key).text
    assert 'sidar_requests_total{route="/v1/search",status="503"} 1.0' in page
