"""``sidar compare-sids``: tokenizers compared at equal code budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidar.cli.base import DEFAULT_CONFIG, ConfigOption, Overrides, console, load


def compare_sids(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: Overrides = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated tokenizers, or NAME=PATH of IDs of others; default: all."
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Of tokenizer and training, e.g. 0,1,2; default: the config's."),
    ] = None,
    align: Annotated[
        bool, typer.Option("--align", help="Measure the aligned models instead of those after SFT.")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Choose the SFT steps so that the whole takes about so long on this machine."
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(help="Processes that share methods and threads; on two cores, 2 is fastest."),
    ] = 1,
    table: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=PATH of a sids.parquet: print the quality of such tables, no more."
        ),
    ] = None,
) -> None:
    """Train the same model on every tokenizer's IDs at equal code budget and write one page: which
    is best, why.
    """
    cfg = load(config, overrides)
    if table:
        from sidar.compare.tables import compare

        console().print(compare(cfg, dict(_pair(text) for text in table)))
        return
    from sidar.compare import run
    from sidar.compare.methods import DEFAULT
    from sidar.compare.verdict import caveats

    chosen = DEFAULT if methods is None else [name for name in methods.split(",") if name.strip()]
    numbers = None if seeds is None else _numbers("--seeds", seeds)
    results = run.compare_tokenizers(
        cfg,
        chosen,
        seeds=numbers,
        align=align,
        minutes=minutes,
        workers=workers,
        console=console(),
    )
    for line in (results.sentence, *caveats(results)):
        console().print(line.replace("**", ""), markup=False, highlight=False)


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text!r} is no list of numbers such as 0,1,2") from None


def _pair(text: str) -> tuple[str, Path]:
    name, sep, path = text.partition("=")
    if not sep:
        raise ValueError(f"{text!r} is not name=path")
    return name, Path(path)
