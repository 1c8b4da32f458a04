"""The analysis of an experiment's log, from files to :class:`~sidar.ab.result.Outcome`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np

from sidar.ab.channels import ChannelReport, channel_report, read_channels
from sidar.ab.effects import Effect
from sidar.ab.events import EventFacts, LogFile, read_events
from sidar.ab.interleave import read_preferences
from sidar.ab.looks import ENOUGH, Looks, all_looks, effect_of
from sidar.ab.metrics import METRICS, Metric
from sidar.ab.power import smallest_detectable, users_for, users_needed
from sidar.ab.result import Need, Outcome, Row
from sidar.ab.srm import sample_ratio
from sidar.ab.users import Design, UserLog, read_everyone, read_users
from sidar.config import Config
from sidar.data.duck import Duck
from sidar.evaluate.stats import holm

#: Fewer users in a bucket are too few for intervals by normal theory. [ours]
FEW_USERS = 100
#: Shares of events above which a warning says that something is missing. [ours]
MANY = 0.1


@dataclass(frozen=True)
class Question:
    """What is asked: the relative lift that matters, at which level and with which power."""

    lift: float = 0.01
    alpha: float = 0.05
    power: float = 0.8

    def __post_init__(self) -> None:
        if not self.lift > 0:
            raise ValueError(f"--lift {self.lift:g} is no lift; want a positive share, e.g. 0.34%")
        if not (0 < self.alpha < 1 and 0 < self.power < 1):
            raise ValueError("--alpha and --power lie between 0 and 1")


def analyse(
    cfg: Config,
    sources: Sequence[LogFile],
    design: Design,
    question: Question,
    *,
    plan: bool = False,
) -> Outcome:
    """Return the outcome of an experiment; with ``plan`` only how many users one would need.

    User ids are hashed on reading as ``privacy.hash_users`` says, except where buckets are drawn
    from them. Raises ``ValueError`` where the log cannot answer, and says what is missing.
    """
    if design.experiment:
        # buckets are a function of the ids as the service knows them; no id leaves this function
        privacy = cfg.privacy.model_copy(update={"hash_users": False})
        cfg = cfg.model_copy(update={"privacy": privacy})
    try:
        with (
            tempfile.TemporaryDirectory(prefix="sidar-ab-") as work,
            Duck(work, cfg.events.memory, cfg.threads) as duck,
        ):
            facts = read_events(duck, cfg, sources)
            outcome = Outcome(facts.counts(), question.lift, question.alpha, question.power)
            outcome.notes += facts.notes
            outcome.warnings += _of_events(facts)
            if plan:
                _plan(read_everyone(duck, design, facts.first_ts, facts.last_ts), outcome)
            else:
                _experiment(duck, facts, design, outcome)
            return outcome
    except duckdb.OutOfMemoryException as error:
        raise ValueError(
            f"events.memory: {cfg.events.memory} is too little for this log; raise it ({error})"
        ) from error


def _experiment(duck: Duck, facts: EventFacts, design: Design, outcome: Outcome) -> None:
    """Compare buckets, channels and teams, as far as the log has them."""
    channels = read_channels(duck) if facts.with_channels else []
    if facts.with_channels:
        outcome.preferences = read_preferences(duck)
    has_buckets = facts.without_bucket < facts.used or bool(design.experiment)
    log = None
    if has_buckets or not outcome.preferences:
        log = read_users(duck, design, facts.first_ts, facts.last_ts)
        _buckets(log, design, outcome)
    if channels:
        outcome.channels = _channels(duck, channels, log)


def _buckets(log: UserLog, design: Design, outcome: Outcome) -> None:
    """Fill in what compares buckets."""
    counts = np.bincount(log.bucket, minlength=len(log.names))
    outcome.names, outcome.days, outcome.crossed = log.names, log.n_days, log.crossed
    outcome.pre_period, outcome.agreement = log.before is not None, log.agreement
    if not (design.control or design.names or design.shares) and log.names[0] != "control":
        outcome.notes.append(
            f"{log.names[0]} is the control because its name comes first; --control names another"
        )
    # an experiment on some of the buckets keeps the proportions of their shares
    shares = {name: design.shares[name] for name in log.names if name in design.shares}
    outcome.ratio = sample_ratio(log.names, counts, shares if len(shares) > 1 else None)
    totals = log.totals()
    metrics = _present(totals, outcome)
    outcome.definitions = {metric.name: metric.definition for metric in metrics}
    looks = all_looks(log, metrics, outcome.lift, outcome.alpha)
    keys, effects = [], []
    for number, name in enumerate(log.names[1:], start=1):
        chosen = np.isin(log.bucket, (0, number))
        for metric in metrics:
            effect = effect_of(log, metric, totals, number, chosen, level=1 - outcome.alpha)
            assert effect is not None  # nothing is asked of its size
            keys.append((metric, name, int(chosen.sum())))
            effects.append(effect)
    adjusted = holm([1.0 if np.isnan(effect.p) else effect.p for effect in effects])
    any_time = holm([looks[metric.name, name].p[-1] for metric, name, _ in keys])
    for i, (metric, name, users) in enumerate(keys):
        by_day = looks[metric.name, name]
        p_values = float(adjusted[i]), float(any_time[i])
        outcome.rows.append(_row(metric, name, users, effects[i], p_values, by_day, outcome))
    outcome.warnings += _of_users(log, counts, totals, metrics, outcome)


def _row(
    metric: Metric,
    name: str,
    users: int,
    effect: Effect,
    p_values: tuple[float, float],
    looks: Looks,
    outcome: Outcome,
) -> Row:
    target = outcome.lift * effect.control
    needed = users_for(target, effect.absolute_se, users, outcome.alpha, outcome.power)
    detectable = smallest_detectable(effect.absolute_se, outcome.alpha, outcome.power)
    detectable = detectable / effect.control if effect.control > 0 else float("nan")
    curves = {column: values.tolist() for column, values in vars(looks).items()}
    ends = float(looks.low[-1]), float(looks.high[-1])
    return Row(metric.name, name, effect, *p_values, ends, users, detectable, needed, curves)


def _present(totals: dict[str, np.ndarray], outcome: Outcome) -> list[Metric]:
    """Return the metrics that the log can answer; say of the others what is missing."""
    any_of = {column: bool(values.sum() > 0) for column, values in totals.items()}
    reasons = {
        "orders": "the experiment has no order; map yours with events.actions",
        "clicked_orders": "no user ordered an item after a click on it",
        "clicks": "no shown item was clicked; map your actions with events.actions",
        "shown": "the experiment has no impression; map yours with events.actions",
        "gmv": "no order has a value; map your column with events.columns.value",
        "dwell": "no event has a dwell time; map your column with events.columns.dwell_s",
    }
    present = []
    for metric in METRICS:
        wanted = [metric.per, metric.column] if metric.per else [metric.column]
        missing = [column for column in wanted if not any_of[column]]
        if missing:
            outcome.notes.append(f"{metric.name} is left out: {reasons[missing[0]]}")
        else:
            present.append(metric)
    if not present:
        raise ValueError(
            "nothing can be compared: no clicks on shown items, no orders and no dwell times; map "
            "your actions with events.actions, e.g. events.actions={view: impression, tap: click}"
        )
    return present


def _plan(log: UserLog, outcome: Outcome) -> None:
    """Fill in how many users an experiment on a log like this would need."""
    totals = log.totals()
    outcome.days, outcome.names = log.n_days, log.names
    outcome.pre_period = log.before is not None
    metrics = _present(totals, outcome)
    outcome.definitions = {metric.name: metric.definition for metric in metrics}
    users = len(log.bucket)
    # halves of any kind: only their standard error is read, and it is that of the linearised metric
    halves = UserLog(
        ("all", "half"), np.arange(users) % 2, log.joined, log.days, log.n_days, log.before, 0, None
    )
    for metric in metrics:
        effect = effect_of(halves, metric, totals, 1, np.ones(users, dtype=bool))
        assert effect is not None
        x, w = metric.values(totals)
        value = float(x.sum() / (users if w is None else w.sum()))
        sd = effect.absolute_se * np.sqrt(users) / 2
        needed = users_needed(sd, outcome.lift * value, alpha=outcome.alpha, power=outcome.power)
        seen = smallest_detectable(effect.absolute_se, outcome.alpha, outcome.power)
        outcome.needs.append(Need(metric.name, value, float(sd), float(needed), seen / value))


def _channels(duck: Duck, channels: Sequence[str], log: UserLog | None) -> list[ChannelReport]:
    """Return the shares over all events, and in each bucket."""
    reports = [channel_report(duck, channels, "all", "true")]
    for number, name in enumerate(log.names if log is not None else ()):
        inside = f"user_id IN (SELECT user_id FROM ab_users WHERE bucket = {number})"
        reports.append(channel_report(duck, channels, name, inside))
    return reports


def _of_events(facts: EventFacts) -> list[str]:
    """Return warnings about the events, whatever their buckets."""
    warnings = []
    if facts.malformed:
        reasons = ", ".join(f"{why} ({n:,})" for why, n in facts.malformed.most_common(3))
        warnings.append(f"{facts.malformed.total():,} malformed rows are left out: {reasons}")
    if facts.ignored:
        named = ", ".join(f"{name} ({n:,})" for name, n in facts.ignored.most_common(5))
        warnings.append(
            f"{facts.ignored.total():,} rows have actions that nothing maps and are left out: "
            f"{named}; events.actions maps them"
        )
    if facts.without_user > MANY * facts.used:
        warnings.append(
            f"{facts.without_user:,} of {facts.used:,} events have no user_id and count for no "
            "bucket"
        )
    return warnings


def _of_users(
    log: UserLog,
    counts: np.ndarray,
    totals: dict[str, np.ndarray],
    metrics: Sequence[Metric],
    outcome: Outcome,
) -> list[str]:
    """Return warnings about the users of the buckets and what is missing in their events."""
    warnings = []
    if log.crossed:
        warnings.append(
            f"{log.crossed:,} users are in several buckets; --crossing says what becomes of them "
            "(drop: they are left out, first: they stay in their first)"
        )
    few = [name for name, n in zip(log.names, counts, strict=True) if n < FEW_USERS]
    if few:
        warnings.append(
            f"fewer than {FEW_USERS} users in {', '.join(few)}: intervals and p-values are rough; "
            "collect more days"
        )
    rare = []
    for metric in metrics:
        some = metric.values(totals)[0] > 0
        if np.bincount(log.bucket[some], minlength=len(log.names)).min() < ENOUGH:
            rare.append(metric.name)
    unseen, clicks = totals["unseen_clicks"].sum(), totals["clicks"].sum()
    if totals["shown"].any() and unseen > MANY * (unseen + clicks):
        warnings.append(
            f"{unseen / (unseen + clicks):.0%} of the clicks have no impression of the same user, "
            "request and item and are left out of CTR; check that clicks carry the request_id"
        )
    unpriced, orders = totals["unpriced"].sum(), totals["orders"].sum()
    if unpriced and any(metric.name == "GMV" for metric in metrics):
        warnings.append(f"{unpriced:,.0f} order events of {orders:,.0f} orders have no value")
    if rare:
        warnings.append(
            f"a bucket has fewer than {ENOUGH} users with any of {', '.join(rare)}: intervals and "
            "p-values of these are rough, and the p-value at any time is 1"
        )
    if log.before is None:
        outcome.notes.append(
            "no pre-period, so no CUPED: intervals are shorter with a log that begins before the "
            "experiment and --from <its first day>"
        )
    return warnings
