"""Commands over a bundle: search it, serve it, export its model; and the machine under it."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidar.cli.base import console

if TYPE_CHECKING:
    from rich.table import Table

    from sidar.serve.results import SearchAnswer


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
        typer.Option(
            help="memory = with what was chosen for this query, ranker = by the learned ranker, "
            "none = the model alone."
        ),
    ] = None,
    filter: Annotated[
        str | None,
        typer.Option(help='Only items such as: price 10 TO 50 AND brand IN ["Lenovo", "HP"]'),
    ] = None,
    facet: Annotated[
        list[str] | None,
        typer.Option(help="Count the values of a column among the allowed items; repeat it."),
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option(help="A module or file with conditions of your own.")
    ] = None,
) -> None:
    """Search a bundle from the shell."""
    from sidar.extensions import load_plugins
    from sidar.serve.request import SearchRequest
    from sidar.serve.retriever import Retriever

    load_plugins(plugin or ())
    request = SearchRequest.of(
        *(query, k),
        beam=beam,
        exact=exact,
        rerank=rerank,
        fuse=fuse,
        filter=filter,
        facets=tuple(facet or ()),
    )
    answer = Retriever.load(bundle).search(request)
    console().print(_table(answer))
    for key, counts in answer.facets.items():
        values = ", ".join(f"{count.value} ({count.count})" for count in counts)
        typer.echo(f"{key}: {values or 'no values'}")


def _table(answer: SearchAnswer) -> Table:
    """Return the results as a table; columns of reranking and fusion stand where there are any."""
    from rich.table import Table

    reranked = any(hit.cosine is not None for hit in answer.results)
    fused = any(hit.count is not None for hit in answer.results)
    extra = ["cosine"] if reranked else []
    extra += ["P", "chosen", "found by"] if fused else []
    table = Table("#", "SID", "log p", *extra, "item", "title", box=None)
    for hit in answer.results:
        logp = "" if hit.probability is None else f"{sum(hit.level_logp):.2f}"
        cells = [str(hit.rank), hit.sid_text, logp]
        if reranked:
            cells.append("" if hit.cosine is None else f"{hit.cosine:.3f}")
        if fused:
            cells += [f"{math.exp(hit.score):.4f}", f"{hit.count:.1f}", " ".join(hit.channels)]
        table.add_row(*cells, hit.item_id, hit.title[:80])
    if reranked:
        table.caption = f"ordered by log p + log share + {answer.rerank:g} · cosine"
    if fused:
        table.caption = "ordered by P: " + (
            "the learned ranker's share among the candidates"
            if answer.fuse == "ranker"
            else "what was chosen for this query before, smoothed with every channel"
        )
    return table


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

    from sidar.config import load_config
    from sidar.precision import resolve_device
    from sidar.serve import create_app
    from sidar.serve.engine.copies import load_copies
    from sidar.serve.http.app import open_log
    from sidar.serve.http.guards.connections import guarded
    from sidar.serve.http.observe.logs import uvicorn_options
    from sidar.serve.live import open_items

    cfg = load_config(config)
    host, port = host or cfg.serve.host, port or cfg.serve.port
    torch_device = resolve_device(device or cfg.device)
    folders = _labelled(bundle or [str(cfg.run_dir / "bundle")])
    items = open_items(cfg.serve.store) if cfg.serve.store else None
    load = partial(load_copies, device=torch_device, workers=cfg.serve.workers, items=items)
    application = create_app(
        lambda: {label: load(path) for label, path in folders.items()},
        config=cfg.serve,
        open_copies=partial(load, verify=True),
        log=open_log(cfg.serve, cfg.privacy.salt if cfg.privacy.hash_users else None),
    )
    if root_path is not None:
        cfg.serve.root_path = root_path
    typer.echo(f"Sidar serves {', '.join(folders)} on http://{host}:{port}")
    limits = cfg.serve.limits
    uvicorn.run(
        application,
        host=host,
        port=port,
        root_path=cfg.serve.root_path,
        http=guarded(limits.header_seconds, limits.stall_seconds),
        timeout_graceful_shutdown=cfg.serve.drain_seconds,
        **uvicorn_options(cfg.serve.log),
    )
    if items is not None:
        items.close()


def copy_store(
    source: Annotated[str, typer.Argument(help="serve.store of a service: file or URL.")],
    target: Annotated[str, typer.Argument(help="An empty one: file or URL.")],
) -> None:
    """Copy events, histories and live items: a snapshot of a service that runs, one brought back,
    or a file moved to PostgreSQL.
    """
    from sidar.serve.database.backup import copy_store as copy

    counts = copy(source, target)
    typer.echo(", ".join(f"{rows:,} {table}" for table, rows in counts.items()))


def _labelled(texts: list[str]) -> dict[str, str]:
    """Return ``{label: folder}`` of ``label=folder`` or a folder, which has the label of its
    bundle; ``ValueError`` for two of one label.
    """
    from sidar.serve.bundle import open_bundle

    folders: dict[str, str] = {}
    for text in texts:
        before, separator, after = text.partition("=")
        label, path = (before, after) if separator else (open_bundle(text).label, text)
        if label in folders:
            raise ValueError(
                f"--bundle {folders[label]} and --bundle {path} are both labelled {label!r}; "
                f"give one of them another name: --bundle NAME={path}"
            )
        folders[label] = path
    return folders


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Tell what this machine offers: torch build, device, threads, bf16, memory, disk."""
    from sidar.doctor import main as diagnose

    raise typer.Exit(diagnose(as_json=as_json))


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
