"""k-means: exact assignment, good and reproducible codebooks, odd inputs."""

from __future__ import annotations

import numpy as np
import pytest
import reference_sid
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.sid.codebooks.kmeans import Nearest, group_sums, kmeans, nearest


def fit(points: np.ndarray, k: int, seed: int = 0, **options: object) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return kmeans(torch.from_numpy(points), k, generator=generator, **options)


def error(points: np.ndarray, centroids: torch.Tensor) -> float:
    return float(nearest(torch.from_numpy(points), centroids)[1].mean())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 20), st.sampled_from([1, 3, 48])),
    scale=st.sampled_from([1e-3, 1.0, 300.0]),
    offset=st.sampled_from([0.0, 5.0]),
    seed=st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_nearest_is_exact_in_either_precision(
    precision: str, shape: tuple[int, int, int], scale: float, offset: float, seed: int
) -> None:
    n, k, dim = shape
    rng = np.random.default_rng(seed)
    points = ((rng.standard_normal((n, dim)) + offset) * scale).astype(np.float32)
    centroids = ((rng.standard_normal((k, dim)) + offset) * scale * rng.choice([0.1, 1.0])).astype(
        np.float32
    )
    labels, distance = nearest(torch.from_numpy(points), torch.from_numpy(centroids), precision)
    all_distances = np.square(points[:, None].astype(np.float64) - centroids).sum(2)
    chosen = all_distances[np.arange(n), labels.numpy()]
    size = np.square(centroids).sum(1).max() + np.square(points).sum(1).max()
    assert (chosen - all_distances.min(1)).max() <= 1e-6 * size  # as near as fp32 can tell
    np.testing.assert_allclose(distance.numpy(), chosen, rtol=1e-3, atol=1e-6 * size)


def test_bf16_finds_the_labels_of_fp32_on_many_near_ties() -> None:
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.standard_normal((20_000, 64), dtype=np.float32))
    centroids = 0.3 * torch.from_numpy(rng.standard_normal((256, 64), dtype=np.float32))
    low, high = (nearest(points, centroids, p)[0] for p in ("bf16", "fp32"))
    assert (low != high).sum() <= 1  # fp32 itself rounds
    rough = (
        points.bfloat16() @ centroids.bfloat16().T - centroids.square().sum(1).bfloat16() / 2
    ).argmax(1)
    assert (rough != high).sum() > 100  # which plain bf16 does not


def test_equal_centroids_go_to_the_lower_code() -> None:
    centroids = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    for precision in ("fp32", "bf16"):
        assert nearest(torch.tensor([[2.0, 0.1], [0.2, 3.0]]), centroids, precision)[
            0
        ].tolist() == [0, 1]
    assert nearest(torch.zeros(0, 2), centroids)[0].shape == (0,)


def test_ties_with_every_code_are_decided_in_blocks_and_copies_at_the_end_cost_nothing(
    monkeypatch,
) -> None:
    """Fewer points than codes leave residuals of 0 and a book of copies: pairs of n × K × D numbers
    were gigabytes.
    """
    points = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 8), dtype=np.float32))
    tied = points[:1].expand(40, -1).clone()
    tied[20] += 10  # not at the end, so that copies lie on both sides of it
    tied[39] += 20
    want = nearest(points, tied, "fp32")[0]
    monkeypatch.setattr("sidar.sid.codebooks.kmeans._PAIRS", 7)
    assert nearest(points, tied, "bf16")[0].tolist() == want.tolist()
    assert set(want.tolist()) == {0}
    copies = torch.cat([points[:3], points[2:3].expand(4000, -1)])
    searcher = Nearest(copies, "bf16")
    assert len(searcher._moved) == 3
    assert (
        searcher(points, measure=False)[0].tolist()
        == nearest(points, points[:3], "fp32")[0].tolist()
    )


def test_separate_clusters_are_found() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((16, 32)).astype(np.float32) * 3
    points = (centres[rng.integers(16, size=2000)] + 0.01 * rng.standard_normal((2000, 32))).astype(
        np.float32
    )
    assert error(points, fit(points, 16)) < 32 * 0.01**2 * 1.05


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_not_worse_than_25_plain_passes(precision: str) -> None:
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((24, 24))
    points = (centres[rng.integers(24, size=600)] + 0.6 * rng.standard_normal((600, 24))).astype(
        np.float32
    )
    ours = np.mean(
        [error(points, fit(points, 20, seed, precision=precision)) for seed in range(10)]
    )
    plain = np.mean([reference_sid.lloyd(points, 20, 25, seed) for seed in range(10)])
    assert ours <= plain


def test_residuals_without_clusters_use_all_codes() -> None:
    """Points that are nearly orthogonal to each other: seeds at full length would stay alone for
    ever.
    """
    rng = np.random.default_rng(0)
    points = rng.standard_normal((4000, 256)).astype(np.float32)
    labels, _ = nearest(torch.from_numpy(points), fit(points, 64))
    share = np.bincount(labels.numpy(), minlength=64) / len(points)
    perplexity = np.exp(-(share[share > 0] * np.log(share[share > 0])).sum())
    assert perplexity > 50
    assert share.max() < 0.06


def test_the_same_seed_gives_the_same_codebook() -> None:
    points = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)
    assert torch.equal(fit(points, 50, seed=3), fit(points, 50, seed=3))
    assert not torch.equal(fit(points, 50, seed=3), fit(points, 50, seed=4))


def test_more_restarts_and_other_starts() -> None:
    points = np.random.default_rng(0).standard_normal((900, 4)).astype(np.float32)
    assert error(points, fit(points, 20, restarts=6)) <= error(points, fit(points, 20)) + 1e-6
    assert error(points, fit(points, 20, init="random")) < error(points, fit(points, 1))
    with pytest.raises(ValueError, match=r"sid\.init must be"):
        fit(points, 20, init="best")


def test_a_sample_is_enough() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((8, 8)) * 4
    points = (centres[rng.integers(8, size=8000)] + 0.1 * rng.standard_normal((8000, 8))).astype(
        np.float32
    )
    assert error(points, fit(points, 8, sample=20)) < 1.1 * error(
        points, fit(points, 8, sample=1000)
    )


@pytest.mark.parametrize(
    ("points", "k"),
    [
        (np.ones((1, 3)), 1),
        (np.ones((1, 3)), 4),
        (np.repeat(np.eye(3), 7, axis=0), 5),
        (np.repeat(np.eye(3), 700, axis=0), 8),
        (np.zeros((9, 3)), 2),
        (np.arange(12.0).reshape(4, 3), 4),
        (np.concatenate([np.zeros((5000, 3)), np.eye(3)]), 4),
    ],
)
def test_few_distinct_points_are_kept_exactly(points: np.ndarray, k: int) -> None:
    points = points.astype(np.float32)
    centroids = fit(points, k, sample=2000)
    assert centroids.shape == (k, 3)
    assert error(points, centroids) == 0


def test_no_points() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        fit(np.zeros((0, 3), np.float32), 2)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_any_shape_gives_finite_centroids(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 4, (n, 2)).astype(np.float32)  # many duplicates
    centroids = fit(points, k, seed, sample=400)
    assert torch.isfinite(centroids).all()
    assert error(points, centroids) <= np.square(points - points.mean(0)).sum(1).mean() + 1e-4


def test_sums_by_sorting_equal_sums_by_index() -> None:
    """The branch for CUDA, where adding by index is not deterministic, run on a CPU."""
    points, labels = torch.randn(50, 3), torch.randint(0, 7, (50,))
    labels[labels == 4] = 3  # an empty group
    count = torch.bincount(labels, minlength=8)
    order = labels.argsort(stable=True)
    by_sorting = torch.segment_reduce(points[order], "sum", lengths=count, axis=0, unsafe=True)
    assert torch.allclose(by_sorting, group_sums(points, labels, count), atol=1e-6)
