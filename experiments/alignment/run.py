"""Runs cells one after another in this process, resumably; a second process started with the same
command takes the cells that are left.

A cell is a function of its specification, so neither the number of processes nor their order
changes a figure.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments.alignment.bed import RESULTS, REWARD, Bed
from experiments.alignment.cell import Context, run_cell
from experiments.alignment.plan import sft_cell
from experiments.raddpo.cell import is_done, train_model
from experiments.raddpo.plan import Cell
from experiments.raddpo.run import one_thread, write_queries
from experiments.raddpo.store import keep, read_cells


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of ``path``; False where another process has it and ``wait`` is off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def run(
    wanted: Sequence[Cell],
    work: Path,
    results: Path = RESULTS,
    say: Callable[[str], None] = print,
) -> int:
    """Run the cells that are missing and keep them in ``results``; return how many were run.

    Raises ``ValueError`` where the simulator is not the registered one.
    """
    import torch

    one_thread()
    torch.set_num_threads(1)
    bed, locks, loose = Bed(work), work / "locks", work / "cells"
    with _locked(locks / "bed", wait=True):
        bed.build(say)
        write_queries(bed, results, ("day8",))
        if any(cell.config.get("align", {}).get("reward") == "ranker" for cell in wanted):
            bed.build_reward(say)
            order = json.dumps(bed.reward_order(), indent=1)
            (results / REWARD).write_text(order + "\n", encoding="utf-8")
    context = Context(bed, loose, "cpu")
    count, started = 0, time.monotonic()
    for cell in wanted:
        with _locked(locks / cell.name.replace("/", "-"), wait=False) as mine:
            if not mine or is_done(cell, context, read_cells(results)):
                continue
            if cell.parent is not None and cell.seed is not None:
                with _locked(locks / f"model-{cell.parent}", wait=True):
                    train_model(sft_cell(cell.seed), context)
                facts = run_cell(cell, context)
            else:
                with _locked(locks / f"model-{cell.name}", wait=True):
                    facts = run_cell(cell, context)
            count += 1
            minutes = (time.monotonic() - started) / 60
            say(f"[{minutes:5.1f} min] {cell.name} {facts['seconds']}")
        with _locked(locks / "results", wait=True):
            keep(loose, results)
    return count
