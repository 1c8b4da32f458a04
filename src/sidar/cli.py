"""The ``sidar`` command. Exit 0: done; 2: the user's input needs mending; 1: our fault (with a
traceback).

Everything heavy is imported inside the commands, so that ``sidar --help`` answers at once.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidar import cli_memory, cli_sids

if TYPE_CHECKING:
    from rich.console import Console

    from sidar.config import Config

app = typer.Typer(
    name="sidar",
    help="From a product catalogue and an interaction log to aligned generative retrieval.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(cli_sids.app, name="sids")
app.add_typer(cli_memory.app, name="memory")

ConfigOption = Annotated[Path, typer.Option("-c", "--config", help="The run's sidar.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Overrides, e.g. sft.steps=200 align.objective=dpo")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would run and why, and stop.")]
DEFAULT_CONFIG = Path("sidar.yaml")


def _console() -> Console:
    from rich.console import Console

    return Console()


def _load(config: Path, overrides: list[str] | None) -> Config:
    from sidar.config import load_config

    return load_config(config, overrides)


def _stage(
    name: str, config: Path, overrides: list[str] | None, dry_run: bool, force: bool = True
) -> None:
    """Run one stage and whatever it needs that is missing or stale."""
    from sidar import pipeline

    cfg = _load(config, overrides)
    only = cfg.align.folder if name == "align" else name
    if dry_run:
        pipeline.show_plan(pipeline.plan(cfg, only=only), _console())
        return
    pipeline.run(cfg, only=only, force=force, console=_console())


@app.command()
def validate(
    config: ConfigOption = DEFAULT_CONFIG, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Read catalogue and log, quarantine bad rows, build requests, examples, lists and evaluation
    sets.
    """
    _stage("data", config, overrides, dry_run)


@app.command()
def embed(
    config: ConfigOption = DEFAULT_CONFIG, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Turn item text into vectors."""
    _stage("embed", config, overrides, dry_run)


@app.command()
def sid(
    config: ConfigOption = DEFAULT_CONFIG, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Fit the tokenizer, assign Semantic IDs and report their quality."""
    _stage("sid", config, overrides, dry_run)


@app.command()
def sft(
    config: ConfigOption = DEFAULT_CONFIG, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Train the language model to write SIDs (RAD-DPO eq. 1)."""
    _stage("sft", config, overrides, dry_run)


@app.command()
def align(
    config: ConfigOption = DEFAULT_CONFIG, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Align the SFT model with what shoppers chose (align.objective)."""
    _stage("align", config, overrides, dry_run)


@app.command()
def index(
    config: ConfigOption = DEFAULT_CONFIG, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Build the prefix index that keeps decoding inside the catalogue."""
    _stage("index", config, overrides, dry_run)


@app.command()
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
        _stage("bundle", config, overrides, dry_run)
        return
    from sidar.pipeline.leave import leave

    # not anew: the memory may have been updated since
    _stage("bundle", config, overrides, dry_run, force=False)
    if not dry_run:
        for line in leave(_load(config, overrides), to, min_users).lines():
            typer.echo(line)


@app.command(name="tune-dense")
def tune_dense(
    config: ConfigOption = DEFAULT_CONFIG, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Fine-tune the encoder on the training rows: `evaluate` then has the row dense-tuned."""
    _stage("dense", config, overrides, dry_run)


@app.command()
def evaluate(
    config: ConfigOption = DEFAULT_CONFIG, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Score every system on every evaluation set and write the report."""
    _stage("evaluate", config, overrides, dry_run)


@app.command()
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

    cfg = _load(config, overrides)
    if warm is not None:
        cfg.warm_start = str(warm.resolve())
    if dry_run:
        pipeline.show_plan(pipeline.plan(cfg), _console())
        return
    pipeline.run(cfg, console=_console())


@app.command()
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

    cfg = _load(config, overrides)
    aligns = named(cfg.align, variants)
    if dry_run:
        pipeline.show_plan(pipeline.plan(cfg, aligns), _console())
        return
    pipeline.run(cfg, aligns, console=_console())


@app.command()
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
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(commented_yaml(full, plugin or (), folder))
    typer.echo(f"wrote {path}; fill in catalogue.path and events.path, then `sidar run -c {path}`")


@app.command()
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
        folder, everything=everything, tiny=tiny, overrides=overrides or [], console=_console()
    )
    if serve_after:
        cfg = _load(folder / "sidar.yaml", overrides)
        served = [str(each) for each in bundles]
        serve(bundle=served, host=cfg.serve.host, port=cfg.serve.port, device=cfg.device)


@app.command()
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


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What the shopper types.")],
    bundle: Annotated[Path, typer.Option(help="A bundle folder.")] = Path("runs/run/bundle"),
    k: Annotated[int, typer.Option(help="How many items.")] = 10,
    beam: Annotated[int | None, typer.Option(help="Beams; default: the bundle's.")] = None,
    exact: Annotated[
        bool | None,
        typer.Option(
            "--exact/--no-exact", help="Best first, or with a beam; default: as the bundle says."
        ),
    ] = None,
    rerank: Annotated[
        bool | None,
        typer.Option(
            "--rerank/--no-rerank", help="By log π + w · cosine; default: as the bundle says."
        ),
    ] = None,
    fuse: Annotated[
        str | None,
        typer.Option(help="memory = with what was chosen for this query, none = the model alone."),
    ] = None,
) -> None:
    """Search a bundle from the shell."""
    from rich.table import Table

    from sidar.retriever import Retriever

    retriever = Retriever.load(bundle)
    results = retriever.search(query, k=k, beam=beam, exact=exact, rerank=rerank, fuse=fuse)
    reranked = any(hit.cosine is not None for hit in results)
    fused = any(hit.count is not None for hit in results)
    extra = [*(["cosine"] if reranked else []), *(["P", "chosen", "found by"] if fused else [])]
    table = Table("#", "SID", "log p", *extra, "item", "title", box=None)
    for hit in results:
        cells = [
            str(hit.rank),
            hit.sid_text,
            "" if hit.probability is None else f"{sum(hit.level_logp):.2f}",
        ]
        if reranked:
            cells.append("" if hit.cosine is None else f"{hit.cosine:.3f}")
        if fused:
            cells += [f"{math.exp(hit.score):.4f}", f"{hit.count:.1f}", " ".join(hit.channels)]
        table.add_row(*cells, hit.item_id, hit.title[:80])
    if reranked:
        table.caption = f"ordered by log p + log share + {retriever.rerank:g} · cosine"
    if fused:
        table.caption = (
            "ordered by P: what was chosen for this query before, smoothed with every channel"
        )
    _console().print(table)


@app.command()
def serve(
    bundle: Annotated[
        list[str] | None,
        typer.Option(
            help="A bundle folder, or label=folder; repeat it to compare models on the page."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Take the run's bundle, host, port.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Default: serve.host of the config, 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Default: serve.port of the config, 8000.")
    ] = None,
    root_path: Annotated[
        str | None,
        typer.Option(
            help="Prefix such as /shop that a proxy takes off. Default: serve.root_path, none."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda … Default: the config's, auto.")
    ] = None,
) -> None:
    """Serve POST /v1/search and the page; the first bundle answers where a request
    names no model.
    """
    import uvicorn

    from sidar.bundle import open_bundle
    from sidar.config import load_config
    from sidar.precision import resolve_device
    from sidar.retriever import Retriever
    from sidar.serve import create_app

    cfg = load_config(config)
    host, port, device = (
        host or cfg.serve.host,
        port or cfg.serve.port,
        resolve_device(device or cfg.device),
    )
    folders: dict[str, str] = {}
    for text in bundle or [str(cfg.run_dir / "bundle")]:
        before, sep, after = text.partition("=")
        label, path = (before, after) if sep else (open_bundle(text).label, text)
        if label in folders:
            raise ValueError(
                f"--bundle {folders[label]} and --bundle {path} are both labelled {label!r}; "
                f"give one of them another name: --bundle NAME={path}"
            )
        folders[label] = path
    application = create_app(
        lambda: {label: Retriever.load(path, device) for label, path in folders.items()}
    )
    if root_path is not None:
        cfg.serve.root_path = root_path
    typer.echo(f"Sidar serves {', '.join(folders)} on http://{host}:{port}")
    uvicorn.run(
        application, host=host, port=port, root_path=cfg.serve.root_path, log_level="warning"
    )


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Tell what this machine offers: torch build, device, threads, bf16, memory, disk."""
    from sidar.doctor import main as diagnose

    raise typer.Exit(diagnose(as_json=as_json))


@app.command()
def export(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    out: Annotated[Path, typer.Argument(help="Where to write.")],
    hf: Annotated[
        bool, typer.Option("--hf", help="A plain Hugging Face causal LM for other servers.")
    ] = True,
) -> None:
    """Write the bundle's language model as a plain Hugging Face checkpoint (added tokens, full
    head).
    """
    from sidar.lm.export import export_hf
    from sidar.lm.model import SidLM

    if not hf:
        raise ValueError("only --hf is known")
    export_hf(SidLM.from_pretrained(bundle / "model"), out)
    typer.echo(f"wrote {out}")


@app.command(name="compare-sids")
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
    cfg = _load(config, overrides)
    if table:
        from sidar.compare.tables import compare

        _console().print(compare(cfg, dict(_pair(text) for text in table)))
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
        console=_console(),
    )
    for line in (results.sentence, *caveats(results)):
        _console().print(line.replace("**", ""), markup=False, highlight=False)


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
