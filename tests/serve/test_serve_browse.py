"""What the page reads beside searching: columns, values, the tree of IDs, two sides, the report."""

import numpy as np
import pytest
from fastapi.testclient import TestClient
from shop import mixed_table, write_bundle, write_stages

from sidar import Retriever
from sidar.artifacts import read_manifest, write_artifact
from sidar.config.serve import KeyConfig, ServeConfig
from sidar.decode import score_all
from sidar.serve import create_app
from sidar.serve.engine.worker import _request
from sidar.serve.request import SearchRequest
from sidar.types import Prompt

CHEAP = "price < 20"
KEY = "page-admin"


@pytest.fixture(scope="module")
def shops(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    tables = {"fixed": None, "mixed": mixed_table()}
    bundles = {n: write_bundle(write_stages(folder / n, sids=s), n) for n, s in tables.items()}
    return {name: Retriever.load(at, precision="fp32") for name, at in bundles.items()}


@pytest.fixture(scope="module")
def client(shops):
    with TestClient(create_app(shops)) as client:
        yield client


def test_columns_say_what_a_filter_may_name(client, shops):
    columns = client.get("/v1/catalogue/columns").json()["columns"]
    by_key = {column["key"]: column for column in columns}
    prices = [p for p in shops["fixed"].catalogue.column("price") if p is not None]
    assert by_key["price"]["kinds"] == ["numbers"]
    assert (by_key["price"]["low"], by_key["price"]["high"]) == (min(prices), max(prices))
    assert by_key["price"]["coverage"] == pytest.approx(len(prices) / 64)
    assert by_key["category"]["kinds"] == ["lists", "text"]
    assert by_key["in_stock"]["kinds"] == ["booleans"]
    assert by_key["created"]["kinds"] == ["times"]
    assert "attributes.colour" in by_key
    assert not {"alive", "attributes", "text"} & set(by_key)
    for key in by_key:
        assert client.get("/v1/catalogue/values", params={"key": key}).status_code == 200, key


def test_values_are_counted_under_a_filter_and_found_by_a_text(client, shops):
    brands = shops["fixed"].catalogue.column("brand")
    asked = {"key": "brand", "k": 200}
    values = client.get("/v1/catalogue/values", params=asked).json()["values"]
    assert {v["value"]: v["count"] for v in values} == {
        brand: brands.count(brand) for brand in set(brands) - {None}
    }
    part = client.get("/v1/catalogue/values", params=asked | {"text": "OAK"}).json()["values"]
    assert [v["value"] for v in part] == ["Oakling"]
    cheap = client.get("/v1/catalogue/values", params=asked | {"filter": CHEAP}).json()["values"]
    body = {"filter": CHEAP, "facets": ["brand"]}
    counted = client.post("/v1/catalogue/facets", json=body).json()
    assert counted["facets"]["brand"] == cheap
    assert counted["allowed"] == 13
    assert client.post("/v1/catalogue/facets", json={}).json()["allowed"] == 64
    for path, words in (
        ("values?key=brnd", "key: there is no 'brnd'; did you mean brand"),
        ("values?key=brand&filter=price <", "filter: column 8: want a value"),
        ("values?key=brand&filter=prise < 2", "filter: must[0]: there is no 'prise'"),
        ("shelf?prefix=9-1", "prefix: no Semantic ID begins with 9-1"),
        ("shelf?prefix=0-0-0-0", "prefix: no Semantic ID begins with 0-0-0-0"),
        ("shelf?prefix=1--2", "prefix: want codes such as 12-7"),
        ("shelf?prefix=99999999999", "prefix: want codes such as 12-7"),
    ):
        refused = client.get(f"/v1/catalogue/{path}")
        assert (refused.status_code, refused.json()["error"][: len(words)]) == (422, words)


def test_items_by_id_come_first_then_by_words_of_the_title(client, shops):
    title = shops["fixed"].catalogue.item(5)["title"]
    found = client.get("/v1/catalogue/items", params={"text": title.upper()}).json()["items"]
    assert "T005" in [item["item_id"] for item in found] or found
    assert all(set(title.lower().split()) <= set(i["title"].lower().split()) for i in found)
    (one,) = client.get("/v1/catalogue/items", params={"text": "T000"}).json()["items"]
    assert (one["item_id"], one["sid_text"]) == ("T000", "0-0-0")
    assert client.get("/v1/catalogue/items", params={"text": " "}).json()["items"] == []


@pytest.mark.parametrize("name", ["fixed", "mixed"])
@pytest.mark.parametrize("wanted", ["", CHEAP])
def test_a_walk_of_the_shelf_meets_every_allowed_item_once(client, shops, name, wanted):
    shop = shops[name]
    allowed = shop.filters.allowed(SearchRequest(query="", filter=wanted or None).filter)
    rows = shop.catalogue.alive if allowed is None else allowed.rows
    met, places = [], [""]
    while places:
        asked = {"model": name, "prefix": places.pop(), "filter": wanted, "k": 200}
        shelf = client.get("/v1/catalogue/shelf", params=asked).json()
        assert shelf["items"] == sum(b["items"] for b in shelf["buckets"]) + shelf["n_here"]
        assert [step["text"] for step in shelf["path"]][-1] == shelf["text"]
        assert all(b["items"] > 0 for b in shelf["buckets"])
        assert len(shelf["buckets"]) == shelf["n_buckets"]
        places += [b["text"] for b in shelf["buckets"]]
        met += [item["item_id"] for item in shelf["here"]]
    assert sorted(met) == sorted(str(i) for i in shop.catalogue.item_ids[np.flatnonzero(rows)])


def test_the_shelf_is_paged_and_ordered_by_size(client):
    whole = client.get("/v1/catalogue/shelf", params={"order": "size", "filter": CHEAP}).json()
    sizes = [bucket["items"] for bucket in whole["buckets"]]
    assert sizes == sorted(sizes, reverse=True)
    asked = {"order": "size", "filter": CHEAP, "offset": 1, "k": 2}
    page = client.get("/v1/catalogue/shelf", params=asked).json()
    assert page["buckets"] == whole["buckets"][1:3]
    assert page["n_buckets"] == len(sizes)


def test_a_worker_process_reads_the_same_request(shops):
    from sidar.serve.browse.views import BrowseRequest

    request = BrowseRequest(view="shelf", prefix=(1,), k=3)
    again = _request(request.model_dump(mode="json"))
    assert again == request
    shop = shops["fixed"]
    assert shop.answer([again])[0].view.shelf == shop.answer([request])[0].view.shelf


@pytest.mark.parametrize("name", ["fixed", "mixed"])
def test_the_beams_name_what_a_filter_cut(shops, name):
    shop = shops[name]
    asked = {"query": "towel", "k": 3, "beam": 4, "explain": True}
    plain = shop.search(SearchRequest(**asked))
    assert all(level.cut == 0 and not level.cut_prefixes for level in plain.levels)
    assert plain.levels[0].prefixes[0].allowed is None
    answer = shop.search(SearchRequest(**asked, filter="price > 60"))
    allowed = shop.filters.allowed(SearchRequest(query="", filter="price > 60").filter)
    prompt = shop.model.prompts.encode_batch([Prompt("towel")], shop.sids)
    logp = score_all(shop._scorer, prompt, shop.trie)[0].numpy()
    for level in answer.levels:
        alive = {tuple(shop.sids.tuple_of(int(row))[: level.depth]) for row in range(64)}
        kept = {
            tuple(shop.sids.tuple_of(int(row))[: level.depth])
            for row in np.flatnonzero(allowed.rows)
        }
        deep = {codes for codes in alive if len(codes) == level.depth}
        assert level.cut == len(deep - kept)
        assert all(view.codes in deep - kept for view in level.cut_prefixes)
        assert all(view.allowed == 0 for view in level.cut_prefixes)
        assert level.cut_mass <= 1 - level.mass + 1e-5
        for view in level.prefixes:
            below = [shop.sids.tuple_of(r)[: level.depth] == view.codes for r in range(64)]
            assert view.allowed == int((np.array(below) & allowed.rows).sum()) > 0
        if level.depth == 3:
            for view in level.cut_prefixes:
                number = int(shop.index.lookup(np.array([view.codes]))[0])
                assert view.logp == pytest.approx(float(logp[number]), abs=1e-4)
    assert sum(level.cut for level in answer.levels) > 0
    assert any(level.cut_prefixes for level in answer.levels)


def test_two_sides_answer_as_each_would_alone(tmp_path, shops):
    import hashlib

    other = write_bundle(write_stages(tmp_path / "new", seed=3), "sft")
    config = ServeConfig(
        bundles={"monday": str(other)},
        keys=[KeyConfig(name="a", sha256=hashlib.sha256(KEY.encode()).hexdigest(), role="admin")],
    )
    admin = {"Authorization": f"Bearer {KEY}"}
    request = {"query": "tent", "k": 4}
    with TestClient(create_app(shops, config=config)) as client:
        assert [s["name"] for s in client.get("/v1/compare").json()["sides"]] == ["fixed", "mixed"]
        body = {"sides": ["fixed", "monday"], "request": request}
        refused = client.post("/v1/compare", json=body)
        assert refused.status_code == 422
        assert "load a bundle of serve.bundles first" in refused.json()["error"]
        client.post("/v1/bundles/monday/load", headers=admin)
        sides = client.get("/v1/compare").json()["sides"]
        assert {s["name"]: s["state"] for s in sides} == {
            "fixed": "active",
            "monday": "loaded",
            "mixed": "model",
        }
        answers = client.post("/v1/compare", json=body).json()["answers"]
        alone = client.post("/v1/search", json=request).json()
        assert answers[0]["hits"] == alone["hits"]
        assert [a["model"] for a in answers] == ["fixed", "monday"]
        assert answers[0]["bundle"] != answers[1]["bundle"]
        # what is exchanged keeps its name, so that both sides of an exchange can be compared
        client.post("/v1/bundles/monday/activate", headers=admin)
        again = client.post("/v1/compare", json=body).json()["answers"]
        assert [a["hits"] for a in again] == [a["hits"] for a in answers]


def test_the_report_of_the_run_is_shown_where_it_scored_this_model(tmp_path):
    run = write_stages(tmp_path / "run")
    bundle = write_bundle(run)
    model = read_manifest(run / "sft").hash
    with TestClient(create_app(Retriever.load(bundle, precision="fp32"))) as client:
        assert not client.get("/v1/info").json()["models"][0]["report"]
        assert client.get("/v1/report").status_code == 404
    for scored, shown in (("another", False), (model, True)):
        with write_artifact(
            run / "evaluate", "evaluate", config={}, inputs={"sft": scored}
        ) as draft:
            (draft.path / "report.html").write_text("<h1>nDCG</h1><script>owned = 1</script>")
        with TestClient(create_app(Retriever.load(bundle, precision="fp32"))) as client:
            assert client.get("/v1/info").json()["models"][0]["report"] is shown
            reply = client.get("/v1/report")
            assert reply.status_code == (200 if shown else 404)
    assert "sandbox" in reply.headers["content-security-policy"]
    assert "script-src" not in reply.headers["content-security-policy"]
