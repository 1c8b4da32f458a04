"""Metrics of plug-ins: functions of graded ranks that stand in the table beside the built-in ones.

``evaluate.metrics`` names them; their values are measures of the item level, ``item/<name>``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from sidar.config import EvaluateConfig
from sidar.evaluate.measures.truth import Truth
from sidar.extensions import METRICS, check_function, check_name
from sidar.types import Scores


@dataclass(frozen=True)
class GradedRanks:
    """The results of Q queries as their judgments see them, best first, cut at ``evaluate.depth``.

    ``grades`` (Q, k) float32: the grade at each rank, 0 where the item is unjudged or missing;
    ``relevant`` (Q, k): which of them count for binary measures; ``returned`` (Q, k): where there
    is an item at all. ``n_relevant`` (Q,): relevant items of the query, returned or not; ``ideal``
    (Q, J): all its grades in falling order, 0 past their end.
    """

    grades: np.ndarray
    relevant: np.ndarray
    returned: np.ndarray
    n_relevant: np.ndarray
    ideal: np.ndarray


#: A function of ranks and options, an instance of its pydantic model or None: a value per query.
Score = Callable[[GradedRanks, Any], np.ndarray]


@dataclass(frozen=True)
class Metric:
    """A metric with its range; higher is better. ``header`` is its column in tables."""

    name: str
    score: Score
    header: str
    low: float
    high: float


_NAME = re.compile(r"[a-z0-9][a-z0-9_.@-]*", re.IGNORECASE)
#: Names of built-in measures, with or without a cutoff.
_BUILT_IN = re.compile(r"(ndcg|mrr|recall|hit|precision|rprec|returned)(@.*)?")


def register_metric(
    name: str,
    options: type[BaseModel] | None = None,
    *,
    low: float = 0.0,
    high: float = 1.0,
    header: str | None = None,
) -> Callable[[Score], Score]:
    """Return a decorator for a function ``(ranks, options) -> (Q,) values``, higher is better.

    ``evaluate.metrics: [<name>]`` adds its column ``header`` (default: the name) to every table.
    ``options``: the model of ``evaluate.<name>``. Values leave the range ``low`` to ``high`` only
    by an error.
    """

    check_name(name, "register_metric")

    def add(score: Score) -> Score:
        check_function(score, "ranks", "options")
        if not _NAME.fullmatch(name) or _BUILT_IN.fullmatch(name):
            raise ValueError(
                f"evaluate.metrics: {name!r} is a built-in measure, or has other signs than "
                "letters, digits, - _ . and @; choose another name"
            )
        if not low < high:
            raise ValueError(f"evaluate.metrics: {name!r} has an empty range {low:g} to {high:g}")
        METRICS.add(name, Metric(name, score, header or name, low, high), score.__module__, options)
        return score

    return add


def graded_ranks(truth: Truth, rows: np.ndarray) -> GradedRanks:
    """Return what ``truth`` says of ``rows`` (Q, k), best first, −1 = none."""
    grades = truth.grades_of(rows)
    judged = np.diff(truth.starts)
    ideal = np.zeros((len(truth), int(judged.max(initial=0))), np.float32)
    best_first = np.lexsort((-truth.grades, truth.query))
    place = np.arange(len(best_first)) - np.repeat(truth.starts[:-1], judged)
    ideal[truth.query, place] = truth.grades[best_first]
    return GradedRanks(grades, truth.is_relevant(grades), rows >= 0, truth.n_relevant, ideal)


def score_metrics(cfg: EvaluateConfig, truth: Truth, rows: np.ndarray) -> Scores:
    """Return ``{name: (Q,) values}`` of the metrics that ``evaluate.metrics`` names."""
    if not cfg.metrics:
        return {}
    ranks = graded_ranks(truth, rows)
    found: Scores = {}
    for name in cfg.metrics:
        metric = METRICS[name]
        found[name] = _checked(metric, metric.score(ranks, cfg.section(name)), len(truth))
    return found


def headers(names: Sequence[str]) -> dict[str, str]:
    """Return ``{measure: header}`` of the metrics ``names``, as ``scores.json`` keeps them."""
    return {f"item/{name}": METRICS[name].header for name in names}


def _checked(metric: Metric, values: object, n_queries: int) -> np.ndarray:
    """Return the values of a metric; ``ValueError`` names its file where they are none."""
    where = f"evaluate.metrics {metric.name!r} ({METRICS.file(metric.name)})"
    array = np.asarray(values)
    if array.shape != (n_queries,) or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{where}: must return a number per query, ({n_queries},), got {array.dtype} "
            f"{array.shape}"
        )
    inside = (array >= metric.low) & (array <= metric.high)  # NaN is not inside
    if not inside.all():
        value = array[~inside][0]
        raise ValueError(
            f"{where}: returned {value:g}; its range is {metric.low:g} to {metric.high:g}"
        )
    return array.astype(np.float64)
