"""Recall of quantised dense as a criterion of sizes: by hand, against a loop, and in the stage's
report.
"""

import numpy as np
import pytest
from reference_sid import Books

from sidar.config import SidConfig
from sidar.sid import RqKmeans, RqVae, Sarq
from sidar.sid.lifecycle.ledger import squared_errors
from sidar.sid.quality import report
from sidar.sid.recall import DEPTH, quantised_recall, spoken
from sidar.sid.sizes import ENOUGH, WORTH
from sidar.sid.stage import fit_catalogue
from sidar.types import SemanticIds, SidInputs


def clustered(n=600, topics=40, dim=16, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(topics, dim))[rng.integers(topics, size=n)] + 0.3 * rng.normal(
        size=(n, dim)
    )
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def slowly(vectors, sids, books, queries, wanted, besides=None):
    """Expected share of ``wanted`` among the first 100 items when those of one SID come in random
    order.
    """
    tuples = [sids.tuple_of(row) for row in range(len(sids))]
    shares = []
    for q, vector in enumerate(queries):
        items = {}
        for row, sid in enumerate(tuples):
            if sid and (besides is None or row != besides[q]):
                items.setdefault(sid, []).append(row)
        score = {}
        for sid in items:
            mean = sum(books[level][code] for level, code in enumerate(sid))
            score[sid] = float(vector @ mean) / float(np.linalg.norm(mean))
        left, chance = DEPTH, {}
        for sid in sorted(items, key=lambda s: -score[s]):
            for row in items[sid]:
                chance[row] = min(max(left / len(items[sid]), 0.0), 1.0)
            left -= len(items[sid])
        shares.append(np.mean([chance.get(row, 0.0) for row in wanted[q]]))
    return float(np.mean(shares))


def test_against_a_loop():
    vectors = clustered(300)
    tokenizer = RqKmeans((4, 2), seed=0, precision="fp32").fit(SidInputs(vectors))
    sids = tokenizer.encode(SidInputs(vectors))
    found = quantised_recall(vectors, sids, tokenizer)
    exact = vectors @ vectors.T
    np.fill_diagonal(exact, -np.inf)
    near = np.argsort(-exact, axis=1)[:, :10]
    want = slowly(vectors, sids, tokenizer.codebooks_, vectors, near, np.arange(300))
    assert found["neighbours"] == pytest.approx(want, abs=1e-4)
    assert found["items"] == 300
    assert 0.3 < found["neighbours"] < 0.99
    pairs = np.stack([np.arange(50), np.arange(50)[::-1]], 1)
    queries = clustered(50, seed=3)
    both = quantised_recall(vectors, sids, tokenizer, query_vectors=queries, pairs=pairs)
    assert both["pairs"] == pytest.approx(
        slowly(vectors, sids, tokenizer.codebooks_, queries, pairs[:, 1:]), abs=1e-4
    )
    rank = (queries @ vectors.T > (queries * vectors[pairs[:, 1]]).sum(1)[:, None]).sum(1)
    assert both["pairs_exact"] == pytest.approx((rank < DEPTH).mean())
    assert both["query_item_pairs"] == 50


def test_finer_codes_keep_more_and_random_ones_nothing():
    vectors = clustered(2000, topics=200)
    kept = []
    for sizes in ((4, 4), (16, 8), (64, 32)):
        tokenizer = RqKmeans(sizes, seed=0, precision="fp32").fit(SidInputs(vectors))
        kept.append(
            quantised_recall(vectors, tokenizer.encode(SidInputs(vectors)), tokenizer)["neighbours"]
        )
    assert kept == sorted(kept)
    assert kept[2] > kept[0] + 0.2
    rng = np.random.default_rng(0)
    codes = rng.integers(0, [16, 8], size=(2000, 2)).astype(np.int32)
    books = [rng.normal(size=(k, 16)).astype(np.float32) for k in (16, 8)]
    chance = quantised_recall(
        vectors, SemanticIds(codes, np.full(2000, 2, np.int32), (16, 8)), Books(books)
    )["neighbours"]
    assert chance == pytest.approx(DEPTH / 2000, abs=0.03)


def test_a_tokenizer_with_a_decoder_is_asked_and_not_its_stand_ins():
    """RQ-VAE's codes add up in latent space: table row, ledger, recall and quality report all ask
    the decoder.
    """
    vectors = clustered(400)
    small = {"hidden": [32], "latent": 4, "steps": 40, "batch_size": 64, "precision": "fp32"}
    tokenizer = RqVae((8, 4), options=small).fit(SidInputs(vectors))
    sids = tokenizer.encode(SidInputs(vectors))
    clusters, place = np.unique(sids.codes, axis=0, return_inverse=True)
    decoded = Books([tokenizer.reconstruct(clusters)])  # every SID one code
    flat = SemanticIds(
        place.reshape(-1, 1).astype(np.int32), np.ones(400, np.int32), (len(clusters),)
    )
    found = quantised_recall(vectors, sids, tokenizer)
    assert found == quantised_recall(vectors, flat, decoded)
    assert found != quantised_recall(vectors, sids, Books(tokenizer.codebooks_))
    kept = report(sids, vectors=vectors, tokenizer=tokenizer)["reconstruction"]
    assert kept["error"][-1] == pytest.approx(
        float(squared_errors(tokenizer, vectors, sids.codes).mean()), rel=1e-5
    )
    stand_ins = report(sids, vectors=vectors, tokenizer=Books(tokenizer.codebooks_))[
        "reconstruction"
    ]
    assert kept["error"][-1] != pytest.approx(stand_ins["error"][-1], rel=1e-3)
    sarq = Sarq(tokenizer, 2)
    np.testing.assert_array_equal(sarq.reconstruct(clusters), tokenizer.reconstruct(clusters))


def test_larger_sizes_are_chosen_where_quantised_dense_keeps_too_little():
    """Vectors without clusters: few items share an SID long before near ones can be told from far
    ones.
    """
    vectors = np.random.default_rng(0).normal(size=(3000, 32)).astype(np.float32)
    inputs = SidInputs(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    recall = {}
    _, sids, tried = fit_catalogue(SidConfig(iterations=3), inputs, 0, recall=recall)
    kept = [recall[name]["neighbours"] for name in ("32/16/8", "64/32/16", "128/64/32")]
    # what items per SID alone would choose
    assert tried["32/16/8"] == min(tried.values(), key=lambda n: abs(n - 1.3))
    assert kept[0] < kept[1] - WORTH < kept[2] - 2 * WORTH < ENOUGH
    # doubled twice, and no more though it is still below ENOUGH
    assert sids.codebook_sizes == (128, 64, 32)
    assert recall.keys() == tried.keys()


def test_larger_sizes_that_gain_too_little_are_not_kept(monkeypatch):
    monkeypatch.setattr("sidar.sid.stage.WORTH", 0.5)
    inputs = SidInputs(np.random.default_rng(0).normal(size=(3000, 32)).astype(np.float32))
    _, sids, tried = fit_catalogue(SidConfig(iterations=3), inputs, 0)
    assert "/".join(map(str, sids.codebook_sizes)) == min(
        tried, key=lambda name: abs(tried[name] - 1.3)
    )


def test_random_ids_are_not_given_more_codes_for_keeping_nothing():
    """Their stand-ins learn the few items of a code by heart, so more codes would always seem to
    pay.
    """
    recall = {}
    vectors = clustered(2000)
    _, sids, tried = fit_catalogue(SidConfig(method="random"), SidInputs(vectors), 0, recall=recall)
    chosen = "/".join(map(str, sids.codebook_sizes))
    assert recall[chosen]["neighbours"] < ENOUGH
    assert chosen == min(tried, key=lambda name: abs(np.log(max(tried[name] - 1, 1e-3) / 0.3)))


@pytest.mark.parametrize(
    "stated", [{"codebook_sizes": [4, 2], "levels": 2}, {"balance_last": True}]
)
def test_sizes_that_were_stated_are_fitted_once(stated):
    recall = {}
    inputs = SidInputs(np.random.default_rng(0).normal(size=(1000, 32)).astype(np.float32))
    _, _, tried = fit_catalogue(SidConfig(iterations=3, **stated), inputs, 0, recall=recall)
    assert len(tried) == len(recall) == 1
    assert next(iter(recall.values()))["neighbours"] < ENOUGH


def test_one_sid_per_item_at_its_own_vector_keeps_everything():
    vectors = clustered(500)
    codes = np.arange(500, dtype=np.int32)[:, None]
    found = quantised_recall(
        vectors, SemanticIds(codes, np.ones(500, np.int32), (500,)), Books([vectors])
    )
    assert found["neighbours"] == 1.0


def test_items_without_an_sid_and_tiny_catalogues():
    vectors = clustered(20)
    codes = np.stack([np.arange(20) % 4, np.arange(20) % 2], 1).astype(np.int32)
    lengths = np.full(20, 2, np.int32)
    codes[3], lengths[3] = -1, 0
    codes[4, 1], lengths[4] = -1, 1
    books = [np.ones((4, 16), np.float32), np.ones((2, 16), np.float32)]
    table = SemanticIds(codes, lengths, (4, 2))
    found = quantised_recall(
        vectors, table, Books(books), query_vectors=vectors, pairs=np.array([[0, 3], [0, 5]])
    )
    assert found["neighbours"] == 1.0  # all 19 fit into the first 100
    assert found["query_item_pairs"] == 1
    assert (
        quantised_recall(vectors[:1], SemanticIds(codes[:1], lengths[:1], (4, 2)), Books(books))
        == {}
    )
    assert spoken({}) == ""
    assert spoken({"neighbours": 0.5}) == "; quantised dense keeps 50% of near items"
    assert "70% of logged answers (exact 90%)" in spoken(
        {"neighbours": 0.5, "pairs": 0.7, "pairs_exact": 0.9}
    )
