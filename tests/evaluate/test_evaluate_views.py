"""Gap, CKA and self-consistency of two views, by hand."""

import numpy as np
import pytest

from sidar.evaluate.views import linear_cka, modality_gap, self_ranks


def test_the_gap_is_the_distance_of_the_means():
    a = np.array([[1.0, 0], [0, 1]], np.float32)
    assert modality_gap(a, a[::-1]) == 0
    # (.5, .5) and (1, 0)
    assert modality_gap(a, np.array([[1.0, 0]], np.float32)) == pytest.approx(0.5**0.5)


def test_cka_sees_through_rotation_and_scale_and_not_through_chance():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((500, 6)).astype(np.float32)
    rotated = 3 * a @ np.linalg.qr(rng.standard_normal((6, 6)))[0] + 1
    assert linear_cka(a, rotated) == pytest.approx(1, abs=1e-6)
    assert linear_cka(a, rng.standard_normal((500, 6))) < 0.05
    assert linear_cka(
        a, np.concatenate([a[:, :3], rng.standard_normal((500, 3))], axis=1)
    ) == pytest.approx(0.5, abs=0.1)
    assert linear_cka(
        np.array([[1.0], [-1.0]]), np.array([[2.0, 1.0], [0.0, 1.0]])
    ) == pytest.approx(1)
    assert np.isnan(linear_cka(a, np.ones((500, 2))))


@pytest.mark.parametrize("block", [1, 2, 2048])
def test_ranks_by_hand(block):
    kept = np.array([[1.0, 0], [0, 1], [0.6, 0.8]], np.float32)
    # scores [.6 .8 1], [0 1 .8], [1 0 .6]
    asked = np.array([[0.6, 0.8], [0, 1], [1, 0]], np.float32)
    assert self_ranks(asked, kept, block).tolist() == [3, 1, 2]
    assert self_ranks(kept[[0, 0]], kept[[0, 0]], block).tolist() == [1.5, 1.5]
    with pytest.raises(ValueError, match="not of the same things"):
        self_ranks(asked, kept[:2], block)
