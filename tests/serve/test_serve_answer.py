"""Short answers, chosen fields and deadlines; and requests of many kinds answered together."""

import time

import numpy as np
import pytest
from fastapi.testclient import TestClient
from shop import mixed_table, write_bundle, write_stages

from sidar import Retriever
from sidar.serve import create_app
from sidar.serve.request import HIT_FIELDS, SearchRequest
from sidar.serve.results import Result

QUERIES = ("tent", "", "a much longer query about mechanical keyboards for travel", "red shoe")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = write_stages(tmp_path_factory.mktemp("run"))
    return Retriever.load(write_bundle(folder), precision="fp32")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder = write_stages(tmp_path_factory.mktemp("mixed"), sids=mixed_table())
    return Retriever.load(write_bundle(folder), precision="fp32")


@pytest.mark.parametrize(
    ("asked", "returned", "reason"),
    [
        ({"k": 5}, 5, None),
        ({"k": 64, "beam": 64}, 64, None),
        ({"k": 65}, 64, "catalogue"),
        ({"k": 500, "exact": True}, 64, "catalogue"),
    ],
)
def test_an_answer_says_how_many_were_asked_for_and_why_fewer_came(shop, asked, returned, reason):
    answer = shop.search(SearchRequest(query="tent", **asked))
    assert (answer.requested, answer.returned, answer.reason) == (asked["k"], returned, reason)
    assert len(answer.results) == returned
    assert answer.catalogue_version == 0
    assert bool(answer.notes) == (reason is not None)


def test_a_beam_that_reaches_too_few_live_items_is_the_reason(shop):
    # SIDs of retired items stay in the index until it is made again, and use up the beam
    table = shop.catalogue.table
    place = table.schema.get_field_index("alive")
    dead = np.arange(64) % 8 < 4
    retired = table.set_column(place, table.schema.field(place), [[not row for row in dead]])
    fewer = Retriever(
        shop.model,
        shop.index,
        shop.sids,
        type(shop.catalogue)(retired, shop.catalogue.lineage),
        precision="fp32",
    )
    answer = fewer.search(SearchRequest(query="tent", k=10, beam=10))
    assert answer.returned < 10
    assert answer.reason == "beam"
    assert answer.notes == (f"{answer.returned} of 10 items: the 10 SIDs of the beam hold no more",)
    everything = fewer.search(SearchRequest(query="tent", k=64))
    assert (everything.returned, everything.reason) == (32, "catalogue")


def test_over_http_a_short_answer_is_no_error(shop):
    with TestClient(create_app(shop)) as client:
        reply = client.post("/v1/search", json={"query": "tent", "k": 100})
    assert reply.status_code == 200
    answer = reply.json()
    counted = [answer[name] for name in ("requested", "returned", "reason", "catalogue_version")]
    assert counted == [100, 64, "catalogue", 0]
    assert len(answer["hits"]) == 64


def test_a_request_chooses_the_fields_of_its_hits(shop):
    asked = {"query": "tent", "k": 2}
    with TestClient(create_app(shop)) as client:
        whole = client.post("/v1/search", json=asked).json()["hits"]
        some = client.post("/v1/search", json=asked | {"fields": ["score", "item_id"]}).json()
        none = client.post("/v1/search", json=asked | {"fields": []}).json()["hits"]
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert some["hits"] == [{"score": hit["score"], "item_id": hit["item_id"]} for hit in whole]
    assert none == [{}, {}]
    assert tuple(whole[0]) == HIT_FIELDS or set(whole[0]) == set(HIT_FIELDS)
    assert set(Result.__dataclass_fields__) == set(HIT_FIELDS)
    assert "required" not in schemas["Hit"]


def test_a_deadline_ends_a_search_between_two_steps(shop, monkeypatch):
    extend = type(shop._scorer).extend

    def slow(self, state, parents, codes, depth):
        depths.append(depth)
        time.sleep(0.06)
        return extend(self, state, parents, codes, depth)

    depths = []
    monkeypatch.setattr(type(shop._scorer), "extend", slow)
    answer = shop.search(SearchRequest(query="tent", k=3, timeout_ms=50))
    assert (answer.results, answer.reason, answer.requested) == ([], "deadline", 3)
    assert answer.notes == ("0 of 3 items: the deadline passed before the search ended",)
    assert depths == [1]
    assert shop.search(SearchRequest(query="tent", k=3, timeout_ms=60_000)).returned == 3
    # a pass goes on for the request that has more time
    both = [SearchRequest(query="tent", timeout_ms=limit) for limit in (1, None)]
    assert [answer.returned for answer in shop.answer(both)] == [10, 10]


@pytest.mark.parametrize("options", [{}, {"exact": True}])
@pytest.mark.parametrize("which", ["shop", "mixed"])
def test_requests_of_all_kinds_get_together_what_each_gets_alone(request, which, options):
    """Widths 9 to 16 share a pass; each is cut at every step as if it were alone."""
    retriever = request.getfixturevalue(which)
    requests = [
        SearchRequest(query=query, k=k, beam=beam, history=history, **options)
        for query in QUERIES
        for k, beam, history in ((3, 9, ()), (10, 16, ("T203", "nope")), (2, 2, ()), (12, 11, ()))
    ]
    requests.append(SearchRequest(query="tent", k=4, explain=True))
    for asked, answer in zip(requests, retriever.answer(requests), strict=True):
        alone = retriever.search(asked)
        assert [hit.item_id for hit in answer.results] == [hit.item_id for hit in alone.results]
        scores = [hit.score for hit in alone.results]
        assert [hit.score for hit in answer.results] == pytest.approx(scores, abs=1e-5)
        for name in ("query", "requested", "reason", "beam", "notes", "ignored_history", "exact"):
            assert getattr(answer, name) == getattr(alone, name)
        assert answer.mass == pytest.approx(alone.mass, abs=1e-6)
