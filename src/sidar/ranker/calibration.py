"""Scores as probabilities, and how well they keep what they say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sidar.types import Json


@dataclass(frozen=True)
class Calibration:
    """P(chosen | shown) = σ(slope · score + offset) (Platt 1999); the order of the scores stays."""

    slope: float
    offset: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Return probabilities in (0, 1) of ``scores`` (n,)."""
        logits = np.clip(self.slope * scores + self.offset, -30, 30)
        return 1.0 / (1.0 + np.exp(-logits))

    @classmethod
    def fit(cls, scores: np.ndarray, chosen: np.ndarray) -> Calibration:
        """Fit both constants to ``chosen`` (n,) bool by likelihood.

        The slope is at least 1e-3: a reward must not turn the order round. Without both kinds of
        items the scores are taken as they are.
        """
        from scipy.optimize import minimize

        if chosen.all() or not chosen.any():
            return cls(1.0, 0.0)
        target = chosen.astype(np.float64)

        def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
            logits = point[0] * scores + point[1]
            gap = 1.0 / (1.0 + np.exp(-np.clip(logits, -30, 30))) - target
            value = np.logaddexp(0, logits) - target * logits
            return float(value.mean()), np.array([(gap * scores).mean(), gap.mean()])

        rate = target.mean()
        start = np.array([1.0, float(np.log(rate / (1 - rate)))])
        bounds = [(1e-3, None), (None, None)]
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
        return cls(float(found[0]), float(found[1]))


def reliability(probability: np.ndarray, chosen: np.ndarray, bins: int = 10) -> Json:
    """Return mean prediction and rate of ``chosen`` by tenths of the predictions, and ECE.

    ECE is the mean distance of the two, weighted by the items of a bin (Naeini et al. 2015); bins
    hold equally many items.
    """
    order = np.argsort(probability, kind="stable")
    rows = []
    for part in np.array_split(order, bins):
        if len(part):
            said, was = float(probability[part].mean()), float(chosen[part].mean())
            rows.append({"items": len(part), "predicted": said, "chosen": was})
    total = max(sum(row["items"] for row in rows), 1)
    error = sum(row["items"] * abs(row["predicted"] - row["chosen"]) for row in rows) / total
    return {"bins": rows, "ece": error}
