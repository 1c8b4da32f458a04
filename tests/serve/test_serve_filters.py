"""Filters of requests through a bundle: Python, HTTP and the shell; every channel; browsing."""

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import mixed_table, write_bundle, write_stages
from typer.testing import CliRunner

from sidar import Retriever
from sidar.cli import app
from sidar.data import toy
from sidar.decode import score_all
from sidar.serve import create_app
from sidar.serve.request import RequestError, SearchRequest
from sidar.serve.why import WhyRequest
from sidar.types import Prompt

CHEAP = "price < 20"
JSON = {"content-type": "application/json"}
PRICES = np.array([np.nan if p is None else p for p in toy.catalogue().column("price")])


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    made = {"fixed": write_bundle(write_stages(folder / "fixed"))}
    made["mixed"] = write_bundle(write_stages(folder / "mixed", sids=mixed_table()))
    return made


@pytest.fixture(scope="module")
def shops(bundles):
    return {name: Retriever.load(bundle, precision="fp32") for name, bundle in bundles.items()}


def items_by_score(shop, query, allowed):
    """{row: log π + log share} of every allowed item, without any search."""
    prompt = shop.model.prompts.encode_batch([Prompt(query)], shop.sids)
    scores = score_all(shop._scorer, prompt, shop.trie)[0].numpy()
    sid = np.repeat(np.arange(len(shop.index)), np.diff(shop.index.rows_start))
    values = scores[sid] + shop.shares.log_share
    pairs = zip(shop.index.rows.tolist(), values.tolist(), strict=True)
    return {row: value for row, value in pairs if allowed[row]}


CONDITIONS = st.sampled_from(
    [
        *("price < 20", "price 10 TO 60", "price > 100", "brand = Softdale", "brand IS NULL"),
        *("attributes.colour = grey", "in_stock = true", "category UNDER [Electronics]"),
        *('HAS_ID ["T000", "T305"]', "created >= 2026-01-01", "price < 0"),
    ]
)
LINES = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        inner.map(lambda text: f"NOT ({text})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) AND ({two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) OR ({two[1]})"),
    ),
    max_leaves=4,
)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(["fixed", "mixed"]), LINES, st.integers(1, 12), st.booleans())
def test_exact_and_covering_searches_equal_scoring_every_allowed_item(
    shops, name, text, k, is_exact
):
    shop = shops[name]
    beam = None if is_exact else 64
    request = SearchRequest(query="towel", k=k, filter=text, exact=is_exact, beam=beam)
    answer = shop.search(request)
    allowed = shop.filters.allowed(request.filter)
    expected = items_by_score(shop, "towel", allowed.rows)
    assert answer.allowed == allowed.n == allowed.rows.sum()
    assert len(answer.results) == min(k, allowed.n)
    best = sorted(expected.values(), reverse=True)[:k]
    np.testing.assert_allclose([hit.score for hit in answer.results], best, atol=1e-4)
    for hit in answer.results:
        assert expected[shop.catalogue.row(hit.item_id)] == pytest.approx(hit.score, abs=1e-4)


@pytest.mark.parametrize("name", ["fixed", "mixed"])
def test_a_narrow_beam_returns_k_items_where_k_exist(shops, name):
    """Without the filter inside the search, four beams would reach few cheap items."""
    shop = shops[name]
    answer = shop.search(SearchRequest(query="tent", k=4, beam=4, filter="price < 60"))
    assert len(answer.results) == 4
    assert not answer.exact
    assert answer.beam == 4
    assert all(hit.price < 60 for hit in answer.results)


def test_the_unfiltered_answer_does_not_change(shops):
    shop = shops["fixed"]
    plain = shop.search("towel")
    assert shop.search("towel", filter="") == shop.search("towel", filter={}) == plain
    assert shop.search(SearchRequest(query="towel", filter={"must": []})).allowed is None


def test_a_filter_that_allows_nothing_or_little_is_answered_with_a_note(shops):
    none = shops["fixed"].search(SearchRequest(query="tent", filter="price < 0"))
    assert (none.results, none.allowed) == ([], 0)
    assert (none.requested, none.reason) == (10, "filter_allows_0")
    assert none.notes == ("0 of 10 items: the filter allows no more",)
    few = shops["fixed"].search(SearchRequest(query="tent", filter='HAS_ID ["T000"]'))
    assert [hit.item_id for hit in few.results] == ["T000"]
    assert (few.reason, few.exact) == ("filter_allows_1", True)


def test_an_empty_query_with_a_filter_browses_by_popularity(shops):
    shop = shops["fixed"]
    answer = shop.search(SearchRequest(query=" ", k=5, filter=CHEAP))
    prior = np.where(PRICES < 20, shop.index.prior, -np.inf)
    assert [shop.catalogue.row(hit.item_id) for hit in answer.results] == list(
        np.argsort(-prior, kind="stable")[:5]
    )
    assert all(hit.channels == ("prior",) for hit in answer.results)
    assert answer.notes[0] == "without a query the allowed items come by popularity"
    # someone who touched something is not browsing
    personal = shop.search(SearchRequest(query="", k=5, filter=CHEAP, history=("T000",)))
    assert all(hit.probability is not None for hit in personal.results)


def test_facets_count_the_allowed_items(shops):
    shop = shops["fixed"]
    answer = shop.search(SearchRequest(query="towel", filter=CHEAP, facets=("brand", "in_stock")))
    brands = [
        b for b, price in zip(shop.catalogue.column("brand"), PRICES, strict=True) if price < 20
    ]
    assert {c.value: c.count for c in answer.facets["brand"]} == {
        brand: brands.count(brand) for brand in set(brands) - {None}
    }
    assert sum(count.count for count in answer.facets["in_stock"]) == answer.allowed
    with pytest.raises(RequestError, match=r"facets: there is no 'brnd'; did you mean brand"):
        shop.search("towel", facets=["brnd"])


@pytest.mark.parametrize("name", ["fixed", "mixed"])
@pytest.mark.parametrize("is_exact", [False, True])
def test_requests_of_one_pass_keep_their_filters(shops, name, is_exact):
    shop = shops[name]
    filters = [CHEAP, None, "price > 60", CHEAP, "price < 0", "NOT in_stock = false"]
    requests = [
        SearchRequest(query=query, k=3, beam=20, filter=wanted, exact=is_exact)
        for query, wanted in zip(
            ["towel", "tent", "red tent", "", "x", "knife"], filters, strict=True
        )
    ]
    for request, answer in zip(requests, shop.answer(requests), strict=True):
        alone = shop.search(request)
        assert [hit.item_id for hit in answer.results] == [hit.item_id for hit in alone.results]
        assert (answer.allowed, answer.reason) == (alone.allowed, alone.reason)
        found = [hit.score for hit in answer.results]
        np.testing.assert_allclose(found, [hit.score for hit in alone.results], atol=1e-4)


def test_a_request_with_a_filter_travels_as_json(shops):
    text = "price 10 TO 50 AND created >= 2026-01-01 AND brand NOT IN [a, b]"
    request = SearchRequest(query="towel", filter=text)
    again = SearchRequest.model_validate_json(request.model_dump_json())
    assert again == request
    assert hash(again) == hash(request)


def test_why_an_item_is_not_there_can_be_the_filter(shops):
    wanted = {"query": "towel", "filter": CHEAP}
    shop = shops["fixed"]
    dear = shop.catalogue.item_ids[int(np.nanargmax(PRICES))]
    with pytest.raises(RequestError, match=f"item_id: the filter rules '{dear}' out"):
        shop.answer([WhyRequest(item_id=dear, **wanted)])
    cheap = shop.catalogue.item_ids[int(np.nanargmin(PRICES))]
    (answer,) = shop.answer([WhyRequest(item_id=cheap, **wanted)])
    assert answer.why.rank <= 13


def test_rows_for_evaluation_are_filtered(shops):
    hits = shops["fixed"].hits([Prompt("towel"), Prompt("tent")], 5, filter=CHEAP)
    assert hits.rows.shape == (2, 5)
    assert (PRICES[hits.rows] < 20).all()


def test_filters_over_http_are_typed_and_their_errors_are_sentences(shops):
    with TestClient(create_app(shops["fixed"])) as client:
        asked = {"query": "towel", "k": 3, "facets": ["brand"]}
        tree = {"must": [{"key": "price", "range": {"lt": 20}}]}
        as_json = client.post("/v1/search", json={**asked, "filter": tree}).json()
        as_text = client.post("/v1/search", json={**asked, "filter": CHEAP}).json()
        assert as_json["hits"] == as_text["hits"]
        assert all(hit["price"] < 20 for hit in as_json["hits"])
        assert as_json["allowed"] == 13
        assert as_json["facets"]["brand"][0] == {"value": "Oakling", "count": 2}
        for wanted, says in (
            ("price <", "filter: column 8: want a value, got the end"),
            ({"must": [{"key": "price", "range": {}}]}, "filter: must[0].range: give at least one"),
            ("prise < 20", "filter: must[0]: there is no 'prise'; did you mean price?"),
            ({"must": [[]]}, "filter: must[0]: want a condition such as"),
            (7, "filter: want a JSON object or a text, got int"),
        ):
            refused = client.post("/v1/search", json={**asked, "filter": wanted})
            assert refused.status_code == 422, wanted
            assert refused.json()["error"].startswith(says)
        for odd in (rb'"filter": "brand = \"\ud800\""', rb'"facets": ["\ud800"]'):
            body = rb'{"query": "x", ' + odd + b"}"
            refused = client.post("/v1/search", content=body, headers=JSON)
            assert refused.status_code == 422
            assert "no valid Unicode" in refused.json()["error"]
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert {"Filter", "Match", "Range", "DatetimeRange", "IsNull", "HasId"} <= set(schemas)
    kinds = schemas["SearchRequest"]["properties"]["filter"]["anyOf"]
    assert {"$ref": "#/components/schemas/Filter"} in kinds
    assert {"type": "string"} in kinds


def test_the_shell_filters_and_counts(bundles):
    asked = ["search", "towel", "--bundle", str(bundles["fixed"]), "--facet", "brand"]
    done = CliRunner().invoke(app, [*asked, "--filter", "price < 13"])
    assert done.exit_code == 0, done.output
    line = next(line for line in done.output.splitlines() if line.startswith("brand: "))
    assert "(1)" in line
    as_json = '{"must": [{"key": "price", "range": {"lt": 13}}]}'
    assert CliRunner().invoke(app, [*asked, "--filter", as_json]).output == done.output
