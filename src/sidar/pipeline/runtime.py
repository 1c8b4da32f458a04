"""Settings of the process that stages share: threads, seeds, quiet libraries."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sidar.config import Config
from sidar.doctor import usable_cores
from sidar.precision import resolve_device


def prepare(cfg: Config) -> None:
    """Set thread count and seeds for this process; called by the pipeline, never on import."""
    import torch

    torch.set_num_threads(cfg.threads or usable_cores())
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked workers would warn
    random.seed(cfg.seed)
    np.random.seed(cfg.seed)  # noqa: NPY002 -- libraries that still draw from the global state
    torch.manual_seed(cfg.seed)


def device(cfg: Config) -> str:
    """``auto`` → cuda where a device answers, else cpu."""
    return resolve_device(cfg.device)


def progress(text: str) -> None:
    """Say on the terminal's error stream what a long stage is at."""
    import sys

    print(f"{'':<16} {text}", file=sys.stderr, flush=True)


def work_folder(folder: Path) -> Path:
    """Return where a resumable stage keeps its checkpoints until its artefact ``folder`` stands."""
    return folder.with_name(f".{folder.name}.work")


def folders(run: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return the folders of the stages ``names`` of a run, by name: what a stage reads."""
    return {name: run / name for name in names}


def discard_work(folder: Path) -> None:
    """Delete the checkpoints of a stage whose artefact ``folder`` stands."""
    shutil.rmtree(work_folder(folder), ignore_errors=True)
