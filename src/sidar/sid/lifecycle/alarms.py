"""Do the codebooks still fit the catalogue? Tests of the items that joined after the fit against
those at the fit.

Each alarm rings where an effect is large *and* chance does not explain it, so that neither a large
catalogue nor a small delivery rings for nothing [ours]:

* ``error``: mean squared quantisation error of new items / that of unseen items at the fit, less 1.
  Chance: Welch's test of the two means, one-sided. It never rings where the reference is ``in
  sample`` (sid/lifecycle/reference.py): codebooks flatter the items that they were fitted to, so
  any new item looks strange beside those.
* ``codes``: total variation ½ Σ |q − p| between the first codes of new items (q) and of the items
  at the fit (p), less what it is on average for as many draws from p. Chance: 2,000 such draws.
* ``growth``: how many items share an item's SID on average, now / at the fit, less 1.
* ``largest``: items of the fullest SID among those that new items joined.
* ``tombstones``: rows of retired items / all rows.

The last three are counts and need no test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from sidar.config import AlarmsConfig
from sidar.sid.lifecycle.ledger import Ledger
from sidar.sid.lifecycle.reference import experienced
from sidar.types import Json, SemanticIds

_DRAWS = 2000


@dataclass(frozen=True)
class Alarm:
    """One line of the report.

    ``p`` is None where nothing was tested, ``value`` where nothing could be measured.
    """

    name: str
    value: float | None
    limit: float
    p: float | None
    rings: bool
    says: str

    def as_dict(self) -> Json:
        return asdict(self)


def alarms(
    sids: SemanticIds,
    item_ids: Sequence[str] | np.ndarray,
    ledger: Ledger,
    reference: Json,
    limits: AlarmsConfig,
    *,
    seed: int = 0,
) -> list[Alarm]:
    """All alarms of a table (N rows, length 0 = retired or none).

    New items: those that the ledger calls not fitted.
    """
    rows = np.flatnonzero(sids.lengths > 0)
    ids = np.asarray(item_ids, dtype=object)
    place = ledger.places(ids[rows])
    if (place < 0).any():
        raise ValueError(
            f"item {ids[rows][int((place < 0).argmax())]!r} has an SID but no line in the ledger; "
            "run `sidar sid`"
        )
    new = rows[~ledger.fitted[place]]
    errors = ledger.error[place[~ledger.fitted[place]]]
    return [
        _error(errors, reference, limits),
        _codes(sids.codes[new, 0], np.asarray(reference["first"], np.float64), limits, seed),
        _growth(sids.codes[rows], reference, limits),
        _largest(sids, rows, new, ids, limits),
        _tombstones(len(sids), len(rows), limits),
    ]


def _error(errors: np.ndarray, reference: Json, limits: AlarmsConfig) -> Alarm:
    before, n = reference["errors"], reference["items"]
    if len(errors) < limits.least:
        return _silent(
            "error",
            limits.error,
            f"{len(errors)} new items; fewer than alarms.least = {limits.least}",
        )
    value = float(errors.mean()) / max(before["mean"], 1e-12) - 1
    spread = math.sqrt(float(errors.var(ddof=1)) / len(errors) + before["std"] ** 2 / n)
    z = (float(errors.mean()) - before["mean"]) / max(spread, 1e-12)
    p = 0.5 * math.erfc(z / math.sqrt(2))
    flattered = reference["how"] == "in sample"
    rings = value > limits.error and p < limits.p and not flattered
    losses = f"{errors.mean():.3f} to {before['mean']:.3f}"
    whose = "unseen items lost at the fit"
    if flattered:
        whose = "fitted items lose, which any new item exceeds: this never rings"
    says = f"new items lose {1 + value:.2f} × what {whose} ({losses})"
    return Alarm(
        "error", value, limits.error, p, rings, says + ("; fit the codebooks anew" if rings else "")
    )


def _codes(first: np.ndarray, counts: np.ndarray, limits: AlarmsConfig, seed: int) -> Alarm:
    if len(first) < limits.least:
        return _silent(
            "codes",
            limits.codes,
            f"{len(first)} new items; fewer than alarms.least = {limits.least}",
        )
    expected = counts / counts.sum()
    now = np.bincount(first, minlength=len(counts)) / len(first)
    distance = 0.5 * float(np.abs(now - expected).sum())
    draws = np.random.default_rng(seed).multinomial(len(first), expected, _DRAWS) / len(first)
    chance = 0.5 * np.abs(draws - expected).sum(axis=1)
    p = float((1 + (chance >= distance).sum()) / (1 + _DRAWS))
    value = distance - float(chance.mean())
    rings = value > limits.codes and p < limits.p
    says = (
        f"{max(value, 0):.0%} of the new items would have to change their first code to look "
        "like those at the fit"
    )
    return Alarm(
        "codes", value, limits.codes, p, rings, says + ("; another mix of shelves" if rings else "")
    )


def _growth(codes: np.ndarray, reference: Json, limits: AlarmsConfig) -> Alarm:
    now = experienced(codes)
    value = now / max(reference["bucket"], 1e-12) - 1
    rings = value > limits.growth
    says = (
        f"an item shares its SID with {now - 1:.2f} others on average, "
        f"{reference['bucket'] - 1:.2f} at the fit"
    )
    return Alarm(
        "growth",
        value,
        limits.growth,
        None,
        rings,
        says + ("; larger codebooks are due" if rings else ""),
    )


def _largest(
    sids: SemanticIds, rows: np.ndarray, new: np.ndarray, ids: np.ndarray, limits: AlarmsConfig
) -> Alarm:
    if not len(new):
        return _silent("largest", limits.bucket, "no new items")
    _, group, size = np.unique(sids.codes[rows], axis=0, return_inverse=True, return_counts=True)
    joined = size[group.reshape(-1)[np.searchsorted(rows, new)]]
    row = new[int(joined.argmax())]
    value = int(joined.max())
    rings = value > limits.bucket
    says = (
        f"{value} items have the SID {'-'.join(map(str, sids.tuple_of(int(row))))}, "
        f"{ids[row]!r} among them"
    )
    return Alarm(
        "largest",
        value,
        limits.bucket,
        None,
        rings,
        says + ("; are they one product?" if rings else ""),
    )


def _tombstones(n: int, alive: int, limits: AlarmsConfig) -> Alarm:
    value = 1 - alive / max(n, 1)
    rings = value > limits.tombstones
    says = f"{n - alive:,} of {n:,} rows are of retired items"
    return Alarm(
        "tombstones",
        value,
        limits.tombstones,
        None,
        rings,
        says + ("; `sidar sids compact`" if rings else ""),
    )


def _silent(name: str, limit: float, why: str) -> Alarm:
    return Alarm(name, None, limit, None, False, why)
