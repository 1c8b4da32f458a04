"""``report.html``: one page with every number, its picture, and where it came from."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from sidar.artifacts import Manifest, read_manifest
from sidar.config import Config
from sidar.evaluate import report_sets
from sidar.evaluate.report_sets import headers, names, report_set, series_numbers
from sidar.evaluate.table import blocks, interval, number, read_scores
from sidar.pages import Line, Picture, bars_around_zero, lines, render
from sidar.types import Json, PathLike
from sidar.version import __version__

#: Training scalars that are shown first, where a log has them; the others are behind a click.
CURVES = {"loss": "Loss", "nll": "NLL of the positives", "recall@8": "Recall@8"}
#: Fields of a log that are no curves.
NO_CURVE = {"kind", "step", "lr", "tokens_per_s", "seconds"}

Record = Json


@dataclass(frozen=True)
class Training:
    """The curves of one training log: the main ones, and all others."""

    stage: str
    main: list[Picture]
    more: list[Picture]


@dataclass(frozen=True)
class Tree:
    """How the SIDs and their first codes are used; ``quality`` is a picture as base64."""

    facts: dict[str, str]
    first_codes: Picture
    quality: str


def write_html(
    folder: PathLike,
    run_dir: PathLike | None = None,
    cfg: Config | None = None,
) -> Path:
    """Write ``report.html`` into the evaluate folder ``folder`` from its ``scores.json``.

    ``run_dir`` holds the other artefacts of the run (manifests, training logs, SID quality
    picture); parts that are not there are left out. Returns the path.
    """
    folder = Path(folder)
    scores = read_scores(folder)
    run = Path(run_dir) if run_dir is not None else None
    colours = series_numbers(scores)
    name = cfg.name if cfg else folder.resolve().parent.name
    config = cfg.resolved().model_dump(mode="json") if cfg else None
    text = render(
        "evaluate/report.html",
        title=f"{name}: evaluation",
        scores=scores,
        facts=_facts(scores),
        simulated=[n for n, facts in scores["sets"].items() if facts["origin"] == "simulated"],
        sets=[report_set(scores, name, colours) for name in scores["sets"]],
        tree=_tree(scores, run),
        training=_training(run),
        artefacts=_artefacts(run),
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else "",
        blocks=blocks(scores),
        headers=headers(scores),
        names=names(scores),
        number=number,
        interval=interval,
        how=report_sets.how,
        holds=_holds,
        nan=math.nan,
        footer=f"Sidar {__version__}.",
    )
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def _facts(scores: Json) -> dict[str, str]:
    """Return what, when and how much."""
    beams, sets = scores["beams"], scores["sets"].values()
    beam = str(beams["beam"])
    if beams["wide"] is not None:
        beam += f" (wide: {beams['wide']})"
    systems = {system for facts in sets for system in facts["systems"]}
    return {
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "items": f"{scores['catalogue']['items']:,}",
        "queries": f"{sum(facts['queries'] for facts in sets):,}",
        "systems": str(len(systems)),
        "beams": beam,
        "list depth": str(beams["depth"]),
        "bootstrap": f"{scores['bootstrap']:,}",
        "seed": str(scores["seed"]),
    }


def _tree(scores: Json, run: Path | None) -> Tree | None:
    usage = scores.get("sid_usage")
    if not usage:
        return None
    facts = {
        "SIDs": f"{usage['sids']:,}",
        "items per SID": f"{usage['items_per_sid']['mean']:.2f}",
        "largest SID": f"{usage['items_per_sid']['max']:,} items",
    }
    levels = zip(usage["codebook_sizes"], usage["codes_used"], usage["prefixes"], strict=True)
    for level, (size, used, prefixes) in enumerate(levels, start=1):
        facts[f"level {level}"] = f"{used:,} of {size:,} codes · {prefixes:,} prefixes"
    items, clicks = (_shares(usage["first_level"][what]) for what in ("items", "clicks"))
    largest_first = sorted(range(len(items)), key=lambda code: -items[code])
    bars = bars_around_zero(
        "first-codes",
        "Shares of items and of training clicks by first code",
        [items[code] for code in largest_first],
        [clicks[code] for code in largest_first],
        labels=("share of items", "share of training clicks"),
    )
    picture = run / "sid" / "quality.png" if run else None
    has_picture = picture is not None and picture.is_file()
    quality = base64.b64encode(picture.read_bytes()).decode() if picture and has_picture else ""
    return Tree(facts, bars, quality)


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts) or 1.0
    return [count / total for count in counts]


def read_log(path: Path) -> list[Record]:
    """Return the records of a ``log.jsonl``; a half-written last line is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def _training(run: Path | None) -> list[Training]:
    """Return the curves of every training log of the run, SFT first."""
    paths = list(run.glob("*/log.jsonl")) if run else []
    logs = []
    for path in sorted(paths, key=lambda path: (path.parent.name != "sft", path.parent.name)):
        stage, records = path.parent.name, read_log(path)
        scalars = dict.fromkeys(key for record in records for key in record if key not in NO_CURVE)
        curves = {name: _curve(stage, records, name) for name in dict.fromkeys([*CURVES, *scalars])}
        main = [curve for name, curve in curves.items() if curve and name in CURVES]
        more = [curve for name, curve in curves.items() if curve and name not in CURVES]
        if main or more:
            logs.append(Training(stage, main, more))
    return logs


def _curve(stage: str, records: Sequence[Record], name: str) -> Picture | None:
    """Return the figure of one scalar over steps, training and validation apart."""
    series = []
    for colour, kind in enumerate(("train", "valid")):
        of_kind = [record for record in records if record.get("kind") == kind]
        points = {record["step"]: record[name] for record in of_kind if _is_finite(record, name)}
        if points:
            series.append(Line(kind, list(points), list(points.values()), colour))
    if not series:
        return None
    title = CURVES.get(name, name)
    return lines(
        f"{stage}-{name}",
        title,
        series,
        x_label="step",
        y_label=name,
        size=(4.0, 2.2),
    )


def _is_finite(record: Record, name: str) -> bool:
    value = record.get(name)
    return isinstance(value, int | float) and math.isfinite(value)


def _artefacts(run: Path | None) -> dict[str, Manifest]:
    """Return the manifests of the run's artefacts by folder."""
    if run is None or not run.is_dir():
        return {}
    folders = [path for path in sorted(run.iterdir()) if path.is_dir() and path.name[0] != "."]
    manifests = {path.name: read_manifest(path) for path in folders if path.name != "evaluate"}
    return {name: manifest for name, manifest in manifests.items() if manifest}


def _holds(manifest: Manifest) -> str:
    """Return the shapes of an artefact in a few words."""
    plain = {k: v for k, v in manifest.shapes.items() if isinstance(v, int | float | str)}
    return ", ".join(f"{key} {value}" for key, value in plain.items())[:90]
