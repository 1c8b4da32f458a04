"""Keep the result of a finished ``scripts/demo``: its table, what it cost, and its headline
figures.

    python benchmarks/demo.py demo [--name demo]

Nothing is computed twice: the table is recomputed from the run's per-query file and must agree
before anything is written. Quality figures of grounded and day-8 sets are on SIMULATED traffic. The
README's table is written from the same file; a test holds the two together.
"""

import argparse
import json
from pathlib import Path

from common import print_table, write_results

from sidar.artifacts import read_manifest
from sidar.evaluate.table import check_table

COLUMNS = (
    "item/ndcg@10",
    "item/recall@10",
    "item/recall@100",
    "item/mrr",
    "sid/recall@8",
    "sid/mrr",
    "invalid/mass",
)
README = Path(__file__).parent.parent / "README.md"
MARKS = ("<!-- demo table -->\n", "<!-- end of demo table -->")
SHOWN = (
    *("bm25", "dense", "bm25+dense", "bm25+dense+prior", "memory"),
    *(
        "sft",
        "raddpo",
        "raddpo+rerank",
        "bm25+dense+raddpo",
        "answer-without-lm",
        "answer",
        "topic oracle",
    ),
)
#: Columns of the README's table: (header, set, measure).
README_COLUMNS = (
    ("judged", "judged_test", "item/ndcg@10"),
    ("grounded", "grounded_test", "item/ndcg@10"),
    ("day 8: all", "day8-clicks", "item/ndcg@10"),
    ("seen", "day8-clicks/seen", "item/ndcg@10"),
    ("unseen", "day8-clicks/unseen", "item/ndcg@10"),
    ("judged R@100", "judged_test", "item/recall@100"),
    ("judged invalid mass", "judged_test", "invalid/mass"),
)
#: What the README says in words below the table: (a, b).
CLAIMED = (("answer", "memory"), ("answer", "answer-without-lm"), ("answer", "bm25+dense"))


def readme_table(results):
    """The README's table as Markdown, from ``results/demo.json``; ± is half the 95 % interval."""
    table = results["table"]
    columns = [column for column in README_COLUMNS if column[1] in table]
    sizes = ", ".join(
        (
            f"{facts['queries']} {name} "
            f"({'**real** judgments' if facts['origin'] == 'real' else '**simulated**'})"
        )
        for name, facts in table.items()
    )
    lines = [f"Item nDCG@10 and two more columns, ± half a 95 % interval. Queries: {sizes}.", ""]
    lines += [
        f"| | {' | '.join(header for header, _, _ in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for system in SHOWN:
        texts = []
        for _, name, measure in columns:
            cell = table[name]["systems"].get(system, {}).get(measure)
            texts.append(
                ""
                if cell is None
                else f"{cell['mean']:.3f} ± {(cell['high'] - cell['low']) / 2:.3f}"
            )
        if any(texts):
            lines.append(f"| {system} | {' | '.join(texts)} |")
    lines.append("")
    for a, b in CLAIMED:
        said = [
            f"{t['set']} {t['effect']:+.3f} ({t['low']:+.3f} to {t['high']:+.3f}; {t['verdict']})"
            for t in results["tests"]
            if (t["a"], t["b"], t["measure"]) == (a, b, "item/ndcg@10")
        ]
        if said:
            lines.append(f"- `{a}` − `{b}`, is it better? {'; '.join(said)}.")
    figures = results["figures"]
    note = f" ({results['note']})" if results.get("note") else ""
    cost = f"{figures['minutes']:.1f} minutes{note}, at most {figures['peak_rss_gb']:.1f} GB"
    lines += [
        "",
        f"One seed, {results['threads']} threads, {cost}; "
        "from `benchmarks/results/demo.json`, whole table in `benchmarks/results/demo.md`.",
    ]
    return "\n".join(lines) + "\n"


def write_readme(results):
    before, rest = README.read_text().split(MARKS[0])
    _, after = rest.split(MARKS[1])
    README.write_text(before + MARKS[0] + readme_table(results) + MARKS[1] + after)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="demo")
    parser.add_argument(
        "--note", default="", help="What else the time depended on; printed beside it."
    )
    arguments = parser.parse_args()
    run = arguments.folder / "runs" / arguments.name
    checked = check_table(run / "evaluate")
    scores = json.loads((run / "evaluate/scores.json").read_text())
    cost = json.loads((arguments.folder / f"{arguments.name}.json").read_text())
    figures = {
        "minutes": cost["seconds"] / 60,
        "peak_rss_gb": cost["peak_rss_gb"],
        "cells_checked": checked,
    }
    rows, table = [], {}
    for name, facts in scores["sets"].items():
        table[name] = {"origin": facts["origin"], "queries": facts["queries"], "systems": {}}
        for system, cells in facts["systems"].items():
            kept = {c: {k: round(v, 4) for k, v in cells[c].items()} for c in COLUMNS if c in cells}
            table[name]["systems"][system] = kept
            rows.append(
                [name, system, *(f"{kept[c]['mean']:.3f}" if c in kept else "" for c in COLUMNS)]
            )
    judged = table["judged_test"]["systems"]
    mean = {system: cells["item/recall@100"]["mean"] for system, cells in judged.items()}
    ndcg = {system: cells["item/ndcg@10"]["mean"] for system, cells in judged.items()}
    figures["judged_sft_minus_dense_recall100"] = mean["sft"] - mean["dense"]
    figures["judged_fused_sft_minus_fused_ndcg10"] = ndcg["bm25+dense+sft"] - ndcg["bm25+dense"]
    seconds = {
        stage.name: manifest.seconds
        for stage in sorted(run.iterdir())
        if (manifest := read_manifest(stage)) is not None
    }
    config = read_manifest(run / "sft").config | {
        "evaluate": read_manifest(run / "evaluate").config
    }
    here = f"{arguments.folder.resolve().parent}/"  # results name no machine's paths
    config = json.loads(json.dumps(config).replace(here, ""))
    path = write_results(
        arguments.name,
        config,
        figures,
        threads=2,
        note=arguments.note,
        stage_seconds=seconds,
        table=table,
        tests=scores["tests"],
    )
    (Path(__file__).parent / "results" / f"{arguments.name}.md").write_text(
        (run / "evaluate/table.md").read_text()
    )
    if arguments.name == "demo":
        write_readme(json.loads(path.read_text()))
    print_table(["set", "system", *COLUMNS], rows)
    print({key: round(value, 3) for key, value in figures.items()})


if __name__ == "__main__":
    main()
