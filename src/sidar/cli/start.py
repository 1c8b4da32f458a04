"""Commands that make something to start from: a config, the demo, a larger catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidar.cli import service
from sidar.cli.base import Overrides, console, load


def init(
    folder: Annotated[Path, typer.Argument(help="Where to write sidar.yaml.")] = Path("."),
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of sidar.yaml instead.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Every option, not only those that people change.")
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(help="Module or .py file of a plug-in; its options are written as well."),
    ] = None,
) -> None:
    """Write a commented sidar.yaml with the options that people change."""
    from sidar.pipeline.template import commented_yaml, json_schema

    if schema:
        typer.echo(json_schema(plugin or ()))
        return
    path = folder / "sidar.yaml"
    if path.exists():
        raise ValueError(f"{path} exists already; delete it or name another folder")
    written = commented_yaml(full, plugin or (), folder)  # before the folder: a plug-in may fail
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(written)
    typer.echo(f"wrote {path}; fill in catalogue.path and events.path, then `sidar run -c {path}`")


def demo(
    folder: Annotated[
        Path, typer.Option("--out", help="Where the demo keeps its inputs and its run.")
    ] = Path("demo"),
    everything: Annotated[
        bool, typer.Option("--all", help="Also every baseline objective and ablation.")
    ] = False,
    serve_after: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Serve the page at the end.")
    ] = True,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Toy sizes: shows the path in a minute, proves nothing.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """The main job on real products: simulate a log, train, evaluate, print the table, serve the
    page.
    """
    from sidar.pipeline.demo import run_demo

    bundles = run_demo(
        folder, everything=everything, tiny=tiny, overrides=overrides or [], console=console()
    )
    if serve_after:
        cfg = load(folder / "sidar.yaml", overrides)
        served = [str(folder) for folder in bundles]
        service.serve(bundle=served, host=cfg.serve.host, port=cfg.serve.port, device=cfg.device)


def grow(
    out: Annotated[Path, typer.Argument(help="Folder to write catalogue.parquet into.")],
    items: Annotated[
        int, typer.Option(help="Products in all, the catalogue's own included.")
    ] = 50_000,
    catalogue: Annotated[
        Path | None,
        typer.Option(
            help="A catalogue file with the contract's columns; default: the embedded sample."
        ),
    ] = None,
    traffic: Annotated[
        str | None,
        typer.Option(help="Also simulate a log over it: a preset of the simulator (demo, full)."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the variants.")] = 0,
) -> None:
    """Grow a catalogue by simulated variants (colour, size, pack, model), to study larger ones."""
    from sidar import simulate
    from sidar.config import CatalogueConfig, Config
    from sidar.data import sample
    from sidar.data.products import read_catalogue

    if catalogue is None:
        source = sample.load_catalogue()
    else:
        source, _ = read_catalogue(Config(catalogue=CatalogueConfig(path=str(catalogue))))
    out.mkdir(parents=True, exist_ok=True)
    if traffic is None:
        rows = simulate.write_grown(source, items, out / "catalogue.parquet", seed)
    else:
        config = simulate.load_config(traffic)
        rows = len(grown := simulate.grow(source, items, seed))
        simulate.run(grown, config, out)
    typer.echo(
        f"{out / 'catalogue.parquet'}: {rows:,} items, {rows - len(source):,} of them simulated "
        "variants"
    )
