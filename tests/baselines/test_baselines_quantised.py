"""Quantised dense: reconstructions by hand, SIDs in order of their cosine, expanded
by the prior.
"""

import numpy as np
import pytest

from sidar.baselines import Dense, QuantisedDense, reconstruct
from sidar.index import PrefixIndex
from sidar.sid import RqKmeans
from sidar.types import Prompt, SemanticIds, SidInputs

BOOKS = [
    np.array([[1, 0], [0, 1]], np.float32),
    np.array([[0.5, 0], [0, 0.5], [-2, 0]], np.float32),
]


VECTORS = {"east": (1, 0), "north": (0, 1), "west": (-1, 0), "between": (0.6, 0.8)}


class Table:
    """An encoder of four known texts."""

    def encode(self, texts, batch_size=64):
        return np.array([VECTORS[text] for text in texts], np.float32).reshape(-1, 2)


def world():
    """SIDs (0,0) with rows 0, 3; (0,1) row 1; (1,1) row 2; (1,2) row 4; row 5 has none.

    Prior: row 3 before row 0.
    """
    codes = np.array([[0, 0], [0, 1], [1, 1], [0, 0], [1, 2], [-1, -1]], np.int32)
    sids = SemanticIds(codes, np.array([2, 2, 2, 2, 2, 0], np.int32), (2, 3))
    index = PrefixIndex.build(sids, np.array([1, 5, 1, 2, 1, 9], np.float32))
    return index, QuantisedDense(reconstruct(BOOKS, index.table), index.expand_with_source, Table())


def test_reconstruction_by_hand():
    codes = np.array([[0, 1], [1, 2], [1, -1], [-1, -1]], np.int32)
    assert reconstruct(BOOKS, codes).tolist() == [[1, 0.5], [-2, 1], [0, 1], [0, 0]]
    assert reconstruct(BOOKS, codes[:0]).shape == (0, 2)
    with pytest.raises(ValueError, match="level 1 has code 3"):
        reconstruct(BOOKS, np.array([[0, 3]]))
    with pytest.raises(ValueError, match="need 3 codebooks"):
        reconstruct(BOOKS, np.array([[0, 1, 2]]))


def test_reconstruction_is_what_the_tokenizer_quantised():
    vectors = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    tokenizer = RqKmeans((16, 8, 4), seed=0, precision="fp32").fit(SidInputs(vectors))
    codes = tokenizer.encode(SidInputs(vectors)).codes
    again = reconstruct(tokenizer.codebooks_, codes)
    for row in (0, 17, 199):  # the loop: subtract the nearest centroid, level by level
        left = vectors[row].copy()
        for book in tokenizer.codebooks_:
            left -= book[np.argmin(((left - book) ** 2).sum(1))]
        np.testing.assert_allclose(again[row], vectors[row] - left, atol=1e-5)


def test_sids_come_by_cosine_and_items_by_the_prior():
    index, system = world()
    # (1.5, 0), (1, .5), (0, 1.5), (-2, 1)
    assert index.table.tolist() == [[0, 0], [0, 1], [1, 1], [1, 2]]
    sids, scores = system.sid_ranking([Prompt("east"), Prompt("west"), Prompt("between")], 3)
    assert sids.tolist() == [[0, 1, 2], [3, 2, 1], [1, 2, 0]]
    root = 5**0.5  # the length of (1, .5) is √5 / 2, that of (−2, 1) √5
    want = [[1, 2 / root, 0], [2 / root, 0, -2 / root], [(0.6 + 0.8 / 2) * 2 / root, 0.8, 0.6]]
    np.testing.assert_allclose(scores, want, atol=1e-6)
    hits = system.hits([Prompt("east")], 4)
    assert hits.rows.tolist() == [[3, 0, 1, 2]]  # row 3 has the higher prior of its SID
    np.testing.assert_allclose(hits.scores, [[1, 1, 2 / root, 0]], atol=1e-6)
    everything = system.search(["east"], 8)
    assert everything.rows.tolist() == [[3, 0, 1, 2, 4, -1, -1, -1]]
    assert everything.scores[0, 5:].tolist() == [0, 0, 0]
    assert system.search([], 3).rows.shape == (0, 3)


def test_it_is_dense_where_every_item_has_an_sid_of_its_own():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(30, 2)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = np.arange(30, dtype=np.int32)[:, None]
    index = PrefixIndex.build(SemanticIds(codes, np.ones(30, np.int32), (30,)))
    system = QuantisedDense(reconstruct([vectors], index.table), index.expand_with_source, Table())
    queries = list(VECTORS)
    assert (
        system.search(queries, 12).rows == Dense(vectors, Table()).search(queries, 12).rows
    ).all()


def test_a_slow_twin_ranks_the_same():
    rng = np.random.default_rng(2)
    codes = rng.integers(0, [3, 4], size=(50, 2)).astype(np.int32)
    books = [rng.normal(size=(size, 2)).astype(np.float32) for size in (3, 4)]
    prior = rng.permutation(50).astype(np.float32)
    index = PrefixIndex.build(SemanticIds(codes, np.full(50, 2, np.int32), (3, 4)), prior)
    system = QuantisedDense(reconstruct(books, index.table), index.expand_with_source, Table())
    query = np.array(VECTORS["between"])

    def score(row):
        vector = books[0][codes[row, 0]] + books[1][codes[row, 1]]
        return vector @ query / np.linalg.norm(vector)

    slow = sorted(range(50), key=lambda row: (-round(score(row), 5), -prior[row]))
    assert system.search(["between"], 20).rows[0].tolist() == slow[:20]
