"""The HTTP interface over real retrievers: answers, words for errors, readiness, and a free event
loop.
"""

import threading
import time

import anyio
import httpx
import pytest
from fastapi.testclient import TestClient
from shop import write_bundle, write_stages
from typer.testing import CliRunner

from sidar import Retriever
from sidar.cli import app
from sidar.serve import create_app
from sidar.serve.http.web import CONTENT_POLICY


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folders = [write_stages(tmp_path_factory.mktemp(f"run{seed}"), seed=seed) for seed in (0, 1)]
    bundles = [
        write_bundle(folder, label)
        for folder, label in zip(folders, ("sft", "raddpo"), strict=True)
    ]
    return {
        retriever.label: retriever
        for retriever in (Retriever.load(b, precision="fp32") for b in bundles)
    }


@pytest.fixture(scope="module")
def client(models):
    with TestClient(create_app(models)) as client:
        yield client


def test_search_returns_what_the_retriever_finds(client, models):
    answer = client.post("/v1/search", json={"query": "t towels kitchen", "k": 3}).json()
    want = models["sft"].search("t towels kitchen", k=3)
    assert [hit["item_id"] for hit in answer["hits"]] == [r.item_id for r in want]
    assert answer["hits"][0]["sid"] == list(want[0].sid)
    assert answer["hits"][0]["score"] == pytest.approx(want[0].score)
    assert sum(answer["hits"][0]["level_logp"]) == pytest.approx(want[0].score, abs=1e-5)
    assert (answer["model"], answer["bundle"], answer["beam"]) == ("sft", models["sft"].hash, 16)
    assert set(answer["timing_ms"]) == {"prompt", "prefill", "decode", "cards", "total", "wait"}
    assert answer["levels"] is None
    assert answer["notes"] == []


def test_page_and_shell_search_exactly_where_the_bundle_was_measured_so(tmp_path):
    bundle = write_bundle(write_stages(tmp_path), decode={"beam": 1, "exact": True})
    shop = Retriever.load(bundle, precision="fp32")
    want = {exact: shop.search("tent", k=1, exact=exact)[0] for exact in (True, False)}
    assert want[True].sid != want[False].sid
    with TestClient(create_app(shop)) as client:
        assert client.get("/v1/info").json()["models"][0]["exact"]
        for asked, exact in (({}, True), ({"exact": None}, True), ({"exact": False}, False)):
            answer = client.post("/v1/search", json={"query": "tent", "k": 1, **asked}).json()
            assert (answer["exact"], answer["hits"][0]["sid"]) == (exact, list(want[exact].sid))
    for flags, exact in (([], True), (["--exact"], True), (["--no-exact"], False)):
        done = CliRunner().invoke(
            app, ["search", "tent", "--bundle", str(bundle), "--k", "1", *flags]
        )
        assert want[exact].item_id in done.stdout, done.output


def test_every_field_of_a_request_counts(client, models):
    request = {
        "query": "tent",
        "k": 4,
        "history": ["T203", "nope"],
        "profile": "home house",
        "beam": 40,
    }
    request |= {"exact": True, "explain": True, "model": "raddpo", "user_id": "u"}
    answer = client.post("/v1/search", json=request).json()
    want = models["raddpo"].explain(
        "tent", 4, history=["T203", "nope"], profile="home house", beam=40, exact=True
    )
    assert [hit["item_id"] for hit in answer["hits"]] == [r.item_id for r in want.results]
    assert (answer["model"], answer["beam"], answer["ignored_history"]) == ("raddpo", 40, ["nope"])
    assert "nope" in answer["notes"][0]
    assert [level["depth"] for level in answer["levels"]] == [1, 2, 3]
    prefix = answer["levels"][1]["prefixes"][0]
    assert {"codes", "text", "probability", "items", "sids", "label", "example", "ranks"} <= set(
        prefix
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "query: Field required"),
        ({"query": "x", "k": 0}, "k: Input should be greater than or equal to 1"),
        ({"query": "x", "k": 501}, "k: 501 is above this server's limit of 500"),
        ({"query": "x", "beams": 3}, "beams: Extra inputs are not permitted"),
        (
            {"query": "x" * 513},
            "query: 513 characters is above this server's limit of 512",
        ),
        ({"query": "x", "filter": {"mast": []}}, "filter: mast: Extra inputs are not permitted"),
        ({"query": "x", "fuse": "all"}, "fuse: 'all' is not served; this version answers with"),
        ({"query": ["x"]}, "query: Input should be a valid string"),
        ({"query": "x", "model": "dpo"}, "there is no 'dpo' here; this server has sft, raddpo"),
        ({"query": "x", "history": [1]}, "history.0: Input should be a valid string"),
    ],
)
def test_a_wrong_request_is_422_in_words(client, body, words):
    reply = client.post("/v1/search", json=body)
    assert reply.status_code == 422
    assert words in reply.json()["error"]


def test_broken_bodies_are_refused_in_words_and_odd_text_is_searched(client):
    half = b'{"query": "", "history": ["\\ud800"]}'
    for content, status in (
        (b"{", 422),
        (b'{"query": "\\ud800"}', 422),
        (half, 422),
        (b"\xff", 400),
    ):
        reply = client.post(
            "/v1/search", content=content, headers={"Content-Type": "application/json"}
        )
        assert reply.status_code == status
        assert reply.json()["error"]
    assert client.get("/nowhere").json() == {"error": "Not Found"}
    for query in ("", " ", "\x00", "<s1_12>", "＜s1_12＞", "毛巾 🧻", "'; drop table items; --"):
        assert len(client.post("/v1/search", json={"query": query}).json()["hits"]) == 10


def test_probes_info_and_openapi(client, models):
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    info = client.get("/v1/info").json()
    assert [model["label"] for model in info["models"]] == ["sft", "raddpo"]
    assert info["models"][0] | {"bundle": ""} == {
        **{"label": "sft", "bundle": "", "items": 64, "sids": 56, "codebook_sizes": [8, 4, 3]},
        **{"beam": 16, "exact": False, "fuse": "none", "report": False},
    }
    assert "headphones" in info["examples"]
    api = client.get("/openapi.json").json()
    examples = api["components"]["schemas"]["SearchRequest"]["examples"]
    for example in examples:
        assert client.post("/v1/search", json=example).status_code == 200
    searched = {"/v1/search", "/v1/search/batch", "/v1/explain/{item_id}", "/v1/info"}
    assert searched | {"/livez", "/readyz", "/metrics"} <= set(api["paths"])
    limited = {"401", "403", "408", "413", "415", "429"}
    answers = api["paths"]["/v1/search"]["post"]["responses"]
    assert {"200", "400", "422", "503"} | limited == set(answers)
    assert api["openapi"].startswith("3.1")


def test_not_ready_until_loaded_but_alive(models):
    may_load = threading.Event()

    def load():
        may_load.wait(10)
        return models

    with TestClient(create_app(load)) as client:
        assert client.get("/livez").status_code == 200
        reply = client.get("/readyz")
        assert (reply.status_code, reply.json()["error"]) == (503, "the models are still loading")
        assert client.post("/v1/search", json={"query": "x"}).status_code == 503
        assert client.get("/").status_code == 200
        may_load.set()
        deadline = time.monotonic() + 10
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert client.post("/v1/search", json={"query": "x"}).status_code == 200


def test_a_failed_load_is_said_on_the_readiness_probe(tmp_path):
    def load():
        return {"shop": Retriever.load(tmp_path)}

    with TestClient(create_app(load)) as client:
        deadline = time.monotonic() + 10
        while "no bundle" not in (reply := client.get("/readyz")).json()["error"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert reply.status_code == 503
        assert "sidar bundle" in reply.json()["error"]
        assert client.get("/livez").status_code == 200
    with pytest.raises(ValueError, match="no model to serve"):
        create_app({})


def test_a_long_search_does_not_block_the_server_and_what_waits_shares_a_pass(models):
    inside, overlap, sizes, may = [], [], [], threading.Event()

    class Held(Retriever):
        def answer(self, requests):
            inside.append(1)
            overlap.append(len(inside))
            sizes.append(len(requests))
            assert may.wait(60)
            answers = super().answer(requests)
            inside.pop()
            return answers

    sft = models["sft"]
    held = Held(sft.model, sft.index, sft.sids, sft.catalogue, precision="fp32")
    app = create_app(held)

    async def traffic():
        transport = httpx.ASGITransport(app)
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://s") as http,
            anyio.create_task_group() as group,
        ):
            replies = []

            async def search():
                replies.append(await http.post("/v1/search", json={"query": "tent"}))

            group.start_soon(search)
            while not sizes:
                await anyio.sleep(0.01)
            for _ in range(2):
                group.start_soon(search)
            while 'sidar_waiting{model="model"} 2.0' not in (await http.get("/metrics")).text:
                await anyio.sleep(0.01)
            # answered although the only pass is not over
            assert (await http.get("/livez")).status_code == 200
            assert not replies
            may.set()
        return replies

    replies = anyio.run(traffic)
    assert max(overlap) == 1
    assert sizes == [1, 2]
    assert [reply.status_code for reply in replies] == [200] * 3
    assert all(reply.json()["timing_ms"]["wait"] >= 0 for reply in replies)


def test_an_error_of_ours_is_500_in_words(models):
    class Broken(Retriever):
        def answer(self, requests):
            raise ValueError("the model answered NaN")

    sft = models["sft"]
    app = create_app(Broken(sft.model, sft.index, sft.sids, sft.catalogue, precision="fp32"))
    with TestClient(app, raise_server_exceptions=False) as client:
        reply = client.post("/v1/search", json={"query": "x"})
        assert reply.status_code == 500
        assert "this request failed" in reply.json()["error"]


def test_the_page_is_served_whole_and_may_run_only_its_own_scripts(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"] == CONTENT_POLICY
    assert "script-src 'self'" in CONTENT_POLICY
    assert "unsafe" not in CONTENT_POLICY
    for name, kind in (
        ("app.js", "text/javascript"),
        ("style.css", "text/css"),
        ("icon.svg", "image/svg+xml"),
    ):
        assert client.get(f"/page/{name}").headers["content-type"].startswith(kind)
    for name in ("index.html", "app.js", "cards.js", "beams.js", "dom.js", "style.css"):
        text = client.get(f"/page/{name}").text
        assert "innerHTML" not in text
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("^https?:", "")
    for name in ("app.py", "..%2fapp.py", "nothing.js"):
        assert client.get(f"/page/{name}").status_code == 404
