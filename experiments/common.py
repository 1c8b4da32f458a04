"""What the experiments share with the benchmarks, and where their results are kept.

An experiment is run as a module from the repository's root, as in ``python -m
experiments.retrieval.sci``. It calls :func:`single_thread` before anything else imports a numerical
library.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import (
    ROOT,
    commit,
    device,
    print_table,
    process_cpu_timer,
    single_thread,
    versions,
    write_between,
)

__all__ = [
    "RESULTS",
    "ROOT",
    "commit",
    "device",
    "print_table",
    "process_cpu_timer",
    "single_thread",
    "versions",
    "write_between",
    "write_results",
]

RESULTS = ROOT / "experiments" / "results"


def write_results(
    name: str,
    config: Mapping[str, Any],
    figures: Mapping[str, float],
    *,
    folder: Path = RESULTS,
    **more: Any,
) -> Path:
    """Write ``<name>.json`` into ``folder`` and return its path."""
    return common.write_results(name, config, figures, folder=folder, **more)
