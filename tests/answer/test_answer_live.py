"""A catalogue that changes while it is searched: in every channel at once, whole, and again after a
restart.
"""

import hashlib
import importlib
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from fused_shop import QUERY

from sidar.config.serve import KeyConfig, ServeConfig
from sidar.data import toy
from sidar.serve import create_app
from sidar.serve.engine.copies import load_copies
from sidar.serve.engine.process import WorkerProcess
from sidar.serve.live import open_items
from sidar.serve.live.encode import ItemEncoder
from sidar.serve.live.searcher import LiveSearcher
from sidar.serve.live.snapshot import changed
from sidar.serve.request import RequestError, SearchRequest

ROOT = Path(__file__).parent.parent.parent
ADMIN = KeyConfig(name="a", sha256=hashlib.sha256(b"admin").hexdigest(), role="admin")
LAMP = {
    "item_id": "NEW1",
    "title": "Zephyrine Brass Reading Lamp",
    "text": "A brass lamp with a zephyrine shade.",
    "category": ["Home", "Lighting", "Lamps"],
    "brand": "Zephyrine",
    "price": 49.5,
    "in_stock": True,
}


@pytest.fixture(scope="module")
def bundle(shop):
    return shop / "runs/shop/bundle"


@pytest.fixture(scope="module")
def encoder(bundle, served):
    return ItemEncoder.open(bundle, served.vectors.embedder)


@pytest.fixture
def store(tmp_path):
    store = open_items(tmp_path / "serve.db")
    yield store
    store.close()


@pytest.fixture
def live(served, store, encoder):
    return LiveSearcher(served, store, encoder)


def search(live, query, **more):
    return live.answer([SearchRequest(query=query, **more)])[0]


def found(live, query, item_id, **more):
    answer = search(live, query, k=64, **more)
    return next((hit for hit in answer.results if hit.item_id == item_id), None)


def test_a_new_item_is_in_every_channel_and_a_retired_one_in_none(live, served):
    before = search(live, LAMP["title"], k=64)
    assert live.put([LAMP]) == 1
    hit = found(live, LAMP["title"], "NEW1")
    assert {"bm25", "dense"} <= set(hit.channels)
    assert hit.rank == 1
    assert (hit.title, hit.brand, hit.price) == (LAMP["title"], "Zephyrine", 49.5)
    assert hit.category == tuple(LAMP["category"])
    alone = found(live, LAMP["title"], "NEW1", fuse="none", beam=64)
    assert alone.sid == live._now.sids.tuple_of(64)
    answer = search(live, LAMP["title"], k=64)
    assert (answer.catalogue_version, before.catalogue_version) == (1, 0)
    assert answer.bundle == before.bundle == served.hash
    # as history it is an item like any other
    assert search(live, "lamp", history=("NEW1",)).ignored_history == ()
    assert live.retire(["NEW1", before.results[0].item_id]) == 3
    gone = {hit.item_id for hit in search(live, LAMP["title"], k=65).results}
    assert len(gone) == 63
    assert not gone & {"NEW1", before.results[0].item_id}
    with pytest.raises(RequestError, match="the catalogue has no 'NEW1'"):
        live.patch({"NEW1": {"price": 1.0}})
    assert search(live, LAMP["title"], k=64).results[0].score != before.results[0].score
    assert live.put([LAMP]) == 4
    assert found(live, LAMP["title"], "NEW1").rank == 1
    # the bundle's own retriever has seen nothing of it
    assert served.answer([SearchRequest(query=LAMP["title"], k=64)])[0].results == before.results


def test_price_and_stock_change_without_vectors(live):
    item = search(live, QUERY, k=1).results[0]
    assert live.patch({item.item_id: {"price": 1.25, "in_stock": False}}) == 1
    after = search(live, QUERY, k=1).results[0]
    assert (after.item_id, after.price, after.sid) == (item.item_id, 1.25, item.sid)
    assert after.score == pytest.approx(item.score)
    assert live._now.vectors is live._base.vectors
    row = live._now.catalogue.row(item.item_id)
    assert live._now.catalogue.item(row)["in_stock"] is False


def test_filters_see_every_change_at_once(live):
    def allowed(wanted):
        answer = search(live, "lamp", filter=wanted)
        return answer.allowed, [hit.item_id for hit in answer.results]

    assert allowed("brand = Zephyrine") == (0, [])
    live.put([LAMP | {"attributes": json.dumps({"finish": "brass"})}])
    assert allowed("brand = Zephyrine") == (1, ["NEW1"])
    assert allowed("attributes.finish = brass AND price > 40") == (1, ["NEW1"])
    live.patch({"NEW1": {"price": 0.5}})
    assert allowed("price < 1") == (1, ["NEW1"])
    assert allowed("brand = Zephyrine AND price > 40") == (0, [])
    live.retire(["NEW1"])
    assert allowed("price < 1") == (0, [])


def test_changes_equal_a_catalogue_that_was_made_so(live, served, store, monkeypatch):
    """60 changes in a random order, against every part made anew of the rows that are left."""
    assert_equal_to_rebuild(live, served, store, 60, monkeypatch)


def assert_equal_to_rebuild(live, base, store, steps, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    bench = importlib.import_module("live")
    whole = toy.catalogue().table.to_pylist()
    for n, item in enumerate(whole):
        item["attributes"] = json.dumps({"size": n % 3, f"only{n}": "yes"})
    # the bundle has no texts: those of its rows are known to its index alone
    want = {item["item_id"]: item for item in toy.catalogue().table.to_pylist()}
    changing = bench.Changing(live, want, whole, np.random.default_rng(0))
    filters = [
        "price < 30",
        "in_stock = true AND price > 100",
        "attributes.size = 1",
        "attributes.only1 = yes",
        "attributes.size = big",
        "category = Home OR title = x",
    ]
    facets = ("brand", "in_stock", "attributes.size")
    asked = bench.requests_of(base, [QUERY, "lamp", "red shoe"], filters, facets)
    for step in range(steps):
        changing.step()
        if step % 5 == 0:  # columns are read, and carried on from then
            for text in filters:
                bench.answered(live.now, SearchRequest(query="", filter=text, facets=facets))
    states, version = store.read(base.hash)
    made = bench.rebuilt(base, list(want.values()), {state.item_id: state for state in states})
    now = live.now
    assert now.parts.version == version == steps
    assert now.catalogue.item_ids.tolist() == list(want)
    np.testing.assert_array_equal(now.index.table, made.index.table)
    np.testing.assert_array_equal(now.index.rows, made.index.rows)
    rows = np.arange(len(want))
    np.testing.assert_array_equal(now.vectors.items[rows], made.vectors.items)
    shares = bench.share_equal(now, made, asked)
    assert set(shares.values()) == {1.0}, shares
    assert {"none", "memory", "browse", "bm25", "dense"} <= set(shares)
    # one by one or at once, the searches are the same
    again = changed(base, states, version)
    shares = bench.share_equal(now, again, asked)
    assert set(shares.values()) == {1.0}, shares


def test_the_benchmark_of_unknown_products_and_of_waits_at_toy_size(shop, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    bench = importlib.import_module("live")
    products = [LAMP | {"item_id": f"L{n}"} for n in range(3)]
    products = [dict.fromkeys(bench.FIELDS) | product for product in products]
    figures = bench.puts(shop / "runs/shop", products[:2], tmp_path)
    assert 0 < figures["visible_after_put_s_median"] <= figures["visible_after_put_s_max"] < 10
    figures = bench.found(shop / "runs/shop", products, tmp_path)
    ways = ("answer", "model", "bm25", "dense")
    names = {f"{who}_found_100_{way}" for who in ("held_out", "trained") for way in ways}
    assert set(figures) == names
    assert all(0 <= value <= 1 for value in figures.values())
    assert figures["held_out_found_100_bm25"] == figures["held_out_found_100_dense"] == 1


def test_a_restart_replays_and_another_bundle_encodes_again(live, served, encoder, store, bundle):
    live.put([LAMP])
    live.patch({"NEW1": {"price": 12.0}, "T203": {"price": 3.0}})
    live.retire(["T100"])
    want = search(live, LAMP["title"], k=64)
    again = LiveSearcher(served, store, encoder)
    assert search(again, LAMP["title"], k=64).results == want.results
    assert again.info.version == live.info.version == 4
    states, version = store.read("another bundle")
    assert version == 4
    by_id = {state.item_id: state for state in states}
    assert (by_id["NEW1"].encoded, by_id["NEW1"].codes) == (True, None)
    assert by_id["NEW1"].fields["price"] == 12.0
    assert not by_id["T100"].alive
    # a model without the encoder cannot take them over
    other = served.over(served.parts)
    other.hash = "another bundle"
    with pytest.raises(ValueError, match=r"1 live items were encoded for another bundle"):
        LiveSearcher(other, store)
    there = LiveSearcher(other, store, encoder)
    assert [h.item_id for h in search(there, LAMP["title"]).results][:1] == ["NEW1"]
    with pytest.raises(RequestError, match="holds no tokenizer"):
        LiveSearcher(served, store).put([LAMP])
    (copy,) = load_copies(bundle, items=store)
    assert search(copy, LAMP["title"]).results[0].item_id == "NEW1"


def test_a_search_sees_one_version_throughout(live):
    """Prices are set to the version; every answer has the price of the version that it names."""
    items = [f"T{n}00" for n in range(8)]
    stop, wrong, versions = threading.Event(), [], set()

    def look():
        while not stop.is_set():
            answer = search(live, QUERY, k=64, fuse="none", beam=16)
            prices = {hit.price for hit in answer.results if hit.item_id in items}
            versions.add(answer.catalogue_version)
            if answer.catalogue_version and prices != {float(answer.catalogue_version)}:
                wrong.append((answer.catalogue_version, prices))

    thread = threading.Thread(target=look)
    thread.start()
    for change in range(1, 13):
        # one change an item, so that eight make a version
        assert live.patch({item: {"price": 8.0 * change} for item in items}) == 8 * change
        time.sleep(0.02)
    stop.set()
    thread.join()
    assert wrong == []
    assert len(versions) > 1


def test_items_change_over_http_and_an_exchange_takes_them_along(
    served, store, encoder, bundle, tmp_path
):
    second = shutil.copytree(bundle, tmp_path / "bundle")
    shutil.copyfile(bundle.parent / "memory.key", tmp_path / "memory.key")
    config = ServeConfig(keys=[ADMIN], bundles={"next": str(second)})
    app = create_app(
        LiveSearcher(served, store, encoder),
        config=config,
        open_copies=lambda folder: load_copies(folder, items=store),
    )
    headers = {"Authorization": "Bearer admin"}
    with TestClient(app, headers=headers) as client:
        client.post("/v1/bundles/next/load")
        put = client.put("/v1/items", json={"items": [LAMP | {"attributes": {"watts": 9}}]})
        assert put.json() == {"items": 1, "catalogue_version": 1}
        patch = {"items": [{"item_id": "NEW1", "price": 7.0}]}
        assert client.patch("/v1/items", json=patch).json()["catalogue_version"] == 2
        asked = {"query": LAMP["title"], "k": 3}
        hit = client.post("/v1/search", json=asked).json()["hits"][0]
        assert (hit["item_id"], hit["price"]) == ("NEW1", 7.0)
        assert client.post("/v1/bundles/next/activate").status_code == 200
        answer = client.post("/v1/search", json=asked).json()
        assert (answer["hits"][0]["price"], answer["catalogue_version"]) == (7.0, 2)
        gone = client.delete("/v1/items", params={"item_id": ["NEW1", "T203"]})
        assert gone.json() == {"items": 2, "catalogue_version": 4}
        client.post("/v1/bundles/rollback")
        hits = client.post("/v1/search", json=asked | {"k": 100}).json()["hits"]
        assert not {"NEW1", "T203"} & {hit["item_id"] for hit in hits}
        for method, body, words in (
            ("PATCH", {"items": [{"item_id": "nope", "price": 1}]}, "the catalogue has no 'nope'"),
            ("PATCH", {"items": [{"item_id": "T204", "title": "x"}]}, "Extra inputs"),
            ("PUT", {"items": [{"item_id": "x"}]}, "items.0.title: Field required"),
            ("PUT", {"items": [LAMP | {"alive": False}]}, "Extra inputs"),
            ("PUT", {"items": [LAMP] * 1001}, "1001 items are above this server's limit of 1,000"),
        ):
            reply = client.request(method, "/v1/items", json=body)
            assert reply.status_code == 422
            assert words in reply.json()["error"]
        refused = client.put("/v1/items", json={"items": [LAMP]}, headers={"Authorization": ""})
        assert refused.status_code == 401
    with TestClient(create_app(served, config=config), headers=headers) as client:
        reply = client.put("/v1/items", json={"items": [LAMP]})
        assert reply.status_code == 422
        assert "needs serve.store" in reply.json()["error"]


KILLED = """
import itertools, sys
import numpy as np
from sidar.serve.live import ItemState, open_items
store = open_items(sys.argv[1])
seen = store.version()
for n in itertools.count():
    vector = np.full(4, n, np.float32)
    pair = [ItemState(f"{sys.argv[2]}-{p}", {"price": n}, True, True, (n, 1), vector) for p in "ab"]
    seen = store.write(pair, "bundle", seen)
    print(seen, flush=True)
"""


def test_a_kill_loses_no_acknowledged_change_and_keeps_no_half(tmp_path):
    file, last = tmp_path / "items.db", 0
    for life in range(2):
        command = [sys.executable, "-c", KILLED, str(file), str(life)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        first = int(writer.stdout.readline())
        assert first >= last + 2
        time.sleep(0.05)
        writer.kill()
        rest = writer.stdout.read().split()
        writer.wait()
        writer.stdout.close()
        last = int(rest[-1]) if rest else first
    store = open_items(file)
    states, version = store.read("bundle")
    store.close()
    assert version >= last
    assert version % 2 == 0
    by_id = {state.item_id: state for state in states}
    for life in range(2):
        a, b = by_id[f"{life}-a"], by_id[f"{life}-b"]
        assert a.fields == b.fields
        assert a.codes == b.codes == (a.fields["price"], 1)
        np.testing.assert_array_equal(a.vector, np.full(4, a.fields["price"], np.float32))


def test_every_worker_process_searches_what_was_acknowledged(bundle, tmp_path):
    items = open_items(tmp_path / "serve.db")
    copies = load_copies(bundle, workers=2, items=items)
    config = ServeConfig(keys=[ADMIN], store=str(tmp_path / "serve.db"))
    app = create_app({"shop": copies}, config=config)
    asked = SearchRequest(query=LAMP["title"], k=2)
    with TestClient(app, headers={"Authorization": "Bearer admin"}) as client:
        dated = LAMP | {"created": "2026-11-28T12:00:00Z"}
        put = client.put("/v1/items", json={"items": [dated]})
        assert put.json() == {"items": 1, "catalogue_version": 1}
        for copy in copies:
            (answer,) = copy.answer([asked])
            assert (answer.results[0].item_id, answer.catalogue_version) == ("NEW1", 1)
        patch = {"items": [{"item_id": "NEW1", "price": 7.0}]}
        assert client.patch("/v1/items", json=patch).json()["catalogue_version"] == 2
        hits = client.post("/v1/search", json={"query": LAMP["title"], "k": 1}).json()["hits"]
        assert (hits[0]["item_id"], hits[0]["price"]) == ("NEW1", 7.0)
        wrong = client.patch("/v1/items", json={"items": [{"item_id": "no", "price": 1.0}]})
        assert (wrong.status_code, "has no 'no'" in wrong.json()["error"]) == (422, True)
        # one that dies comes back with all changes, also in the middle of one
        copies[0]._process.kill()
        gone = client.delete("/v1/items", params={"item_id": "NEW1"})
        assert gone.json() == {"items": 1, "catalogue_version": 3}
        for copy in copies:
            (answer,) = copy.answer([asked])
            assert answer.results[0].item_id != "NEW1"
            assert answer.catalogue_version == copy.info.version == 3
    items.close()


def test_worker_processes_without_a_store_say_so(served):
    worker = object.__new__(WorkerProcess)
    worker._live, worker.info = False, served.info
    with pytest.raises(RequestError, match=r"needs serve\.store"):
        worker.retire(["T100"])
    assert worker.catch_up() == 0
