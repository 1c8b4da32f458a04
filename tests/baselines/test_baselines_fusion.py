import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.baselines import Fusion, fuse, tune_fusion
from sidar.baselines.fusion import contributions, simplex
from sidar.types import Hits


def hits(*lists):
    """Ranked row lists as Hits with falling scores."""
    width = max(map(len, lists))
    rows = np.array([[*row, *[-1] * (width - len(row))] for row in lists], dtype=np.int32).reshape(
        len(lists), width
    )
    return Hits(rows, np.where(rows >= 0, np.arange(width, 0, -1), 0).astype(np.float32))


ranking = st.lists(st.integers(0, 9), unique=True, min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(ranking, ranking, ranking), min_size=1, max_size=3))
def test_rrf_equals_a_loop(queries):
    channels = [hits(*[query[c] for query in queries]) for c in range(3)]
    weights = (0.5, 0.3, 0.2)
    fused = fuse(channels, "rrf", weights, k=20)
    for q, lists in enumerate(queries):
        score: dict[int, float] = {}
        for weight, rows in zip(weights, lists, strict=True):
            for rank, row in enumerate(rows, 1):
                score[row] = score.get(row, 0.0) + weight / (60 + rank)
        got = {
            int(r): float(s) for r, s in zip(fused.rows[q], fused.scores[q], strict=True) if r >= 0
        }
        assert got == pytest.approx(score, rel=1e-6)
        assert (np.diff(fused.scores[q][: len(got)]) <= 0).all()


def test_weighted_contributions_by_hand():
    channel = Hits(
        np.array([[4, 5, 6], [1, -1, -1]], np.int32), np.array([[9, 5, 1], [7, 0, 0]], np.float32)
    )
    step = 1 / 3
    want = [[1, (0.5 + step) / (1 + step), step / (1 + step)], [1, 0, 0]]
    np.testing.assert_allclose(contributions(channel, "weighted"), want, atol=3e-6)
    tied = Hits(np.array([[8, 2, 5]], np.int32), np.ones((1, 3), np.float32))
    assert fuse([tied, tied], "weighted", k=3).rows.tolist() == [[8, 2, 5]]


def test_zero_weight_removes_a_channel_and_one_channel_keeps_its_order():
    a, b = hits([3, 1, 2]), hits([9, 8])
    for method in ("rrf", "weighted"):
        assert fuse([a, b], method, [1, 0], k=5).rows.tolist() == [[3, 1, 2, -1, -1]]


def test_agreement_wins_and_ties_go_to_the_lower_row():
    fused = fuse([hits([1, 2]), hits([3, 2])], "rrf", k=3)
    assert fused.rows.tolist() == [[2, 1, 3]]


def test_tuning_finds_the_good_channel_and_prefers_even_weights():
    good, bad = hits([2, 1, 0], [5, 4, 3]), hits([0, 1, 2], [3, 4, 5])
    target = np.array([2, 5])
    tuned = tune_fusion([([good, bad], lambda h: float((h.rows[:, 0] == target).mean()))])
    assert tuned.value == 1.0
    assert tuned.weights[0] > 0.5
    even = tune_fusion([([good, good], lambda h: 0.0)])
    assert even == Fusion("rrf", (0.5, 0.5), 0.0)
    assert (tuned([good, bad]).rows[:, 0] == target).all()


def test_simplex_covers_the_corners_and_starts_even():
    grid = simplex(3, 10)
    assert len(grid) == 66
    assert {(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)} <= set(grid)
    assert sorted(grid[0]) == [0.3, 0.3, 0.4]


def test_misfits_are_refused():
    with pytest.raises(ValueError, match="same queries"):
        fuse([hits([1]), hits([1], [2])])
    with pytest.raises(ValueError, match="as many weights"):
        fuse([hits([1])], weights=[0.5, 0.5])
    with pytest.raises(ValueError, match="at least one"):
        fuse([])
    with pytest.raises(ValueError, match="same channels"):
        tune_fusion([([hits([1])], lambda h: 0.0), ([hits([1])] * 2, lambda h: 0.0)])
