"""RAD-DPO as the defaults have it: cells with SIDs, SFT models and controls of their own."""

from __future__ import annotations

from functools import cache

from benchmarks.evidence.report.cells import Evidence, split_name
from benchmarks.evidence.report.compare import CONTROL, START, Result, compare, difference
from benchmarks.evidence.report.document import Block, Fold, Heading, Text
from benchmarks.evidence.report.names import PRIMARY, measure, row
from benchmarks.evidence.report.show import comparisons, tally

SYSTEM = "raddpo"
#: The measure of each held-out set.
HELD_OUT = {"judged_test": "item.ndcg@10", "grounded_test": "item.ndcg@10"}


def variants(evidence: Evidence) -> dict[str, str]:
    """{system: its variant on the bed of the shipped cells}; empty where none was
    planned or run.
    """
    names = [p.name for p in evidence.planned] + list(evidence.cells)
    return {
        system: variant
        for system, variant in map(split_name, names)
        if variant.startswith("bed=shipped")
    }


@cache
def against_controls(evidence: Evidence, metric: str, set_name: str = "day8") -> dict[str, Result]:
    """{what: the shipped RAD-DPO less a control}, corrected among each other."""
    found = variants(evidence)
    if SYSTEM not in found:
        return {}
    asked = {
        f"{row(SYSTEM)} as shipped − {row(system)}": difference(
            SYSTEM,
            system,
            metric,
            variant=found[SYSTEM],
            b_variant=found[system],
            set_name=set_name,
        )
        for system in (CONTROL, START)
        if system in found
    }
    return dict(zip(asked, compare(evidence, list(asked.values())), strict=True))


def shipped(evidence: Evidence) -> list[Block]:
    """What the defaults are worth beside SFT and SFT continued, in a sentence and its tables."""
    found = variants(evidence)
    runs = evidence.runs(SYSTEM, found[SYSTEM]) if SYSTEM in found else {}
    if not runs:
        return []
    cell = next(iter(runs.values()))
    settings, device = cell.facts["config"]["align"], cell.facts["device"]
    about = (
        f"β {settings['beta']:g}, {settings['steps']} steps of {settings['batch_size']}, a window "
        f"of {settings['rdrw_window']} and lr_new {settings['lr_new']:g}: the defaults of `align`, "
        "beside SFT continued on as many rows at the same rate. Added after every other cell, "
        "when the machine of those was gone: k-means in bf16 gives other codes on another kind of "
        "CPU, so these have SIDs, SFT models and controls of their own "
        f"({device.get('cpu', 'another machine')}; {cell.facts['index']['n_sids']:,} SIDs), and "
        "levels here say nothing beside those elsewhere. Seeds: "
        f"{', '.join(str(seed) for seed in runs)}."
    )
    tables, told = [], []
    for metric in (*PRIMARY["click"], *PRIMARY["utility"]):
        results, target = against_controls(evidence, metric), metric.partition(".")[0]
        tables.append(
            comparisons(
                list(results.items()), first=f"{measure(metric)} ({target})", directions=True
            )
        )
        told.append(tally(f"{measure(metric)} ({target})", list(results.values())))
    for set_name, metric in HELD_OUT.items():
        results = against_controls(evidence, metric, set_name)
        tables.append(
            comparisons(
                list(results.items()), first=f"{measure(metric)} ({set_name})", directions=True
            )
        )
    return [
        Heading("The shipped RAD-DPO"),
        Text(about),
        Text(f"**As shipped, against SFT continued and SFT**: {' '.join(told)}"),
        tables[0],
        Fold("The shipped RAD-DPO: item level, the true utility, and held-out queries", tables[1:]),
    ]
