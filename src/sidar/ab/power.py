"""How many users an experiment needs, and what the users at hand can see.

A two-sided test at level α sees a true difference d with the given power when its standard error is
d / (z₁₋α/₂ + z_power).  Standard errors fall with the square root of the users.  [known]
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np


def quantile_sum(alpha: float = 0.05, power: float = 0.8) -> float:
    """Return z₁₋α/₂ + z_power: 2.80 at the defaults."""
    normal = NormalDist()
    return normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)


def smallest_detectable(se: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true difference that a test with standard error ``se`` sees."""
    return quantile_sum(alpha, power) * se


def users_needed(
    sd: float,
    difference: float,
    shares: tuple[float, float] = (0.5, 0.5),
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """Return the users of both buckets together that see ``difference`` of a per-user mean.

    ``sd`` is the standard deviation between users (of the linearised metric, after CUPED),
    ``shares`` the users' shares in the two buckets.
    """
    a, b = (share / sum(shares) for share in shares)
    return (quantile_sum(alpha, power) * sd / difference) ** 2 * (1 / a + 1 / b)


def users_for(
    difference: float, se: float, users: int, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Return the users that see ``difference``, from the standard error that ``users`` had.

    The buckets keep their shares.  NaN where the standard error is unknown or zero.
    """
    if not (np.isfinite(se) and se > 0 and difference > 0):
        return float("nan")
    return users * (smallest_detectable(se, alpha, power) / difference) ** 2
