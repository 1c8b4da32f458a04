"""The prefix lab beside this bed: what it predicts for such lists, and the two corners where it is
sure of the sign.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from benchmarks.evidence.report.cells import Cell, Evidence
from benchmarks.evidence.report.compare import (
    CONTROL,
    START,
    Contrast,
    Result,
    Side,
    compare,
    difference,
    levels,
)
from benchmarks.evidence.report.document import Block, Entry, Table, Text, Value
from benchmarks.evidence.report.names import PRIMARY, measure, row
from benchmarks.evidence.report.noise import relevant_share
from benchmarks.evidence.report.show import (
    DASH,
    comparisons,
    effect,
    level,
    of_seeds,
    plain_number,
    row_seeds,
    signed,
)

#: The lab's two corners as they could be set here, and the sign that it predicts on the true
#: utility.
WIN, LOSE = "data=clean", "noise=0.5"
#: The lab's dials that this bed does not set, by their names in the lab's config.
NOT_SET = {
    "accidental": "the share of accidental clicks",
    "informative": "negatives from the model's own beam (informative ones)",
    "share": "codebooks that share more prefixes",
    "sft_steps": "the steps of SFT, so that it starts at its plateau",
}
STATE = "rdrw/eos_out/auc"


def lab(evidence: Evidence) -> dict[str, Any]:
    """``prefix_lab.json`` from the folder above the cells; empty where it is not there."""
    path = evidence.results.parent / "prefix_lab.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def auc_against_lab(
    evidence: Evidence, runs: Mapping[int | None, Cell], start: Mapping[int | None, Cell]
) -> str:
    """RDRW's AUC, pooled and inside a list, beside the one from which the lab's weights beat a
    constant; "" without.
    """
    pooled, within = _mean(of_seeds(runs, STATE)), _mean(of_seeds(runs, f"{STATE}_within"))
    figures = lab(evidence).get("figures", {})
    noises = sorted(
        {
            float(m[1])
            for k in figures
            if (m := re.match(r"D/noise=([\d.]+)/threshold/constant$", k))
        }
    )
    if not noises or not math.isfinite(pooled):
        return ""
    share = (
        _mean(relevant_share(runs))
        if relevant_share(runs)
        else _mean(of_seeds(start, "pairs/pseudo"))
    )
    near = min(noises, key=lambda noise: abs(noise - share)) if math.isfinite(share) else noises[-1]
    needed, proved = (
        figures[f"D/noise={near:g}/{name}/constant"] for name in ("threshold", "proved")
    )
    known = [value for value in (pooled, within) if math.isfinite(value)]
    said = f"pooled {plain_number(pooled)}" + (
        f", inside a list {plain_number(within)}" if math.isfinite(within) else ""
    )
    first, sure = (plain_number(value, 2) if value <= 1 else "never" for value in (needed, proved))
    lab_said = (
        f"at {near:.0%} relevant negatives the lab's weights gain over a constant from an AUC of "
        f"{first} on, with an interval above 0 from {sure}"
    )
    if max(known) < needed:
        word = "**RDRW's similarity is weak here**"
    elif min(known) < needed:
        word = "**RDRW's similarity is at the edge here**"
    elif min(known) < proved:
        word = "**RDRW's similarity is enough to gain a little, by the lab**"
    else:
        word = "**RDRW's similarity is good enough, by the lab**"
    return f"{word}: {said}; {lab_said}."


def prediction(evidence: Evidence, system: str) -> list[Block]:
    """The share of relevant negatives here, beside what the lab measured at 0, 25 and 50 %."""
    figures = lab(evidence).get("figures", {})
    noises = sorted(
        {float(m[1]) for k in figures if (m := re.match(r"E/map/mean/noise=([\d.]+)/ndcg@10$", k))}
    )
    if not noises:
        return [Text("The lab's figures are not there.")]

    def entry(name: str) -> Value:
        if name not in figures:
            return Value(DASH)
        between = f"{signed(figures[f'{name}.lo'])} … {signed(figures[f'{name}.hi'])}"
        return Value(signed(figures[name]), between, f"({between})")

    rows: list[list[Entry]] = []
    for noise in noises:
        names = (f"E/map/mean/noise={noise:g}", f"E/noise={noise:g}")
        truth = [entry(f"{name}/ndcg@10") for name in names]
        rows.append(
            [f"lab, {noise:.0%} of the negatives relevant", *truth, entry(f"{names[0]}/click.mrr")]
        )
    shares = of_seeds(evidence.runs(START), "pairs/pseudo")
    trained = relevant_share(evidence.runs(system))
    n = evidence.registration["bed"]["settings"]["preference"]["max_negatives"]
    told = []
    if shares:
        told.append(
            f"{_mean(shares):.0%} of the negatives of the probed validation lists are passed-over "
            "relevant items"
        )
    if trained:
        told.append(
            f"{_mean(trained):.0%} of the first {n} negatives of the training lists are relevant "
            "to their query"
        )
    metrics = (PRIMARY["utility"][0], PRIMARY["click"][0])
    own = [compare(evidence, [difference(system, CONTROL, metric)])[0] for metric in metrics]
    rows.append([f"here, {row(system)} − {row(CONTROL)}", effect(own[0]), DASH, effect(own[1])])
    head = [
        "RAD-DPO − SFT continued",
        "nDCG@10 on the truth, mean of the map",
        "in the lab's standard",
        "click MRR",
    ]
    note = (
        "From [the prefix lab](prefix-lab.md), E: another world (a table, no language model), so "
        f"its signs and their order are the prediction, not its sizes. Here: {measure(metrics[0])} "
        f"on the true utility and {measure(metrics[1])}."
    )
    here = (
        f"Here {' and '.join(told)}. "
        if told
        else "The share of relevant negatives here is not measured yet. "
    )
    return [Text(here + "In the lab that share decides the sign."), Table(head, rows, note=note)]


# ---------------------------------------------------------------------- the corners


def corners(evidence: Evidence, system: str) -> list[Block]:
    """The lab's largest and lowest corner on the language model, on the true
    utility and on clicks.
    """
    setting = longest(evidence)
    if not setting:
        return [Text("Not run.")]
    win, lose = f"{WIN},{setting}", f"{LOSE},{setting}"
    blocks: list[Block] = [
        Text(
            f"The [prefix lab](prefix-lab.md) (E) predicts {row(system)} above {row(CONTROL)} *on "
            "true utility* when no negative is relevant, and below it when half of them are, each "
            f"with longer and faster alignment (`{setting}`: four times the steps, three times the "
            f"learning rate). {_not_set(evidence)} Only the signs and the order of the corners are "
            "predicted, and only on true utility: on clicks the lab predicts nothing, so these "
            "are shown without verdicts."
        )
    ]
    beside = [
        (
            f"no relevant negative − {row(CONTROL)}, base",
            difference(system, CONTROL, "", variant=win, b_variant=""),
        ),
        (
            f"no relevant negative − {row(START)}",
            difference(system, START, "", variant=win, b_variant=""),
        ),
        (
            f"half relevant − {row(CONTROL)}, base",
            difference(system, CONTROL, "", variant=lose, b_variant=""),
        ),
        (
            f"half relevant − {row(START)}",
            difference(system, START, "", variant=lose, b_variant=""),
        ),
        (
            f"{row(CONTROL)}, longer − {row(CONTROL)}, base",
            difference(CONTROL, CONTROL, "", variant=setting, b_variant=""),
        ),
        (
            f"{row(CONTROL)}, longer − {row(START)}",
            difference(CONTROL, START, "", variant=setting, b_variant=""),
        ),
        (
            f"{row(system)}, longer on the log's lists − {row(system)}, base",
            difference(system, system, "", variant=setting, b_variant=""),
        ),
    ]
    for metric in (*PRIMARY["utility"], *PRIMARY["click"]):
        target = metric.partition(".")[0]
        asked = list(predicted(evidence, system, metric).items())
        first = f"{measure(metric)} ({target}), predicted"
        blocks.append(comparisons(asked, first=first, words=target == "utility"))
        found = compare(evidence, [_on(contrast, metric) for _, contrast in beside])
        rows = [(name, r) for (name, _), r in zip(beside, found, strict=True)]
        blocks.append(
            comparisons(
                rows, first=f"{measure(metric)} ({target}), beside the base setting", words=False
            )
        )
    if table := _levels(evidence, system, setting, win, lose):
        blocks.append(table)
    return blocks


@cache
def predicted(evidence: Evidence, system: str, metric: str) -> dict[str, Result]:
    """{prediction: what came out}: the two corners against SFT continued of the same length, and
    their order.
    """
    if not (setting := longest(evidence)):
        return {}
    win, lose = f"{WIN},{setting}", f"{LOSE},{setting}"
    asked = {
        "no relevant negative: better": difference(
            system, CONTROL, metric, variant=win, b_variant=setting
        ),
        "half of them relevant: worse": difference(
            system, CONTROL, metric, variant=lose, b_variant=setting, sign="-"
        ),
        "the first above the second": difference(
            system, system, metric, variant=win, b_variant=lose
        ),
    }
    return dict(
        zip(asked, compare(evidence, [_on(each, metric) for each in asked.values()]), strict=True)
    )


def longest(evidence: Evidence) -> str:
    """The variant of the lab's longer and faster alignment, as its corners were run; empty where
    none was.
    """
    found = {
        v.split(",", 1)[1]
        for cell in evidence.cells.values()
        if (v := cell.variant).startswith((f"{WIN},", f"{LOSE},")) and "lists=" in v
    }
    return min(found, default="")


def _on(contrast: Contrast, metric: str) -> Contrast:
    """The contrast on ``metric``; the base setting has other lists, which is what is compared."""
    plus, minus = (
        tuple(Side(s.system, metric, s.variant) for s in sides)
        for sides in (contrast.plus, contrast.minus)
    )
    return Contrast(plus, minus, contrast.set, contrast.sign, across=True)


def _not_set(evidence: Evidence) -> str:
    """Every dial of the lab's best corner that this bed leaves as it is, with the lab's value of
    it.
    """
    chosen = lab(evidence).get("config", {}).get("chosen", {}).get("best", {})
    names = [
        f"{text}{f' ({chosen[key]:g} in the lab)' if key in chosen else ''}"
        for key, text in NOT_SET.items()
    ]
    return (
        "The bed sets the relevant negatives, the steps and the rate; it does **not** set "
        f"{', '.join(names)}."
    )


def _levels(evidence: Evidence, system: str, setting: str, win: str, lose: str) -> Table | None:
    metrics = [*PRIMARY["utility"], *PRIMARY["click"]]
    places = (
        (row(START), START, ""),
        (row(CONTROL), CONTROL, ""),
        (f"{row(CONTROL)}, longer", CONTROL, setting),
        (f"{row(system)}, no relevant negative", system, win),
        (f"{row(system)}, half relevant", system, lose),
    )
    seeds, told = row_seeds(evidence, [(which, variant) for _, which, variant in places], metrics)
    rows: list[list[Entry]] = []
    for name, which, variant in places:
        found = levels(evidence, which, metrics, variant=variant, seeds=seeds)
        rows.append([name, *(level(found.get(m)) for m in metrics)])
    head = ["", *(f"{m.partition('.')[0]}: {measure(m)}" for m in metrics)]
    return Table(head, rows, note=told)
