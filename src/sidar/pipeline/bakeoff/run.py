"""The bake-off: every method through the same stages, at the same bits, steps and seeds; one page at the end.

``runs/<name>/compare-sids/<method>/seed-<s>/`` holds ``sid``, ``sft`` (and the aligned model), ``index``, ``measure``;
``data`` and ``embed`` are those of the run, by links. What is up to date is skipped, as in ``sidar run``. A method that
fails is named on the page with its error and leaves the others alone.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from sidar.artifacts import read_manifest, write_artifact
from sidar.config import Config, SidConfig
from sidar.doctor import usable_cores
from sidar.pipeline.bakeoff.budget import TRIES, Sizes, bits_per_item, fits, resized
from sidar.pipeline.bakeoff.entrants import DEFAULT, REFERENCE, Entrant, entrants, sid_config, with_sid
from sidar.pipeline.plan import Stage, stages
from sidar.pipeline.runtime import prepare
from sidar.sid.table import load_sids
from sidar.types import SemanticIds

FOLDER = "compare-sids"
SHARED = ("data", "embed", ".embed.cache")


@dataclass
class Cooked:
    """What became of one method with one seed: its folder, or the stage that failed and the error."""

    entrant: Entrant
    seed: int
    folder: Path
    config: Config
    failed: str = ""
    error: str = ""


@dataclass
class Kitchen:
    """What all methods share, and how a stage is run."""

    cfg: Config
    align: bool
    first_seed: int
    console: Any = None
    bits: float | None = None  # per item, of the reference
    sizes: tuple[int, ...] | None = None
    ran: list[str] = field(default_factory=list)  # stages that were not up to date

    @property
    def root(self) -> Path:
        return self.cfg.run_dir / FOLDER

    @property
    def model(self) -> str:
        """The stage whose model is measured."""
        return self.cfg.align.folder if self.align else "sft"

    def say(self, text: str) -> None:
        if self.console:
            self.console.print(text)

    def folder(self, entrant: Entrant, seed: int) -> Path:
        """The folder of one method and seed, with links to what is shared."""
        folder = self.root / entrant.folder / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        (self.cfg.run_dir / ".embed.cache").mkdir(exist_ok=True)
        for name in SHARED:
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(Path("../../..") / name, target_is_directory=True)
        return folder

    def run(self, name: str, own: Config, folder: Path) -> None:
        """Run the stage ``name`` into ``folder / name`` unless it is up to date."""
        from sidar.pipeline import discard_work

        stage: Stage = {each.name: each for each in stages(own)}[name]
        reason = stage.why_stale(own, folder)
        if reason is None:
            return
        started, cpu = time.monotonic(), time.process_time()
        with write_artifact(
            folder / name,
            name,
            config=stage.config(own),
            inputs=stage.input_hashes(own, folder),
            apart=stage.apart,
        ) as draft:
            report = stage.run(own, folder, draft.path)
            draft.shapes.update(report.get("shapes", {}), cpu_seconds=round(time.process_time() - cpu, 2))
        discard_work(folder / name)
        where = str(folder.relative_to(self.root))
        self.ran.append(f"{where}/{name}")
        self.say(
            f"{where + '/' + name:<28} {report.get('summary', '')} [dim]({time.monotonic() - started:.1f} s)[/dim]"
        )

    def sids(self, folder: Path, own: Config) -> SemanticIds:
        """The table that the SID stage left in ``folder``."""
        from sidar.data import open_dataset

        return load_sids(folder / "sid" / "sids.parquet", open_dataset(folder / "data").catalogue.item_ids)


def bake_off(
    cfg: Config,
    methods: Sequence[str] = DEFAULT,
    *,
    seeds: Sequence[int] | None = None,
    align: bool = False,
    minutes: float | None = None,
    workers: int = 1,
    console: Any = None,
) -> dict[str, Any]:
    """Compare ``methods`` on the run's catalogue and log; returns ``results.json``.

    ``seeds`` (default: the config's one) are those of tokenizer and training; data and vectors are made once.
    ``align``: measure the model after alignment instead of after SFT. ``minutes``: the number of SFT steps is chosen so
    that all trainings together take about two thirds of it (kept: a resumed bake-off goes on with the same number).
    ``workers`` processes share methods and threads among them: two with a thread each do more than one with two.
    Writes ``page.md``, ``page.html``, ``images/``, ``results.json``, ``per_query.parquet`` into
    ``runs/<name>/compare-sids``. Raises ``ValueError`` for unknown names, and where the reference itself fails.
    """
    from sidar import pipeline
    from sidar.pipeline.bakeoff.measure import measure_reference
    from sidar.pipeline.bakeoff.pace import steps_for
    from sidar.pipeline.bakeoff.results import write_results

    chosen = entrants(methods)
    numbers = list(dict.fromkeys([cfg.seed] if seeds is None else seeds))
    if cfg.warm_start:
        raise ValueError("a bake-off fits every tokenizer anew; run it without warm_start")
    if minutes is not None and minutes <= 0:
        raise ValueError(f"--minutes is {minutes:g}; it must be more than 0")
    if workers < 1:
        raise ValueError(f"--workers is {workers}; it must be at least 1")
    started = time.monotonic()
    pipeline.run(cfg, only="embed", console=console)
    jobs = [(entrant, seed) for entrant in chosen for seed in numbers]
    workers = min(workers, len(jobs))
    cfg = cfg.model_copy(update={"threads": max(1, (cfg.threads or usable_cores()) // workers)})
    prepare(cfg)
    kitchen = Kitchen(cfg, align, numbers[0], console)
    own, folder = _reference_sids(kitchen, numbers[0])
    if minutes is not None:
        steps = steps_for(own, folder, minutes, math.ceil(len(jobs) / workers), kitchen.root)
        kitchen.say(f"{steps} SFT steps per model for about {minutes:g} minutes in all")
        kitchen.cfg = cfg = cfg.model_copy(update={"sft": cfg.sft.model_copy(update={"steps": steps})})
    reference = measure_reference(cfg, kitchen.root)
    if workers > 1:
        _embed_queries(kitchen, chosen)
    cooked = list(_cooked(kitchen, jobs, workers))
    results = write_results(kitchen, cooked, reference)
    kitchen.say(f"{(time.monotonic() - started) / 60:.1f} minutes; page: {kitchen.root / 'page.html'}")
    return results


def _cooked(kitchen: Kitchen, jobs: Sequence[tuple[Entrant, int]], workers: int) -> Iterator[Cooked]:
    """Every method and seed, in order; ``ValueError`` as soon as the reference is seen to have failed."""
    with ExitStack() as stack:
        done: Iterable[Cooked]
        if workers == 1:
            done = (cook(kitchen, *job) for job in jobs)
        else:
            pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=prepare, initargs=(kitchen.cfg,))
            stack.enter_context(pool)
            done = pool.map(cook, repeat(replace(kitchen, console=None)), *zip(*jobs, strict=True))
        for one in done:
            if one.failed and one.entrant.name == REFERENCE:
                raise ValueError(f"{REFERENCE}, with which all are compared, failed at {one.failed}: {one.error}")
            if workers > 1:
                kitchen.say(f"{one.entrant.name}/seed-{one.seed}: {one.error or 'done'}")
            yield one


def cook(kitchen: Kitchen, entrant: Entrant, seed: int) -> Cooked:
    """All stages of one method and seed; an error ends this method only and is told in ``error.txt``."""
    from sidar.pipeline.bakeoff.measure import measure

    stage, own = "sid", kitchen.cfg
    folder = kitchen.root / entrant.folder / f"seed-{seed}"
    try:
        folder = kitchen.folder(entrant, seed)
        own = fit_sids(kitchen, entrant, seed, folder)
        for stage in ("sft", *([kitchen.model] if kitchen.align else []), "index"):
            kitchen.run(stage, own, folder)
        stage = "measure"
        kitchen.ran += [f"{folder.relative_to(kitchen.root)}/{name}" for name in measure(own, folder, kitchen.model)]
    except Exception as error:
        said = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        (folder / "error.txt").write_text(traceback.format_exc())
        kitchen.say(f"[bold]{entrant.name}[/bold] failed at {stage}: {said}")
        return Cooked(entrant, seed, folder, own, stage, said)
    (folder / "error.txt").unlink(missing_ok=True)
    return Cooked(entrant, seed, folder, own)


def fit_sids(kitchen: Kitchen, entrant: Entrant, seed: int, folder: Path) -> Config:
    """Fit the tokenizer at the reference's sizes, smaller or larger until it costs the reference's bits.

    The first fit of the reference decides both; its sizes may be the user's or automatic.
    """
    is_first = entrant.name == REFERENCE and seed == kitchen.first_seed
    sizes = None if is_first else kitchen.sizes
    own = with_sid(kitchen.cfg, sid_config(kitchen.cfg.sid, entrant, sizes, kitchen.bits), seed)
    if is_first:
        kitchen.run("sid", own, folder)
        table = kitchen.sids(folder, own)
        kitchen.sizes, kitchen.bits = table.codebook_sizes, bits_per_item(table)
        return own
    assert kitchen.bits is not None
    kept = Sizes(folder, [own.sid.model_dump(mode="json"), kitchen.bits])
    asked = kept.read()
    while True:
        if asked is not None:
            own = with_sid(own, SidConfig.model_validate(own.sid.model_dump() | {"codebook_sizes": list(asked)}), seed)
        kitchen.run("sid", own, folder)
        bits = bits_per_item(kitchen.sids(folder, own))
        given = entrant.table or own.sid.method == "sarq"  # nothing to turn: given, or spent to the last code already
        if given or fits(bits, kitchen.bits) or kept.tries == TRIES:
            return own
        asked = resized(own.sid.codebook_sizes or (), bits, kitchen.bits)
        kept.write(asked)


def _reference_sids(kitchen: Kitchen, seed: int) -> tuple[Config, Path]:
    """The reference's SIDs, which set sizes and bits for all; ``ValueError`` where it cannot be fitted."""
    entrant = entrants([REFERENCE])[0]
    folder = kitchen.folder(entrant, seed)
    try:
        return fit_sids(kitchen, entrant, seed, folder), folder
    except ValueError as error:
        raise ValueError(f"{REFERENCE}, with which all are compared, failed at sid: {error}") from error


def _embed_queries(kitchen: Kitchen, chosen: Sequence[Entrant]) -> None:
    """Bring the log's queries into the vector cache, if a method wants them: else every worker would encode them."""
    from sidar.data import open_dataset
    from sidar.pipeline.runtime import device
    from sidar.sid.inputs import query_inputs
    from sidar.sid.tokenizer import wants_queries

    cfg = kitchen.cfg
    most = max(wants_queries(sid_config(cfg.sid, each, kitchen.sizes, kitchen.bits)) for each in chosen)
    if most:
        data, embed = open_dataset(cfg.run_dir / "data"), cfg.run_dir / "embed"
        rows = np.flatnonzero(data.catalogue.alive)
        query_inputs(data.sft(), rows, most, cfg.embed, embed, cfg.sid.view, device(cfg))


def seconds_of(folder: Path, names: Sequence[str]) -> dict[str, float]:
    """CPU seconds, of all threads, that each stage took when it was made: they do not tell how busy the machine was."""
    found = {name: read_manifest(folder / name) for name in names}
    return {name: manifest.shapes.get("cpu_seconds", 0.0) for name, manifest in found.items() if manifest is not None}
