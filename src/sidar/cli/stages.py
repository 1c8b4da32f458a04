"""The commands that run stages: plain ones, and those that take more options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from sidar.cli.base import DEFAULT_CONFIG, ConfigOption, DryRun, Overrides, console, load


def _run_stage(
    stage: str, config: Path, overrides: list[str] | None, dry_run: bool, force: bool = True
) -> None:
    from sidar import pipeline

    cfg = load(config, overrides)
    only = cfg.align.folder if stage == "align" else stage
    if dry_run:
        pipeline.show_plan(pipeline.plan(cfg, only=only), console())
        return
    pipeline.run(cfg, only=only, force=force, console=console())


def _command(stage: str, text: str) -> Callable[..., None]:
    """Return the function behind a command that runs ``stage``; ``text`` is its help."""

    def command(
        config: ConfigOption = DEFAULT_CONFIG, overrides: Overrides = None, dry_run: DryRun = False
    ) -> None:
        _run_stage(stage, config, overrides, dry_run)

    command.__doc__ = text
    return command


validate = _command(
    "data",
    "Read catalogue and log, quarantine bad rows, build requests, examples, lists and evaluation "
    "sets.",
)
embed = _command("embed", "Turn item text into vectors.")
sid = _command("sid", "Fit the tokenizer, assign Semantic IDs and report their quality.")
sft = _command("sft", "Train the language model to write SIDs (RAD-DPO eq. 1).")
align = _command("align", "Align the SFT model with what shoppers chose (align.objective).")
index = _command("index", "Build the prefix index that keeps decoding inside the catalogue.")
tune_dense = _command(
    "dense", "Fine-tune the encoder on the training rows: `evaluate` then has the row dense-tuned."
)
evaluate = _command("evaluate", "Score every system on every evaluation set and write the report.")


def bundle(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", help="Also write a copy that may leave the machine, without rare queries."
        ),
    ] = None,
    min_users: Annotated[
        int | None,
        typer.Option(
            help=(
                "With --to: the fewest users of a pair of query and item; default: "
                "privacy.min_users."
            )
        ),
    ] = None,
) -> None:
    """Put everything that serving needs into one checked folder."""
    if to is None:
        if min_users is not None:
            raise ValueError(
                "--min-users thins a copy that leaves the machine; say where it goes with --to"
            )
        _run_stage("bundle", config, overrides, dry_run)
        return
    from sidar.pipeline.leave import leave

    # not anew: the memory may have been updated since
    _run_stage("bundle", config, overrides, dry_run, force=False)
    if not dry_run:
        for line in leave(load(config, overrides), to, min_users).lines():
            typer.echo(line)


def run(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    warm: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A bundle to start from: its row numbering, codebooks and language model.",
        ),
    ] = None,
) -> None:
    """Run every stage that is missing or stale, in order."""
    from sidar import pipeline

    cfg = load(config, overrides)
    if warm is not None:
        cfg.warm_start = str(warm.resolve())
    if dry_run:
        pipeline.show_plan(pipeline.plan(cfg), console())
        return
    pipeline.run(cfg, console=console())


def experiment(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: Overrides = None,
    variants: Annotated[
        str, typer.Option(help="Comma-separated aligned models, or `all`; names as in docs/cli.md.")
    ] = "all",
    dry_run: DryRun = False,
) -> None:
    """Align several models from one SFT checkpoint on the same lists, and evaluate
    them together.
    """
    from sidar import pipeline
    from sidar.pipeline.variants import variants as named

    cfg = load(config, overrides)
    aligns = named(cfg.align, variants)
    if dry_run:
        pipeline.show_plan(pipeline.plan(cfg, aligns), console())
        return
    pipeline.run(cfg, aligns, console=console())


def progressive(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Train in stages, each from the last (progressive.stages), with hit rates after every one."""
    from sidar.pipeline import curriculum

    cfg = load(config, overrides)
    if dry_run:
        curriculum.show(cfg, console())
        return
    curriculum.train(cfg, console())
