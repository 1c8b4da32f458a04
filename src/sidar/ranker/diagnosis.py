"""What a ranker has learnt of a log: calibration, bias by position and popularity, and on simulated
traffic the relevance that clicks only hint at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sidar.ranker.calibration import Calibration, reliability
from sidar.types import Json

#: Positions from this one on are one row of the report.
DEEP = 10


@dataclass(frozen=True)
class Shown:
    """The n items that R requests were shown; every field but ``starts`` (R + 1,) is (n,).

    ``score`` of the ranker, ``chosen``, ``position`` (0 = unknown), ``popularity`` labels and
    ``prior``; ``relevance`` and ``p_click`` of the simulator, None for a log of people.
    """

    starts: np.ndarray
    score: np.ndarray
    chosen: np.ndarray
    position: np.ndarray
    popularity: np.ndarray
    prior: np.ndarray
    relevance: np.ndarray | None = None
    p_click: np.ndarray | None = None

    @property
    def request(self) -> np.ndarray:
        """(n,) the request of each item."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


def diagnose(shown: Shown) -> Json:
    """Return the report as JSON.

    Calibration is fitted on every other request and measured on the rest, so that it is not judged
    by what it was fitted to.
    """
    fitted_on = shown.request % 2 == 0
    calibration = Calibration.fit(shown.score[fitted_on], shown.chosen[fitted_on])
    predicted = calibration(shown.score)
    rest = ~fitted_on
    report: Json = {
        "items": len(shown.score),
        "calibration": reliability(predicted[rest], shown.chosen[rest]),
        "position": _by(_positions(shown.position), predicted, shown),
        "popularity": _by(shown.popularity, predicted, shown),
        "order": {
            "ranker": _orders(shown, shown.score),
            "prior": _orders(shown, shown.prior),
            "logged": _orders(shown, -shown.position.astype(np.float64)),
        },
    }
    return report


def _positions(position: np.ndarray) -> np.ndarray:
    """(n,) labels of positions, deep ones together."""
    names = np.where(position < DEEP, position.astype(str), f"{DEEP}+")
    return np.where(position > 0, names, "unknown")


def _by(labels: np.ndarray, predicted: np.ndarray, shown: Shown) -> list[Json]:
    """Return per label how many items it has, the mean prediction, and the rate of choices.

    Where the traffic is simulated, also mean relevance and true click rate under attention.
    """
    rows = []
    for label in sorted(set(labels.tolist()), key=_label_order):
        at = labels == label
        row: Json = {
            "name": str(label),
            "items": int(at.sum()),
            "predicted": float(predicted[at].mean()),
            "chosen": float(shown.chosen[at].mean()),
        }
        for name in ("relevance", "p_click"):
            values = getattr(shown, name)
            if values is not None:
                row[name] = float(values[at].mean())
        rows.append(row)
    return rows


def _label_order(label: str) -> tuple[int, str]:
    """Positions by number, popularity from head to cold."""
    named = ("head", "torso", "tail", "cold")
    if label in named:
        return named.index(label), label
    digits = label.rstrip("+")
    return int(digits) if digits.isdecimal() else DEEP + 1, label


def _orders(shown: Shown, score: np.ndarray) -> Json:
    """Return the share of pairs inside requests that ``score`` (n,) puts in the right order, by
    what was chosen and, where the traffic is simulated, by true relevance.
    """
    truths: dict[str, np.ndarray | None] = {
        "chosen": shown.chosen.astype(np.float64),
        "relevance": shown.relevance,
    }
    found = {
        name: pair_accuracy(shown.starts, score, truth)
        for name, truth in truths.items()
        if truth is not None
    }
    return {name: None if np.isnan(value) else value for name, value in found.items()}


def pair_accuracy(starts: np.ndarray, score: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean over requests of the share of pairs of different ``truth`` in the right
    order; equal scores count half. NaN where no request has such a pair.
    """
    found = []
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        true, said = truth[start:stop], score[start:stop]
        above = true[:, None] > true
        pairs = int(above.sum())
        if pairs:
            right = (said[:, None] > said)[above].sum() + 0.5 * (said[:, None] == said)[above].sum()
            found.append(float(right) / pairs)
    return float(np.mean(found)) if found else float("nan")


def page_of(reports: Mapping[str, Json]) -> str:
    """Return the page of the diagnosis: the reports of each use as tables."""
    lines = ["# What the ranker has learnt", ""]
    for use, report in reports.items():
        lines += [
            f"## {use}",
            "",
            f"{report['items']:,} items that requests of the validation window were shown. "
            f"Expected calibration error {report['calibration']['ece']:.4f}.",
            "",
        ]
        rows = [
            [str(row["items"]), f"{row['predicted']:.4f}", f"{row['chosen']:.4f}"]
            for row in report["calibration"]["bins"]
        ]
        lines += _table(["items", "predicted", "chosen"], rows)
        for part in ("position", "popularity"):
            names = [name for name in report[part][0] if name not in ("name", "items")]
            rows = [
                [row["name"], str(row["items"]), *(f"{row[name]:.4f}" for name in names)]
                for row in report[part]
            ]
            lines += _table([part, "items", *names], rows)
        judged = list(report["order"]["ranker"])
        rows = [
            [name, *(_share(values[one]) for one in judged)]
            for name, values in report["order"].items()
        ]
        lines += _table(["pairs in the right order by", *judged], rows)
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table and an empty one behind it."""
    body = [f"| {' | '.join(cells)} |" for cells in rows]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *body, ""]
