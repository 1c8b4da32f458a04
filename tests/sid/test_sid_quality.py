"""The quality report: by hand, against slow twins, and as a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import reference_sid
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_index import semantic_ids

from sidar.sid.picture import draw
from sidar.sid.quality import count_distinct, gini, neighbours_alike, report, shared_prefixes
from sidar.sid.stage import preference_pairs

TUPLES = [(0, 0, 0), (0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1), ()]
CATEGORIES = [["a", "x"], ["a", "x"], ["a", "y"], ["b"], ["b", "z"], ["b", "z"], ["a"], ["c"]]


def test_counts_by_hand() -> None:
    got = report(semantic_ids(TUPLES, (2, 2, 4)))
    assert got["items"] == 7  # the last item has no SID
    assert got["sids"] == 4
    assert got["items_per_sid"] == 7 / 4
    assert got["collision_rate"] == 5 / 7
    assert got["largest_sid"] == 3
    assert got["prefixes"] == [2, 3, 4]
    buckets = {bar["size"]: (bar["sids"], bar["items"]) for bar in got["buckets"] if bar["sids"]}
    assert buckets == {"1": (2, 2), "2": (1, 2), "3": (1, 3)}
    last = got["levels"][2]
    assert (last["codes"], last["used"], last["utilisation"]) == (4, 2, 0.5)
    share = np.array([2, 5]) / 7
    assert last["perplexity"] == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert got["lengths"] == {"1": 0, "2": 0, "3": 7}


def test_numbers_by_class_by_hand() -> None:
    tuples = [(0, 0, 0), (0, 0, 0), (0, 0), (0, 1), (0, 1), (1, 1, 1), (1, 1, 2), ()]
    classes = np.array(
        ["head", "head", "head", "tail", "cold", "tail", "tail", "tail"], dtype=object
    )
    counts = np.array([5, 3, 2, 1, 0, 1, 1, 9])
    got = report(
        semantic_ids(tuples, (2, 4, 8)), categories=CATEGORIES, classes=classes, counts=counts
    )
    # seven items of two codes, four of three
    assert got["code_bits"] == {"total": 7 * 3 + 4 * 3, "per_item": 33 / 7}
    assert got["traffic_length"] == (3 * 8 + 2 * 2 + 2 * 1 + 3 * 2) / 13
    assert got["prefixes"] == [2, 3, 3]  # three SIDs have a third code
    head, tail, cold = (got["classes"][name] for name in ("head", "tail", "cold"))
    assert list(got["classes"]) == ["head", "tail", "cold"]
    assert (head["items"], head["mean_length"], head["collision_rate"]) == (3, 8 / 3, 2 / 3)
    assert head["mean_bucket"] == (2 + 2 + 1) / 3
    assert (tail["collision_rate"], tail["mean_bucket"]) == (1 / 3, (2 + 1 + 1) / 3)
    # under (0, 0): ax ax ay; under (0, 1): b bz; under (1, 1): bz a
    assert head["purity"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert (tail["purity"], cold["purity"]) == (0, 0)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([None, (), ("a",), ("a", "x"), ("b",)])),
        min_size=1,
    )
)
def test_neighbours_alike_is_the_share_of_equal_others(items: list) -> None:
    group, categories = np.array([g for g, _ in items]), [c for _, c in items]
    want = reference_sid.neighbours_alike(group.tolist(), categories)
    np.testing.assert_allclose(neighbours_alike(group, categories), want)


@given(st.lists(st.integers(0, 30), min_size=1).filter(any))
def test_gini_is_the_mean_difference(sizes: list[int]) -> None:
    assert gini(np.array(sizes)) == pytest.approx(reference_sid.gini(sizes), abs=1e-9)


def test_purity_by_hand_and_by_twin() -> None:
    rows = {(r["prefix_depth"], r["category_depth"]): r for r in report(
        semantic_ids(TUPLES, (2, 2, 4)), categories=CATEGORIES
    )["purity"]}  # fmt: skip
    assert rows[1, 1]["purity"] == pytest.approx((3 + 2) / 7)  # under 0: a a a b, under 1: b b a
    assert rows[3, 1]["purity"] == pytest.approx((2 + 2) / 5)
    for (depth, level), row in rows.items():
        kept = [
            (t[:depth], tuple(c[:level]))
            for t, c in zip(TUPLES, CATEGORIES, strict=True)
            if t and len(c) >= level
        ]
        assert row["purity"] == pytest.approx(reference_sid.purity(*zip(*kept, strict=True)))


def test_purity_of_random_codes_is_chance() -> None:
    rng = np.random.default_rng(0)
    tuples = [tuple(t) for t in rng.integers(0, 8, (3000, 2)).tolist()]
    categories = [[str(c)] for c in rng.integers(0, 5, 3000)]
    for row in report(semantic_ids(tuples, (8, 8)), categories=categories)["purity"]:
        assert row["purity"] == pytest.approx(row["chance"], abs=0.03)


def test_shared_prefixes_by_hand() -> None:
    sids = semantic_ids(
        [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0), (0,), ()], (2, 2, 2)
    )
    pairs = np.array([[0, 1], [0, 2], [0, 3], [0, 4], [0, 5], [0, 6]])
    got = shared_prefixes(sids, pairs)
    assert got["pairs"] == 5  # one has no SID
    assert got["same_sid"] == 1 / 5
    assert got["shared"] == [3 / 4, 1 / 4]  # (0,) shares one code: its end is not a code
    assert got["paper_shared"] == [0.346, 0.019]


def test_reconstruction_by_hand() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], np.float32)
    books = [
        np.array([[1.0, 0.0], [0.0, 1.0]], np.float32),
        np.array([[0.0, 0.0], [0.0, 0.5]], np.float32),
    ]
    got = report(
        semantic_ids([(0, 0), (1,), (0, 1)], (2, 2)),
        vectors=vectors,
        tokenizer=reference_sid.Books(books),
    )
    assert got["reconstruction"]["error"] == pytest.approx([4 / 9, 1 / 3, 0.25 / 3])
    assert got["distinct_vectors"] == 3


def test_distinct_vectors_are_counted() -> None:
    x = np.random.default_rng(0).standard_normal((500, 7)).astype(np.float32)
    assert count_distinct(np.concatenate([x, x[:100]])) == 500
    assert count_distinct(x[:0]) == 0
    nearly = x[:1].copy()
    nearly[0, 0] = np.nextafter(nearly[0, 0], np.float32(9))
    assert count_distinct(np.concatenate([x[:1], nearly])) == 2


@given(st.lists(st.tuples(*[st.lists(st.integers(0, 99), max_size=4)] * 2), max_size=8))
@settings(deadline=None)
def test_pairs_are_all_of_every_list(lists: list[tuple[list[int], list[int]]]) -> None:
    column = pa.list_(pa.int32())
    table = pa.table(
        {
            "positives": pa.array([p for p, _ in lists], column),
            "negatives": pa.array([n for _, n in lists], column),
        }
    )
    want = [[p, n] for positives, negatives in lists for p in positives for n in negatives]
    assert preference_pairs(table).tolist() == want


def test_pairs_of_a_long_list_are_of_its_best_positives() -> None:
    lists = {"positives": [list(range(20)), [30]], "negatives": [[40, 41], [42]]}
    table = pa.table({name: pa.array(rows, pa.list_(pa.int32())) for name, rows in lists.items()})
    assert preference_pairs(table).tolist() == [
        *([p, n] for p in range(8) for n in (40, 41)),
        [30, 42],
    ]


def test_pairs_of_a_long_log_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidar.sid.stage._MAX_PAIRS", 50)
    column = pa.array([list(range(8))] * 20, pa.list_(pa.int32()))
    table = pa.table({"positives": column, "negatives": column})
    assert preference_pairs(table, 1).shape == (50, 2)
    assert (
        preference_pairs(table, 1).tolist()
        == preference_pairs(table, 1).tolist()
        != preference_pairs(table, 2).tolist()
    )


@pytest.mark.parametrize("tuples", [TUPLES, [(0, 0, 0)], [(0,), (1, 1), (1, 1, 1)], [], [()]])
def test_every_table_has_a_report(tuples: list) -> None:
    n, rng = len(tuples), np.random.default_rng(0)
    got = report(
        semantic_ids(tuples, (2, 2, 4)),
        vectors=rng.random((n, 3), dtype=np.float32),
        tokenizer=reference_sid.Books([rng.random((k, 3), dtype=np.float32) for k in (2, 2, 4)]),
        categories=CATEGORIES[:n],
        pairs=np.array([[0, n - 1]] if n else np.zeros((0, 2))),
    )
    json.dumps(got, allow_nan=False)
    assert got["items"] == sum(map(bool, tuples))


@pytest.mark.parametrize("full", [True, False])
def test_the_picture_is_drawn(full: bool, tmp_path: Path) -> None:
    sids = semantic_ids(TUPLES if full else [], (2, 2, 4))
    extra = {"categories": CATEGORIES, "pairs": np.array([[0, 4], [1, 3]])} if full else {}
    if full:
        extra |= {"classes": np.array(["head", "tail"] * 4), "counts": np.arange(8)}
    draw(report(sids, **extra), sids, tmp_path / "quality.png")
    from matplotlib.image import imread

    pixels = imread(tmp_path / "quality.png")
    assert pixels.shape[0] > 600
    # lines, bars and words, not a blank page
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20
