"""``sidar sids …``: the life of Semantic IDs after the first fit.

Heavy imports are inside the commands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sidar.cli.base import Commands, register

app = typer.Typer(
    help="Compare, bring, take away, refresh and watch Semantic IDs.", no_args_is_help=True
)

Config = Annotated[Path, typer.Option("-c", "--config", help="The run's sidar.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
VERSION = "An SID folder, a run, a bundle, a sids.parquet, or a table of others."


def diff(
    before: Annotated[Path, typer.Argument(help=VERSION)],
    after: Annotated[Path, typer.Argument(help=VERSION)],
    examples: Annotated[int, typer.Option(help="Items shown per cause.")] = 3,
    as_json: Json = False,
) -> None:
    """Which items moved from one version of the IDs to the next, and why."""
    from sidar.sid.lifecycle.versions import compare_versions, lines, open_version

    found = compare_versions(open_version(before), open_version(after), examples=examples)
    typer.echo(
        json.dumps(found.as_dict(), indent=1, ensure_ascii=False)
        if as_json
        else "\n".join(lines(found))
    )


def import_(
    table: Annotated[
        Path,
        typer.Argument(help="JSON, JSON lines, CSV or Parquet: item -> tokens such as <a_12>."),
    ],
    out: Annotated[Path, typer.Argument(help="A sids.parquet to write.")],
    sizes: Annotated[
        str | None, typer.Option(help="Codes per level, e.g. 256,256,256; default: largest seen.")
    ] = None,
    item_column: Annotated[
        str | None, typer.Option(help="The table's column of item ids; default: item_id.")
    ] = None,
    sid_column: Annotated[
        str | None, typer.Option(help="Its column of SIDs, or one per level: c0,c1,c2.")
    ] = None,
) -> None:
    """Read SIDs that others made and write them as sids.parquet (`sid.method:
    table` takes either).
    """
    from sidar.sid.published import read_published, write_published

    if out.suffix != ".parquet":
        raise ValueError(f"{out}: want a .parquet file")
    named = {"item_id": item_column, "sid": sid_column}
    found = read_published(
        table, _numbers(sizes), {column: own for column, own in named.items() if own}
    )
    sids = found.sids()
    write_published(out, found.item_ids, sids, form="codes")
    lengths = (
        ""
        if sids.fixed_length
        else f", {int(sids.lengths.min())} to {int(sids.lengths.max())} codes long"
    )
    typer.echo(
        f"{len(found):,} items, codebooks {'/'.join(map(str, found.codebook_sizes))}{lengths} -> "
        f"{out}"
    )


def export(
    source: Annotated[Path, typer.Argument(help=VERSION)],
    out: Annotated[Path, typer.Argument(help="A .json, .jsonl, .csv or .parquet file to write.")],
    form: Annotated[
        str, typer.Option(help="tokens (a list), text (one string) or codes (numbers).")
    ] = "tokens",
    names: Annotated[
        str | None, typer.Option(help="Names of the levels, e.g. s_a,s_b,s_c; default a,b,c.")
    ] = None,
) -> None:
    """Write SIDs as others read them: {item: ["<a_1>", "<b_12>", ...]}."""
    from sidar.sid.lifecycle.versions import open_version
    from sidar.sid.published import write_published

    version = open_version(source)
    n = write_published(
        out, version.item_ids, version.sids, names=names.split(",") if names else None, form=form
    )
    typer.echo(f"{n:,} items -> {out}")


def encode(
    bundle: Annotated[
        Path, typer.Option("--from", help="The bundle in service: row numbers, codebooks, model.")
    ],
    config: Config = Path("sidar.yaml"),
    out: Annotated[
        Path | None, typer.Option(help="Bundle to write; default: bundle-encoded in the run.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides, e.g. catalogue.path=today.parquet")
    ] = None,
) -> None:
    """Give today's new items SIDs under frozen codebooks and serve them with yesterday's model; no
    training.
    """
    from rich.console import Console

    from sidar.config import load_config
    from sidar.pipeline.refresh import encode as run

    console = Console()
    cfg = load_config(config, overrides)
    made = run(cfg, bundle, out, console)
    console.print(f"bundle: {made}")
    if (made / "answer").is_dir() and made.resolve().parent != cfg.run_dir.resolve():
        _say_where_the_key_is(cfg.run_dir)


def alarms(
    where: Annotated[
        Path | None, typer.Argument(help="A run or a bundle; default: the config's run.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Whose `alarms` section sets the limits.")
    ] = None,
    as_json: Json = False,
    fail: Annotated[bool, typer.Option("--fail", help="Exit 2 when an alarm rings.")] = False,
) -> None:
    """Do the codebooks still fit: drift of new items, growth of buckets, tombstones."""
    from sidar.config import load_config
    from sidar.pipeline.refresh import check

    cfg = load_config(config)
    found = check(where or cfg.run_dir, cfg.alarms)
    if as_json:
        typer.echo(json.dumps([alarm.as_dict() for alarm in found], indent=1))
    else:
        for alarm in found:
            value = "–" if alarm.value is None else f"{alarm.value:.3g}"
            chance = "" if alarm.p is None else f", p {alarm.p:.2g}"
            state = "RINGS" if alarm.rings else "quiet"
            typer.echo(
                f"{alarm.name:<11} {state}  {value} (limit {alarm.limit:g}{chance})  {alarm.says}"
            )
    if fail and any(alarm.rings for alarm in found):
        raise typer.Exit(2)


def compact(
    bundle: Annotated[Path, typer.Argument(help="A bundle with tombstones.")],
    out: Annotated[Path, typer.Argument(help="The bundle to write.")],
) -> None:
    """Leave the rows of retired items out; writes catalogue/rowmap.parquet (old row -> new row)."""
    from sidar.pipeline.compact import compact as run

    rows = run(bundle, out)
    typer.echo(
        f"{len(rows.new):,} rows -> {len(rows.old):,}; lineage {rows.before} -> {rows.after}. What "
        "holds rows of the old lineage (data, vectors, index, evaluation of its runs) is rebuilt "
        f"by `sidar run --from {out}`"
    )
    if (out / "answer").is_dir() and out.resolve().parent != bundle.resolve().parent:
        _say_where_the_key_is(bundle.parent)


def plan(
    bundle: Annotated[Path, typer.Argument(help="The bundle in service.")],
    target: Annotated[Path, typer.Argument(help=VERSION)],
    as_json: Json = False,
) -> None:
    """What it takes to serve other IDs: which parts stay, which are rebuilt, which are trained
    again.
    """
    from sidar.pipeline.migrate import lines, plan_migration

    found = plan_migration(bundle, target)
    typer.echo(
        json.dumps(found.as_dict(), indent=1, ensure_ascii=False)
        if as_json
        else "\n".join(lines(found))
    )


def _say_where_the_key_is(folder: Path) -> None:
    typer.echo(
        f"the key of its memory is in {folder}: copy memory.key beside the bundle, or set "
        "SIDAR_MEMORY_KEY"
    )


def _numbers(text: str | None) -> list[int] | None:
    try:
        return [int(part) for part in text.split(",")] if text else None
    except ValueError:
        raise ValueError(f"--sizes {text!r} is no list of numbers such as 256,256,256") from None


#: Name and function of each command, in the order of ``--help``.
COMMANDS: Commands = {
    "diff": diff,
    "import": import_,
    "export": export,
    "encode": encode,
    "alarms": alarms,
    "compact": compact,
    "plan": plan,
}
register(app, COMMANDS)
