"""Comparing tokenizers: the same stages for each, at the same bits, steps and seeds; then one page.

``runs/<name>/compare-sids/<method>/seed-<s>/`` holds the stages ``sid``, ``sft`` (and the aligned
model), ``index`` and ``measure``; ``data`` and ``embed`` are links to those of the run. What is up
to date is skipped. A method that fails is named on the page and leaves the others alone.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import repeat
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np

from sidar import pipeline
from sidar.compare import budget
from sidar.compare.comparison import Comparison, MethodRun
from sidar.compare.measure import measure_baselines, measure_model
from sidar.compare.methods import (
    DEFAULT,
    METHODS,
    REFERENCE,
    Method,
    chosen_methods,
    sid_config,
    with_sid,
)
from sidar.compare.page import write_page
from sidar.compare.results import FILE, Results
from sidar.compare.summary import summarise_runs
from sidar.config import Config, SidConfig
from sidar.data import open_dataset
from sidar.doctor import usable_cores
from sidar.pipeline.runtime import device, prepare
from sidar.sid.inputs import query_inputs
from sidar.sid.tokenizer import wants_queries

if TYPE_CHECKING:
    from rich.console import Console


def compare_tokenizers(
    cfg: Config,
    methods: Sequence[str] = DEFAULT,
    *,
    seeds: Sequence[int] | None = None,
    align: bool = False,
    minutes: float | None = None,
    workers: int = 1,
    console: Console | None = None,
) -> Results:
    """Compare ``methods`` on the run's catalogue and log; return what ``results.json`` holds.

    ``seeds`` (default: the config's one) are those of tokenizer and training; data and vectors are
    made once. ``align``: measure the aligned models instead of those after SFT. ``minutes``: choose
    the number of SFT steps so that all trainings together take about two thirds of it.
    ``workers``: processes that share methods and threads among them.

    Writes ``page.md``, ``page.html``, ``images/``, ``results.json`` and ``per_query.parquet`` into
    ``runs/<name>/compare-sids``. Raises ``ValueError`` for unknown names, and where the reference
    itself fails.
    """
    chosen = chosen_methods(methods)
    numbers = list(dict.fromkeys([cfg.seed] if seeds is None else seeds))
    if cfg.warm_start:
        raise ValueError("a comparison fits every tokenizer anew; run it without warm_start")
    if minutes is not None and minutes <= 0:
        raise ValueError(f"--minutes is {minutes:g}; it must be more than 0")
    if workers < 1:
        raise ValueError(f"--workers is {workers}; it must be at least 1")
    started = time.monotonic()
    pipeline.run(cfg, only="embed", console=console)
    jobs = [(method, seed) for method in chosen for seed in numbers]
    workers = min(workers, len(jobs))
    threads = max(1, (cfg.threads or usable_cores()) // workers)
    cfg = cfg.model_copy(update={"threads": threads})
    prepare(cfg)
    comparison = Comparison(cfg, align, numbers[0], console)
    first = _fit_reference(comparison, numbers[0])
    if minutes is not None:
        models = math.ceil(len(jobs) / workers)
        steps = budget.sft_steps(first.config, first.folder, minutes, models, comparison.root)
        comparison.print(f"{steps} SFT steps per model for about {minutes:g} minutes in all")
        sft = cfg.sft.model_copy(update={"steps": steps})
        comparison.cfg = cfg.model_copy(update={"sft": sft})
    baselines = measure_baselines(comparison.cfg, comparison.root)
    if workers > 1:
        _embed_queries(comparison, chosen)
    runs = list(_run_all(comparison, jobs, workers))
    results = summarise_runs(comparison, runs, baselines)
    results.write(comparison.root / FILE)
    results = Results.read(comparison.root / FILE)  # rounded as in the file: pages agree
    write_page(comparison.root, results)
    took = (time.monotonic() - started) / 60
    comparison.print(f"{took:.1f} minutes; page: {comparison.root / 'page.html'}")
    return results


def _run_all(
    comparison: Comparison, jobs: Sequence[tuple[Method, int]], workers: int
) -> Iterator[MethodRun]:
    """Run every method and seed, in order; ``ValueError`` as soon as the reference fails."""
    with ExitStack() as stack:
        runs: Iterable[MethodRun]
        if workers == 1:
            runs = (run_method(comparison, *job) for job in jobs)
        else:
            spawn, cfg = get_context("spawn"), comparison.cfg
            pool = ProcessPoolExecutor(workers, spawn, initializer=prepare, initargs=(cfg,))
            stack.enter_context(pool)
            silent = replace(comparison, console=None)
            runs = pool.map(run_method, repeat(silent), *zip(*jobs, strict=True))
        for run in runs:
            if run.failed and run.method.name == REFERENCE:
                raise ValueError(_reference_failed(run.failed, run.error))
            if workers > 1:
                comparison.print(f"{run.method.name}/seed-{run.seed}: {run.error or 'done'}")
            yield run


def run_method(comparison: Comparison, method: Method, seed: int) -> MethodRun:
    """Run all stages of one method and seed; an error ends this method only.

    Its traceback is written to ``error.txt``.
    """
    folder = comparison.method_folder(method, seed)
    run = MethodRun(method, seed, folder, comparison.cfg)
    stage = "sid"
    try:
        comparison.open_folder(method, seed)
        fit_sids(comparison, run)
        aligned = [comparison.model] if comparison.align else []
        for stage in ("sft", *aligned, "index"):
            comparison.run_stage(stage, run)
        stage = "measure"
        if measure_model(run.config, folder, comparison.model):
            comparison.made.append((folder / stage).relative_to(comparison.root).as_posix())
    except Exception as error:
        words = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        (folder / "error.txt").write_text(traceback.format_exc())
        comparison.print(f"[bold]{method.name}[/bold] failed at {stage}: {words}")
        run.failed, run.error = stage, words
        return run
    (folder / "error.txt").unlink(missing_ok=True)
    return run


def fit_sids(comparison: Comparison, run: MethodRun) -> None:
    """Fit the tokenizer at the reference's sizes, then smaller or larger until it costs its bits.

    The first fit of the reference decides both; its sizes may be the user's or automatic.
    """
    method, cfg = run.method, comparison.cfg
    is_first = method.name == REFERENCE and run.seed == comparison.first_seed
    sizes = None if is_first else comparison.sizes
    sid = sid_config(cfg.sid, method, sizes, comparison.bits)
    run.config = with_sid(cfg, sid, run.seed)
    if is_first:
        comparison.run_stage("sid", run)
        table = run.sids()
        comparison.sizes, comparison.bits = table.codebook_sizes, budget.bits_per_item(table)
        return
    wanted = comparison.bits
    assert wanted is not None
    kept = budget.KeptAnswer(run.folder / "sizes.json", [sid.model_dump(mode="json"), wanted])
    answer = kept.read()
    tries: int = answer.get("tries", 0)
    asked: list[int] | None = answer.get("sizes")
    fixed = method.imported or sid.method == "sarq"  # given, or spent to the last code already
    while True:
        if asked is not None:
            resized = SidConfig.model_validate(sid.model_dump() | {"codebook_sizes": asked})
            run.config = with_sid(cfg, resized, run.seed)
        comparison.run_stage("sid", run)
        bits = budget.bits_per_item(run.sids())
        if fixed or budget.fits(bits, wanted) or tries == budget.TRIES:
            return
        asked = list(budget.resized(run.config.sid.codebook_sizes or (), bits, wanted))
        tries += 1
        kept.write({"sizes": [*asked], "tries": tries})


def _fit_reference(comparison: Comparison, seed: int) -> MethodRun:
    """Fit the SIDs of the reference, which set sizes and bits for all methods."""
    method = METHODS[REFERENCE]
    folder = comparison.open_folder(method, seed)
    run = MethodRun(method, seed, folder, comparison.cfg)
    try:
        fit_sids(comparison, run)
    except ValueError as error:
        raise ValueError(_reference_failed("sid", str(error))) from error
    return run


def _reference_failed(stage: str, error: str) -> str:
    return f"{REFERENCE}, with which all are compared, failed at {stage}: {error}"


def _embed_queries(comparison: Comparison, methods: Sequence[Method]) -> None:
    """Bring the log's queries into the vector cache, where a method wants them.

    Else every worker would encode them.
    """
    cfg = comparison.cfg
    sections = [sid_config(cfg.sid, m, comparison.sizes, comparison.bits) for m in methods]
    most = max(wants_queries(sid) for sid in sections)
    if most:
        data, embed = open_dataset(cfg.run_dir / "data"), cfg.run_dir / "embed"
        rows = np.flatnonzero(data.catalogue.alive)
        query_inputs(data.sft(), rows, most, cfg.embed, embed, cfg.sid.view, device(cfg))
