import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from sidar.baselines import Bm25, Bm25Params, Dense, Popularity, RandomOrder, topic_oracle
from sidar.baselines.ranking import top_k
from sidar.baselines.text import words
from sidar.data import toy
from sidar.types import Catalogue, EvalSet, Prompt


@pytest.fixture(scope="module")
def catalogue():
    return toy.catalogue()


class LetterEncoder:
    """Texts as normalised letter counts: a real, tiny embedder."""

    def encode(self, texts, batch_size=64):
        counts = np.array(
            [[text.lower().count(chr(97 + i)) + 0.01 for i in range(26)] for text in texts],
            np.float32,
        )
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def slow_bm25(catalogue, query, weights, k1, b):
    """BM25 (Lucene's idf) over weighted bags of words, straight from the formula."""
    bags = []
    for row in range(len(catalogue)):
        item, bag = catalogue.item(row), Counter()
        for name, times in weights.items():
            value = item[name] or ""
            for word in words(value if isinstance(value, str) else " ".join(value)):
                bag[word] += times
        bags.append(bag)
    mean = sum(sum(bag.values()) for bag in bags) / len(bags)
    scores = np.zeros(len(bags))
    for word in words(query):
        df = sum(bag[word] > 0 for bag in bags)
        idf = math.log(1 + (len(bags) - df + 0.5) / (df + 0.5))
        for row, bag in enumerate(bags):
            length = sum(bag.values())
            scores[row] += idf * bag[word] / (bag[word] + k1 * (1 - b + b * length / mean))
    return scores


@pytest.mark.parametrize("query", ["cast iron skillet", "towels towel blue", "unheard-of zyx", ""])
def test_bm25_equals_the_formula(catalogue, query):
    params = Bm25Params({"title": 2, "category": 1, "brand": 1}, k1=0.9, b=0.4)
    bm25 = Bm25(catalogue, params)
    slow = slow_bm25(catalogue, query, params.weights, 0.9, 0.4)
    np.testing.assert_allclose(bm25.scores([query])[0], slow, rtol=1e-4, atol=1e-6)
    hits = bm25.search([query], k=10)
    found = hits.rows[0][hits.rows[0] >= 0]
    assert len(found) == min(10, int((slow > 0).sum()))
    assert (np.diff(slow[found]) < 1e-5).all()


def test_bm25_finds_the_plural_and_no_retired_item(catalogue):
    first = Bm25(catalogue).search(["towels"]).rows[0]
    row = int(first[0])
    alive = catalogue.alive.copy()
    alive[row] = False
    at = catalogue.table.schema.get_field_index("alive")
    retired = Catalogue(
        catalogue.table.set_column(at, "alive", [alive.tolist()]), catalogue.lineage
    )
    assert row not in Bm25(retired).search(["towels", "towel"]).rows
    assert (Bm25(catalogue).search(["towel"]).rows == first).all()


def test_bm25_tuning_finds_the_only_useful_field(catalogue):
    titles = catalogue.column("title")
    rows = np.arange(0, 64, 3)

    def objective(hits):
        return float((hits.rows[:, 0] == rows).mean())

    start = Bm25(catalogue, Bm25Params({"brand": 1}))
    tuned = start.tune([titles[row] for row in rows], objective)
    assert objective(tuned.search([titles[row] for row in rows])) == 1.0
    assert tuned.params.weights["title"] > 0
    assert start.params.weights == {"brand": 1}  # tuning returns another object


def test_bm25_rejects_unknown_fields_and_survives_empty_catalogues(catalogue):
    with pytest.raises(ValueError, match="no field colour"):
        Bm25(catalogue, Bm25Params({"colour": 1}))
    empty = Catalogue(catalogue.table.slice(0, 0), "none")
    assert Bm25(empty).search(["x"], k=3).rows.tolist() == [[-1, -1, -1]]
    assert Bm25(catalogue).search([], k=3).rows.shape == (0, 3)


def test_words_fold_case_plurals_and_unspaced_scripts():
    assert words("Kitchen TOWELS, Batteries 12V glass bus") == [
        "kitchen",
        "towel",
        "battery",
        "12v",
        "glass",
        "bus",
    ]
    assert words("ｔｏｗｅｌ 毛巾") == ["towel", "毛", "巾"]


@pytest.mark.parametrize("block", [5, 64, 1000])
def test_dense_is_exact_in_any_block_size(catalogue, block):
    encoder = LetterEncoder()
    vectors = encoder.encode(catalogue.column("title"))
    vectors[7] = vectors[3]  # an exact tie across blocks
    alive = np.arange(64) % 9 != 1
    queries = ["bath towel", "tent", "frying pan"]
    hits = Dense(vectors, encoder, alive=alive, block=block).search(queries, k=12)
    scores = np.where(alive, encoder.encode(queries) @ vectors.T, -np.inf)
    want = np.argsort(-scores, axis=1, kind="stable")[:, :12]
    np.testing.assert_allclose(hits.scores, np.take_along_axis(scores, want, 1), rtol=1e-6)
    for q in range(3):
        assert set(hits.rows[q]) == set(want[q])
        order = hits.rows[q].tolist()
        if 3 in order and 7 in order:
            assert order.index(3) < order.index(7)


def test_dense_returns_every_live_item_and_no_more():
    vectors = np.eye(4, dtype=np.float32)
    hits = Dense(
        vectors, LetterEncoder(), alive=np.array([True, False, True, True])
    ).search_vectors(vectors[:1], k=6)
    assert hits.rows.tolist() == [[0, 2, 3]] or hits.rows.tolist()[0][:3] == [0, 2, 3]
    assert 1 not in hits.rows
    with pytest.raises(ValueError, match="do not fit"):
        Dense(vectors, LetterEncoder()).search(["x"])
    with pytest.raises(ValueError, match="live flags"):
        Dense(vectors, LetterEncoder(), alive=np.ones(3, bool))


def test_popularity_is_one_list_and_random_is_seeded():
    prior = np.array([1.0, 3.0, 3.0, 0.0])
    hits = Popularity(prior, alive=np.array([True, True, True, False])).search(["a", "b"], k=4)
    assert hits.rows.tolist() == [[1, 2, 0, -1]] * 2
    once = RandomOrder(50, alive=np.arange(50) != 4, seed=1).search(["a", "b"], k=50).rows
    assert (
        once == RandomOrder(50, alive=np.arange(50) != 4, seed=1).search(["a", "b"], k=50).rows
    ).all()
    assert sorted(once[0]) == [-1, *[i for i in range(50) if i != 4]]
    assert (once[0] != once[1]).any()


def test_topic_oracle_orders_the_judged_pool_only(catalogue):
    ids = catalogue.item_ids
    qrels = {"q": {ids[3]: 1.0, ids[9]: 0.0, "gone": 1.0}, "r": {ids[1]: 1.0}}
    eval_set = EvalSet("judged", ("q", "r"), (Prompt("a"), Prompt("b")), qrels)
    runs = topic_oracle(eval_set, catalogue, seeds=range(8))
    assert {tuple(hits.rows[0]) for hits in runs} == {(3, 9), (9, 3)}
    assert all(hits.rows[1].tolist() == [1, -1] for hits in runs)


def test_top_k_breaks_ties_by_row_and_cuts_every_channel_at_500():
    assert top_k(np.array([[0.0, 2.0, 1.0, 2.0, 1.0]]), 3).rows.tolist() == [[1, 3, 2]]
    assert top_k(np.zeros((1, 900)), 900).rows.shape == (1, 500)
    assert top_k(np.array([[0.0, -1.0]]), 2, floor=0).rows.tolist() == [[-1, -1]]


def test_importing_baselines_and_evaluate_loads_no_torch():
    code = (
        "import sys, sidar.baselines, sidar.evaluate; print('torch' in sys.modules, 'bm25s' in "
        "sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]
