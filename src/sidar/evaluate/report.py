"""``report.html``: one self-contained page with every number, its picture, and where it came from. No network."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

import sidar
from sidar.artifacts import read_manifest
from sidar.config import Config
from sidar.evaluate.charts import Series, legend, lines, mirrored_bars
from sidar.evaluate.report_sets import colours, set_section
from sidar.evaluate.table import read_scores
from sidar.types import PathLike

#: Training scalars that are shown first, where a log has them; the others are behind a click, but for these.
CURVES = {"loss": "Loss", "nll": "NLL of the positives", "recall@8": "Recall@8"}
NO_CURVE = {"kind", "step", "lr", "tokens_per_s", "seconds"}

WORDS = {
    "R@k (recall@k)": "Share of a query's relevant items (or SIDs) among the first k. Not the 0/1 hit rate: that "
    "one is in per_query.parquet as hit@k.",
    "nDCG@10": "Graded gains as judged, discount 1 / log2(rank + 1), against the best possible order.",
    "R-prec": "Precision at R, the query's own number of relevant items.",
    "Item level": "An item scores log π(SID) + log of its share of the SID's training clicks (decode.item_share). "
    "Every system is cut at the same depth.",
    "SID level": "A SID's grade is the highest of its items. Systems that rank items are read as the SIDs of those "
    "items in order of first appearance.",
    "topic oracle": "Knows which items were judged for the query and orders them at random: exact expected value. What "
    "lies above it is ranking, what lies below it is finding the topic.",
    "Intervals": "Percentile bootstrap over queries; requests of one query stay together.",
    "cannot tell here": "No verdict: a true effect as large as the one under detectable would show in four tests of "
    "five; smaller ones may hide.",
}


def write_html(folder: PathLike, run_dir: PathLike | None = None, cfg: Config | None = None) -> Path:
    """Write ``report.html`` into the evaluate folder ``folder`` from its ``scores.json``; returns the path.

    ``run_dir`` holds the other artefacts of the run (manifests, training logs, SID quality picture); parts that are
    not there are left out.
    """
    folder = Path(folder)
    scores = read_scores(folder)
    run = Path(run_dir) if run_dir is not None else None
    colour = colours(scores)
    sets = [set_section(scores, name, colour) for name in scores["sets"]]
    tree, training = _tree(scores, run), _training(run)
    origin = _provenance(scores, folder, run, cfg)
    links = [(f"set-{name}", name) for name in scores["sets"]]
    links += [("tree", "SID tree")] * bool(tree) + [("training", "Training")] * bool(training)
    links += [("origin", "Where the numbers come from"), ("words", "How to read")]
    title = f"{cfg.name if cfg else folder.resolve().parent.name}: evaluation"
    words = "".join(f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in WORDS.items())
    page = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)} · Sidar</title><style>{_css()}</style></head><body>",
        f'<header class="top"><h1>{escape(title)}</h1>{_head(scores, cfg)}',
        f"<nav>{''.join(f'<a href=#{escape(at, quote=True)}>{escape(text)}</a>' for at, text in links)}</nav></header>",
        f"<main>{''.join(sets)}{tree}{training}{origin}",
        f'<section id="words"><h2>How to read</h2><dl class="words">{words}</dl></section></main>',
        f"<footer>Sidar {escape(sidar.__version__)}. This page is one file and loads nothing.</footer></body></html>",
    ]
    path = folder / "report.html"
    path.write_text("\n".join(page), encoding="utf-8")
    return path


def _css() -> str:
    return resources.files("sidar.evaluate").joinpath("report.css").read_text(encoding="utf-8")


def _tiles(facts: Mapping[str, str]) -> str:
    cells = "".join(f"<div><span>{escape(name)}</span><b>{escape(value)}</b></div>" for name, value in facts.items())
    return f'<div class="facts">{cells}</div>'


def _head(scores: Mapping[str, Any], cfg: Config | None) -> str:
    """What, when, and the warning that belongs above everything."""
    simulated = [name for name, facts in scores["sets"].items() if facts["origin"] == "simulated"]
    lead = '<p class="soft">Query to product retrieval with Semantic IDs, beside lexical and dense baselines.</p>'
    if simulated:
        lead += (
            f'<p><span class="mark simulated">SIMULATED</span> {escape(", ".join(simulated))}: made by a simulator '
            "with known truth. They compare methods under stated conditions; they say nothing about real shoppers.</p>"
        )
    beams = scores["beams"]
    facts = {
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "items": f"{scores['catalogue']['items']:,}",
        "queries": f"{sum(facts['queries'] for facts in scores['sets'].values()):,}",
        "systems": str(len({s for facts in scores["sets"].values() for s in facts["systems"]})),
        "beams": str(beams["beam"]) if beams["wide"] is None else f"{beams['beam']} (wide: {beams['wide']})",
        "list depth": str(beams["depth"]),
        "bootstrap": f"{scores['bootstrap']:,}",
        "seed": str(scores["seed"]),
    }
    return lead + _tiles(facts)


def _tree(scores: Mapping[str, Any], run: Path | None) -> str:
    usage = scores.get("sid_usage")
    if not usage:
        return ""
    items, clicks = usage["first_level"]["items"], usage["first_level"]["clicks"]
    order = sorted(range(len(items)), key=lambda code: -items[code])
    facts = {
        "SIDs": f"{usage['sids']:,}",
        "items per SID": f"{usage['items_per_sid']['mean']:.2f}",
        "largest SID": f"{usage['items_per_sid']['max']:,} items",
    }
    for level, (size, used, live) in enumerate(
        zip(usage["codebook_sizes"], usage["codes_used"], usage["prefixes"], strict=True), start=1
    ):
        facts[f"level {level}"] = f"{used:,} of {size:,} codes · {live:,} prefixes"
    bars = mirrored_bars(
        [items[code] for code in order],
        [clicks[code] for code in order],
        up_label="share of items",
        down_label="share of training clicks",
    )
    caption = "First-level codes <span>largest first: items above, training clicks below</span>"
    out = [
        f'<section id="tree"><h2>The SID tree</h2>{_tiles(facts)}<div class="gap"><figure>'
        f"<figcaption>{caption}</figcaption>{bars}</figure></div>"
    ]
    picture = run / "sid" / "quality.png" if run else None
    if picture is not None and picture.is_file():
        data = base64.b64encode(picture.read_bytes()).decode()
        out.append(
            '<div class="gap"><figure><figcaption>Quality of the SID table <span>sid/quality.png</span>'
            f'</figcaption><img alt="SID quality" src="data:image/png;base64,{data}"></figure></div>'
        )
    return "".join(out) + "</section>"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Records of a ``log.jsonl``: kind, step, scalars. A half-written last line is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def _training(run: Path | None) -> str:
    """Curves of every training log of the run, SFT first: the main ones, then all other scalars behind a click."""
    logs = sorted(run.glob("*/log.jsonl"), key=lambda p: (p.parent.name != "sft", p.parent.name)) if run else []
    out = []
    for path in logs:
        records = read_log(path)
        names = dict.fromkeys(name for record in records for name in record if name not in NO_CURVE)
        main = [picture for name, title in CURVES.items() if (picture := _curve(records, name, title))]
        more = [picture for name in names if name not in CURVES and (picture := _curve(records, name, name))]
        if main:
            out.append(f'<h3>{escape(path.parent.name)}</h3><div class="pictures small">{"".join(main)}</div>')
        if more:
            pictures = f'<div class="pictures small">{"".join(more)}</div>'
            out.append(f"<details><summary>{len(more)} more scalars</summary>{pictures}</details>")
    return f'<section id="training"><h2>Training</h2>{"".join(out)}</section>' if out else ""


def _curve(records: list[dict[str, Any]], name: str, title: str) -> str:
    """The figure of one scalar over steps, training and validation apart; empty where no record has it."""
    series = []
    for i, kind in enumerate(("train", "valid")):
        found = [(r["step"], r[name]) for r in records if r.get("kind") == kind and name in r]
        points = [(x, y) for x, y in found if isinstance(y, int | float) and math.isfinite(y)]
        if points:
            series.append(Series(kind, [x for x, _ in points], [y for _, y in points], i))
    if not series:
        return ""
    svg = lines(series, x_label="step", y_label=name, size=(400, 220))
    keys = legend([(each.name, each.colour) for each in series])
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}{keys}</figure>"


def _provenance(scores: Mapping[str, Any], folder: Path, run: Path | None, cfg: Config | None) -> str:
    """One row per artefact: its hash, the hashes it was made from, when, how long; then the config."""
    rows = []
    for each in sorted(run.iterdir()) if run and run.is_dir() else []:
        manifest = read_manifest(each) if each.is_dir() and not each.name.startswith(".") else None
        if manifest is None or each.name == "evaluate":
            continue
        made_of = ", ".join(f"{name} {value[:8]}" for name, value in manifest.inputs.items())
        shapes = ", ".join(f"{k} {v}" for k, v in manifest.shapes.items() if isinstance(v, int | float | str))
        rows.append(
            f"<tr><th>{escape(each.name)}</th><td class='hash text'>{manifest.hash[:12]}</td>"
            f"<td class='hash text'>{escape(made_of)}</td><td class='text'>{escape(shapes[:90])}</td>"
            f"<td class='text'>{escape(manifest.created)}</td><td>{manifest.seconds:,.0f} s</td>"
            f"<td class='text'>{escape(manifest.code_version)}</td></tr>"
        )
    heads = "".join(
        f"<th class='text'>{text}</th>" for text in ("artefact", "hash", "made from", "holds", "when", "took", "code")
    )
    out = ['<section id="origin"><h2>Where the numbers come from</h2>']
    out.append(
        "<p>Every figure is a mean over <code>per_query.parquet</code> (set, system, measure, query, value) beside "
        "this page; <code>runs/</code> holds what each system returned, as TREC files. "
        "<code>sidar.evaluate.table.check_table</code> makes the table again from the values and compares.</p>"
    )
    out.append(f"<p class='soft'>Catalogue lineage <code>{escape(str(scores['catalogue']['lineage']))}</code>.</p>")
    if rows:
        out.append(
            f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        )
    if cfg is not None:
        text = yaml.safe_dump(cfg.resolved().model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        out.append(f"<details><summary>The whole config</summary><pre>{escape(text)}</pre></details>")
    return "".join(out) + "</section>"
