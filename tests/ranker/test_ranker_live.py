"""A catalogue that changes under a bundle that answers by its ranker."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from sidar import Retriever
from sidar.data import toy
from sidar.serve.live import open_items
from sidar.serve.live.encode import ItemEncoder
from sidar.serve.live.searcher import LiveSearcher
from sidar.serve.request import SearchRequest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("live")


def test_changes_equal_a_ranker_over_the_same_rows(answered, bench, tmp_path):
    _, run, _ = answered
    base = Retriever.load(run / "bundle", precision="fp32")
    items = open_items(tmp_path / "live.db")
    encoder = ItemEncoder.open(run / "bundle", base.vectors.embedder)
    live = LiveSearcher(base, items, encoder)
    whole = toy.catalogue().table.to_pylist()
    want = {item["item_id"]: item for item in whole}
    changing = bench.Changing(live, want, whole, np.random.default_rng(4))
    filters = ["price < 60", "NOT brand = nobody"]
    queries = [*base.examples[:2], "lamp"]
    asked = bench.requests_of(base, queries, filters, ("brand",))
    seen = {one.item_id: 0 for one in base.search(asked[0]).results[:2]}
    asked += [
        SearchRequest(query=query, k=30, fuse="ranker", history=tuple(seen), filter=text)
        for query in queries
        for text in (None, *filters)
    ]
    for step in range(30):
        changing.step()
        if step == 10:  # what was counted, and shown to the ranker, before and after
            live.answer([asked[1], asked[-1]])
    states, _ = items.read(base.hash)
    made = bench.rebuilt(base, list(want.values()), {state.item_id: state for state in states})
    shares = bench.share_equal(live.now, made, asked)
    assert set(shares.values()) == {1.0}, shares
    assert "ranker" in shares
    known, theirs = (one.fused.ranked.maker.known for one in (live.now, made))
    for name in ("log_price", "created", "alive"):
        np.testing.assert_array_equal(getattr(known.items, name), getattr(theirs.items, name))
    for name in ("brand", "leaf", "root"):
        mine, other = getattr(known.items, name), getattr(theirs.items, name)
        # numbers may differ, what shares one may not
        assert len({*zip(mine.tolist(), other.tolist(), strict=True)}) == len({*other.tolist()})
    np.testing.assert_array_equal(known.log_share, theirs.log_share)
    items.close()
