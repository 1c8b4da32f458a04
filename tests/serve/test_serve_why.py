"""Why an item is not in an answer: told from the beam, and true of it."""

import numpy as np
import pytest
from fastapi.testclient import TestClient
from shop import mixed_table, write_bundle, write_stages

from sidar import Retriever
from sidar.decode import score_all
from sidar.serve import create_app
from sidar.serve.request import RequestError, SearchRequest
from sidar.serve.why import WhyRequest
from sidar.types import Prompt


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    tables = {"shop": None, "mixed": mixed_table()}
    return {
        name: write_bundle(write_stages(tmp_path_factory.mktemp(name), sids=sids))
        for name, sids in tables.items()
    }


@pytest.fixture(scope="module")
def shops(bundles):
    return {name: Retriever.load(folder, precision="fp32") for name, folder in bundles.items()}


@pytest.mark.parametrize("name", ["shop", "mixed"])
@pytest.mark.parametrize(("k", "beam"), [(2, 3), (3, 16), (10, 56)])
def test_every_item_is_returned_or_behind_or_fell_out_where_it_is_told(shops, name, k, beam):
    shop = shops[name]
    asked = {"query": "tent", "k": k, "beam": beam}
    answer = shop.search(SearchRequest(**asked, explain=True))
    returned = {hit.item_id: hit.rank for hit in answer.results}
    reached = shop.beams([Prompt("tent")], answer.beam)
    inside = {tuple(row[:n]) for row, n in zip(reached.codes[0], reached.lengths[0], strict=True)}
    prompt = shop.model.prompts.encode(Prompt("tent"), shop.sids)
    logp = score_all(shop._scorer, [prompt], shop.index)[0].numpy()
    kinds = set()
    rows = [int(row) for row in shop.catalogue.rows(list(returned))]
    for row in sorted({*rows, *range(0, 64, 3)}):
        item_id, sid = str(shop.catalogue.item_ids[row]), shop.sids.tuple_of(row)
        (told,) = shop.answer([WhyRequest(**asked, item_id=item_id)])
        why = told.why
        assert (why.item_id, why.sid, told.results) == (item_id, sid, [])
        assert why.returned == (item_id in returned)
        assert (why.fell_out is None) == (sid in inside)
        if why.returned:
            kinds.add("returned")
            assert why.rank == returned[item_id]
            assert f"at place {why.rank}" in why.words
        elif why.fell_out is None:
            kinds.add("behind")
            assert why.rank > k
            assert why.behind >= 0
        else:
            kinds.add("fell out")
            lost = why.fell_out
            assert lost.prefix == "-".join(map(str, sid[: lost.level]))
            assert lost.margin == pytest.approx(lost.against_logp - lost.logp)
            assert lost.margin >= 0
            # what is below a prefix is not more probable than the prefix
            number = int(shop.index.lookup(shop.sids.codes[[row]])[0])
            assert logp[number] <= lost.logp + 1e-5
            assert f"fell out of the beam at level {lost.level}" in why.words
    assert "returned" in kinds
    assert len(kinds) > 1


def test_the_last_level_names_an_sid_of_the_beam(shops):
    shop = shops["shop"]
    request = WhyRequest(query="tent", k=2, beam=3, item_id="T000")
    best = shop.search("tent", k=2, beam=3)[0]
    siblings = np.flatnonzero((shop.sids.codes[:, :2] == best.sid[:2]).all(1))
    levels = set()
    for row in siblings:
        asked = request.model_copy(update={"item_id": str(shop.catalogue.item_ids[row])})
        lost = shop.answer([asked])[0].why.fell_out
        if lost is not None:
            levels.add(lost.level)
            assert lost.against in {hit.sid_text for hit in shop.search("tent", k=3, beam=3)}
    assert levels <= {3}


def test_what_no_search_returns_is_told_in_words(shops):
    shop = shops["shop"]
    with pytest.raises(RequestError, match="item_id: the catalogue has no 'nope'"):
        shop.answer([WhyRequest(query="tent", item_id="nope")])
    with TestClient(create_app(shop)) as client:
        asked = {"query": "tent", "k": 2, "beam": 3, "timeout_ms": 1}
        reply = client.post("/v1/explain/T000", json=asked)
        assert reply.status_code == 200
        told = reply.json()
        (want,) = shop.answer([WhyRequest(query="tent", k=2, beam=3, item_id="T000")])
        assert told["words"] == want.why.words
        assert (told["model"], told["bundle"], told["sid"]) == ("sft", shop.hash, [0, 0, 0])
        refused = client.post("/v1/explain/..%2fetc", json={"query": "tent"})
        assert refused.status_code in (404, 422)
        assert client.post("/v1/explain/nope", json={"query": "tent"}).status_code == 422
