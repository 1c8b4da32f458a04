"""The results of a comparison from what its methods left behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from sidar.artifacts import read_manifest
from sidar.compare import budget
from sidar.compare.comparison import Comparison, MethodRun
from sidar.compare.latency import search_latency
from sidar.compare.measure import BM25, DENSE, MODEL
from sidar.compare.methods import REFERENCE
from sidar.compare.paired import PRIMARY, Sampling, compare_methods
from sidar.compare.results import (
    CatalogueResult,
    Estimate,
    MethodResult,
    Model,
    Quality,
    Results,
    SetResult,
)
from sidar.compare.values import add_system, stacked, system_name
from sidar.compare.verdict import find_leaders, id_figures, sentence
from sidar.data import open_dataset
from sidar.evaluate.perquery import QUERIES_FILE, PerQuery, read_clusters, summarise
from sidar.evaluate.slices import CLASSES
from sidar.types import Json


def summarise_runs(comparison: Comparison, runs: Sequence[MethodRun], baselines: Path) -> Results:
    """Return the results of ``runs``, and write the per-query file that they are made from."""
    cfg, root = comparison.cfg, comparison.root
    by_method: dict[str, list[MethodRun]] = {}
    for run in runs:
        by_method.setdefault(run.method.name, []).append(run)
    methods = {name: _method_result(comparison, some) for name, some in by_method.items()}
    complete = [some[0] for name, some in by_method.items() if not methods[name].failed]
    seeds = list(dict.fromkeys(run.seed for run in runs))

    queries = pq.read_table(baselines / QUERIES_FILE)
    pq.write_table(queries, root / QUERIES_FILE)
    clusters = read_clusters(root)
    every = _all_values([run for run in runs if not methods[run.method.name].failed], seeds)
    _add_baselines(every, PerQuery.read(baselines))
    every.write(root)
    names = [run.method.name for run in complete]
    values = stacked(every, names, seeds)
    _add_baselines(values, every)

    equal = [run.method for run in complete if methods[run.method.name].equal]
    contenders = [method.name for method in equal if not method.must_lose_to]
    sampling = Sampling(len(seeds), cfg.seed, cfg.evaluate.bootstrap)
    leaders = find_leaders(values, clusters, contenders, sampling)
    cells = summarise(values, clusters, samples=sampling.samples, seed=sampling.seed)
    estimates = TypeAdapter(dict[str, dict[str, dict[str, Estimate]]]).validate_python(cells)
    swept = str(_measure_shapes(complete[0])["swept"])
    folders = {run.method.name: run.folder for run in complete}
    figures = {name: id_figures(methods[name], estimates[swept][name]) for name in contenders}
    return Results(
        name=cfg.name,
        reference=REFERENCE,
        primary=PRIMARY,
        tolerance=budget.TOLERANCE,
        seeds=seeds,
        bootstrap=cfg.evaluate.bootstrap,
        beam=cfg.decode.beam,
        model=_model(comparison),
        catalogue=_catalogue(comparison),
        methods=methods,
        swept=swept,
        sets={name: _set_result(complete[0], name, estimates[name]) for name in estimates},
        tests=compare_methods(values, clusters, equal, sampling),
        leaders=leaders,
        sentence=sentence(leaders, figures, REFERENCE),
        latency=search_latency(comparison, folders, swept),
    )


def _all_values(runs: Sequence[MethodRun], seeds: Sequence[int]) -> PerQuery:
    values = PerQuery()
    for run in runs:
        measured = PerQuery.read(run.folder / "measure")
        add_system(values, measured, MODEL, system_name(run.method.name, run.seed, seeds))
    return values


def _add_baselines(values: PerQuery, source: PerQuery) -> None:
    for name in (DENSE, BM25):
        add_system(values, source, name, name)


def _method_result(comparison: Comparison, runs: Sequence[MethodRun]) -> MethodResult:
    """Return what is known of one method: the mean over its seeds, or its first failure."""
    method = runs[0].method
    result = MethodResult(method.about, method.must_lose_to)
    for run in runs:
        if run.failed:
            return replace(result, failed=run.failed, error=run.error, failed_seed=run.seed)
    tables = [run.sids() for run in runs]
    bits = float(np.mean([budget.bits_per_item(table) for table in tables]))
    lengths = [table.lengths[table.lengths > 0].mean() for table in tables]
    wanted = comparison.bits or bits
    files = [run.folder / "sid" / "quality.json" for run in runs]
    quality = _mean([json.loads(path.read_text()) for path in files])
    stages = dict.fromkeys(("sid", "sft", comparison.model, "index", "measure"))
    return replace(
        result,
        equal=budget.fits(bits, wanted),
        codebook_sizes=list(tables[0].codebook_sizes),
        bits=bits,
        bits_over=bits / wanted - 1 if wanted else 0.0,
        density=float(np.mean([_measure_shapes(run)["density"] for run in runs])),
        mean_length=float(np.mean(lengths)),
        seconds={stage: float(np.mean([run.seconds(stage) for run in runs])) for stage in stages},
        quality=TypeAdapter(Quality).validate_python(quality),
    )


def _mean(values: Sequence[Any]) -> Any:
    """Return the mean over seeds of every number; of what is no number, or unlike, the first."""
    first = values[0]
    if isinstance(first, dict) and all(isinstance(value, dict) for value in values):
        shared = [key for key in first if all(key in value for value in values)]
        return {key: _mean([value[key] for value in values]) for key in shared}
    if isinstance(first, list) and all(isinstance(value, list) for value in values):
        if len({len(value) for value in values}) > 1:
            return first
        return [_mean(parts) for parts in zip(*values, strict=True)]
    if isinstance(first, bool) or not isinstance(first, (int, float)):
        return first
    return float(np.mean(values))


def _measure_shapes(run: MethodRun) -> Json:
    manifest = read_manifest(run.folder / "measure")
    return manifest.shapes if manifest else {}


def _set_result(run: MethodRun, name: str, systems: dict[str, dict[str, Estimate]]) -> SetResult:
    """Return a set's description and estimates."""
    facts = json.loads((run.folder / "measure" / "facts.json").read_text())[name]
    return TypeAdapter(SetResult).validate_python(facts | {"systems": systems})


def _model(comparison: Comparison) -> Model:
    cfg = comparison.cfg
    return Model(
        stage=comparison.model,
        backbone=cfg.lm.backbone,
        layers=cfg.lm.layers,
        hidden=cfg.lm.hidden,
        steps=cfg.sft.steps,
        batch_size=cfg.sft.batch_size,
        align_steps=cfg.align.steps if comparison.align else 0,
    )


def _catalogue(comparison: Comparison) -> CatalogueResult:
    dataset = open_dataset(comparison.cfg.run_dir / "data")
    alive = dataset.catalogue.alive
    labels = dataset.priors().popularity()[alive]
    return CatalogueResult(
        items=int(alive.sum()),
        origin=comparison.cfg.events.origin,
        classes={name: int((labels == name).sum()) for name in CLASSES},
    )
