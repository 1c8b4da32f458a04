"""What the commands share: options, console and config."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from sidar.config import Config

ConfigOption = Annotated[Path, typer.Option("-c", "--config", help="The run's sidar.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Overrides, e.g. sft.steps=200 align.objective=dpo")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would run and why, and stop.")]
DEFAULT_CONFIG = Path("sidar.yaml")
#: Functions by the name of their command.
Commands = dict[str, Callable[..., None]]


def register(app: typer.Typer, commands: Commands) -> None:
    """Add ``commands`` by name; the help of each is its docstring, paragraphs on one line."""
    for name, function in commands.items():
        paragraphs = (inspect.getdoc(function) or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        app.command(name=name, help=text)(function)


def console() -> Console:
    """Return the terminal that tables and progress are printed on."""
    from rich.console import Console

    return Console()


def load(config: Path, overrides: list[str] | None) -> Config:
    """Read a ``sidar.yaml`` and its overrides."""
    from sidar.config import load_config

    return load_config(config, overrides)
