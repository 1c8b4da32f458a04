"""One comparison of cells: paired by seed and query, intervals clustered by query, Holm inside a
family, verdict words.

The interval and p speak of *queries*, for the seeds at hand: seeds are stacked under the same query
label. What another seed would change stands beside it: the effect of each seed, how many agree, and
the standard deviation between them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from experiments.raddpo.report.cells import Cell, Evidence
from sidar.evaluate.stats import PairedTest, holm, paired_tests, smallest_detectable, verdict

DAY = "day8"
# the word where the registered expectation is "smaller than this bed can see"
NOTHING = "nothing seen"
NOT_RUN = "not run"
LEAST_SEEDS = 3
UNSURE = "cannot tell here"
IDENTICAL = "identical"
WEIGHT_0 = "weight 0 chosen on dev"


@dataclass(frozen=True)
class Side:
    """One row of a table and the measure to read."""

    system: str
    metric: str
    variant: str = ""


@dataclass(frozen=True)
class Contrast:
    """Σ plus − Σ minus, per query and seed. One of each is a plain difference; two of each an
    interaction.

    ``sign`` is the direction that is claimed: "+" better, "-" worse, "0" too small to be seen.
    ``across`` allows sides from different beds (more against less data); otherwise plus[i] and
    minus[i] must have seen the same one. ``seeds`` keeps a table to the seeds of all its rows; None
    = every seed that the sides share.
    """

    plus: tuple[Side, ...]
    minus: tuple[Side, ...]
    set: str = DAY
    sign: str = "+"
    across: bool = False
    name: str = ""
    seeds: tuple[int | None, ...] | None = None


@dataclass(frozen=True)
class Result:
    """What is known of a contrast; ``test`` None: not run, or no query defines the measure.

    ``p`` is after Holm, and ``detectable`` the smallest true effect that a test at alpha / (members
    of the family) sees with the registered power: Bonferroni's level, which is Holm's for its
    smallest p. It speaks of p for these seeds; that every seed must have the sign besides is not in
    it.
    """

    contrast: Contrast
    test: PairedTest | None = None
    seeds: dict[int | None, float] = field(default_factory=dict)
    p: float = float("nan")
    alpha: float = 0.05
    detectable: float = float("nan")
    same: str = ""  # every difference is exactly 0: the word that says why
    no_room: bool = False  # nothing above SFT that this test could have seen

    @property
    def word(self) -> str:
        """The verdict for the claimed direction: only where the seeds agree, and where there was
        something to see.
        """
        if self.test is None:
            return NOT_RUN
        if self.same:
            return self.same
        if self.no_room or (self.significant and not (self.unanimous and self.enough_seeds)):
            return UNSURE
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
    def enough_seeds(self) -> bool:
        """Three seeds at least (docs/evaluation.md), where the sides have seeds at all."""
        return len(self.seeds) >= LEAST_SEEDS or set(self.seeds) <= {None}

    @property
    def unanimous(self) -> bool:
        """Whether every seed has the sign of the effect."""
        return self.agreeing == len(self.seeds)

    @property
    def met(self) -> str:
        """Whether the registered sign was met: yes, no, not contradicted (too small to see, and
        nothing seen), open.
        """
        if self.contrast.sign == "0" and self.word in (NOTHING, IDENTICAL):
            return "not contradicted"
        return {"holds": "yes", "does not hold": "no", NOT_RUN: NOT_RUN}.get(self.word, "open")

    @property
    def agreeing(self) -> int:
        """How many seeds have the sign of the effect."""
        return (
            sum(np.sign(e) == np.sign(self.test.effect) for e in self.seeds.values())
            if self.test
            else 0
        )

    @property
    def seed_sd(self) -> float:
        return (
            float(np.std(list(self.seeds.values()), ddof=1))
            if len(self.seeds) > 1
            else float("nan")
        )


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
    across: bool = False,
    seeds: Sequence[int | None] | None = None,
) -> Contrast:
    """a − b on one measure (``b_metric``: b's name for it); ``b_variant`` None = that of a."""
    other = variant if b_variant is None else b_variant
    only = None if seeds is None else tuple(seeds)
    return Contrast(
        (Side(a, metric, variant),),
        (Side(b, b_metric or metric, other),),
        set_name,
        sign,
        across,
        seeds=only,
    )


def per_query(
    evidence: Evidence, contrast: Contrast
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int | None, float]]:
    """(n,) differences of all seeds, their (n,) clusters and (n,) places (seed · Q + query), and
    each seed's mean.

    Seeds are those that all sides share; a side without a seed (a baseline) stands beside each of
    them.
    """
    sides = [*contrast.plus, *contrast.minus]
    runs = [evidence.runs(side.system, side.variant) for side in sides]
    empty = np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), {}
    if not all(runs) or contrast.set not in evidence.queries:
        return empty
    seeded = [set(run) for run in runs if None not in run]
    seeds: list[int | None] = sorted(set.intersection(*seeded)) if seeded else [None]
    if contrast.seeds is not None:
        seeds = [seed for seed in seeds if seed is None or seed in contrast.seeds]
    _, clusters = evidence.queries[contrast.set]
    rows, labels, places, means = [], [], [], {}
    for seed in seeds:
        cells = [run.get(seed) or run[None] for run in runs]
        half = len(contrast.plus)
        if not contrast.across and not all(
            _fair(p, m) for p, m in zip(cells[:half], cells[half:], strict=True)
        ):
            continue
        values = [
            evidence.values(cell, contrast.set, side.metric)
            for cell, side in zip(cells, sides, strict=True)
        ]
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


def assess(
    evidence: Evidence, contrasts: Sequence[Contrast], *, permutations: int = 10_000
) -> list[Result]:
    """Test a family, in the given order. Holm runs over its contrasts; what is planned and not run
    counts with p = 1.

    So a family is as large as it was planned, whatever has been run. Contrasts on the same queries
    and seeds share their permutations and resamples.
    """
    found = [per_query(evidence, each) for each in contrasts]
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, (rows, _, places, _) in enumerate(found):
        if len(rows):
            groups[contrasts[i].set.encode() + places.tobytes()].append(i)
    tests: dict[int, PairedTest] = {}
    for members in groups.values():
        columns = np.stack([found[i][0] for i in members], axis=1)  # (n, M)
        tests |= dict(
            zip(
                members,
                paired_tests(columns, found[members[0]][1], permutations=permutations),
                strict=True,
            )
        )
    done = sorted(tests)
    waiting = sum(_waiting(evidence, each) for i, each in enumerate(contrasts) if i not in tests)
    adjusted = dict(
        zip(done, holm([tests[i].p for i in done] + [1.0] * waiting).tolist(), strict=False)
    )
    primary = evidence.registration.get("primary", {})
    alpha, power = float(primary.get("alpha", 0.05)), float(primary.get("power", 0.8))
    out = []
    for i, each in enumerate(contrasts):
        if i not in tests:
            out.append(Result(each))
            continue
        rows, clusters, _, seeds = found[i]
        same = "" if np.any(rows) else IDENTICAL
        level = alpha / (len(done) + waiting)
        seen = (
            float("nan") if same else smallest_detectable(rows, clusters, power=power, alpha=level)
        )
        out.append(Result(each, tests[i], seeds, adjusted[i], alpha, seen, same))
    return out


def _waiting(evidence: Evidence, contrast: Contrast) -> bool:
    """Whether every side of a contrast without a test was planned to be measured, and some of its
    cells are missing.
    """
    missing = False
    for side in (*contrast.plus, *contrast.minus):
        planned = [
            p
            for p in evidence.plan.get((side.system, side.variant), ())
            if _measured(p, contrast.set, side.metric)
        ]
        if not planned:
            return False
        missing |= any(p.name not in evidence.cells for p in planned)
    return missing


def _measured(planned: Any, set_name: str, metric: str) -> bool:
    """Whether a planned cell is to have this measure, as far as the plan says."""
    said = {"invalid": "invalid", "fused": "fused"}.get(metric.partition(".")[0])
    return set_name in getattr(planned, "pools", (set_name,)) and bool(
        said is None or getattr(planned, said, True)
    )
