"""Do the statistics of `sidar ab` hold what they state?  Simulated users with a known lift.

    python -m experiments.online

*Coverage*: how often the 95 % intervals of 1,000 experiments without a lift (A/A) and of 1,000 with
one (A/B) hold the true relative and absolute difference, with and without CUPED.  *Peeking*: how
many of 1,000 A/A experiments ever show p < .05 in 20 looks, with the always-valid p-value and with
the ordinary one; once with new users at every look, once with users who stay, through the code that
reads a log.  *Mismatch* and *power*: alarms at 49 : 51, and rejections at the computed size.

A user has a rate of shown items, a click probability, a conversion probability and a price level,
all drawn once and the same in the pre-period.  The treatment multiplies click and conversion
probabilities, so that every metric has the planted relative lift exactly.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.common import ROOT, print_table, single_thread, write_between, write_results

single_thread()

import numpy as np

from sidar.ab.effects import Effect
from sidar.ab.looks import all_looks, effect_of
from sidar.ab.metrics import COLUMNS, METRICS, Metric
from sidar.ab.power import users_needed
from sidar.ab.sequential import always_valid_p
from sidar.ab.srm import sample_ratio
from sidar.ab.users import DayRows, UserLog

RUNS = 1000
LIFT = 0.1
ALPHA = 0.05
USERS = 600  # per bucket
LOOKS = 20
CONVERSION, CLICK, PRICE_SIGMA = 0.15, 0.3, 0.5
#: UCTCVR of the simulation is UCVR, whose orders all follow a click, so it is not drawn apart.
SIMULATED = [metric for metric in METRICS if metric.name != "UCTCVR"]


@dataclass(frozen=True)
class People:
    """What stays the same of U users."""

    rate: np.ndarray
    click: np.ndarray
    conversion: np.ndarray
    price: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int) -> People:
        """Draw users whose means are 1 (rate), CLICK, CONVERSION and 1 (price)."""
        conversion = CONVERSION * rng.choice([0.2, 1.8], n)
        return cls(
            rng.gamma(2, 0.5, n), CLICK * rng.uniform(0.4, 1.6, n), conversion, _prices(rng, n)
        )

    def act(self, rng: np.random.Generator, lift: np.ndarray) -> dict[str, np.ndarray]:
        """Return one period's sums of every user, (U,) per column."""
        n = len(self.rate)
        shown = 1 + rng.poisson(9 * self.rate)
        clicks = rng.binomial(shown, self.click * (1 + lift))
        orders = rng.random(n) < self.conversion * (1 + lift)
        zero = np.zeros(n)
        sums = dict.fromkeys(COLUMNS, zero)
        return sums | {
            "shown": shown.astype(float),
            "clicks": clicks.astype(float),
            "orders": orders.astype(float),
            "clicked_orders": orders.astype(float),
            "gmv": orders * self.price,
            "dwell": rng.gamma(np.maximum(4 * clicks, 1e-9), 5.0),
        }


def _prices(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.lognormal(-(PRICE_SIGMA**2) / 2, PRICE_SIGMA, n)


#: True values of the control.
EXPECTED = {"UCVR": CONVERSION, "CTR": CLICK, "GMV": CONVERSION, "dwell": 20 * CLICK * 10}


def experiment(rng: np.random.Generator, lift: float) -> UserLog:
    """Return one experiment of a single day, with a pre-period."""
    people = People.draw(rng, 2 * USERS)
    bucket = np.repeat([0, 1], USERS)
    before = people.act(rng, np.zeros(2 * USERS)) | {"seen": np.ones(2 * USERS)}
    sums = people.act(rng, lift * bucket)
    everyone = np.arange(2 * USERS)
    days = DayRows(everyone, np.zeros_like(everyone), sums)
    joined = np.zeros(2 * USERS, dtype=np.int64)
    return UserLog(("a", "b"), bucket, joined, days, 1, before, 0, None)


def estimates(
    lift: float, runs: int = RUNS, adjusted: Sequence[Metric] = SIMULATED
) -> dict[bool, dict[str, list[Effect]]]:
    """Return the effects of every metric in ``runs`` experiments, and of those ``adjusted`` with
    CUPED.
    """
    rng = np.random.default_rng(14)
    effects: dict[bool, dict[str, list[Effect]]] = {
        cuped: {metric.name: [] for metric in metrics}
        for cuped, metrics in ((False, SIMULATED), (True, adjusted))
    }
    chosen = np.ones(2 * USERS, dtype=bool)
    for _ in range(runs):
        log = experiment(rng, lift)
        plain = replace(log, before=None)
        for cuped, seen, metrics in ((False, plain, SIMULATED), (True, log, adjusted)):
            for metric in metrics:
                effect = effect_of(seen, metric, log.days.sums, 1, chosen)
                assert effect is not None
                effects[cuped][metric.name].append(effect)
    return effects


def coverage(effects: list[Effect], lift: float, control: float) -> tuple[float, float]:
    """Return the shares of intervals that hold the true relative and the true absolute lift."""
    truth = lift * control
    relative = [effect.relative_low <= lift <= effect.relative_high for effect in effects]
    absolute = [effect.absolute_low <= truth <= effect.absolute_high for effect in effects]
    return float(np.mean(relative)), float(np.mean(absolute))


def new_users_at_every_look(
    runs: int = RUNS, per_look: int = 300
) -> dict[str, tuple[float, float]]:
    """Return for UCVR and GMV the shares of A/A runs that ever show p < ALPHA: always-valid,
    ordinary.
    """
    rng = np.random.default_rng(15)
    shape = (2, runs, LOOKS)
    shares = {}
    for name in ("UCVR", "GMV"):
        sums, squares = np.empty(shape), np.empty(shape)
        for at in np.ndindex(shape[:2]):
            value = (rng.random((LOOKS, per_look)) < CONVERSION).astype(float)
            if name == "GMV":
                value *= _prices(rng, LOOKS * per_look).reshape(value.shape)
            sums[at], squares[at] = value.sum(axis=1), np.square(value).sum(axis=1)
        n = per_look * np.arange(1, LOOKS + 1)
        mean = sums.cumsum(axis=2) / n
        variance = (squares.cumsum(axis=2) / n - mean**2) / n
        difference, total = mean[1] - mean[0], variance.sum(axis=0)
        always = always_valid_p(difference, total, LIFT * mean.mean(axis=0))[:, -1]
        ordinary = (np.abs(difference) > 1.96 * np.sqrt(total)).any(axis=1)
        shares[name] = float((always < ALPHA).mean()), float(ordinary.mean())
    return shares


def users_who_stay(runs: int = RUNS, per_bucket: int = 300, lift: float = 0.0) -> dict[str, float]:
    """Return per metric the share of runs whose always-valid p-value ever is below ALPHA, when the
    same users come again on each of LOOKS days.
    """
    rng = np.random.default_rng(16)
    n = 2 * per_bucket
    metrics: list[Metric] = [metric for metric in SIMULATED if metric.name in ("UCVR", "CTR")]
    below = dict.fromkeys((metric.name for metric in metrics), 0)
    bucket = np.repeat([0, 1], per_bucket)
    joined = np.zeros(n, dtype=np.int64)
    for _ in range(runs):
        people = People.draw(rng, n)
        days = [people.act(rng, lift * bucket) for _ in range(LOOKS)]
        sums = {column: np.concatenate([day[column] for day in days]) for column in COLUMNS}
        rows = DayRows(np.tile(np.arange(n), LOOKS), np.repeat(np.arange(LOOKS), n), sums)
        log = UserLog(("a", "b"), bucket, joined, rows, LOOKS, None, 0, None)
        for (metric, _), looks in all_looks(log, metrics, LIFT).items():
            below[metric] += bool(looks.p[-1] < ALPHA)
    return {name: count / runs for name, count in below.items()}


def mismatch(share: float, users: int = 50_000, runs: int = RUNS) -> float:
    """Return how often the test of sample ratios rings when ``share`` of the users is in one of two
    buckets that were planned equal.
    """
    rng = np.random.default_rng(17)
    first = rng.binomial(users, share, runs)
    alarms = [sample_ratio(("a", "b"), np.array([n, users - n])).alarm for n in first]
    return float(np.mean(alarms))


def power_at_computed_size(lift: float = 0.1, runs: int = 4 * RUNS) -> tuple[int, float]:
    """Return the users that the formula asks for to see ``lift`` of UCVR with 80 % power, and how
    often an experiment of that size does.
    """
    sd = np.sqrt(CONVERSION * (1 - CONVERSION))
    half = int(np.ceil(users_needed(sd, lift * CONVERSION) / 2))
    rng = np.random.default_rng(18)
    a, b = (rng.binomial(half, CONVERSION * (1 + up), runs) / half for up in (0.0, lift))
    se = np.sqrt((a * (1 - a) + b * (1 - b)) / half)
    return 2 * half, float((np.abs(b - a) > 1.96 * se).mean())


def measure() -> dict[str, float]:
    """Return all figures."""
    figures: dict[str, float] = {}
    for arm, lift in (("A/A", 0.0), ("A/B", LIFT)):
        for cuped, by_metric in estimates(lift).items():
            for name, effects in by_metric.items():
                key = f"{arm}{' CUPED' if cuped else ''}/{name}"
                relative, absolute = coverage(effects, lift, EXPECTED[name])
                figures[f"{key}/relative"], figures[f"{key}/absolute"] = relative, absolute
                figures[f"{key}/mean"] = float(np.mean([e.relative for e in effects]))
                figures[f"{key}/sd"] = float(np.std([e.relative for e in effects]))
    for name, (always, ordinary) in new_users_at_every_look().items():
        figures[f"peeking/{name}/always valid"] = always
        figures[f"peeking/{name}/ordinary"] = ordinary
    for name, share in users_who_stay().items():
        figures[f"staying/{name}/always valid"] = share
    for name, share in users_who_stay(lift=LIFT, runs=200).items():
        figures[f"staying A/B/{name}/always valid"] = share
    figures["alarms at 50 : 50"] = mismatch(0.5)
    figures["alarms at 49 : 51"] = mismatch(0.49)
    figures["users for 80 % power"], figures["power there"] = power_at_computed_size()
    return figures


MARKS = ("<!-- online table -->\n", "<!-- /online table -->")


def page_table(results: dict[str, Any]) -> str:
    """The table of docs/ab.md: coverage by metric."""
    figures = results["figures"]
    lines = [
        "| metric | A/A | A/B | A/A with CUPED | A/B with CUPED | variance with CUPED |",
        "|---" * 6 + "|",
    ]
    for metric in SIMULATED:
        cells = []
        for cuped in ("", " CUPED"):
            for arm in ("A/A", "A/B"):
                values = (
                    figures[f"{arm}{cuped}/{metric.name}/{k}"] for k in ("relative", "absolute")
                )
                cells.append(" / ".join(f"{100 * value:.1f}" for value in values))
        sds = [figures[f"A/B{cuped}/{metric.name}/sd"] for cuped in (" CUPED", "")]
        cells.append(f"{100 * (sds[0] / sds[1]) ** 2:.0f} %")
        lines.append(f"| {metric.name} | {' | '.join(cells)} |")
    alarms = [_per_cent(figures[f"alarms at {sizes}"]) for sizes in ("49 : 51", "50 : 50")]
    users, power = figures["users for 80 % power"], _per_cent(figures["power there"])
    rate = _per_cent(CONVERSION)
    always, ordinary, staying = (
        _shares(figures, *kind)
        for kind in (
            ("peeking", "always valid"),
            ("peeking", "ordinary"),
            ("staying", "always valid"),
        )
    )
    lines += [
        "",
        "The last column is the variance of the estimate with CUPED as a share of that without.",
        f"In {LOOKS} looks at 1,000 experiments without a lift, p ever fell below .05:",
        "",
        f"- always-valid, new users at every look: {always};",
        f"- ordinary, the same looks: {ordinary};",
        f"- always-valid, the same users every day: {staying}.",
        "",
        f"The test of sample ratios rang for 50,000 users at 49 : 51 in {alarms[0]} of the",
        f"experiments, at 50 : 50 in {alarms[1]}. To see a lift of 10 % of a UCVR of {rate} takes",
        f"{users:,.0f} users by the formula; {power} of the experiments of that size saw it.",
        "",
    ]
    return "\n".join(lines)


def _shares(figures: dict[str, float], kind: str, test: str) -> str:
    """Return the shares of a kind of peeking by metric, as "1.0 % (UCVR) and 2.0 % (GMV)"."""
    shares = {
        name.split("/")[1]: value
        for name, value in figures.items()
        if name.startswith(f"{kind}/") and name.endswith(f"/{test}")
    }
    return " and ".join(f"{_per_cent(value)} ({name})" for name, value in shares.items())


def _per_cent(value: float) -> str:
    return f"{100 * value:.1f} %"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    figures = measure()
    print_table(["figure", "value"], [[name, value] for name, value in figures.items()])
    config = {
        "runs": RUNS,
        "lift": LIFT,
        "users_per_bucket": USERS,
        "looks": LOOKS,
        "alpha": ALPHA,
        "conversion": CONVERSION,
        "click": CLICK,
    }
    write_results("online", config, figures)
    write_between(ROOT / "docs" / "ab.md", MARKS, page_table({"figures": figures}))


if __name__ == "__main__":
    main()
