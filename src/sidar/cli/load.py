"""``sidar bench-serve``: a server under open-loop load. Heavy imports are inside the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidar.cli.base import console

if TYPE_CHECKING:
    from rich.table import Table

#: Names of the table's lines, and the figures in them.
LINES = {
    "searches sent": "{sent} in {seconds:g} s, at {rate:g} a second",
    "good": "{good} within {within_ms:g} ms",
    "goodput": "{goodput:g} a second",
    "p50, p95, p99": "{p50_ms} · {p95_ms} · {p99_ms} ms, of {answered} answers",
    "refused (503)": "{refused_503}",
    "limited (429)": "{limited_429}",
    "other errors": "{other_statuses}",
    "over their deadline": "{deadline}",
    "without an answer": "{failed}",
    "not sent": "{unsent}",
    "sent late, p99": "{lag_p99_ms} ms",
}


def bench_serve(
    queries: Annotated[
        Path, typer.Argument(help="A query a line, or (.jsonl) a request as JSON a line.")
    ],
    url: Annotated[str, typer.Option(help="Address of the server.")] = "http://127.0.0.1:8000",
    rate: Annotated[float, typer.Option(help="Searches a second, at most 2,000.")] = 10.0,
    seconds: Annotated[float, typer.Option(help="How long they come, at most 3,600.")] = 10.0,
    k: Annotated[int, typer.Option(help="Items of a plain query.")] = 10,
    within: Annotated[
        float, typer.Option(help="Milliseconds within which an answer counts as good.")
    ] = 1000.0,
    timeout_ms: Annotated[
        int | None, typer.Option(help="Deadline that plain queries send; default: none.")
    ] = None,
    patience: Annotated[
        float, typer.Option(help="Seconds after which a search counts as without an answer.")
    ] = 30.0,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 0,
    key: Annotated[
        str | None,
        typer.Option(envvar="SIDAR_KEY", help="API key; in the environment nobody else sees it."),
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="The server may be another machine.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
) -> None:
    """Send searches to a running server at a given rate, whatever it answers, and print latency,
    goodput and refusals.
    """
    import asyncio

    from sidar.client import bench
    from sidar.client.exchange import Server

    bench.check_address(url, allow_remote)
    plan = bench.LoadPlan(rate, seconds, within, seed)
    requests = bench.read_requests(queries, k, timeout_ms)
    server = Server(url, key, patience)
    report = asyncio.run(bench.send_load(server, requests, plan))
    figures = {"url": url, "queries": len(requests), **report.figures()}
    text = json.dumps(figures, indent=2)
    if out is not None:
        out.write_text(text + "\n")
    if as_json:
        typer.echo(text)
        return
    console().print(_table(figures))


def _table(figures: dict[str, Any]) -> Table:
    from rich.table import Table

    shown = {name: "–" if value is None else value for name, value in figures.items()}
    table = Table(box=None, show_header=False)
    for name, text in LINES.items():
        table.add_row(name, text.format(**shown))
    return table
