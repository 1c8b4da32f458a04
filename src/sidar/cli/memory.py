"""``sidar memory …``: what a bundle remembers of queries. Heavy imports are inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidar.cli.base import Commands, register

app = typer.Typer(
    help="Count a day's log into a bundle that serves, and look queries up in it.",
    no_args_is_help=True,
)

Bundle = Annotated[
    Path | None, typer.Option("--bundle", help="A bundle folder; default: the config's run's.")
]
Config = Annotated[
    Path,
    typer.Option("-c", "--config", help="Says where the day's events are and how to read them."),
]


def update(
    bundle: Bundle = None,
    config: Config = Path("sidar.yaml"),
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides, e.g. events.path=today.parquet")
    ] = None,
) -> None:
    """Count a log (events.path) into a bundle: its days replace the same days there. Nothing is
    trained.

    Items are those of the bundle's catalogue. A service that runs answers from it after a restart.
    """
    from sidar.config import load_config
    from sidar.pipeline.remember import update_memory

    cfg = load_config(config, overrides)
    folder = bundle or cfg.run_dir / "bundle"
    for line in update_memory(cfg, folder).lines():
        typer.echo(line)
    typer.echo(f"{folder} is updated; a service that runs answers from it after a restart")


def show(
    query: Annotated[str, typer.Argument(help="A query; case and punctuation do not matter.")],
    bundle: Annotated[Path, typer.Option("--bundle", help="A bundle folder.")] = Path(
        "runs/run/bundle"
    ),
) -> None:
    """Print what was chosen for a query: counts as they decay, as they were made, and on how many
    days.
    """
    from rich.console import Console
    from rich.table import Table

    from sidar.pipeline.remember import remembered

    items = remembered(bundle, query)
    if not items:
        typer.echo(f"nothing was chosen for {query!r}")
        return
    table = Table("decayed count", "count", "days", "item", "title", box=None)
    for item in items:
        title = item.title[:80] if item.alive else f"(retired) {item.title[:80]}"
        table.add_row(
            f"{item.count:.2f}", f"{item.weight:.2f}", str(item.days), item.item_id, title
        )
    table.caption = (
        f"{sum(item.count for item in items if item.alive):.2f} in all, of items that are there"
    )
    Console().print(table)


#: Name and function of each command, in the order of ``--help``.
COMMANDS: Commands = {
    "update": update,
    "show": show,
}
register(app, COMMANDS)
