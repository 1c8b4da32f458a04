"""How sure a difference is: intervals clustered by query, paired tests, Holm, detectable effects,
verdicts.

Requests of one query are not independent, so everything resamples or flips *clusters* (queries),
never single requests. Several seeds of a model are stacked the same way: same cluster label, more
values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

Verdict = Literal["holds", "does not hold", "cannot tell here"]

#: Sign patterns are enumerated, not sampled, up to this many clusters (2^12 patterns).
_EXACT_CLUSTERS = 12
_BLOCK = 1 << 22  # random numbers per block


def _by_cluster(values: np.ndarray, clusters: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums (C, M) of ``values`` (n, M) and number of values (C,) per cluster; None = each value is
    its own cluster.
    """
    values = np.asarray(values, dtype=np.float64)
    if clusters is None:
        return values, np.ones(len(values))
    if len(clusters) != len(values):
        raise ValueError(
            f"{len(values)} values but {len(clusters)} cluster labels; one label per value"
        )
    _, label = np.unique(np.asarray(clusters), return_inverse=True)
    counts = np.bincount(label).astype(np.float64)
    sums = np.stack(
        [np.bincount(label, weights=column, minlength=len(counts)) for column in values.T], axis=1
    )
    return sums, counts


def bootstrap_intervals(
    values: np.ndarray,
    clusters: np.ndarray | None = None,
    seed: int = 0,
    *,
    samples: int = 1000,
    level: float = 0.95,
) -> np.ndarray:
    """(M, 2) percentile intervals of the column means of ``values`` (n, M): clusters are drawn with
    replacement.

    All columns share the ``samples`` resamples, so one product of counts and sums serves a whole
    table. A resample's mean is the ratio of its sum to its count. [known: the cluster bootstrap]
    NaNs where there are no values.
    """
    sums, counts = _by_cluster(values, clusters)  # (C, M), (C,)
    if not len(sums):
        return np.full((values.shape[1], 2), np.nan)
    rng = np.random.default_rng(seed)
    means = []
    per_block = max(1, _BLOCK // len(sums))
    for start in range(0, samples, per_block):
        n = min(per_block, samples - start)
        drawn = rng.integers(0, len(sums), (n, len(sums))) + np.arange(n)[:, None] * len(sums)
        times = (
            np.bincount(drawn.ravel(), minlength=n * len(sums))
            .reshape(n, len(sums))
            .astype(np.float64)
        )
        means.append(times @ sums / (times @ counts)[:, None])
    return np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2], axis=0).T


def bootstrap_interval(
    values: np.ndarray,
    clusters: np.ndarray | None = None,
    seed: int = 0,
    *,
    samples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """:func:`bootstrap_intervals` of one list of values (n,)."""
    column = np.asarray(values, dtype=np.float64)[:, None]
    low, high = bootstrap_intervals(column, clusters, seed, samples=samples, level=level)[0]
    return float(low), float(high)


@dataclass(frozen=True)
class PairedTest:
    """System a against b on the same queries: the mean difference a − b and what
    can be said of it.
    """

    effect: float
    low: float
    high: float
    p: float
    detectable: float  # smallest true effect that this test would see at 80 % power
    n: int
    clusters: int


def paired_tests(
    differences: np.ndarray,
    clusters: np.ndarray | None = None,
    seed: int = 0,
    *,
    permutations: int = 10_000,
    samples: int = 1000,
) -> list[PairedTest]:
    """Two-sided paired randomisation tests of mean = 0 for each column of ``differences`` (n, M): a
    − b per query.

    Each permutation flips whole clusters: p = (1 + #{|flipped sum| ≥ |seen sum|}) / (1 +
    permutations). With ≤ 12 clusters all 2^C patterns are enumerated and p is exact. [known:
    Fisher–Pitman]
    """
    differences = np.asarray(differences, dtype=np.float64)
    if not len(differences):
        raise ValueError("a paired test needs at least one query")
    sums, _ = _by_cluster(differences, clusters)
    n_clusters = len(sums)
    # equal up to rounding counts as equal
    seen = np.abs(sums.sum(axis=0)) - 1e-12 * np.abs(sums).sum(axis=0)
    extreme = np.zeros(sums.shape[1])
    if n_clusters <= _EXACT_CLUSTERS:
        patterns = (np.arange(1 << n_clusters)[:, None] >> np.arange(n_clusters)) & 1
        p = (np.abs((2.0 * patterns - 1) @ sums) >= seen).mean(axis=0)
    else:
        rng = np.random.default_rng(seed)
        per_block = max(1, _BLOCK // n_clusters)
        for start in range(0, permutations, per_block):
            shape = (min(per_block, permutations - start), n_clusters)
            signs = rng.integers(0, 2, shape, dtype=np.int8) * 2.0 - 1
            extreme += (np.abs(signs @ sums) >= seen).sum(axis=0)
        p = (1 + extreme) / (1 + permutations)
    intervals = bootstrap_intervals(differences, clusters, seed, samples=samples)
    return [
        PairedTest(
            float(column.mean()),
            low,
            high,
            float(p[m]),
            smallest_detectable(column, clusters),
            len(column),
            n_clusters,
        )
        for m, (column, (low, high)) in enumerate(
            zip(differences.T, intervals.tolist(), strict=True)
        )
    ]


def paired_test(
    a: np.ndarray,
    b: np.ndarray,
    clusters: np.ndarray | None = None,
    seed: int = 0,
    *,
    permutations: int = 10_000,
    samples: int = 1000,
) -> PairedTest:
    """:func:`paired_tests` of system values ``a`` against ``b``, both (n,), the same queries in the
    same order.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            f"a paired test needs the same queries in both systems, got {a.shape} and {b.shape}"
        )
    return paired_tests(
        (a - b)[:, None], clusters, seed, permutations=permutations, samples=samples
    )[0]


def standard_error(values: np.ndarray, clusters: np.ndarray | None = None) -> float:
    """Clustered standard error of a mean, √(C/(C−1) · Σ_c (s_c − n_c·mean)²) / n; NaN for C < 2."""
    by_cluster, counts = _by_cluster(np.asarray(values)[:, None], clusters)
    sums = by_cluster[:, 0]
    if len(sums) < 2:
        return float("nan")
    n = counts.sum()
    residual = sums - counts * (sums.sum() / n)
    return float(np.sqrt(len(sums) / (len(sums) - 1) * (residual**2).sum()) / n)


def smallest_detectable(
    difference: np.ndarray,
    clusters: np.ndarray | None = None,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
) -> float:
    """The smallest true mean difference that a two-sided test at ``alpha`` sees with ``power``
    (normal theory).

    (z₁₋α/₂ + z_power) · standard error: an sd of .08 sees .018 at 150 queries (docs/evaluation.md).
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * standard_error(
        difference, clusters
    )


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjustment of a family of p-values, in the given order.

    [known: Holm 1979]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(adjusted, 1.0)
    return out


def verdict(
    test: PairedTest, p_adjusted: float, *, claimed: float = 0.0, alpha: float = 0.05
) -> Verdict:
    """The word for "a is better than b (by at least ``claimed``)".

    *holds*: significant, and the whole interval lies above ``claimed``. *does not hold*:
    significantly the other way round, or the interval ends below a positive ``claimed`` (the test
    could have seen that effect and did not). *cannot tell here*: everything else; ``detectable``
    says how large an effect would have been seen.
    """
    significant = p_adjusted < alpha
    if significant and test.effect > 0 and test.low >= claimed:
        return "holds"
    if (significant and test.effect < 0) or (claimed > 0 and test.high < claimed):
        return "does not hold"
    return "cannot tell here"
