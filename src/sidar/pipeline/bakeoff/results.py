"""From what the methods left behind to ``results.json``, the per-query file and the page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from sidar.artifacts import read_manifest, replace_file, write_artifact
from sidar.evaluate.perquery import QUERIES_FILE, PerQuery, summarise
from sidar.evaluate.slices import CLASSES
from sidar.pipeline.bakeoff import claims, latency, verdict
from sidar.pipeline.bakeoff.budget import TOLERANCE
from sidar.pipeline.bakeoff.entrants import KNOWN, REFERENCE, Entrant
from sidar.pipeline.bakeoff.facts import catalogue_facts, figures, measured_shapes, method_facts, model_facts, set_facts
from sidar.pipeline.bakeoff.measure import BM25, DENSE, MODEL
from sidar.pipeline.bakeoff.stack import add_labelled, add_renamed, stacked, system_name
from sidar.pipeline.bakeoff.sweep import WIDTHS

if TYPE_CHECKING:
    from sidar.pipeline.bakeoff.run import Cooked, Kitchen

RESULTS = "results.json"
#: Measures whose means stand in ``results.json``; the per-query file has all.
KEPT = (
    *(f"item/{m}" for m in ("ndcg@10", "mrr", "recall@10", "recall@100", "hit@10")),
    *(f"item/recall@100[{word}]" for word in (*CLASSES, "seen", "unseen")),
    *(f"item/recall@10[{name}]" for name in CLASSES),
    *(f"item/ndcg@10[{word}]" for word in ("seen", "unseen")),
    "items/returned",
    *(f"items/returned[{name}]" for name in CLASSES),
    *(f"sid/{m}" for m in ("mrr", "recall@1", "recall@8", "recall@64", "recall@128")),
    *(f"quantised/{m}" for m in ("ndcg@10", "recall@10", "recall@100", "hit@100")),
    *(f"invalid/{m}" for m in ("mass", "free@10", "free@128", "not_code@10")),
)
MODES = ("personalised", "semantic")


def write_results(kitchen: Kitchen, cooked: Sequence[Cooked], reference: Path) -> dict[str, Any]:
    """Gather, test, judge, time, and write everything into ``runs/<name>/compare-sids``; returns the results."""
    from sidar.pipeline.bakeoff.page import write_page

    cfg, root = kitchen.cfg, kitchen.root
    seeds = list(dict.fromkeys(done.seed for done in cooked))
    entrants = list({done.entrant.name: done.entrant for done in cooked}.values())
    failed = {done.entrant.name for done in cooked if done.failed}
    whole = [entrant for entrant in entrants if entrant.name not in failed]
    names = [entrant.name for entrant in whole]
    every = PerQuery()
    for done in cooked:
        if done.entrant.name not in failed:
            measured = PerQuery.read(done.folder / "measure")
            add_renamed(every, measured, MODEL, system_name(done.entrant.name, done.seed, seeds))
    for name in (DENSE, BM25):
        add_renamed(every, PerQuery.read(reference), name, name)
    queries = pq.read_table(reference / QUERIES_FILE).to_pylist()
    pq.write_table(pq.read_table(reference / QUERIES_FILE), root / QUERIES_FILE)
    every.write(root)
    clusters: dict[str, dict[str, str]] = {}
    for row in queries:
        clusters.setdefault(row["set"], {})[row["query_id"]] = row["cluster"]
    values = stacked(every, names, seeds)
    for name in (DENSE, BM25):
        add_renamed(values, every, name, name)
    add_labelled(values, queries)
    methods = {entrant.name: method_facts(kitchen, [d for d in cooked if d.entrant == entrant]) for entrant in entrants}
    equal = [entrant for entrant in whole if methods[entrant.name]["equal"]]
    contenders = [entrant for entrant in equal if not entrant.must_lose_to]
    kept = {"seed": cfg.seed, "samples": cfg.evaluate.bootstrap}
    tests = _tests(values, clusters, equal, len(seeds), kept)
    led = verdict.leaders(values, clusters, [each.name for each in contenders], seeds=len(seeds), **kept)
    summary = _summary(values, clusters, cfg.evaluate.bootstrap, cfg.seed)
    swept = measured_shapes(root / whole[0].folder / f"seed-{seeds[0]}")["swept"]
    results: dict[str, Any] = {
        "version": 1,
        "name": cfg.name,
        "reference": REFERENCE,
        "primary": claims.PRIMARY,
        "tolerance": TOLERANCE,
        "seeds": seeds,
        "bootstrap": cfg.evaluate.bootstrap,
        "beams": {"beam": cfg.decode.beam, "widths": list(WIDTHS)},
        "config": cfg.resolved().model_dump(mode="json", include={"lm", "sft", "align", "decode", "evaluate", "embed"}),
        "model": model_facts(kitchen, whole, seeds[0]),
        "catalogue": catalogue_facts(kitchen),
        "methods": methods,
        "swept": swept,
        "sets": {each: {**set_facts(whole, root, seeds[0], each), "systems": summary[each]} for each in summary},
        "tests": tests,
        "leaders": led,
        "sentence": verdict.sentence(
            led,
            {entrant.name: figures(methods[entrant.name], summary, swept, entrant.name) for entrant in contenders},
            list(KNOWN),
            REFERENCE,
        ),
        "decoding": _decoding(kitchen, values, clusters, whole, swept, seeds),
    }
    results = _clean(results)
    replace_file(root / RESULTS, json.dumps(results, indent=1) + "\n")
    write_page(root, results)
    return results


def _tests(
    values: PerQuery,
    clusters: Mapping[str, Mapping[str, str]],
    entrants: Sequence[Entrant],
    seeds: int,
    kept: dict[str, int],
) -> list[dict[str, Any]]:
    """Every family of paired tests, among ``entrants`` alone: those that kept the budget."""
    beams = [f"beam/{mode}/hit@{w}" for mode in MODES for w in WIDTHS] + [f"top1k/{mode}/hit" for mode in MODES]
    half = [
        [claims.Pair("cqsid", "rqvae", f"beam/{mode}/hit@{less}", f"beam/{mode}/hit@{more}")]
        for mode in MODES
        for less, more in ((5, 10), (50, 100))
    ]
    asked = {
        "better": claims.against_reference(entrants),
        "controls": claims.controls(entrants),
        "cqsid": claims.cqsid_pairs([claims.PRIMARY, claims.SECOND, *beams]),
        "half": half,
    }
    rows, named = [], {entrant.name for entrant in entrants}
    for question, families in asked.items():
        among = [[pair for pair in family if {pair.a, pair.b} <= named] for family in families]
        rows += claims.ask(values, clusters, question, among, seeds=seeds, **kept)
    return rows


def _summary(
    values: PerQuery, clusters: Mapping[str, Mapping[str, str]], samples: int, seed: int
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """{set: {system: {measure: {mean, low, high, n}}}} of the measures that the page needs."""
    wanted = set(KEPT)
    some = PerQuery()
    for each in values.sets():
        for system in values.systems(each):
            for measure in values.measures(each, system):
                if measure in wanted or measure.startswith(("beam/", "top1k/")):
                    found = values.get(each, system, measure)
                    assert found is not None
                    prefix, _, rest = measure.rpartition("/")
                    some.add(each, system, prefix, {rest: found[1]}, found[0])
    return summarise(some, clusters, samples=samples, seed=seed)


def _decoding(
    kitchen: Kitchen,
    values: PerQuery,
    clusters: Mapping[str, Mapping[str, str]],
    whole: Sequence[Entrant],
    swept: str,
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Beams at equal recall, and what searches cost at them and at one beam for all; timed with the first seed."""
    cfg, root = kitchen.cfg, kitchen.root
    mode = MODES[0] if values.get(swept, REFERENCE, f"beam/{MODES[0]}/recall@{WIDTHS[0]}") else MODES[1]
    found = latency.beams_for_equal_recall(
        values,
        clusters[swept],
        swept,
        mode,
        [each.name for each in whole],
        REFERENCE,
        samples=min(cfg.evaluate.bootstrap, 400),
        seed=cfg.seed,
    )
    if not found:
        return {}
    beams = {
        name: sorted({latency.EQUAL_BEAM, *([round(one["beam"])] if one["beam"] else [])})
        for name, one in found["beams"].items()
    }
    folders = {each.name: root / each.folder / f"seed-{seeds[0]}" for each in whole if each.name in beams}
    hashes = {}
    for name, folder in folders.items():
        for part in (kitchen.model, "index"):
            manifest = read_manifest(folder / part)
            hashes[f"{name}/{part}"] = manifest.hash if manifest else "missing"
    config = {"beams": beams, "mode": mode, "queries": latency.QUERIES}
    kept, out = read_manifest(root / "latency"), root / "latency"
    if kept is None or (kept.config, kept.inputs) != (config, hashes):
        with write_artifact(out, "compare-sids-latency", config=config, inputs=hashes) as draft:
            timed = latency.time_searches(cfg, folders, kitchen.model, beams, swept, mode)
            (draft.path / "costs.json").write_text(json.dumps(timed, indent=1) + "\n")
    return {**found, "equal_beam": latency.EQUAL_BEAM, "costs": json.loads((out / "costs.json").read_text())}


def _clean(value: Any) -> Any:
    """JSON has no NaN and no infinity: None; floats to six digits."""
    if isinstance(value, dict):
        return {str(key): _clean(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(inner) for inner in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
