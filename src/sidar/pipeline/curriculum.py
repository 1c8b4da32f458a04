"""``sidar progressive``: train in stages, and show the table after each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sidar.config import Config
from sidar.pipeline import plan, run, show_plan
from sidar.pipeline.progressive import BEAMS, FILE, KINDS, folders_of, hits_folder

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def train(cfg: Config, console: Console) -> None:
    """Run the stages that ``progressive.stages`` names, and print the table after each.

    Raises ``ValueError`` where it names none.
    """
    models = _models(cfg)
    for place, model in enumerate(models, start=1):
        run(cfg, only=hits_folder(model), console=console)
        console.print(table(cfg, models[:place]))


def show(cfg: Config, console: Console) -> None:
    """Print what would run and why."""
    show_plan(plan(cfg, only=hits_folder(_models(cfg)[-1])), console)


def _models(cfg: Config) -> list[str]:
    """Return the folders of the models of all stages, in order."""
    if not cfg.progressive.stages:
        raise ValueError(
            "progressive.stages is empty; write `progressive: {stages: [s1, s2, s3, s4]}`, or "
            "fewer of them, into the config (docs/progressive.md)"
        )
    last = [cfg.align.folder] if "s4" in cfg.progressive.stages else []
    return [*folders_of(cfg), *last]


def table(cfg: Config, models: Sequence[str]) -> Table:
    """Return hit rates of some models side by side."""
    from rich.table import Table

    names = [*map(str, BEAMS), "1000 items"]
    columns = [f"{kind} @{name}" for kind in KINDS for name in names]
    shown = Table("model", "prompts", *columns, box=None, pad_edge=False)
    for model in models:
        rates = json.loads((cfg.run_dir / hits_folder(model) / FILE).read_text())
        for mode in ("personalised", "semantic"):
            cells = [f"{rates[mode][kind][name]:.3f}" for kind in KINDS for name in names]
            shown.add_row(model, mode, *cells)
    return shown
