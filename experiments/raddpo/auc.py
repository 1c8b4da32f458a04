"""How well a score separates pseudo-negatives from true ones, with intervals clustered by query.

Everything that is resampled is a *ratio of sums over clusters* or an AUC, so all figures of a model
share one table of multiplicities: how often each cluster was drawn in each resample.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Entries of a block of weights.
_BLOCK = 1 << 21


def numbered(labels: Sequence[str]) -> np.ndarray:
    """(n,) int64 number of each label's cluster."""
    return np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)[1].reshape(
        -1
    )


def multiplicities(n_clusters: int, samples: int = 500, seed: int = 0) -> np.ndarray:
    """(R, C) how often each of C clusters is drawn in each of R resamples.

    [known: cluster bootstrap]
    """
    drawn = np.random.default_rng(seed).multinomial(
        n_clusters, np.full(n_clusters, 1 / n_clusters), size=samples
    )
    return drawn.astype(np.float64)


def auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(R,) P(score of a positive > score of another) + ½ P(equal) under each row of ``weights`` (R,
    n); None = ones.

    ``scores`` (n,), ``positive`` (n,) bool.  NaN where a row has no positive or nothing else.
    """
    if not len(scores):
        return np.full(1 if weights is None else len(weights), np.nan)
    order = np.argsort(scores, kind="stable")
    ranked, is_positive = scores[order], positive[order]
    groups = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    ordered = np.ones((1, len(scores))) if weights is None else weights[:, order]
    right = np.add.reduceat(ordered * is_positive, groups, axis=1)
    wrong = np.add.reduceat(ordered * ~is_positive, groups, axis=1)
    below = np.cumsum(wrong, axis=1) - wrong
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((below + wrong / 2) * right).sum(1) / (right.sum(1) * wrong.sum(1))


def within(
    scores: np.ndarray, positive: np.ndarray, owner: np.ndarray, n_lists: int
) -> tuple[np.ndarray, np.ndarray]:
    """(n_lists,) won and compared (positive, other) pairs inside each list; ties count half.

    ``owner`` (n,) is each score's list.
    """
    won, compared = np.zeros(n_lists), np.zeros(n_lists)
    order = np.argsort(owner, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(owner[order])) + 1):
        a, b = scores[places[positive[places]]], scores[places[~positive[places]]]
        if len(a) and len(b):
            won[owner[places[0]]] = (a[:, None] > b).sum() + (a[:, None] == b).sum() / 2
            compared[owner[places[0]]] = len(a) * len(b)
    return won, compared


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of resampled values, NaNs left out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def ratio(
    top: np.ndarray, bottom: np.ndarray, cluster: np.ndarray, times: np.ndarray
) -> dict[str, float]:
    """{"": Σ top / Σ bottom, "_low", "_high"}: ``top``, ``bottom``, ``cluster`` (n,) of lists;
    ``times`` (R, C).
    """
    n = times.shape[1]
    sums = (
        np.bincount(cluster, weights=top, minlength=n),
        np.bincount(cluster, weights=bottom, minlength=n),
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = interval((times @ sums[0]) / (times @ sums[1]))
        return {"": float(sums[0].sum() / sums[1].sum()), "_low": low, "_high": high}


def separation(
    scores: np.ndarray,
    positive: np.ndarray,
    owner: np.ndarray,
    cluster: np.ndarray,
    times: np.ndarray,
) -> dict[str, float]:
    """``auc``, ``auc_within`` (pairs inside the same list only), each with ``_low`` and ``_high``.

    ``scores`` (n,), NaN = no score, left out; ``owner`` (n,) list of each; ``cluster`` (B,) of each
    list; ``times`` (R, C) from :func:`multiplicities`.
    """
    kept = np.isfinite(scores)
    scores, positive, owner = scores[kept], positive[kept], owner[kept]
    per_block = max(1, _BLOCK // max(len(scores), 1))
    drawn = [
        auc(scores, positive, times[at : at + per_block][:, cluster[owner]])
        for at in range(0, len(times), per_block)
    ]
    low, high = interval(np.concatenate(drawn))
    found = {"auc": float(auc(scores, positive)[0]), "auc_low": low, "auc_high": high}
    won, compared = within(scores, positive, owner, len(cluster))
    return found | {
        f"auc_within{end}": value for end, value in ratio(won, compared, cluster, times).items()
    }
