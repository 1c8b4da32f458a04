"""From kept cells to figures: levels, paired differences with verdicts, and what the training logs
say; and the page that quotes them.

A figure is named by a question, and a number of docs/alignment.md by the comment behind it:

    .321<!-- level; raddpo; click.sid.mrr -->                 mean over queries and seeds
    +.0030<!-- difference; raddpo − sft-continued; click.sid.mrr -->   also with ``; low``,
        ``high``, ``p`` (after Holm), ``seen`` (smallest detectable effect), ``seeds``, ``word``
    .42<!-- train; adagrpo; gate/open -->                     last quarter of the training logs
    1.1<!-- valid; grpo; first/entropy -->                    validation lists (day 7) at the end
    30<!-- cells; run -->, 800<!-- plateau; steps -->         and so on
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from experiments.alignment.bed import RESULTS, REWARD, shop
from experiments.alignment.plan import CONTROL, cells, methods
from experiments.common import ROOT
from experiments.raddpo.registration import registration, registration_hash
from experiments.raddpo.report.prose import TIED, shown
from experiments.raddpo.store import QUERIES, Values, read_cells
from sidar.evaluate.stats import PairedTest, holm, paired_tests, smallest_detectable, verdict
from sidar.pages import Interval, Picture, intervals

PAGE = ROOT / "docs" / "alignment.md"
FIGURES, PICTURE = "figures.json", "alignment-effects"
#: SFT's own beam in the order of the true utility: the room that an alignment has.
HEADROOM = ("reachable.click.sid.mrr", "reachable.click.item.ndcg@10")

Figures = dict[str, float | str]


class Kept:
    """The kept cells of this registration, and their per-query values."""

    def __init__(self, folder: Path = RESULTS) -> None:
        self.folder = folder
        valid = registration_hash()
        self.cells = {
            name: facts
            for name, facts in read_cells(folder).items()
            if facts["registration"] == valid
        }
        self.values = Values(folder)
        path = folder / QUERIES
        listed = pq.read_table(path).to_pylist() if path.is_file() else []
        self._cluster = {row["query_id"]: row["cluster"] for row in listed}

    def seeds(self, system: str) -> list[int]:
        """Return the seeds of a row that are kept (scored on day 8)."""
        count = registration()["bed"]["seeds"]["headline"]
        return [seed for seed in range(count) if f"{system}.s{seed}" in self.cells]

    def column(self, cell: str, metric: str) -> np.ndarray | None:
        return self.values.column(cell, metric)

    def clusters(self, cell: str) -> np.ndarray:
        """Return the query text of each of a cell's rows, which several requests share."""
        ids = self.values.keys["query_id"][self.values.rows[cell]]
        return np.array([self._cluster[query_id] for query_id in ids], dtype=object)


def stacked(kept: Kept, a: str, b: str, metric: str) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Return the differences a − b of all shared seeds under one another, their clusters, and the
    effect of each seed; empty where the rows share none.
    """
    parts, labels, by_seed = [], [], []
    for seed in sorted({*kept.seeds(a)} & {*kept.seeds(b)}):
        names = f"{a}.s{seed}", f"{b}.s{seed}"
        left, right = (kept.column(name, metric) for name in names)
        if left is None or right is None:
            continue
        difference = left.astype(np.float64) - right.astype(np.float64)
        known = np.isfinite(difference)
        parts.append(difference[known])
        labels.append(kept.clusters(names[0])[known])
        by_seed.append(float(difference[known].mean()))
    if not parts:
        return np.empty(0), np.empty(0, object), []
    return np.concatenate(parts), np.concatenate(labels), by_seed


def differences(kept: Kept, pairs: list[tuple[str, str]], metric: str) -> Figures:
    """Return the figures of a family of comparisons on one metric, Holm over its members."""
    rows = [(pair, *stacked(kept, *pair, metric)) for pair in pairs]
    rows = [row for row in rows if len(row[1])]
    tests = _tests([values for _, values, _, _ in rows], [labels for _, _, labels, _ in rows])
    adjusted = holm([test.p for test in tests])
    figures: Figures = {}
    for (pair, values, labels, by_seed), test, p in zip(rows, tests, adjusted, strict=True):
        name = f"difference; {pair[0]} − {pair[1]}; {metric}"
        seen = smallest_detectable(values, labels, alpha=0.05 / len(rows))
        figures |= {
            name: test.effect,
            f"{name}; low": test.low,
            f"{name}; high": test.high,
            f"{name}; p": float(p),
            f"{name}; seen": seen,
            f"{name}; seeds": len(by_seed),
            f"{name}; word": word(test, float(p), by_seed),
        }
    return figures


def _tests(values: list[np.ndarray], labels: list[np.ndarray]) -> list[PairedTest]:
    """Return the test of each list of values; those of the same queries share their permutations,
    as separate calls would draw them anew and alike.
    """
    if values and all(np.array_equal(labels[0], other) for other in labels):
        return paired_tests(np.stack(values, axis=1), labels[0])
    return [paired_tests(one[:, None], of)[0] for one, of in zip(values, labels, strict=True)]


def word(test: PairedTest, p: float, by_seed: list[float]) -> str:
    """Return the verdict of "a is better than b": none without three seeds that all agree."""
    agree = all(np.sign(effect) == np.sign(test.effect) for effect in by_seed)
    if len(by_seed) < registration()["bed"]["seeds"]["other"] or not agree:
        return "cannot tell here"
    return verdict(test, p)


def figures(folder: Path = RESULTS) -> Figures:
    """Return every figure of the page by its question."""
    kept = Kept(folder)
    plan = [*cells("core"), *cells("all")]
    rows = dict.fromkeys(["sft", *methods("core"), *methods("all")])
    found: Figures = {
        "cells; planned": len(plan),
        "cells; run": sum(cell.name in kept.cells for cell in plan),
        "cells; core": sum(cell.name in kept.cells for cell in cells("core")),
        "cells; core planned": len(cells("core")),
    }
    for metric in registration()["report"]["metrics"]:
        for row in rows:
            values = [kept.column(f"{row}.s{seed}", metric) for seed in kept.seeds(row)]
            means = [float(np.nanmean(v.astype(np.float64))) for v in values if v is not None]
            if means:
                found[f"level; {row}; {metric}"] = float(np.mean(means))
        for family in registration()["report"]["families"]:
            found |= differences(kept, [tuple(pair) for pair in family], metric)
    for metric in HEADROOM:
        values = [kept.column(f"sft.s{seed}", metric) for seed in kept.seeds("sft")]
        means = [float(np.nanmean(v.astype(np.float64))) for v in values if v is not None]
        if means:
            found[f"level; sft; {metric}"] = float(np.mean(means))
    for row in rows:
        found |= _of_training(kept, row)
    shares = [f["lists"]["relevant_share"] for f in kept.cells.values() if "lists" in f]
    if shares:
        found["bed; relevant negatives"] = shares[0]
    found["bed; items"] = len(shop())
    if (folder / REWARD).is_file():
        order = json.loads((folder / REWARD).read_text(encoding="utf-8"))
        for name, shares in order.items():
            found |= {f"reward; {name}; {by}": share for by, share in shares.items()}
    return {**found, **_plateau(kept)}


def _of_training(kept: Kept, row: str) -> Figures:
    """Return the scalars of a row's training logs and last validations, means over seeds."""
    logs = [kept.cells[f"{row}.s{seed}"]["train"]["log"] for seed in kept.seeds(row)]
    names = sorted({name for log in logs for name in log["last"] if name != "tokens_per_s"})
    found: Figures = {}
    for name in names:
        for part in ("first", "last"):
            values = [log[part][name] for log in logs if name in log[part]]
            if values:
                end = "; first" if part == "first" else ""
                found[f"train; {row}; {name}{end}"] = float(np.mean(values))
    ends = [kept.cells[f"{row}.s{seed}"]["train"]["final"] for seed in kept.seeds(row)]
    for name in sorted({name for end in ends for name in end}):
        values = [end[name] for end in ends if name in end]
        found[f"valid; {row}; {name}"] = float(np.mean(values))
    return found


def _plateau(kept: Kept) -> Figures:
    """Return SFT's curve, and what twice the steps add on day 8."""
    found: Figures = {"plateau; steps": registration()["bed"]["settings"]["sft"]["steps"]}
    others = [f"sft@steps={steps}" for steps in registration()["plateau"]["steps"]]
    for row in ("sft", *others):
        if f"{row}.s0" in kept.cells:
            for point in kept.cells[f"{row}.s0"]["train"]["valid"]:
                for name in ("recall@8", "nll"):
                    found[f"curve; {row}; {point['step']}; {name}"] = point[name]
    for row in others:
        for metric in registration()["primary"]["metrics"]:
            found |= differences(kept, [(row, "sft")], metric)
    return found


# ---------------------------------------------------------------------- files


def write_figures(folder: Path = RESULTS) -> Figures:
    """Write ``figures.json`` into ``folder`` and print the main comparisons."""
    found = figures(folder)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    (folder / FIGURES).write_text(text + "\n", encoding="utf-8")
    for name, value in found.items():
        if name.startswith("difference") and name.count(";") == 2:
            low, high, said = (found[f"{name}; {end}"] for end in ("low", "high", "word"))
            print(f"{name[12:]:64s} {value:+.4f} ({low:+.4f} … {high:+.4f}) {said}")
    return found


def fill(page: str, found: Mapping[str, float | str]) -> str:
    """Return the page with every tied figure and verdict anew."""

    def again(match: re.Match[str]) -> str:
        question = match["question"]
        if question == "given":
            return match[0]
        value = shown(found[question], match["shown"], match["unit"])
        if match["low"]:
            low, high = (shown(found[f"{question}; {end}"], match[end], "") for end in ENDS)
            value += f" ({low} … {high})"
        return f"{value}{match['unit']}{match['bold']}<!-- {question} -->"

    return TIED.sub(again, page)


ENDS = ("low", "high")


def picture(found: Mapping[str, float | str]) -> Picture:
    """Return each method of ``core`` less SFT continued: next-day clicks and true utility."""
    targets = {"clicks": "click.item.ndcg@10", "true utility": "utility.item.ndcg@10"}
    rows = []
    for name in methods("core"):
        for colour, (target, metric) in enumerate(targets.items()):
            question = f"difference; {name} − {CONTROL}; {metric}"
            if question in found:
                values: list[Any] = [found[question], *(found[f"{question}; {e}"] for e in ENDS)]
                rows.append(
                    Interval(f"{name}: {target}" if not colour else target, *values, colour)
                )
    alt = "Item nDCG@10 of each method less SFT continued, with 95 % intervals"
    return intervals(PICTURE, alt, rows, label="method less SFT continued, item nDCG@10")


def update_page(folder: Path = RESULTS) -> None:
    """Bring the numbers and the picture of docs/alignment.md up to date."""
    found = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    drawn = picture(found).standalone()
    (PAGE.parent / "images" / f"{PICTURE}.svg").write_text(drawn, encoding="utf-8")
