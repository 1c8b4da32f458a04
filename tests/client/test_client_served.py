"""Python clients, LangChain, `curl` and the OpenSearch example against one running server."""

import asyncio
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from engine_stub import Engine, serving
from golden import observe
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from shop import write_bundle, write_stages

from sidar.client import ApiError, AsyncClient, Client, SearchRequest
from sidar.client.langchain import SidarRetriever
from sidar.config.serve import KeyConfig, LogConfig, ServeConfig
from sidar.data import toy
from sidar.serve import create_app
from sidar.serve.engine.copies import load_copies
from sidar.serve.live import open_items

ROOT = Path(__file__).parents[2]
QUERY, K = "garden tent", 5


def example():
    """The module of examples/opensearch_recall.py."""
    spec = importlib.util.spec_from_file_location(
        "opensearch_recall", ROOT / "examples/opensearch_recall.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


recall = example()


@contextmanager
def served(app):
    """The address at which ``app`` answers."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    stages = [write_stages(tmp_path_factory.mktemp(f"run{n}"), seed=n) for n in range(2)]
    first, second = (str(write_bundle(stage)) for stage in stages)
    digest = hashlib.sha256(b"boss").hexdigest()
    config = ServeConfig(
        store=str(folder / "serve.db"),
        answers_log=str(folder / "answers"),
        keys=[KeyConfig(name="boss", sha256=digest, role="admin")],
        bundles={"second": second},
        log=LogConfig(format="json"),
    )
    items = open_items(config.store)
    copies = load_copies(first, items=items)
    with served(create_app({"shop": copies}, config=config)) as at:
        yield at
    items.close()


@pytest.fixture(scope="module")
def client(address):
    with Client(address, "boss") as client:
        yield client


def engine():
    """A stub with the toy shop's products, but for one."""
    columns = toy.catalogue().table.select(["item_id", "title", "brand", "price"]).to_pylist()
    return Engine("products", {row.pop("item_id"): row for row in columns})


def of_curl(address):
    assert shutil.which("curl"), "curl is not installed"
    done = subprocess.run(
        [
            *("curl", "-s", "--fail", f"{address}/v1/search"),
            *("-H", "content-type: application/json"),
            *("-d", json.dumps({"query": QUERY, "k": K})),
        ],
        capture_output=True,
        check=True,
    )
    return [hit["item_id"] for hit in json.loads(done.stdout)["hits"]]


def of_langchain(address):
    """What a chain writes: retriever, prompt, a model that repeats its prompt, parser."""
    with Client(address) as client:
        retriever = SidarRetriever(client=client, k=K)
        ids = RunnableLambda(lambda documents: " ".join(document.id for document in documents))
        prompt = PromptTemplate.from_template("{query}|{ids}")
        chain = {"ids": retriever | ids, "query": RunnablePassthrough()} | prompt
        model = RunnableLambda(lambda prompt: prompt.to_string().partition("|")[2])
        return (chain | model | StrOutputParser()).invoke(QUERY).split()


def of_async(address):
    async def asked():
        async with AsyncClient(address) as client:
            answer = await client.search(QUERY, K)
            retriever = SidarRetriever(client=Client(address), async_client=client, k=K)
            documents = await retriever.ainvoke(QUERY)
            return [hit.item_id for hit in answer.hits], [document.id for document in documents]

    answered, documents = asyncio.run(asked())
    assert documents == answered
    return answered


def of_opensearch(address, monkeypatch, capsys):
    """What the example prints where the engine's own channel has no weight."""
    with serving(engine()) as at:
        arguments = [QUERY, "--engine", at, "--sidar", address, "--k", str(K)]
        monkeypatch.setattr(sys, "argv", ["recall", *arguments, "--engine-weight", "0"])
        recall.main()
    return [json.loads(line)["item_id"] for line in capsys.readouterr().out.splitlines()]


def test_all_clients_give_the_same_hits(address, monkeypatch, capsys):
    with Client(address) as client:
        hits = [hit.item_id for hit in client.search(QUERY, K).hits]
    assert len(set(hits)) == K
    assert of_curl(address) == hits
    assert of_async(address) == hits
    assert of_langchain(address) == hits
    assert of_opensearch(address, monkeypatch, capsys) == hits


def test_fusion_by_hand():
    lists = {"engine": ["a", "b"], "sidar": ["b", "c"]}
    scores = recall.fuse(lists, {"engine": 1.0, "sidar": 0.5})
    assert list(scores) == ["b", "a", "c"]
    assert scores == pytest.approx({"b": 1 / 62 + 0.5 / 61, "a": 1 / 61, "c": 0.5 / 62})


def test_the_example_merges_both_lists_and_reads_what_only_sidar_has(client):
    own = engine()
    ids = [hit.item_id for hit in client.search("tent", 50).hits]
    gone = ids[0]
    del own.documents[gone]
    with serving(own) as at, httpx.Client(base_url=at) as http:
        search = recall.HybridSearch(http, "products", client)
        merged = search.search("tent", 8)
        cheap = search.search("tent", 8, [{"range": {"price": {"lt": 20}}}], "price < 20")
        wrong = recall.HybridSearch(http, "elsewhere", client)
        with pytest.raises(httpx.HTTPStatusError):
            wrong.search("tent")
    (engine_path, body), (read_path, read) = own.asked[:2]
    assert (engine_path, read_path) == ("/products/_search", "/products/_mget")
    assert body["size"] == 50
    engine_ids = [hit["_id"] for hit in own.search(body)[1]["hits"]["hits"]]
    assert set(read["ids"]) == set(ids) - set(engine_ids)
    want = recall.fuse({"engine": engine_ids, "sidar": ids}, {"engine": 1.0, "sidar": 1.0})
    want.pop(gone)
    assert [document.item_id for document in merged] == list(want)[:8]
    assert all(document.source["title"] for document in merged)
    assert cheap
    assert all(document.source["price"] < 20 for document in cheap)


def test_a_document_names_what_an_event_needs(client):
    retriever = SidarRetriever(client=client, k=2, options={"filter": "price < 100"})
    documents = retriever.invoke("tent")
    assert len(documents) == 2
    first = documents[0].metadata
    assert documents[0].page_content == f"{first['brand']}: {first['title']}"
    event = {
        "event_id": "e1",
        "request_id": first["request_id"],
        "item_id": first["item_id"],
        "action": "click",
        "user_id": "u1",
    }
    assert client.send_events([event]).accepted == 1
    assert client.send_events([event]).repeated == 1
    assert client.write_event_files().files
    assert client.erase_user("u1").rows >= 1


def test_a_search_has_all_that_a_request_can_say(client):
    answer = client.search("tent", 3, filter="price < 30", facets=["brand"], explain=True)
    assert answer.returned == 3
    assert answer.levels
    assert answer.facets["brand"]
    assert all(hit.price < 30 for hit in answer.hits)
    short = client.search("tent", 2, fields=["item_id", "score"], model="shop")
    assert short.hits[0].item_id
    with pytest.raises(AttributeError):
        _ = short.hits[0].title
    with pytest.raises(ValueError, match="set it in the SearchRequest"):
        client.search(SearchRequest(query="tent"), filter="price < 3")
    with pytest.raises(ApiError, match="there is no 'other' here"):
        client.search("tent", model="other")
    answers = client.batch([SearchRequest(query="tent", k=2), SearchRequest(query="hose", k=3)])
    assert [one.returned for one in answers] == [2, 3]
    assert client.info().models[0].label == "shop"
    assert client.ready()
    why = client.explain(answers[0].hits[0].item_id, "tent", 2)
    assert (why.returned, why.rank) == (True, 1)


def test_a_line_names_the_request_and_its_answers(address, caplog):
    with caplog.at_level("INFO", logger="sidar.requests"):
        reply = httpx.post(f"{address}/v1/search", json={"query": "tent", "k": 2})
    (line,) = [record.fields for record in caplog.records if record.name == "sidar.requests"]
    assert line["id"] == reply.headers["X-Request-ID"]
    assert (line["route"], line["status"]) == ("/v1/search", 200)
    assert [one["request_id"] for one in line["answers"]] == [reply.json()["request_id"]]
    assert "tent" not in json.dumps(line)


def test_load_is_sent_and_told(address, tmp_path):
    file, out = tmp_path / "q.txt", tmp_path / "load.json"
    file.write_text("tent\nhose\n")
    options = ["--rate", "20", "--seconds", "0.5", "--within", "60000"]
    code, text, _ = observe.call("bench-serve", file, "--url", address, *options, "--out", out)
    assert code == 0
    figures = json.loads(out.read_text())
    assert figures["sent"] == figures["good"] > 0
    assert "p50, p95, p99" in text


def test_items_and_bundles_change(client, address):
    with Client(address) as reader, pytest.raises(ApiError, match="401"):
        reader.bundles()
    before = client.search("tent", 1).catalogue_version
    known = client.search("tent", 1).hits[0].item_id
    assert client.patch_items([{"item_id": known, "price": 1.5}]).catalogue_version == before + 1
    assert client.search("tent", 1).hits[0].price == 1.5
    client.retire_items([known])
    assert known not in [hit.item_id for hit in client.search("tent", 64).hits]
    assert client.load_bundle("second").active == "shop"
    assert client.activate_bundle("second").active == "second"
    assert client.roll_back().active == "shop"
