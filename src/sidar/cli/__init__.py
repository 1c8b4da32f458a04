"""The ``sidar`` command. Exit 0: done; 2: the user's input needs mending; 1: our fault (with a
traceback).

Everything heavy is imported inside the commands, so that ``sidar --help`` answers at once.
"""

from __future__ import annotations

import os
import sys

import typer

from sidar.cli import comparison, load, memory, online, service, sids, stages, start
from sidar.cli.base import Commands, register

__all__ = ["app", "main"]

app = typer.Typer(
    name="sidar",
    help="From a product catalogue and an interaction log to aligned generative retrieval.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

#: Name and function of each command, in the order of ``sidar --help``.
COMMANDS: Commands = {
    "validate": stages.validate,
    "embed": stages.embed,
    "sid": stages.sid,
    "sft": stages.sft,
    "align": stages.align,
    "index": stages.index,
    "bundle": stages.bundle,
    "tune-dense": stages.tune_dense,
    "evaluate": stages.evaluate,
    "run": stages.run,
    "experiment": stages.experiment,
    "progressive": stages.progressive,
    "init": start.init,
    "demo": start.demo,
    "grow": start.grow,
    "search": service.search,
    "serve": service.serve,
    "bench-serve": load.bench_serve,
    "doctor": service.doctor,
    "copy-store": service.copy_store,
    "export": service.export,
    "compare-sids": comparison.compare_sids,
    "ab": online.ab,
}
register(app, COMMANDS)
app.add_typer(sids.app, name="sids")
app.add_typer(memory.app, name="memory")


def main() -> None:
    """Entry point: one line and exit code 2 for what the user can mend."""
    # Idle OpenMP threads that spin steal the core that the busy one needs; on a shared machine a
    # step took 10x longer.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except (ValueError, FileNotFoundError) as error:
        typer.echo(f"sidar: {error}", err=True)
        sys.exit(2)
