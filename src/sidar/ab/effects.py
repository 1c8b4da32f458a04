"""The difference of two buckets in one metric: estimate, interval, CUPED.

Everything is written as a mean of influence values, one per user, so that a ratio metric, a
relative lift and a covariate are the same calculation.

- A ratio R = Σx / Σw is linearised: user i contributes e_i = (x_i − R w_i) / mean(w), and
  Var(R) = Var(e) / n.  With w = 1 this is the mean.  [known: the delta method; Deng, Knoblich, Lu,
  arXiv 1803.06336; Budylin and others, WSDM 2018]
- CUPED subtracts θ (C_k − C) from bucket k, C the mean of covariates that were measured before
  users were assigned; θ is the pooled regression within buckets.  [known: Deng, Xu, Kohavi, Walker,
  WSDM 2013]
- The relative lift R_b / R_a − 1 has the influence e_b / R_a − (R_b / R_a²) e_a.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special


@dataclass(frozen=True)
class Effect:
    """A treatment against its control; ``relative`` and its interval are shares of the control."""

    control: float
    treatment: float
    absolute: float
    absolute_low: float
    absolute_high: float
    relative: float
    relative_low: float
    relative_high: float
    p: float  # two-sided, of no absolute difference
    absolute_se: float
    relative_se: float
    variance_saved: float  # share of the variance that CUPED took away; 0 without a covariate


@dataclass(frozen=True)
class _Side:
    """One bucket: its value, its users' influence values (n,), and their share of the variance."""

    value: float
    influence: np.ndarray

    @cached_property
    def variance(self) -> float:
        """Variance of the value; NaN for fewer than two users."""
        n = len(self.influence)
        return float(np.var(self.influence, ddof=1) / n) if n > 1 else float("nan")


def compare(
    x: np.ndarray,
    treated: np.ndarray,
    w: np.ndarray | None = None,
    covariates: np.ndarray | None = None,
    *,
    level: float = 0.95,
) -> Effect:
    """Return the effect of a treatment on Σx / Σw, from one value per user.

    ``x`` and ``w`` are (n,), ``treated`` is (n,) bool, ``covariates`` (n, k) from before the
    experiment. Values are NaN where a bucket is empty or has no denominator.
    """
    treated = np.asarray(treated, dtype=bool)
    sides = [_side(x, w, treated == arm) for arm in (False, True)]
    plain = sides[0].variance + sides[1].variance
    common = np.zeros(len(x))
    if covariates is not None:
        sides, common = _adjusted(sides, treated, covariates)
    control, treatment = sides
    variance = control.variance + treatment.variance
    absolute_se = float(np.sqrt(variance))
    absolute = treatment.value - control.value
    quantile = _quantile(control, treatment, level)
    relative, relative_se = _relative(control, treatment, treated, common)
    z = absolute / absolute_se if absolute_se > 0 else np.nan
    return Effect(
        control=control.value,
        treatment=treatment.value,
        absolute=absolute,
        absolute_low=absolute - quantile * absolute_se,
        absolute_high=absolute + quantile * absolute_se,
        relative=relative,
        relative_low=relative - quantile * relative_se,
        relative_high=relative + quantile * relative_se,
        p=float(2 * special.stdtr(_freedom(control, treatment), -abs(z))),
        absolute_se=absolute_se,
        relative_se=relative_se,
        variance_saved=1 - variance / plain if plain > 0 else 0.0,
    )


def _side(x: np.ndarray, w: np.ndarray | None, chosen: np.ndarray) -> _Side:
    mine = np.asarray(x, dtype=np.float64)[chosen]
    base = np.ones(len(mine)) if w is None else np.asarray(w, dtype=np.float64)[chosen]
    mean = base.mean() if len(base) else 0.0
    if not mean > 0:
        return _Side(float("nan"), np.full(len(mine), np.nan))
    value = float(mine.mean() / mean)
    return _Side(value, (mine - value * base) / mean)


def _adjusted(
    sides: list[_Side], treated: np.ndarray, covariates: np.ndarray
) -> tuple[list[_Side], np.ndarray]:
    """Return both sides after CUPED, and each user's influence on the shift that both share.

    The shared shift, θ times the mean covariate of all users, cancels in the difference and barely
    matters in the ratio.
    """
    covariates = np.asarray(covariates, dtype=np.float64)
    influence = np.empty(len(treated))
    influence[~treated], influence[treated] = sides[0].influence, sides[1].influence
    if not np.isfinite(influence).all():
        return sides, np.zeros(len(treated))
    mean = covariates.mean(axis=0)
    arm_means = [covariates[treated == arm].mean(axis=0) for arm in (False, True)]
    within = covariates - np.where(treated[:, None], arm_means[1], arm_means[0])
    # lstsq, as covariates that are constant or equal must not matter
    theta = np.linalg.lstsq(within.T @ within, within.T @ influence, rcond=None)[0]  # (k,)
    left = influence - within @ theta
    values = [
        side.value - float((arm_mean - mean) @ theta)
        for side, arm_mean in zip(sides, arm_means, strict=True)
    ]
    adjusted = [_Side(values[0], left[~treated]), _Side(values[1], left[treated])]
    return adjusted, (covariates - mean) @ theta


def _relative(
    control: _Side, treatment: _Side, treated: np.ndarray, common: np.ndarray
) -> tuple[float, float]:
    """Return the relative lift and its standard error; NaN for a control of zero or below."""
    if not control.value > 0:
        return float("nan"), float("nan")
    ratio = treatment.value / control.value
    n = len(treated)
    influence = np.empty(n)
    influence[treated] = treatment.influence / len(treatment.influence)
    influence[~treated] = -ratio * control.influence / len(control.influence)
    influence += (1 - ratio) * common / n
    return ratio - 1, float(np.sqrt((influence**2).sum()) / control.value)


def _quantile(control: _Side, treatment: _Side, level: float) -> float:
    return float(special.stdtrit(_freedom(control, treatment), (1 + level) / 2))


def _freedom(control: _Side, treatment: _Side) -> float:
    """Welch's degrees of freedom.  [known: Welch–Satterthwaite]"""
    parts = [side.variance for side in (control, treatment)]
    sizes = [len(side.influence) for side in (control, treatment)]
    spread = sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True) if size > 1)
    return sum(parts) ** 2 / spread if spread > 0 else float("nan")
