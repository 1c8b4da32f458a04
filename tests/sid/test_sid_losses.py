"""The RQ-VAE's loss: numbers worked by hand, slow twins, and where its gradients go."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference_rqvae
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.sid.autoencoders.contrast import QueryPairs
from sidar.sid.autoencoders.losses import (
    bi_infonce,
    commitment,
    reconstruction,
    residuals,
    straight_through,
)


def test_terms_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    restored = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    # mean over 2 rows, over 2 dimensions
    assert float(reconstruction(x, restored)) == pytest.approx((1 + 1) / 2 / 2)
    z = torch.tensor([[3.0, 1.0]])
    parts = torch.tensor([[[2.0, 0.0], [0.5, 0.5]]])
    assert residuals(z, parts).tolist() == [[[3.0, 1.0], [1.0, 1.0]]]
    # level 1: (1, 1) -> 2; level 2: (.5, .5) -> .5; over the 4 dimensions of x
    assert float(commitment(z, parts, 4)) == pytest.approx((2 + 0.5) / 4)


def test_gradients_pass_the_quantiser_and_leave_the_codes() -> None:
    z = torch.tensor([[3.0, 1.0]], requires_grad=True)
    parts = torch.tensor([[[2.0, 0.0], [0.5, 0.5]]], requires_grad=True)
    out = straight_through(z, parts.sum(1))
    assert out.tolist() == [[2.5, 0.5]]
    (out * torch.tensor([[5.0, 7.0]])).sum().backward()
    assert z.grad.tolist() == [[5.0, 7.0]]
    assert parts.grad is None
    z.grad = None
    commitment(z, parts, 1).backward()
    # each level pulls z towards its own code
    assert z.grad.tolist() == [[2 * 1 + 2 * 0.5, 2 * 1 + 2 * 0.5]]
    assert parts.grad is None


def test_infonce_by_hand() -> None:
    items, queries = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    # cosines: s = [[1, √½], [0, √½]], τ = 1
    half = math.sqrt(0.5)
    rows = [math.exp(1) / (math.exp(1) + math.exp(half)), math.exp(half) / (1 + math.exp(half))]
    columns = [math.exp(1) / (math.exp(1) + 1), math.exp(half) / (2 * math.exp(half))]
    want = -sum(math.log(p) for p in rows + columns) / 4
    none = torch.zeros(2, 2, dtype=torch.bool)
    assert float(bi_infonce(items, queries, none, 1.0)) == pytest.approx(want, abs=1e-6)
    hidden = torch.tensor([[False, True], [False, False]])  # query 1 led to item 0 too
    rows[0], columns[1] = 1.0, 1.0
    want = -sum(math.log(p) for p in rows + columns) / 4
    assert float(bi_infonce(items, queries, hidden, 1.0)) == pytest.approx(want, abs=1e-6)


@given(st.integers(1, 9), st.integers(1, 6), st.sampled_from([0.1, 1.0]), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_infonce_is_its_slow_twin(n: int, dim: int, tau: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    items, queries = rng.standard_normal((n, dim)), rng.standard_normal((n, dim))
    hidden = rng.random((n, n)) < 0.3
    np.fill_diagonal(hidden, False)
    got = bi_infonce(*(torch.from_numpy(a) for a in (items, queries, hidden)), tau)
    assert float(got) == pytest.approx(
        reference_rqvae.bi_infonce(items, queries, hidden, tau), rel=1e-9, abs=1e-9
    )


def test_only_items_with_a_query_are_drawn_and_answers_are_no_negatives() -> None:
    pairs = np.array([[0, 1], [0, 3], [1, 3], [2, 5], [2, 5]])
    queries = QueryPairs(np.eye(3, 4, dtype=np.float32), pairs, 6, seed=0)
    assert (len(queries), queries.items) == (4, 3)
    rows = np.array([5, 0, 3, 1, 2])
    seen = set()
    for step in range(40):
        drawn = queries.draw(rows, 128, step)
        assert drawn.places.tolist() == [0, 2, 3]  # items 5, 3 and 1; items 0 and 2 are masked
        for place, query in zip(drawn.places, drawn.queries, strict=True):
            assert [query, rows[place]] in pairs.tolist()
        known = {tuple(p) for p in pairs.tolist()}
        for i, place in enumerate(drawn.places):
            for j, query in enumerate(drawn.queries):
                assert drawn.hidden[i, j] == (i != j and (int(query), int(rows[place])) in known)
        seen.add(tuple(drawn.queries.tolist()))
    assert seen == {(2, 0, 0), (2, 1, 0)}  # item 3 has two queries
    assert queries.draw(rows, 2, 0).places.tolist() == [0, 2]
    assert len(queries.draw(np.array([0, 2, 4]), 8, 0).places) == 0
    again = queries.draw(rows, 128, 7)
    assert again.queries.tolist() == queries.draw(rows, 128, 7).queries.tolist()


def test_pairs_that_name_nobody_are_errors() -> None:
    with pytest.raises(
        ValueError, match="names query 3 and item row 0, but there are 3 query vectors and 6 items"
    ):
        QueryPairs(np.eye(3, dtype=np.float32), np.array([[0, 0], [3, 0]]), 6, 0)
    with pytest.raises(ValueError, match="item row 6"):
        QueryPairs(np.eye(3, dtype=np.float32), np.array([[0, 6]]), 6, 0)
    bad = np.eye(3, dtype=np.float32)
    bad[1, 1] = np.nan
    with pytest.raises(ValueError, match="query 1 is not finite"):
        QueryPairs(bad, np.array([[0, 0]]), 6, 0)
