"""``sidar ab``: options in, outcome out. Heavy imports are inside the command."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidar.cli.base import console

if TYPE_CHECKING:
    from sidar.ab.result import Outcome
    from sidar.ab.users import Design
    from sidar.config import Config


def ab(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Overrides of the config, e.g. events.columns.bucket=arm"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", help="How to read the log; default: ./sidar.yaml."),
    ] = None,
    events: Annotated[
        list[str] | None,
        typer.Option(
            help="The log, or BUCKET=PATH once per bucket; default: events.path of the config."
        ),
    ] = None,
    buckets: Annotated[
        str | None, typer.Option(help="Buckets to compare, e.g. a,b; default: all of the log.")
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="The bucket to compare with; default: the first.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", help="First day of the experiment (UTC); what lies before serves CUPED."
        ),
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Last day of the experiment.")] = None,
    crossing: Annotated[
        str, typer.Option(help="Users in several buckets: drop, first (keep them there) or error.")
    ] = "drop",
    shares: Annotated[
        str | None, typer.Option(help="Planned sizes, e.g. a=50,b=50; default: equal.")
    ] = None,
    experiment: Annotated[
        str | None,
        typer.Option(
            help="Name whose hash draws buckets: checks the log's, or draws them where it has none."
        ),
    ] = None,
    lift: Annotated[
        str, typer.Option(help="The relative lift that matters, e.g. 0.34% or 0.0034.")
    ] = "1%",
    alpha: Annotated[float, typer.Option(help="Level of tests and intervals.")] = 0.05,
    power: Annotated[float, typer.Option(help="For the users needed.")] = 0.8,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only say how many users an experiment on this log needs."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of ab.json and ab.html; default: ab in the run's folder, or ab."),
    ] = None,
) -> None:
    """Compare the buckets of an online experiment: lifts with intervals, power, channels,
    interleaving.
    """
    from sidar.ab.events import LogFile, parse_file
    from sidar.ab.run import Question, analyse
    from sidar.ab.show import show

    cfg, folder = _config(config, events or [], overrides)
    sources = [parse_file(argument) for argument in events or []]
    design = _design(buckets, control, start, end, crossing, shares, experiment)
    question = Question(_share("--lift", lift), alpha, power)
    outcome = analyse(cfg, sources or [LogFile(cfg.events.path)], design, question, plan=plan)
    show(outcome, console())
    for path in _write(outcome, out or folder):
        typer.echo(f"wrote {path}")


def _config(
    path: Path | None, events: Sequence[str], overrides: list[str] | None
) -> tuple[Config, Path]:
    """Return the config and the default folder of the results.

    With ``--events`` alone there need be no file.
    """
    from sidar.config import load_config

    usual = Path("sidar.yaml")
    if path is None and not events and not usual.is_file():
        raise ValueError("name the log with --events PATH, or a config that names it with -c")
    path = path or (usual if usual.is_file() and not events else None)
    cfg = load_config(path, overrides)
    return cfg, cfg.run_dir / "ab" if path is not None else Path("ab")


def _design(
    buckets: str | None,
    control: str | None,
    start: str | None,
    end: str | None,
    crossing: str,
    shares: str | None,
    experiment: str | None,
) -> Design:
    """Return the design that the options describe; raises ``ValueError`` naming the option."""
    from sidar.ab.assign import check_shares
    from sidar.ab.users import Design, check_design

    names = tuple(name.strip() for name in (buckets or "").split(",") if name.strip())
    check_design(names, control or "")
    planned = _shares(shares) if shares else {}
    if planned:
        check_shares(planned)
    if experiment and not planned:
        raise ValueError("--experiment needs the sizes of its buckets, e.g. --shares a=50,b=50")
    if crossing not in ("drop", "first", "error"):
        raise ValueError(f"--crossing {crossing}: want drop, first or error")
    return Design(
        names=names,
        control=control or "",
        start=None if start is None else _moment("--from", start),
        end=None if end is None else _moment("--to", end, last=True),
        crossing=crossing,  # type: ignore[arg-type]  # checked above
        experiment=experiment or "",
        shares=planned,
    )


def _shares(written: str) -> dict[str, float]:
    """Return the shares in ``a=50,b=50``."""
    shares: dict[str, float] = {}
    for part in written.split(","):
        name, sep, value = part.strip().rpartition("=")
        try:
            shares[name] = float(value)
        except ValueError:
            sep = ""
        if not sep or not name:
            raise ValueError(f"--shares {written}: {part!r} is not bucket=share, e.g. a=50,b=50")
    return shares


def _share(option: str, written: str) -> float:
    """Return the share that ``0.34%`` or ``0.0034`` writes."""
    number, per_cent, _ = written.strip().partition("%")
    try:
        return float(number) / (100 if per_cent else 1)
    except ValueError:
        raise ValueError(f"{option} {written!r} is no share such as 0.34% or 0.0034") from None


def _moment(option: str, written: str, last: bool = False) -> int:
    """Return a date or an ISO time as µs UTC; ``last``: the end of that date."""
    try:
        if len(written.strip()) <= len("2026-11-01"):
            day = date.fromisoformat(written.strip()) + timedelta(days=int(last))
            moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
        else:
            moment = datetime.fromisoformat(written.strip())
            moment = moment.replace(tzinfo=moment.tzinfo or UTC)
    except ValueError:
        raise ValueError(
            f"{option} {written!r} is neither a date (2026-11-01) nor an ISO time"
        ) from None
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def _write(outcome: Outcome, folder: Path) -> list[Path]:
    """Write ``ab.json`` and ``ab.html`` into ``folder`` and return their paths."""
    from sidar.ab.page import html

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "ab.json", folder / "ab.html"]
    outcome.write_json(paths[0])
    title = "Users needed" if outcome.needs else "Online experiment"
    paths[1].write_text(html(outcome, title), encoding="utf-8")
    return paths
