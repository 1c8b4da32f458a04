"""p-values and intervals that stay valid however often one looks.

The mixture sequential probability ratio test with a normal mixture N(0, τ²) over the difference:
with an estimate d of variance V,

    Λ(τ) = √(V / (V + τ²)) · exp(d² τ² / (2 V (V + τ²)))

is a martingale with mean 1 where the true difference is 0, so P(Λ ever ≥ 1/α) ≤ α (Ville), and the
always-valid p-value is the smallest 1/Λ so far.  The differences d₀ with Λ(d − d₀) < 1/α are the
confidence sequence.  [known: Johari, Koomen, Pekelis, Walsh, KDD 2017; Johari, Pekelis, Walsh,
arXiv 1512.04922; with estimated variances asymptotic: Waudby-Smith and others, arXiv 2103.06476]

τ must be chosen before the data, and the test is sharp only where √V and the true difference are
of its size.  Here Λ is the mean of Λ(τ) over τ = the lift that matters × :data:`SCALES`, which is a
martingale as well and loses at most a factor of their number.  [ours]
"""

from __future__ import annotations

import numpy as np

#: Multiples of the lift that matters; a log may be too small to see it and see a larger one.
SCALES = (1.0, 4.0, 16.0, 64.0)
#: Halvings of the bracket in which an end of a confidence sequence is searched.
_HALVINGS = 60


def log_ratio(difference: np.ndarray, variance: np.ndarray, tau: float | np.ndarray) -> np.ndarray:
    """Return log Λ of estimates with their variances; −∞ where there is no estimate yet."""
    difference, variance = np.asarray(difference), np.asarray(variance)
    ratios = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for scale in SCALES:
            prior = np.square(scale * np.asarray(tau))
            mixed = variance + prior
            exponent = np.square(difference) * prior / (2 * variance * mixed)
            ratios.append(0.5 * np.log(variance / mixed) + exponent)
        value = np.logaddexp.reduce(ratios, axis=0) - np.log(len(SCALES))
    return np.where(np.isfinite(value) & (variance > 0), value, -np.inf)


def always_valid_p(
    differences: np.ndarray, variances: np.ndarray, tau: float | np.ndarray
) -> np.ndarray:
    """Return the always-valid p-value at every look, from estimates (…, T) in the order of time.

    ``variances`` are those of the estimates, not of single users; ``tau`` is the lift that matters.
    """
    ratios = np.maximum.accumulate(log_ratio(differences, variances, tau), axis=-1)
    return np.exp(-np.maximum(ratios, 0.0))


def half_width(variance: np.ndarray, tau: float, alpha: float = 0.05) -> np.ndarray:
    """Return half the width of the 1 − α confidence sequence around an estimate; inf without
    variance.
    """
    variance = np.asarray(variance, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Λ ≥ Λ(τ) / number of τ, so one τ alone reaching that many times 1 / α is far enough
        prior = np.square(SCALES[-1] * tau)
        bound = 2 * np.log(len(SCALES) / alpha) + np.log((variance + prior) / variance)
        far = np.sqrt(variance * (variance + prior) / prior * bound)
    near = np.zeros_like(far)
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        inside = log_ratio(middle, variance, tau) < np.log(1 / alpha)
        near, far = np.where(inside, middle, near), np.where(inside, far, middle)
    return np.where(variance > 0, far, np.inf)
