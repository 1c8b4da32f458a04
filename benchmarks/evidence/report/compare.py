"""Comparisons of cells: paired by seed and query, intervals clustered by query, Holm inside a family, verdict words.

The interval and p speak of *queries*, for the seeds at hand: seeds are stacked under the same query label. What another
seed would change stands beside it: the effect of each seed, how many agree, and the standard deviation between them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.evidence.report.cells import Cell, Evidence
from sidar.evaluate.stats import PairedTest, bootstrap_intervals, holm, paired_tests, verdict

DAY = "day8"
NOTHING = "nothing seen"  # the word where the registered expectation is "smaller than this bed can see"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Side:
    """One row of a table and the measure to read."""

    system: str
    metric: str
    variant: str = ""


@dataclass(frozen=True)
class Contrast:
    """Σ plus − Σ minus, per query and seed. One of each is a plain difference; two of each an interaction.

    ``sign`` is the direction that is claimed: "+" better, "-" worse, "0" too small to be seen. ``across`` allows sides
    from different beds (more against less data); otherwise plus[i] and minus[i] must have seen the same one.
    """

    plus: tuple[Side, ...]
    minus: tuple[Side, ...]
    set: str = DAY
    sign: str = "+"
    across: bool = False
    name: str = ""


@dataclass(frozen=True)
class Result:
    """What is known of a contrast; ``test`` None: not run, or no query defines the measure."""

    contrast: Contrast
    test: PairedTest | None = None
    seeds: dict[int | None, float] = field(default_factory=dict)
    p: float = float("nan")  # after Holm
    alpha: float = 0.05

    @property
    def word(self) -> str:
        """The verdict for the claimed direction."""
        if self.test is None:
            return NOT_RUN
        if self.contrast.sign == "0":
            return "does not hold" if self.significant else NOTHING
        t = self.test
        if self.contrast.sign == "-":
            t = replace(t, effect=-t.effect, low=-t.high, high=-t.low)
        return verdict(t, self.p, alpha=self.alpha)

    @property
    def significant(self) -> bool:
        return self.test is not None and self.p < self.alpha

    @property
    def met(self) -> str:
        """Whether the registered sign was met: yes, no, open."""
        return {"holds": "yes", NOTHING: "yes", "does not hold": "no", NOT_RUN: NOT_RUN}.get(self.word, "open")

    @property
    def agreeing(self) -> int:
        """How many seeds have the sign of the effect."""
        return sum(np.sign(e) == np.sign(self.test.effect) for e in self.seeds.values()) if self.test else 0

    @property
    def seed_sd(self) -> float:
        return float(np.std(list(self.seeds.values()), ddof=1)) if len(self.seeds) > 1 else float("nan")


def difference(
    a: str,
    b: str,
    metric: str,
    *,
    set_name: str = DAY,
    sign: str = "+",
    variant: str = "",
    b_variant: str | None = None,
    b_metric: str | None = None,
) -> Contrast:
    """a − b on one measure (``b_metric``: b's name for it); ``b_variant`` None = that of a."""
    other = variant if b_variant is None else b_variant
    return Contrast((Side(a, metric, variant),), (Side(b, b_metric or metric, other),), set_name, sign)


def per_query(
    evidence: Evidence, contrast: Contrast
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int | None, float]]:
    """(n,) differences of all seeds, their (n,) clusters and (n,) places (seed · Q + query), and each seed's mean.

    Seeds are those that all sides share; a side without a seed (a baseline) stands beside each of them.
    """
    sides = [*contrast.plus, *contrast.minus]
    runs = [evidence.runs(side.system, side.variant) for side in sides]
    empty = np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), {}
    if not all(runs) or contrast.set not in evidence.queries:
        return empty
    seeded = [set(run) for run in runs if None not in run]
    seeds: list[int | None] = sorted(set.intersection(*seeded)) if seeded else [None]
    _, clusters = evidence.queries[contrast.set]
    rows, labels, places, means = [], [], [], {}
    for seed in seeds:
        cells = [run.get(seed) or run[None] for run in runs]
        half = len(contrast.plus)
        if not contrast.across and not all(_fair(p, m) for p, m in zip(cells[:half], cells[half:], strict=True)):
            continue
        values = [evidence.values(cell, contrast.set, side.metric) for cell, side in zip(cells, sides, strict=True)]
        total = np.sum(values[:half], axis=0) - np.sum(values[half:], axis=0)
        kept = np.flatnonzero(np.isfinite(total))
        if len(kept):
            rows.append(total[kept])
            labels.append(clusters[kept])
            places.append(kept + (seed or 0) * len(total))
            means[seed] = float(total[kept].mean())
    if not rows:
        return empty
    return np.concatenate(rows), np.concatenate(labels), np.concatenate(places), means


def _fair(a: Cell, b: Cell) -> bool:
    return "baseline" in (a.kind, b.kind) or "ceiling" in (a.kind, b.kind) or a.same_bed(b)


def compare(evidence: Evidence, contrasts: Sequence[Contrast], *, permutations: int = 10_000) -> list[Result]:
    """Test a family: Holm runs over those of its contrasts that could be tested. In the given order.

    Contrasts on the same queries and seeds share their permutations and resamples.
    """
    found = [per_query(evidence, each) for each in contrasts]
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, (rows, _, places, _) in enumerate(found):
        if len(rows):
            groups[contrasts[i].set.encode() + places.tobytes()].append(i)
    tests: dict[int, PairedTest] = {}
    for members in groups.values():
        columns = np.stack([found[i][0] for i in members], axis=1)  # (n, M)
        tests |= dict(zip(members, paired_tests(columns, found[members[0]][1], permutations=permutations), strict=True))
    tested = sorted(tests)
    adjusted = dict(zip(tested, holm([tests[i].p for i in tested]).tolist(), strict=True))
    alpha = float(evidence.registration.get("primary", {}).get("alpha", 0.05))
    return [
        Result(each, tests[i], found[i][3], adjusted[i], alpha) if i in tests else Result(each)
        for i, each in enumerate(contrasts)
    ]


@dataclass(frozen=True)
class Level:
    """A mean over queries and seeds with its interval; ``seeds`` is 0 for what has none."""

    mean: float
    low: float
    high: float
    seeds: int
    n: int


def levels(
    evidence: Evidence,
    system: str,
    metrics: Sequence[str],
    *,
    set_name: str = DAY,
    variant: str = "",
    seeds: Sequence[int | None] | None = None,
) -> dict[str, Level]:
    """Means of ``metrics`` with 95 % intervals clustered by query; measures without a value are left out."""
    runs = {s: c for s, c in evidence.runs(system, variant).items() if seeds is None or s in seeds}
    if not runs or set_name not in evidence.queries:
        return {}
    clusters = np.tile(evidence.queries[set_name][1], len(runs))
    columns = {m: np.concatenate([evidence.values(c, set_name, m) for c in runs.values()]) for m in metrics}
    groups: dict[bytes, list[str]] = defaultdict(list)
    for metric, column in columns.items():
        if np.isfinite(column).any():
            groups[np.isfinite(column).tobytes()].append(metric)
    out = {}
    for members in groups.values():
        kept = np.isfinite(columns[members[0]])
        values = np.stack([columns[m][kept] for m in members], axis=1)
        for metric, column, (low, high) in zip(
            members, values.T, bootstrap_intervals(values, clusters[kept]).tolist(), strict=True
        ):
            out[metric] = Level(float(column.mean()), low, high, len(runs) - (None in runs), len(column))
    return {m: out[m] for m in metrics if m in out}


def all_of(words: Sequence[str]) -> str:
    """The verdict of "every one of these holds"."""
    if not words or all(word == NOT_RUN for word in words):
        return NOT_RUN
    if "does not hold" in words:
        return "does not hold"
    return "holds" if all(word == "holds" for word in words) else "cannot tell here"
