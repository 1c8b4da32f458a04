"""The learned ranker beside the smoothed memory and each of its inputs, on the demo's sets.

    python -m experiments.ranker.ranker --work /var/tmp/sidar-ranker

The log is SIMULATED; judged_test is real. Once: the SFT of the training days and one of days 1 to 5
(models.py), the tables of day 6 and of day 7 with the features of their beams. Per seed: the row
`ranker`, learnt on the smoothed answer, and `ranker-alone`, which orders by itself; both choose on
day 7, and day 8, the judged and the grounded queries are scored. One language model serves all
seeds of the ranker. `--without-model` is the same without a language model in any row.
Rule and expected signs stand in ranker.yaml, written before the first run that read a test set.
Resumable by seed; `--only 0,1` runs some, `--choose` stops before any test set is read, `--page`
aggregates what there is.

Writes results/ranker.json: figures `<a>_minus_<b>_<set>` with `_low`, `_high`, `_p_holm`,
`_detectable`; those of the run without a model begin with `bare/`. Intervals and tests draw queries
with all their seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments import common

common.single_thread()

import numpy as np
import yaml

from experiments.ranker import models, rows
from experiments.start.start import make_bed
from sidar.data.cleaning.normalise import normalise_query
from sidar.evaluate.measures.metrics import score_ranking
from sidar.evaluate.measures.truth import Truth
from sidar.evaluate.stats import holm, paired_tests, verdict
from sidar.types import EvalSet

HERE = Path(__file__).parent
MEASURES = ("ndcg@10", "mrr")
SEEDS = (0, 1, 2, 3, 4)
RANKERS = ("ranker", "ranker-alone")
#: Rows that the ranker is held against: the other answer, and its inputs.
INPUTS = ("answer", "bm25", "dense", "sft", "memory", "prior")
DEPTH = 100


def pairs(bare: bool) -> list[tuple[str, str]]:
    """The comparisons of a run with or without a language model."""
    inputs = [name for name in INPUTS if not (bare and name == "sft")]
    return [
        *(("ranker", name) for name in inputs),
        ("ranker", "ranker-alone"),
        *(("ranker-alone", name) for name in inputs),
        *(("answer", name) for name in inputs if name != "answer"),
    ]


def names(bare: bool) -> list[str]:
    """The rows of a run."""
    return sorted({name for pair in pairs(bare) for name in pair})


def cells(args: argparse.Namespace, bare: bool) -> Path:
    """Return where the scored seeds of a run lie."""
    return args.work / "cells" / ("bare" if bare else f"model-{args.lm_seed}-{args.steps}")


def score(bed: Any, args: argparse.Namespace, scene: rows.Scene, seed: int) -> None:
    """Fit and choose the rankers of a seed; score every row and leave ``cells/…/seed-<n>/``."""
    out = cells(args, args.without_model) / f"seed-{seed}"
    if (out / "done.json").is_file():
        return
    started = time.process_time()
    made = {name: rows.fitted(scene, seed, name) for name in RANKERS}
    for name, (_, said) in made.items():
        day7 = said["day7"]
        print(f"seed {seed}, {name}: day 7 {json.dumps(day7)}", flush=True)
    if args.choose:
        return
    systems = rows.rows_of(scene, {name: folder for name, (folder, _) in made.items()})
    values: dict[str, np.ndarray] = {}
    for each in bed.sets["test"]:
        truth = Truth.of_catalogue(each.qrels, each.query_ids, bed.catalogue, 1.0)
        for name in names(args.without_model):
            hits = systems[name].hits(each.prompts, DEPTH)
            found = score_ranking(truth, hits.rows, MEASURES)
            values[f"{each.name}/{name}"] = np.stack([found[m] for m in MEASURES], 1)
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / "values.npz", **values)
    done = {"cpu_seconds": round(time.process_time() - started, 1)}
    done |= {name: said for name, (_, said) in made.items()}
    (out / "done.json").write_text(json.dumps(done, indent=1) + "\n")
    print(f"seed {seed}: scored, {done['cpu_seconds']:.0f} CPU s", flush=True)


# ---------------------------------------------------------------------- the results file


def parts_of(bed: Any) -> dict[str, tuple[EvalSet, np.ndarray]]:
    """{name: (set, places of its queries)}: the test sets, and seen and unseen clicked queries."""
    from sidar.data import open_dataset

    known = {
        normalise_query(one.prompt.query)
        for split in ("train", "valid")
        for one in open_dataset(bed.run / "data").requests(split)
        if max(one.actions, default=0) > 0
    }
    found = {}
    for each in bed.sets["test"]:
        name = "clicks" if each.name == "day8-clicks" else each.name
        found[name] = (each, np.arange(len(each)))
        if name == "clicks":
            seen = np.array([normalise_query(one.query) in known for one in each.prompts])
            found["clicks/seen"] = (each, np.flatnonzero(seen))
            found["clicks/unseen"] = (each, np.flatnonzero(~seen))
    return found


def compared(
    bed: Any, args: argparse.Namespace, bare: bool
) -> tuple[dict[str, float], list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Figures, tests, means and facts of the finished seeds of a run; all empty without any."""
    place = cells(args, bare)
    found = {s: place / f"seed-{s}" for s in SEEDS if (place / f"seed-{s}/done.json").is_file()}
    if not found:
        return {}, [], {}, {}
    values = {s: dict(np.load(cell / "values.npz")) for s, cell in found.items()}
    facts = {str(s): json.loads((cell / "done.json").read_text()) for s, cell in found.items()}
    figures: dict[str, float] = {"seeds": len(found)}
    tests: list[dict[str, Any]] = []
    means: dict[str, dict[str, dict[str, float]]] = {}
    for part, (each, at) in parts_of(bed).items():
        asked = [normalise_query(each.prompts[q].query) for q in at]
        labels = np.tile(np.unique(np.array(asked), return_inverse=True)[1], len(found))

        def of(name: str, m: int, each: EvalSet = each, at: np.ndarray = at) -> np.ndarray:
            return np.concatenate([one[f"{each.name}/{name}"][at, m] for one in values.values()])

        means[part] = {
            name: {m: float(of(name, i).mean()) for i, m in enumerate(MEASURES)}
            for name in names(bare)
        }
        keys = [(a, b, i) for a, b in pairs(bare) for i in range(len(MEASURES))]
        apart = np.stack([of(a, i) - of(b, i) for a, b, i in keys], 1)
        results = paired_tests(apart, labels, 0, samples=2000)
        adjusted = holm([test.p for test in results])
        for (a, b, i), test, p in zip(keys, results, adjusted, strict=True):
            name = f"{a}_minus_{b}_{part}" + ("" if i == 0 else f"_{MEASURES[i]}")
            figures |= {name: test.effect, f"{name}_low": test.low, f"{name}_high": test.high}
            figures |= {f"{name}_p_holm": float(p), f"{name}_detectable": test.detectable}
            one = {"set": part, "a": a, "b": b, "measure": MEASURES[i], "effect": test.effect}
            one |= {"low": test.low, "high": test.high, "p_holm": float(p)}
            one |= {"detectable": test.detectable, "verdict": verdict(test, float(p))}
            tests.append({**one, "queries": test.clusters, "n": test.n})
    below = below_inputs(tests, "ranker")
    figures["inputs_significantly_above_the_ranker"] = len(below)
    return figures, tests, means, {"below": below, "cells": facts}


def below_inputs(tests: list[dict[str, Any]], row: str) -> list[str]:
    """Return where ``row`` is significantly below one of its inputs in nDCG@10."""
    return [
        f"{t['set']}: {t['b']} by {-t['effect']:.4f}"
        for t in tests
        if t["a"] == row and t["b"] in INPUTS and t["measure"] == MEASURES[0]
        if t["p_holm"] < 0.05 and t["effect"] < 0
    ]


def aggregate(bed: Any, args: argparse.Namespace) -> None:
    """Write results/ranker.json and the tables of docs/ranker.md from the finished seeds."""
    figures: dict[str, float] = {}
    more: dict[str, Any] = {}
    for bare in (False, True):
        of_run, tests, means, facts = compared(bed, args, bare)
        if not of_run:
            continue
        prefix = "bare/" if bare else ""
        figures |= {prefix + key: value for key, value in of_run.items()}
        about = {"means": means, "tests": tests, **facts}
        more |= {"bare": about} if bare else about
        shown = [t for t in tests if t["measure"] == MEASURES[0]]
        columns = ("set", "a", "b", "effect", "low", "high", "p_holm", "detectable", "verdict")
        common.print_table(list(columns), [[t[c] for c in columns] for t in shown], "item nDCG@10")
    if not figures:
        print("no seed is finished yet")
        return
    config = {
        "registered": yaml.safe_load((HERE / "ranker.yaml").read_text()),
        "steps": args.steps,
        "lm_seed": args.lm_seed,
        "queries": args.queries,
        "origin": "SIMULATED traffic, preset demo; judged_test is real",
    }
    kept = json.loads(common.write_results("ranker", config, figures, **more).read_text())
    common.write_between(common.ROOT / "docs" / "ranker.md", MARKS, page_table(kept))


MARKS = ("<!-- ranker table -->\n", "<!-- /ranker table -->")
WORDS = {"answer": "smoothed memory", "sft": "model", "ranker-alone": "ranker alone"}
TITLES = ("With the language model as a channel:", "Without a language model in any row:")


def page_table(kept: dict[str, Any]) -> str:
    """The tables of docs/ranker.md: item nDCG@10, effect and 95 % interval, bold after Holm."""
    lines: list[str] = []
    for bare, about in ((False, kept), (True, kept.get("bare", {}))):
        if about.get("means"):
            prefix = "bare/" if bare else ""
            lines += ["", TITLES[bare], "", *table_lines(kept["figures"], prefix, about["means"])]
    lines += ["", "From `experiments/results/ranker.json` (`python -m experiments.ranker.ranker`)."]
    return "\n".join(lines[1:]) + "\n"


def table_lines(figures: dict[str, float], prefix: str, sets: Iterable[str]) -> list[str]:
    """The lines of one table; ``prefix`` of its figures."""
    sets, bare = list(sets), bool(prefix)

    def line(a: str, b: str) -> str:
        found = []
        for part in sets:
            key = f"{prefix}{a}_minus_{b}_{part}"
            effect, low, high = figures[key], figures[f"{key}_low"], figures[f"{key}_high"]
            text = f"{effect:+.3f} ({low:+.3f} to {high:+.3f})"
            found.append(f"**{text}**" if figures[f"{key}_p_holm"] < 0.05 else text)
        return f"| {WORDS.get(a, a)} − {WORDS.get(b, b)} | {' | '.join(found)} |"

    seen = [f"{figures[f'{prefix}ranker_minus_answer_{part}_detectable']:.3f}" for part in sets]
    lines = [f"| | {' | '.join(sets)} |", "|---" * (len(sets) + 1) + "|"]
    lines += [line(a, b) for a, b in pairs(bare) if a == "ranker"]
    lines.append(f"| detectable beside the smoothed memory | {' | '.join(seen)} |")
    lines.append(line("ranker-alone", "answer"))
    lines += [line(a, b) for a, b in pairs(bare) if a == "answer"]
    return [*lines, "", f"{int(figures[f'{prefix}seeds'])} seeds of the ranker."]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "sidar-ranker")
    parser.add_argument("--queries", type=int, default=1000, help="test queries of each set")
    parser.add_argument("--steps", type=int, default=models.STEPS, help="of each language model")
    parser.add_argument("--lm-seed", type=int, default=0, help="of the language models")
    parser.add_argument(
        "--without-model", action="store_true", help="every row over BM25, dense and counts"
    )
    parser.add_argument("--choose", action="store_true", help="read no test set")
    parser.add_argument("--only", default="", help="seeds, comma-separated; default: all")
    parser.add_argument("--page", action="store_true", help="aggregate and run nothing")
    args = parser.parse_args()
    args.work = args.work.resolve()
    bed = make_bed("demo", argparse.Namespace(work=args.work, queries=args.queries))
    if not args.page:
        steps = 0 if args.without_model else args.steps
        scene = rows.make_scene(bed, args.work, args.lm_seed, steps)
        for seed in [int(seed) for seed in args.only.split(",") if seed] or SEEDS:
            score(bed, args, scene, seed)
    if not args.choose:
        aggregate(bed, args)


if __name__ == "__main__":
    main()
