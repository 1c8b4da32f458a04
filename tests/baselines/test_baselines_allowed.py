"""Channels under a filter: the ranking of all items without those that it rules out."""

import numpy as np
import pytest

from sidar.baselines import Bm25, Dense, Popularity
from sidar.baselines.dense import VectorChannel
from sidar.data import toy
from sidar.index.dual_view import DualViewIndex, Probed

RNG = np.random.default_rng(0)
ITEMS = RNG.standard_normal((400, 8)).astype(np.float32)
QUERIES = RNG.standard_normal((3, 8)).astype(np.float32)
ALIVE = RNG.random(400) < 0.9


def masks(n):
    """Hardly any item, few, half, all and none."""
    for share in (0.01, 0.04, 0.5, 1.0, 0.0):
        yield np.random.default_rng(1).random(n) < share


def assert_restricted(hits, whole, allowed, k):
    """``whole``: the ranking of all items, long enough to hold every allowed one."""
    for query in range(len(whole.rows)):
        pairs = zip(whole.rows[query].tolist(), whole.scores[query].tolist(), strict=True)
        want = [(row, score) for row, score in pairs if row >= 0 and allowed[row]][:k]
        found = hits.rows[query][hits.rows[query] >= 0]
        assert found.tolist() == [row for row, _ in want]
        scores = [score for _, score in want]
        np.testing.assert_allclose(hits.scores[query, : len(want)], scores, rtol=1e-5)


def dense() -> VectorChannel:
    return Dense(ITEMS, None, alive=ALIVE, block=64)


def probed() -> VectorChannel:
    index = DualViewIndex.build(ITEMS, coarse_view="item", lists=20, alive=ALIVE)
    return Probed(index, 20)


@pytest.mark.parametrize("make", [dense, probed])
def test_vectors(make):
    channel = make()
    whole = channel.search_vectors(QUERIES, 400)
    for allowed in masks(400):
        hits = channel.search_vectors(QUERIES, 30, allowed=allowed)
        assert hits.rows.shape == (3, 30)
        assert_restricted(hits, whole, allowed, 30)


def test_few_allowed_items_are_reached_whichever_list_they_are_in():
    """Two lists of twenty are probed; without the filter most items would be out of reach."""
    channel = Probed(probed().index, 2)
    allowed = np.zeros(400, bool)
    allowed[np.flatnonzero(ALIVE)[::16]] = True
    hits = channel.search_vectors(QUERIES, 40, allowed=allowed)
    assert ((hits.rows >= 0).sum(1) == allowed.sum()).all()
    # many allowed items: only what the probed lists hold of them
    half = ALIVE & (np.arange(400) % 2 == 0)
    found = channel.search_vectors(QUERIES, 400, allowed=half).rows
    assert half[found[found >= 0]].all()
    assert ((found >= 0).sum(1) < half.sum()).all()


def test_words_and_popularity():
    catalogue = toy.catalogue()
    prior = np.random.default_rng(2).integers(0, 9, 64)
    for channel in (Bm25(catalogue), Popularity(prior, alive=catalogue.alive)):
        queries = ["bath towel", "tent", "nothing like it"]
        whole = channel.search(queries, 64)
        for allowed in masks(64):
            assert_restricted(channel.search(queries, 5, allowed=allowed), whole, allowed, 5)
