"""One request value: the same fields, refusals and limits for Python, HTTP and the shell."""

from typing import get_type_hints

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from shop import write_bundle, write_stages

from sidar import Retriever
from sidar.serve import create_app
from sidar.serve.request import Limits, RequestError, SearchOptions, SearchRequest

#: The fields that a search may have.
CONTRACT = {
    *("query", "history", "profile", "user_id", "k", "beam", "exact", "filter", "fuse", "rerank"),
    *("explain", "timeout_ms", "model", "fields", "facets"),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = write_stages(tmp_path_factory.mktemp("run"))
    return Retriever.load(write_bundle(folder), precision="fp32")


def test_the_fields_of_the_contract_are_served():
    served = set(SearchRequest.model_fields)
    assert served == CONTRACT
    assert set(get_type_hints(SearchOptions)) == served - {"query", "k", "explain", "model"}


def test_a_misspelt_option_and_a_wrong_value_are_one_line(shop):
    for options, words in (
        ({"beams": 3}, "beams: Extra inputs are not permitted"),
        ({"fuse": "all"}, "fuse: 'all' is not served; this version answers with 'memory',"),
        ({"beam": 0}, "beam: Input should be greater than or equal to 1"),
        ({"history": "T203"}, "history: Input should be a valid tuple"),
        ({"k": "many"}, "k: Input should be a valid integer"),
        ({"timeout_ms": 0}, "timeout_ms: Input should be greater than or equal to 1"),
        ({"fields": ["item_id", "colour"]}, "fields: a hit has no 'colour'; its fields are rank, "),
    ):
        for call in (shop.search, shop.explain):
            with pytest.raises(ValueError, match=words) as error:
                call("tent", **options)
            assert "\n" not in str(error.value)


def test_a_request_is_a_value(shop):
    request = SearchRequest(query="tent", k=3, history=["T203"], beam=40)
    assert request == SearchRequest(query="tent", k=3, history=("T203",), beam=40)
    assert len({request, SearchRequest(query="tent", k=3, history=("T203",), beam=40)}) == 1
    with pytest.raises(ValidationError, match="frozen"):
        request.k = 4
    answer = shop.search(request)
    assert answer.results == shop.search("tent", 3, history=["T203"], beam=40)
    assert (answer.query, answer.beam, answer.bundle) == ("tent", 40, shop.hash)
    assert answer.levels == []
    explained = shop.search(request.model_copy(update={"explain": True}))
    assert explained.results == answer.results
    assert [level.depth for level in explained.levels] == [1, 2, 3]
    for wrong in ({"k": 4}, {"beam": 3}):
        with pytest.raises(TypeError, match="give it alone"):
            shop.search(request, **wrong)


def test_a_model_answers_under_its_label_alone(shop):
    assert shop.search(SearchRequest(query="tent", model="sft")).results
    with pytest.raises(RequestError, match="model: this one is 'sft', not 'other'"):
        shop.search(SearchRequest(query="tent", model="other"))
    with TestClient(create_app({"mine": shop})) as client:
        reply = client.post("/v1/search", json={"query": "tent", "model": "mine"}).json()
        assert reply["model"] == "mine"
        assert reply["bundle"] == shop.hash


BEYOND = {
    "query": "x" * 513,
    "k": 501,
    "history": ["T203"] * 201,
    "profile": "x" * 2049,
    "user_id": "x" * 257,
    "beam": 1025,
    "model": "x" * 129,
}


def test_a_server_has_limits_that_its_schema_tells_and_python_has_none(shop):
    assert BEYOND.keys() == vars(Limits()).keys()
    with TestClient(create_app(shop)) as client:
        for name, value in BEYOND.items():
            reply = client.post("/v1/search", json={"query": "tent", name: value})
            assert reply.status_code == 422
            assert reply.json()["error"].startswith(f"{name}: ")
            assert f"limit of {vars(Limits())[name]:,}" in reply.json()["error"]
        schema = client.get("/openapi.json").json()["components"]["schemas"]["SearchRequest"]
    told = {}
    for name in BEYOND:
        declared = schema["properties"][name]
        for option in declared.get("anyOf", [declared]):
            for keyword in ("maxLength", "maxItems", "maximum"):
                if keyword in option:
                    told[name] = option[keyword]
    assert told == vars(Limits())
    assert len(shop.search("tent", k=501, beam=1025)) == 64
    with TestClient(create_app(shop, Limits(k=2))) as client:
        assert client.post("/v1/search", json={"query": "tent", "k": 2}).status_code == 200
        assert client.post("/v1/search", json={"query": "tent", "k": 3}).status_code == 422
