"""Queries that no model has seen, against lexical and dense retrieval."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from benchmarks.evidence.report.cells import Cell, Evidence
from benchmarks.evidence.report.compare import (
    CONTROL,
    START,
    WEIGHT_0,
    Contrast,
    Result,
    Side,
    compare,
    difference,
)
from benchmarks.evidence.report.document import Block, Entry, Fold, Heading, Section, Table, Text
from benchmarks.evidence.report.names import SETS, measure, row
from benchmarks.evidence.report.show import comparisons, level_table, plain_number

ALONE = (START, CONTROL, "raddpo")
CHANNELS = ("bm25", "dense", "dense-tuned", "bm25+dense", "bm25+dense-tuned")
BEST = "bm25+dense-tuned"
#: Primary on each held-out set; topic recall beside it (docs/evaluation.md).
MEASURES = {
    "judged_test": ("item.ndcg@10", "item.rprec", "item.recall@100"),
    "grounded_test": ("item.ndcg@10", "item.recall@100"),
}


def unseen(evidence: Evidence) -> Section:
    """Generative alone and fused with BM25 and fine-tuned dense."""
    blocks: list[Block] = [
        Text(
            "None of these queries was in training. **Better than dense** is claimed only against "
            "the fine-tuned one. Fused: BM25 + fine-tuned dense + the generative model, weights "
            "chosen on validation queries; where the model got weight 0 for every seed, the fusion "
            "*is* the one without it, and there is nothing to test; a seed with weight 0 beside "
            "others adds an exact 0, which agrees with no sign. Holm runs over the rows of each "
            "table."
        )
    ]
    for name, metrics in MEASURES.items():
        blocks.append(Heading(SETS[name]))
        if name not in evidence.queries:
            blocks.append(Text("Not run."))
            continue
        columns = [
            "item.ndcg@10",
            "item.rprec",
            "item.recall@10",
            "item.recall@100",
            "item.mrr",
            "sid.recall@8",
            "sid.mrr",
        ]
        systems = [*ALONE, *evidence.systems(kinds=("baseline", "ceiling"))]
        if table := level_table(evidence, systems, columns, set_name=name):
            blocks.append(table)
        if table := level_table(
            evidence, ALONE, ["fused.item.ndcg@10", "fused.item.recall@100"], set_name=name
        ):
            blocks += [Text(f"Fused with {row(BEST)}:"), table]
        if weights := _weights(evidence, name):
            blocks.append(weights)
        for metric in metrics:
            tables: list[Block] = [
                comparisons(
                    list(alone(evidence, name, metric).items()), first=f"{measure(metric)}, alone"
                )
            ]
            first = metric == metrics[0]
            blocks += (
                tables
                if first
                else [Fold(f"{SETS[name].capitalize()}: {measure(metric)}, alone", tables)]
            )
            if metric != "item.rprec":
                rows = list(fused(evidence, name, metric).items())
                blocks.append(comparisons(rows, first=f"{measure(metric)}, fused"))
    return Section("unseen", "Unseen queries", blocks, "mixed")


@cache
def alone(evidence: Evidence, name: str, metric: str) -> dict[str, Result]:
    """{rows: generative less a channel} on the queries of set ``name``."""
    if name not in evidence.queries:
        return {}
    pairs = [(s, c) for s in ALONE for c in CHANNELS if c != "bm25+dense" or s == "raddpo"]
    results = compare(evidence, [difference(s, c, metric, set_name=name) for s, c in pairs])
    return {f"{row(s)} − {row(c)}": r for (s, c), r in zip(pairs, results, strict=True)}


@cache
def fused(evidence: Evidence, name: str, metric: str) -> dict[str, Result]:
    """{rows: the fusion with a generative model less the one without it, and RAD-DPO's less the
    others'}.
    """
    if name not in evidence.queries:
        return {}
    own = f"fused.{metric}"
    contrasts = [difference(s, BEST, own, b_metric=metric, set_name=name) for s in ALONE]
    names = [f"{row(s)} fused − {row(BEST)}" for s in ALONE]
    for other in (START, CONTROL):
        contrasts.append(Contrast((Side("raddpo", own),), (Side(other, own),), name))
        names.append(f"{row('raddpo')} fused − {row(other)} fused")
    found = [_weightless(evidence, result) for result in compare(evidence, contrasts)]
    return dict(zip(names, found, strict=True))


def fusion_weights(cell: Cell, set_name: str) -> list[float]:
    """The weights that a cell's fusion got on validation queries; the model's own is the last."""
    found = (cell.facts.get("fusion") or {}).get(set_name) or {}
    return [float(w) for w in found.get("weights", ())]


def _weightless(evidence: Evidence, result: Result) -> Result:
    """A fusion without any difference is one that the model has no weight in, if
    its cells say so.
    """
    contrast = result.contrast
    if not result.same:
        return result
    found = [
        fusion_weights(cell, contrast.set)
        for side in (*contrast.plus, *contrast.minus)
        if side.metric.startswith("fused.")
        for seed, cell in evidence.runs(side.system, side.variant).items()
        if seed in result.seeds
    ]
    return (
        replace(result, same=WEIGHT_0) if found and all(w and w[-1] == 0 for w in found) else result
    )


def _weights(evidence: Evidence, set_name: str) -> Table | None:
    """The chosen weights, seed by seed."""
    rows: list[list[Entry]] = []
    for system in (*(c for c in CHANNELS if "+" in c), *ALONE):
        for seed, cell in evidence.runs(system).items():
            if weights := fusion_weights(cell, set_name):
                of = "BM25 / dense" if seed is None else "BM25 / dense, fine-tuned / model"
                shown = " / ".join(plain_number(w, 2) for w in weights)
                rows.append([row(system), "–" if seed is None else str(seed), of, shown])
    return Table(["weights chosen on dev", "seed", "of", "weights"], rows, (2, 3)) if rows else None
