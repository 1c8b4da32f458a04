"""Runs many cells on a few workers, resumably: what stands in the results is not run again.

Each worker is a process with one thread (on a CPU) or the GPU; a cell is a function of its
specification, so neither their number nor their order changes a figure.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.raddpo.plan import EVERYWHERE, Cell, channel_cell, sft_parent
from experiments.raddpo.registration import check_frozen, registration_file, use
from experiments.raddpo.store import QUERIES, keep, read_cells

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


@dataclass(frozen=True)
class Settings:
    """Where and how: the work folder (bed, models, single cells), the folder of the kept cells,
    device, number of workers.
    """

    work: Path
    results: Path
    device: str = "cpu"
    workers: int = 2
    registration: Path = field(default_factory=registration_file)

    @property
    def loose(self) -> Path:
        """Where a run leaves single cells until they are folded into the kept ones."""
        return self.work / "cells"


@dataclass
class Job:
    """A unit of work: an SFT model to be trained (``train``), or a cell to be run."""

    key: str
    cell: Cell
    train: bool
    needs: set[str]


def one_thread() -> None:
    """One thread in this process and those that it starts; before numpy and torch are imported."""
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _follow(parent: int) -> None:
    """End with the parent: a worker left over from a killed run would write into the folders of the
    next one.
    """
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _start() -> None:
    """A worker's beginning."""
    import logging
    import threading
    import warnings

    import torch

    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*enable_nested_tensor.*")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
    except ImportError:
        pass


def _work(job: Job, settings: Settings) -> float:
    """Run one job in a worker; returns its seconds."""
    use(settings.registration)
    from experiments.raddpo.bed import Bed
    from experiments.raddpo.cell import Context, run_cell, train_model

    started = time.monotonic()
    context = Context(Bed(settings.work), settings.loose, settings.device)
    if job.train:
        train_model(job.cell, context)
    else:
        run_cell(job.cell, context)
    return time.monotonic() - started


def jobs_of(
    wanted: list[Cell],
    done: Callable[[Cell], bool],
    answered: Callable[[str], bool] = lambda name: True,
) -> tuple[list[Job], int]:
    """The jobs that are left, and how many of ``wanted`` are done.

    SFT models are trained once, by jobs of their own; a channel that a fusion joins is run again
    where its answers are no longer in the work folder.
    """
    left = [cell for cell in wanted if not done(cell)]
    finished = len(wanted) - len(left)
    for cell in list(left):
        lacking = [name for name in cell.needs if name != cell.parent and not answered(name)]
        left = [
            *(channel_cell(name) for name in lacking if name not in {c.name for c in left}),
            *left,
        ]
    jobs: dict[str, Job] = {}
    names = {cell.name for cell in left}
    for cell in left:
        needs = {name for name in cell.needs if name in names and name != cell.parent}
        sft = cell if cell.kind == "sft" else sft_parent(cell)
        if sft is not None:
            key = f"model of {sft.name}"
            jobs.setdefault(key, Job(key, sft, True, set()))
            needs.add(key)
        jobs[cell.name] = Job(cell.name, cell, False, needs)
    # the longest first, so that none ends alone
    return sorted(jobs.values(), key=lambda job: not job.train), finished


def write_queries(bed: Any, results: Path, names: Sequence[str] = EVERYWHERE) -> None:
    """``queries.parquet``: every query that is scored, its text and cluster; unchanged where it
    stands already.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from experiments.raddpo.sets import pools

    table = pa.concat_tables([pool.table() for pool in pools(bed, names)])
    path = results / QUERIES
    if path.is_file() and pq.read_table(path).equals(table):
        return
    results.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(".queries.parquet.tmp")
    pq.write_table(table, tmp, compression="zstd")
    tmp.replace(path)


def run(wanted: list[Cell], settings: Settings, say: Callable[[str], None] = print) -> list[str]:
    """Build what the cells need of the bed, run those that are missing or stale and keep them in
    ``settings.results``; returns the names that failed.

    Raises ``ValueError`` where the simulator is not the registered one, or another run works in the
    same folder.
    """
    check_frozen()
    one_thread()
    settings.work.mkdir(parents=True, exist_ok=True)
    with (settings.work / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another run works in {settings.work}; wait for it or give another --work"
            ) from error
        try:
            return _run(wanted, settings, say)
        finally:  # an interrupted run keeps the cells that it finished
            keep(settings.loose, settings.results)


def _run(wanted: list[Cell], settings: Settings, say: Callable[[str], None]) -> list[str]:
    from experiments.raddpo.bed import Bed
    from experiments.raddpo.cell import Context, is_done

    started = time.monotonic()
    bed = Bed(settings.work)
    bed.build(say)
    for variant in dict.fromkeys(cell.data for cell in wanted):
        bed.build_data(variant, say)
    for sizes in dict.fromkeys(cell.sizes for cell in wanted):
        bed.build_sid(sizes, say)
    write_queries(bed, settings.results)
    context = Context(bed, settings.loose, settings.device)
    kept = read_cells(settings.results)
    waiting, known = jobs_of(wanted, lambda cell: is_done(cell, context, kept), context.answered)
    say(
        f"{known} of {len(wanted)} cells stand; {len(waiting)} jobs to do on {settings.workers} "
        "workers"
    )
    failed: dict[str, str] = {}
    finished: set[str] = set()
    total = len(waiting)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(settings.workers, mp_context=spawn, initializer=_start) as pool:
        running: dict[Future[float], Job] = {}
        while waiting or running:
            for job in [j for j in waiting if j.needs & failed.keys()]:
                waiting.remove(job)
                failed[job.key] = f"needs {', '.join(sorted(job.needs & failed.keys()))}"
            ready = [j for j in waiting if j.needs <= finished]
            for job in ready[: settings.workers - len(running)]:
                waiting.remove(job)
                running[pool.submit(_work, job, settings)] = job
            if not running:
                continue
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                error = future.exception()
                if error is None:
                    finished.add(job.key)
                    at = (time.monotonic() - started) / 60
                    say(
                        f"[{at:5.1f} min] {len(finished)}/{total} {job.key} "
                        f"({future.result():.0f} s)"
                    )
                else:
                    failed[job.key] = "".join(traceback.format_exception(error))
                    say(f"FAILED {job.key}: {error}")
    for name, reason in failed.items():
        say(f"\n{name} failed:\n{reason}")
    return list(failed)
