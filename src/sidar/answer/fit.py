"""Fitting the answer's constants jointly, by the likelihood of what was chosen on the validation
day.

    maximise  mean over requests of  mean over positives i of  log P(i | q, u)

All of κ, half-life, ε, δ, weights and temperatures at once: weights tuned on rankings of all
requests would be those of seen queries, for which the counts have decided already.  A weak penalty
towards the start keeps parameters that the requests say nothing about where they began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidar.answer.smoothed import PRIOR, AnswerParams, Pooled
from sidar.types import Hits, Json

#: Bounds of the logarithms: kappa, half-life in days, and of ε and δ as they are.
KAPPA, HALF_LIFE, SMALL = (1e-3, 1e3), (0.5, 365.0), (1e-6, 0.5)
WEIGHT, SPREAD = (0.0, 8.0), (0.02, 50.0)
#: Weight of the penalty, in nats per request for one e-fold away from the start.
PENALTY = 1e-3


@dataclass(frozen=True)
class Chosen:
    """What R requests chose, and the counts that were known before.

    ``request``, ``row`` (P,) positives; ``positive_counts`` (P, A) weight of the positive's row for
    the request's query by age, ``total_counts`` (R, A) of all live rows; ``ages`` (A,) days.
    """

    request: np.ndarray
    row: np.ndarray
    positive_counts: np.ndarray
    total_counts: np.ndarray
    ages: np.ndarray

    @property
    def n_requests(self) -> int:
        return len(self.total_counts)


@dataclass(frozen=True)
class Fit:
    """Fitted constants and what they reached: mean log-likelihood (nats per request) at the start
    and at the end.
    """

    params: AnswerParams
    start: float
    value: float
    requests: int

    def to_json(self) -> Json:
        return {
            "params": self.params.to_json(),
            "log_likelihood": self.value,
            "log_likelihood_at_start": self.start,
            "requests": self.requests,
        }


def fit_answer(
    channels: Mapping[str, Hits],
    chosen: Chosen,
    prior: np.ndarray,
    n_live: int,
    *,
    iterations: int = 100,
) -> Fit:
    """Fit the constants of the answer to ``chosen``.

    ``channels``: Hits (R, ≤ 500) of each channel for the R requests; ``prior`` (N,) over live
    items.  Deterministic. Raises ``ValueError`` without any request.
    """
    import torch
    from scipy.optimize import minimize

    if not chosen.n_requests:
        raise ValueError(
            "no request to fit the answer to; the validation window has no click (see "
            "split.valid_days)"
        )
    names = tuple(channels)
    pooled = Pooled.of(list(channels.values()))
    start, bounds = _start(pooled, names)
    objective = _Likelihood(pooled, chosen, prior, n_live, len(names))

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
        value = -objective(point) + PENALTY * (point - torch.from_numpy(start)).square().sum()
        (gradient,) = torch.autograd.grad(value, point)
        return float(value.detach()), gradient.numpy()

    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations}
    )
    best = found.x if found.fun <= loss(start)[0] else start
    with torch.no_grad():
        before, after = (float(objective(torch.from_numpy(np.asarray(x)))) for x in (start, best))
    return Fit(unpack(best, names), before, after, chosen.n_requests)


def log_likelihood(
    params: AnswerParams,
    channels: Mapping[str, Hits],
    chosen: Chosen,
    prior: np.ndarray,
    n_live: int,
) -> float:
    """Return the mean over requests of the mean over positives of log P under ``params``."""
    import torch

    pooled = Pooled.of([channels[name] for name in params.channels])
    objective = _Likelihood(pooled, chosen, prior, n_live, len(params.channels))
    with torch.no_grad():
        return float(objective(torch.from_numpy(pack(params))))


def pack(params: AnswerParams) -> np.ndarray:
    """``params`` as the vector that is optimised: log κ, log h, log ε, log δ, w_prior, then w and
    log T of channels.
    """
    head = np.log([params.kappa, params.half_life, params.epsilon, params.delta])
    weights = [params.weights[name] for name in (PRIOR, *params.channels)]
    return np.concatenate(
        [head, weights, np.log([params.temperatures[name] for name in params.channels])]
    )


def unpack(theta: np.ndarray, names: Sequence[str]) -> AnswerParams:
    """The inverse of :func:`pack`."""
    kappa, half_life, epsilon, delta = (float(x) for x in np.exp(theta[:4]))
    weights = dict(zip((PRIOR, *names), map(float, theta[4 : 5 + len(names)]), strict=True))
    temperatures = dict(zip(names, map(float, np.exp(theta[5 + len(names) :])), strict=True))
    return AnswerParams(kappa, half_life, epsilon, delta, weights, temperatures)


def _start(pooled: Pooled, names: Sequence[str]) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Where the search begins, and its bounds: even weights, temperatures of half a channel's
    spread at the top.
    """
    spread = []
    for channel in range(len(names)):
        scores = pooled.scores[:, :, channel]
        with np.errstate(invalid="ignore"):
            wide = [
                np.nanstd(np.sort(row[np.isfinite(row)])[-50:])
                for row in scores
                if np.isfinite(row).sum() > 1
            ]
        spread.append(max(float(np.median(wide)) if wide else 1.0, 1e-6) / 2)
    theta = pack(
        AnswerParams(
            kappa=2.0,
            half_life=14.0,
            epsilon=0.01,
            delta=0.02,
            weights={PRIOR: 0.1, **dict.fromkeys(names, 1.0 / max(len(names), 1))},
            temperatures=dict(zip(names, spread, strict=True)),
        )
    )
    bounds = [tuple(np.log(pair)) for pair in (KAPPA, HALF_LIFE, SMALL, SMALL)]
    bounds += [WEIGHT] * (1 + len(names))
    bounds += [(float(np.log(s * SPREAD[0])), float(np.log(s * SPREAD[1]))) for s in spread]
    return theta, bounds


class _Likelihood:
    """The mean log-likelihood as a function of the packed constants, in torch, so that its gradient
    is exact.
    """

    def __init__(
        self, pooled: Pooled, chosen: Chosen, prior: np.ndarray, n_live: int, channels: int
    ) -> None:
        import torch

        def on(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array))

        self._n, self._channels = n_live, channels
        self._inside = on(pooled.rows >= 0)
        # per channel its listed items alone: (R, m) scores, where they are, and their places among
        # the pooled items
        self._listed, self._scores, self._places = [], [], []
        for channel in range(channels):
            listed = np.isfinite(pooled.scores[:, :, channel])
            most = max(int(listed.sum(1).max(initial=0)), 1)
            places = np.argsort(~listed, axis=1, kind="stable")[:, :most]
            self._places.append(on(places))
            self._listed.append(on(np.take_along_axis(listed, places, 1)))
            scores = np.take_along_axis(pooled.scores[:, :, channel], places, 1)
            self._scores.append(on(np.nan_to_num(scores)))
        with np.errstate(divide="ignore"):
            log_prior = np.log(prior)
        self._log_prior = on(np.where(pooled.rows >= 0, log_prior[np.maximum(pooled.rows, 0)], 0.0))
        self._request = on(chosen.request.astype(np.int64))
        asked = zip(chosen.request.tolist(), chosen.row.tolist(), strict=True)
        self._place = on(
            np.array([_place(pooled.rows[request], row) for request, row in asked], np.int64)
        )
        self._positive_prior = on(prior[chosen.row].astype(np.float64))
        self._counts = on(chosen.positive_counts.astype(np.float64))
        self._totals = on(chosen.total_counts.astype(np.float64))
        self._ages = on(chosen.ages.astype(np.float64))
        per_request = np.bincount(chosen.request, minlength=chosen.n_requests)
        self._share = on(1.0 / per_request[chosen.request])
        self._some = int((per_request > 0).sum())
        self._reached = self._inside.any(1)

    def __call__(self, theta: Any) -> Any:
        import torch

        kappa, half_life, epsilon, delta = theta[:4].exp()
        weights, log_t = theta[4 : 5 + self._channels], theta[5 + self._channels :]
        total = weights[0] * self._log_prior
        for channel in range(self._channels):
            listed, places = self._listed[channel], self._places[channel]
            if not places.shape[1]:
                continue
            some = listed.any(1, keepdim=True)
            score = (self._scores[channel] / log_t[channel].exp()).masked_fill(~listed, -1e30)
            softmax = score.softmax(1) * listed
            # what an item gets that the channel did not return
            floor = torch.where(some, delta, 1.0) / self._n
            # (R, m), 0 where not listed
            gain = (((1 - self._n * floor) * softmax + floor) / floor).log()
            added = torch.zeros_like(total).scatter_add(1, places, gain)
            total = total + weights[1 + channel] * (floor.log() + added)
        if total.shape[1]:
            total = total.masked_fill(~self._inside, -torch.inf)
            reached = self._reached[:, None]
            total = total.masked_fill(~reached, 0.0)
            pool = total - total.logsumexp(1, keepdim=True)
            picked = pool[self._request, self._place.clamp(min=0)].exp()
            picked = torch.where(self._place >= 0, picked, 0.0)
        else:
            picked = torch.zeros_like(self._positive_prior)
        eps = torch.where(self._reached[self._request], epsilon, 1.0)
        smoothing = (1 - eps) * picked + eps * self._positive_prior
        decay = torch.exp2(-self._ages / half_life)
        count, seen = self._counts @ decay, (self._totals @ decay)[self._request]
        probability = (count + kappa * smoothing) / (seen + kappa)
        return (self._share * probability.clamp(min=1e-300).log()).sum() / self._some


def _place(rows: np.ndarray, row: int) -> int:
    """Place of ``row`` among rising ``rows`` that end in −1, or −1."""
    n = int((rows >= 0).sum())
    at = int(np.searchsorted(rows[:n], row))
    return at if at < n and rows[at] == row else -1
