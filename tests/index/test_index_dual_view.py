"""The dual-view index: equal to a slow loop and to exact search, its coarse views, and the bound on
its routing.
"""

import json

import numpy as np
import pytest
import reference_dual_view as slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.baselines import Dense
from sidar.index.dual_view import FACTS, DualViewIndex, checksum, default_lists, routed


def unit(rows, dim, seed):
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def case():
    return unit(300, 8, 0), unit(300, 8, 1), unit(40, 8, 2)  # f_i(I), f_q(I), f_q(Q)


@pytest.mark.parametrize("coarse_view", ["item", "query", "both"])
@pytest.mark.parametrize("nprobe", [1, 3, 12])
def test_it_equals_a_slow_loop(case, coarse_view, nprobe):
    items, seen, queries = case
    index = DualViewIndex.build(items, seen, coarse_view=coarse_view, lists=12)
    coarse = {"item": items, "query": seen, "both": (items + seen) / 2}[coarse_view]
    assert index.lists.tolist() == [cells[0] for cells in slow.route(coarse, index.centroids, 1)]
    assert index.route(queries, nprobe).tolist() == slow.route(queries, index.centroids, nprobe)
    found = index.search(queries, 30, nprobe)
    for rows, scores, want in zip(
        found.rows,
        found.scores,
        slow.search(items, index.lists, index.centroids, queries, 30, nprobe),
        strict=True,
    ):
        assert rows[rows >= 0].tolist() == [row for row, _ in want]
        np.testing.assert_allclose(scores[rows >= 0], [score for _, score in want], atol=1e-6)
        assert not scores[rows < 0].any()


@pytest.mark.parametrize("coarse_view", ["item", "query", "both"])
def test_all_lists_are_exact_search(case, coarse_view):
    items, seen, queries = case
    alive = np.arange(300) % 7 != 0
    index = DualViewIndex.build(items, seen, coarse_view=coarse_view, lists=20, alive=alive)
    exact = Dense(items, None, alive=alive).search_vectors(queries, 50)
    found = index.search(queries, 50, nprobe=10**6)
    np.testing.assert_array_equal(found.rows, exact.rows)
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-6)
    assert (index.lists[~alive] == -1).all()
    assert alive[found.rows].all()


def test_equal_items_come_in_the_order_of_their_rows():
    items = np.repeat(unit(4, 6, 0), 3, axis=0)[[0, 5, 3, 1, 8, 9, 2, 4, 6, 7, 10, 11]]
    index = DualViewIndex.build(items, lists=3)
    found, exact = (
        each.rows
        for each in (index.search(items, 12, 3), Dense(items, None).search_vectors(items, 12))
    )
    np.testing.assert_array_equal(found, exact)


def test_cells_of_items_misroute_where_cells_of_items_seen_as_queries_do_not():
    """Exact search is perfect, but items vary most in what no query asks for, so their own cells
    follow that.

    f_i(I) = .4 topic + .92 style, f_q(Q) = f_q(I) = topic: every item of the query's topic scores
    .4, every other
    0. k-means of f_i(I) finds the styles, and a topic lies in all of them; k-means of f_q(I) finds
       the topics.
    """
    topics, styles, each = 6, 6, 5
    rng = np.random.default_rng(0)
    topic, style = (part.ravel() for part in np.indices((topics, styles, each))[:2])

    def noisy(vectors):
        vectors = vectors + 0.01 * rng.standard_normal(vectors.shape)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    axes = np.eye(topics + styles)
    items = noisy(0.4 * axes[topic] + 0.92 * axes[topics + style])
    seen, queries = noisy(axes[topic]), noisy(axes[:topics])
    right = np.arange(topics)[:, None]
    assert (topic[Dense(items, None).search_vectors(queries, styles * each).rows] == right).all()
    recall, agreement = {}, {}
    for view in ("item", "query"):
        index = DualViewIndex.build(items, seen, coarse_view=view, lists=6)
        found = index.search(queries, styles * each, nprobe=1).rows
        recall[view] = np.mean((topic[found] == right) & (found >= 0))
        pairs = [(q, row) for q in range(topics) for row in np.flatnonzero(topic == q)]
        agreement[view] = routed(
            index, queries[[q for q, _ in pairs]], [row for _, row in pairs], 1
        ).mean()
    assert recall == {"item": pytest.approx(1 / styles), "query": 1}
    assert agreement == {"item": pytest.approx(1 / styles), "query": 1}


def test_where_one_encoder_sees_both_sides_the_views_agree(case):
    items = case[0]
    plain = DualViewIndex.build(items, coarse_view="item", lists=12)
    for view in ("query", "both"):
        same = DualViewIndex.build(items, items.copy(), coarse_view=view, lists=12)
        np.testing.assert_allclose(same.centroids, plain.centroids, atol=1e-6)
        np.testing.assert_array_equal(same.lists, plain.lists)
        np.testing.assert_array_equal(
            DualViewIndex.build(items, coarse_view=view, lists=12).lists, plain.lists
        )


def test_a_saved_index_is_the_same_over_the_same_vectors_only(case, tmp_path):
    items, seen, queries = case
    index = DualViewIndex.build(items, seen, lists=12, alive=np.arange(300) != 5)
    index.save(tmp_path)
    np.save(tmp_path / "items.npy", items)
    again = DualViewIndex.load(tmp_path, np.load(tmp_path / "items.npy", mmap_mode="r"))
    first, second = (each.search(queries, 9, 2) for each in (index, again))
    np.testing.assert_array_equal(first.rows, second.rows)
    np.testing.assert_array_equal(first.scores, second.scores)
    assert again.coarse_view == "query"
    stored = sum(path.stat().st_size for path in tmp_path.glob("dual_view*"))
    assert stored < items.nbytes / 3  # no vectors: centroids and one number per item
    with pytest.raises(ValueError, match="other item vectors"):
        DualViewIndex.load(tmp_path, items[:-1])
    with pytest.raises(ValueError, match="other item vectors"):
        DualViewIndex.load(tmp_path, -items)
    facts = json.loads((tmp_path / FACTS).read_text())
    (tmp_path / FACTS).write_text(json.dumps({**facts, "format": 7}))
    with pytest.raises(ValueError, match="format 7"):
        DualViewIndex.load(tmp_path, items)
    with pytest.raises(ValueError, match="does not exist"):
        DualViewIndex.load(tmp_path / "none", items)


def test_the_same_seed_gives_the_same_cells_and_threads_stay_as_they_are(case):
    items, seen, queries = case
    before = torch.get_num_threads()
    first, again, other = (
        DualViewIndex.build(items, seen, lists=12, seed=seed) for seed in (0, 0, 1)
    )
    first.search(queries, 5, 2)
    assert torch.get_num_threads() == before
    np.testing.assert_array_equal(first.lists, again.lists)
    assert (first.lists != other.lists).any()


def test_edge_cases(case):
    items, seen, queries = case
    one = DualViewIndex.build(items[:1], seen[:1])
    assert one.search(queries, 5, 3).rows.tolist() == [[0]] * len(queries)
    few = DualViewIndex.build(items[:5], lists=50)
    assert len(few.centroids) == 5
    same = DualViewIndex.build(np.repeat(items[:1], 9, axis=0), lists=3)
    assert same.search(queries[:1], 9, 3).rows.tolist() == [list(range(9))]
    assert few.search(queries[:0], 3, 1).rows.shape == (0, 3)
    # at least one list is looked into
    assert few.search(queries, 3, nprobe=0).rows.shape == (40, 3)
    assert [default_lists(n) for n in (1, 7, 64, 6764, 10**6)] == [1, 1, 8, 329, 4000]
    assert checksum(items) != checksum(items[::-1])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"coarse_view": "Query"}, "dense.coarse_view 'Query'"),
        ({"alive": np.ones(3, bool)}, "300 item vectors but 3 live flags"),
        ({"query_view": unit(9, 8, 0)}, "300 item vectors but 9 query-view vectors"),
        ({"query_view": unit(300, 4, 0)}, "differ in width"),
        ({"alive": np.zeros(300, bool)}, "no live item"),
        ({"lists": 0}, "dense.lists is 0"),
    ],
)
def test_what_does_not_fit_is_named(case, arguments, says):
    with pytest.raises(ValueError, match=says):
        DualViewIndex.build(case[0], **arguments)


def test_a_vector_that_is_not_finite_is_named_by_its_row(case):
    items, seen, queries = (part.copy() for part in case)
    seen[17, 3] = np.nan
    with pytest.raises(ValueError, match="row 17 is not finite"):
        DualViewIndex.build(items, seen)
    items[4, 0] = np.inf
    with pytest.raises(ValueError, match="row 4 is not finite"):
        DualViewIndex.build(items, coarse_view="item")
    with pytest.raises(ValueError, match=r"\(40, 3\) do not fit"):
        DualViewIndex.build(case[0]).search(queries[:, :3], 5, 1)


# --- the proposition of docs/methods/sci.md


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    noise=st.floats(0, 1.5),
    nprobe=st.integers(1, 6),
    cells=st.integers(1, 9),
)
def test_routing_fails_only_where_query_and_item_are_further_apart_than_half_the_gap(
    seed, noise, nprobe, cells
):
    """Proposition 2: with ε = ‖f_q(Q) − f_q(I)‖, the list of I is probed if d_(p+1) − d_1 > 2ε at
    f_q(I).
    """
    rng = np.random.default_rng(seed)
    items = unit(60, 5, seed)
    queries = items + noise * rng.standard_normal(items.shape).astype(np.float32) * rng.random(
        (60, 1)
    )
    index = DualViewIndex.build(items, lists=cells)
    distance = np.sort(
        np.linalg.norm(items[:, None].astype(float) - index.centroids[None], axis=2), axis=1
    )
    beyond = np.concatenate([distance, np.full((60, nprobe), np.inf)], axis=1)[:, nprobe]
    apart = np.linalg.norm(queries.astype(float) - items, axis=1)
    sure = beyond - distance[:, 0] > 2 * apart + 1e-5
    found = routed(index, queries, np.arange(60), nprobe)
    assert found[sure].all()
    assert 1 - found.mean() <= np.mean(~sure)


def test_the_bound_is_tight():
    """Between two centroids on a line, a shift of half the gap is just what loses the item."""
    centroids, items = np.array([[1, 0], [-1, 0]], np.float32), np.array([[0.2, 0]], np.float32)
    index = DualViewIndex(items, centroids, np.array([0], np.int32))
    half = (1.2 - 0.8) / 2
    for share, agrees in ((0.99, 1), (1.01, 0)):
        assert routed(index, items - [[share * half, 0]], [0], nprobe=1).mean() == agrees
    # d_3 is infinite: all lists are probed
    assert routed(index, items - [[9, 0]], [0], nprobe=2).mean() == 1
