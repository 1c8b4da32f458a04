"""BM25 of a catalogue that changes equals one that is made of today's items, score by score."""

import numpy as np
import pyarrow as pa
import pytest

from sidar.baselines import Bm25, LiveBm25, live_bm25
from sidar.baselines.bm25 import Bm25Params
from sidar.baselines.term_counts import TermCounts, idf_of, saturation_of, term_scores
from sidar.types import CATALOGUE_SCHEMA, Catalogue

WORDS = [f"w{n}" for n in range(40)]
QUERIES = ["w0 w1 w2", "w3 w3 w39", "new7 w5", "", "nothing", " ".join(WORDS)]


def item(rng, name, extra=()):
    def text(most):
        some = rng.choice(WORDS, rng.integers(0, most), p=ZIPF)
        return " ".join([*some, *extra])

    return {
        **dict.fromkeys(CATALOGUE_SCHEMA.names),
        "item_id": name,
        "title": text(6),
        "text": text(60) if rng.random() < 0.9 else None,
        "category": ["Top", text(3)],
        "brand": text(2),
        "alive": True,
    }


ZIPF = 1 / np.arange(1, len(WORDS) + 1)
ZIPF = ZIPF / ZIPF.sum()


def catalogue(items):
    return Catalogue(pa.Table.from_pylist(items, schema=CATALOGUE_SCHEMA), "x")


def assert_same(live, whole, queries=QUERIES):
    np.testing.assert_array_equal(live.rows, whole.rows)
    np.testing.assert_array_equal(live.scores(queries), whole.scores(queries))
    for query in queries:
        rows = np.arange(int(live.rows[-1]) + 1) if len(live.rows) else np.empty(0, np.int64)
        np.testing.assert_array_equal(live.scores_of(query, rows), whole.scores_of(query, rows))
    got, want = live.search(queries, 20), whole.search(queries, 20)
    np.testing.assert_array_equal(got.rows, want.rows)
    np.testing.assert_array_equal(got.scores, want.scores)


@pytest.mark.parametrize("spare", [0, 4096])
@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.6, 0.4), (2.0, 0.4)])
def test_changes_equal_an_index_of_todays_items(k1, b, spare, tmp_path, monkeypatch):
    monkeypatch.setattr(live_bm25, "_SPARE_SLOTS", spare)
    rng = np.random.default_rng(3)
    items = [item(rng, f"i{n}") for n in range(50)]
    params = Bm25Params({"title": 3, "category": 1, "brand": 0, "text": 1}, k1, b)
    Bm25(catalogue(items), params).save(tmp_path)
    items[7]["alive"] = False  # it has gone since the index was made
    alive = np.array([one["alive"] for one in items])
    live = LiveBm25.of(Bm25.load(tmp_path, alive), len(items))
    before = [(live, live.scores(QUERIES))]
    for step in range(40):
        kind = rng.integers(3)
        rows = [row for row, one in enumerate(items) if one["alive"]]
        row = int(rng.choice(rows)) if kind else len(items)
        if kind == 2:
            items[row] = items[row] | {"alive": False}
            live = live.changed(len(items), [row], {})
        else:
            new = item(rng, f"n{step}", (f"new{step}",))
            items[row : row + 1] = [new]
            live = live.changed(len(items), [], {row: new})
        assert_same(live, Bm25(catalogue(items), params))
        before.append((live, live.scores(QUERIES)))
    # an earlier state scores as it did
    for state, scores in before:
        np.testing.assert_array_equal(state.scores(QUERIES), scores)


def test_a_catalogue_may_become_empty_and_fill_again():
    items = [item(np.random.default_rng(0), "a")]
    live = LiveBm25.of(Bm25(catalogue(items)), 1)
    assert_same(live.changed(1, [0], {}), Bm25(catalogue([items[0] | {"alive": False}])))
    again = live.changed(1, [0], {}).changed(1, [], {0: items[0]})
    assert_same(again, Bm25(catalogue(items)))
    blank = items[0] | {"title": "", "text": None, "category": [], "brand": ""}
    empty = LiveBm25.of(Bm25(catalogue([blank])), 1)
    assert_same(empty.changed(2, [], {1: items[0]}), Bm25(catalogue([blank, items[0]])))


def test_scores_by_hand_and_counts_read_back_from_them():
    """Three items, word 0 twice in the first of length 4 and once in the second of length 2:
    idf = log(1 + 1.5 / 2.5) = 0.47000363, mean 3, k₁ 1.2, b ¾, K = 1.5 and 0.9.
    """
    idf = idf_of(np.array([2]), 3)
    saturation = saturation_of(np.array([4, 2, 3]), 3.0, 1.2, 0.75)
    np.testing.assert_allclose(saturation, [1.5, 0.9, 1.2])
    got = term_scores(idf, np.array([2, 1]), saturation[:2])
    np.testing.assert_allclose(got, [0.47000363 * 2 / 3.5, 0.47000363 / 1.9], rtol=1e-6)

    rng = np.random.default_rng(1)
    made = Bm25(catalogue([item(rng, f"i{n}") for n in range(200)]))
    counts, rows = made.counts()
    want = [
        [t for n in made.params.weights for t in made._fields[n][i] * made.params.weights[n]]
        for i in range(200)
    ]
    assert counts.lengths.tolist() == [len(bag) for bag in want]
    for word in range(len(made.vocabulary)):
        part = slice(counts.starts[word], counts.starts[word + 1])
        got = dict(zip(counts.items[part].tolist(), counts.times[part].tolist(), strict=True))
        assert got == {i: bag.count(word) for i, bag in enumerate(want) if word in bag}
    assert rows.tolist() == list(range(200))
    # scores that no whole numbers give are not read
    scores = dict(made._index.scores)
    scores["data"] = scores["data"] * np.float32(0.9)
    assert TermCounts.of_scores(scores, 200, made.mean_length, 1.2, 0.75) is None


def test_an_index_without_its_mean_length_says_that_it_cannot():
    made = Bm25(catalogue([item(np.random.default_rng(0), "a")]))
    made.mean_length = None
    assert LiveBm25.of(made, 1) is None
