"""A shop without a log, from its raw files to a filtered query: how long, and how good.

    python -m experiments.no_log FOLDER --work WORK

FOLDER holds Chorus's ``products-*.json.zip`` and ``ratings.csv`` (github.com/querqy/chorus; product
data from Icecat).  The YAML is the one of the docs, ``examples/chorus.yaml``, as it stands.  Each
stage runs in one fresh process with two threads, and its wall clock and CPU seconds are taken; the
process ends with a filtered query on a bundle opened anew.  Other work on the machine lengthens the
wall clock, so the CPU seconds stand beside it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments.common import ROOT, print_table, write_between, write_results

THREADS = 2
EXAMPLE = ROOT / "examples" / "chorus.yaml"
PAGE = ROOT / "docs" / "no-log.md"
MARKS = ("<!-- chorus table -->\n", "<!-- /chorus table -->")
TIMES = ("<!-- chorus times -->\n", "<!-- /chorus times -->")
YAML = ("<!-- chorus yaml -->\n", "<!-- /chorus yaml -->")
QUERY = "usb hub"
FILTER = 'price 10 TO 50 AND brand IN ["StarTech.com", "C2G"]'
STAGES = ("data", "embed", "sid", "sft", "index", "answer", "bundle", "evaluate")
SET = "rated"
MEASURES = {"item/ndcg@10": "ndcg", "item/rprec": "rprec", "item/recall@100": "recall"}
#: Rows of the page's table; the answer is compared with each of the others.
ROWS = {
    "bm25": "BM25, tuned on the tuning queries",
    "dense": "dense, zero-shot",
    "bm25+dense": "BM25 + dense, fused",
    "sft": "the model alone",
    "sft+rerank": "the model, reranked by dense",
    "bm25+dense+sft": "BM25 + dense + model, fused",
    "answer-without-lm": "the answer without the model",
    "answer": "**the answer, as served**",
}


def measure(config: Path, result: Path) -> None:
    """Run every stage, then a filtered query; write wall and CPU seconds. The child's part."""
    started, cpu = time.monotonic(), time.process_time()
    from sidar import Retriever, pipeline
    from sidar.config import load_config

    cfg = load_config(config)
    figures: dict[str, float] = {}
    for stage in STAGES:
        wall, used = time.monotonic(), time.process_time()
        pipeline.run(cfg, only=stage)
        figures[f"time/{stage}/wall"] = time.monotonic() - wall
        figures[f"time/{stage}/cpu"] = time.process_time() - used
    opened = time.monotonic()
    shop = Retriever.load(cfg.run_dir / "bundle")
    asked = time.monotonic()
    answer = shop.search(QUERY, k=10, filter=FILTER)
    figures["time/open/wall"] = asked - opened
    figures["time/query/wall"] = time.monotonic() - asked
    figures["time/all/wall"] = time.monotonic() - started
    figures["time/all/cpu"] = time.process_time() - cpu
    figures["query/hits"] = len(answer)
    if any(hit.price is None or not 10 <= hit.price <= 50 for hit in answer):
        raise AssertionError(f"the filter {FILTER} let another price through")
    result.write_text(json.dumps(figures))


def child(config: Path, result: Path) -> dict[str, float]:
    """Return what :func:`measure` takes in a fresh process of two threads."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS))
    call = [sys.executable, "-m", "experiments.no_log", "--measure", str(config), str(result)]
    subprocess.run(call, check=True, cwd=ROOT, env={**os.environ, **threads})
    return json.loads(result.read_text())


def qualities(run: Path, ratings: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the figures of a finished run: the rows, the answer against each, and what is rated
    among their first ten.
    """
    scores = json.loads((run / "evaluate" / "scores.json").read_text())
    found = scores["sets"][SET]
    sets = json.loads((run / "data" / "eval" / "sets.json").read_text())
    figures: dict[str, float] = {
        "items": scores["catalogue"]["items"],
        "sids": scores["sid_usage"]["sids"],
        "queries": found["queries"],
        "queries/without": found["without_relevant"],
        "queries/tuning": next(one["queries"] for one in sets if one["name"] == f"{SET}-tuning"),
    }
    for row in ROWS:
        for measure_, short in MEASURES.items():
            value = found["systems"][row][measure_]
            for part in ("mean", "low", "high"):
                figures[f"{row}/{short}/{part}"] = value[part]
        figures[f"{row}/rated@10"] = rated_share(run / "evaluate", row, ratings)
    for test in scores["tests"]:
        short = MEASURES.get(test["measure"])
        if test["a"] == "answer" and test["b"] in ROWS and short and test["set"] == SET:
            for part in ("effect", "low", "high", "p_holm", "detectable"):
                figures[f"answer-{test['b']}/{short}/{part}"] = test[part]
    return figures


def rated_share(folder: Path, row: str, ratings: dict[str, dict[str, float]]) -> float:
    """Return the share of a row's first ten items that somebody has rated for the query."""
    from urllib.parse import unquote

    rated = []
    for line in (folder / "runs" / f"{SET}.{row}.trec").read_text().splitlines():
        query, _, item, rank, *_ = line.split()
        if int(rank) <= 10:
            rated.append(item in ratings[unquote(query)])
    return sum(rated) / len(rated)


def read_ratings(path: Path) -> dict[str, dict[str, float]]:
    """Return ``{query: {item: rating}}`` of ``ratings.csv``."""
    ratings: dict[str, dict[str, float]] = {}
    with path.open(newline="") as file:
        for record in csv.DictReader(file):
            ratings.setdefault(record["query"], {})[record["docid"]] = float(record["rating"])
    return ratings


def share(value: float) -> str:
    """Write a share or an effect without the zero before the point."""
    return f"{value:.3f}".replace("0.", ".", 1)


def page_table(results: dict[str, Any]) -> str:
    """Return the table of docs/no-log.md."""
    figures = results["figures"]
    lines = [
        "| | nDCG@10 | R-precision | R@100 | rated in the top 10 | answer − row, nDCG@10 | "
        "smallest effect that could be seen |",
        "|---" * 7 + "|",
    ]
    for row, name in ROWS.items():
        values = [f"{share(figures[f'{row}/ndcg/mean'])} "]
        values[0] += f"({share(figures[f'{row}/ndcg/low'])}–{share(figures[f'{row}/ndcg/high'])})"
        values += [share(figures[f"{row}/{short}/mean"]) for short in ("rprec", "recall")]
        values.append(f"{figures[f'{row}/rated@10']:.0%}".replace("%", " %"))
        values += _against(figures, row)
        lines.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def _against(figures: dict[str, float], row: str) -> list[str]:
    """Return the two cells that compare the answer with ``row``; bold = holds after Holm."""
    key = f"answer-{row}/ndcg"
    if f"{key}/effect" not in figures:
        return ["", ""]
    effect, low, high = (figures[f"{key}/{part}"] for part in ("effect", "low", "high"))
    cell = f"{effect:+.3f} ({low:+.3f} to {high:+.3f})"
    if figures[f"{key}/p_holm"] < 0.05:
        cell = f"**{cell}**"
    return [cell, share(figures[f"{key}/detectable"])]


def page_times(results: dict[str, Any]) -> str:
    """Return the table of seconds of docs/no-log.md."""
    figures = results["figures"]
    names = [*STAGES, "all"]
    rows = [("wall clock, s", "wall"), ("CPU, s", "cpu")]
    lines = [
        "| | " + " | ".join(f"`{name}`" for name in STAGES) + " | all, with the first query |",
        "|---" * (len(names) + 1) + "|",
    ]
    for name, kind in rows:
        cells = [f"{figures[f'time/{stage}/{kind}']:,.0f}" for stage in names]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def quoted(results: dict[str, Any]) -> list[str]:
    """Return what the prose of docs/no-log.md says with figures."""
    figures = results["figures"]
    ndcg = {row: share(figures[f"{row}/ndcg/mean"]) for row in ROWS}
    deep = [figures[f"answer-bm25/recall/{part}"] for part in ("effect", "low", "high")]
    reported, tuning = figures["queries"], figures["queries/tuning"]
    return [
        f"{tuning} queries tune and {reported} are reported",
        f"{figures['queries/without']} of these have no good product",
        f"{figures['items']:,} products get {figures['sids']:,} Semantic IDs",
        f"{figures['time/all/wall'] / 60:.1f} minutes",
        f"{figures['time/all/cpu'] / 60:.1f} CPU minutes",
        f"nDCG@10 {ndcg['sft']} alone and {ndcg['sft+rerank']} reranked",
        f"dense search has {ndcg['dense']}, BM25 {ndcg['bm25']}",
        f"{share(figures['answer-bm25/ndcg/detectable'])} against BM25",
        f"{deep[0]:+.3f} ({deep[1]:+.3f} to {deep[2]:+.3f}",
    ]


def page_yaml() -> str:
    """Return the example's YAML as a block of the page."""
    return f"```yaml\n{EXAMPLE.read_text(encoding='utf-8')}```\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--measure", type=Path, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(*args.measure)
        return
    work = args.work
    work.mkdir(parents=True)
    for file in sorted(args.folder.iterdir()):
        (work / file.name).symlink_to(file.resolve())
    shutil.copyfile(EXAMPLE, work / "sidar.yaml")
    ratings = read_ratings(work / "ratings.csv")
    figures = child(work / "sidar.yaml", work / "times.json")
    figures |= qualities(work / "runs" / "chorus", ratings)
    print_table(["figure", "value"], [[name, value] for name, value in figures.items()])
    config = {"example": EXAMPLE.name, "query": QUERY, "filter": FILTER, "seed": 0}
    write_results("chorus", config, figures, threads=THREADS)
    kept = {"figures": figures}
    write_between(PAGE, MARKS, page_table(kept))
    write_between(PAGE, TIMES, page_times(kept))
    write_between(PAGE, YAML, page_yaml())


if __name__ == "__main__":
    main()
