"""The learned ranker beside the smoothed memory and each of its inputs, on the demo's sets.

    python -m experiments.start.start --beds demo          # makes the bed and its models, once
    python -m experiments.ranker.ranker --start <its --work> --work /var/tmp/sidar-ranker

The log is SIMULATED; judged_test is real. Per seed: a second SFT on days 1 to 5 (`--aux-steps`),
the ranker on day 6 with its beams, chosen on day 7 with the SFT model of the seed, day 8 and the
judged and grounded queries scored. The same without the features of beams is the row
`ranker-no-beams`; with `--aux-steps 0` there is no second SFT, and `ranker` is without those
features; with `--without-model` no row has a language model, which takes two minutes a seed.
Expected signs stand in ranker.yaml. Resumable by seed; `--only 0,1` runs some,
`--page` aggregates what there is. A seed without a model of its own is left out, and the result
says so.

Writes results/ranker.json: figures `<a>_minus_<b>_<set>` with `_low`, `_high`, `_p_holm`,
`_detectable`. Intervals and tests draw queries with all their seeds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments import common

common.single_thread()

import numpy as np
import yaml

from experiments.start.start import Cell, make_bed
from sidar.answer.smoothed import SmoothedMemory
from sidar.config import Config
from sidar.data.cleaning.normalise import normalise_query
from sidar.evaluate.measures.metrics import score_ranking
from sidar.evaluate.measures.truth import Truth
from sidar.evaluate.stats import holm, paired_tests, verdict
from sidar.pipeline import stages
from sidar.pipeline.runtime import folders
from sidar.types import EvalSet

HERE = Path(__file__).parent
WORK = Path(tempfile.gettempdir()) / "sidar-ranker"
MEASURES = ("ndcg@10", "mrr")
MINUTES = 10.0
SEEDS = (0, 1, 2, 3, 4)
#: Rows that the ranker is held against: the other answer, and its inputs.
INPUTS = ("bm25", "dense", "sft", "memory", "prior")
PAIRS = (
    ("ranker", "answer"),
    *(("ranker", name) for name in INPUTS),
    ("ranker", "ranker-no-beams"),
    ("ranker-no-beams", "answer"),
    ("answer", "memory"),
)
DEPTH = 100


def pairs(args: argparse.Namespace) -> list[tuple[str, str]]:
    """The comparisons of a run; without a second SFT there is one ranker."""
    if args.without_model:
        bare = [("ranker", name) for name in ("answer-without-lm", *INPUTS) if name != "sft"]
        return [*bare, ("answer-without-lm", "memory")]
    return [pair for pair in PAIRS if args.aux_steps or "ranker-no-beams" not in pair]


def run_config(bed: Any, seed: int, work: Path, aux_steps: int) -> Config:
    """The config of a seed's run; its model is SFT alone."""
    cfg = bed.configured("default", seed)
    update = {
        "runs": str(work / "runs"),
        "name": f"seed-{seed}",
        "align": cfg.align.model_copy(update={"objective": "sft", "label": "sft"}),
        "ranker": cfg.ranker.model_copy(update={"enabled": True, "sft_steps": aux_steps}),
    }
    return cfg.model_copy(update=update)


def made(name: str, make: Any, cfg: Config, inputs: dict[str, Path], run: Path) -> dict[str, Any]:
    """Run a stage unless its folder stands; return its report."""
    kept = run / f"{name}.json"
    if not kept.is_file():
        tmp = run / f".{name}.tmp"
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir()
        started = time.process_time()
        report = make(cfg, inputs, tmp, run / f".{name}.work")
        shutil.rmtree(run / name, ignore_errors=True)
        tmp.rename(run / name)
        cost = round(time.process_time() - started, 1)
        kept.write_text(json.dumps({"summary": report["summary"], "cpu_seconds": cost}) + "\n")
        print(f"{run.name}: {name}, {cost:.0f} CPU s: {report['summary']}", flush=True)
    return json.loads(kept.read_text())


def run_folder(bed: Any, cfg: Config, model: Path) -> tuple[Path, dict[str, Any]]:
    """A run as the pipeline leaves it, around the model of a seed, and what its stages said."""
    run = cfg.run_dir
    run.mkdir(parents=True, exist_ok=True)
    parts = {name: bed.run / name for name in ("data", "embed", "sid", "index")}
    for name, source in {**parts, "sft": model, cfg.align.folder: model}.items():
        if not (run / name).exists():
            (run / name).symlink_to(source, target_is_directory=True)
    base = (*parts, "sft", cfg.align.folder)
    said = {"ranker": made("ranker", stages.ranker, cfg, folders(run, base), run)}
    inputs = folders(run, (*base, "ranker"))
    said["answer"] = made("answer", stages.answer, cfg, inputs, run)
    if not cfg.ranker.sft_steps:
        return run, said
    plain = cfg.model_copy(update={"ranker": cfg.ranker.model_copy(update={"sft_steps": 0})})
    said["ranker-no-beams"] = made("ranker-no-beams", stages.ranker, plain, inputs, run)
    return run, said


def rows_of(bed: Any, cfg: Config, run: Path) -> dict[str, Any]:
    """The rows of a seed, by name."""
    from sidar.answer.memory import Memory
    from sidar.baselines import Bm25
    from sidar.data import open_dataset
    from sidar.embed import load_embedder
    from sidar.pipeline.rows.answer_log import run_key
    from sidar.pipeline.rows.answer_rows import answer_rows
    from sidar.pipeline.rows.ranked_row import RankerSystem, open_ranked
    from sidar.pipeline.rows.systems import RunParts, baseline_rows, generative_rows, tune_reranking

    inputs = folders(run, ("data", "embed", "sid", "index", "sft", "answer"))
    parts = RunParts(cfg, inputs)
    systems = baseline_rows(parts, parts.channel_inputs(bed.sets["valid"]))
    systems |= generative_rows(parts, [("sft", run / "sft" / "model")])
    dataset, embedder = open_dataset(run / "data"), load_embedder(cfg.embed, "cpu")
    answers = answer_rows(cfg, inputs, systems, embedder, dataset.priors(), run / ".rows")
    tune_reranking(systems, answers, bed.sets["valid"], parts)
    rows = {**systems, **answers.systems}
    # the channels of the answer are those of both rankers
    channels = rows["ranker"]._channels
    if cfg.ranker.sft_steps:
        secret = run_key(cfg)
        memory, lexical = Memory.load(run / "answer"), Bm25.load(run / "answer")
        ranked = open_ranked(run / "ranker-no-beams", inputs, dataset, lexical, memory, secret)
        rows["ranker-no-beams"] = RankerSystem(channels, ranked, embedder)
    # an input is what the ranker is given, so BM25 is the answer's
    rows["bm25"] = channels["bm25"]
    return rows


def score(bed: Any, args: argparse.Namespace, seed: int) -> None:
    """Score every row of a seed and leave ``cells/seed-<n>/``."""
    out = args.work / "cells" / f"seed-{seed}"
    if (out / "done.json").is_file():
        return
    if args.without_model:
        return score_without_model(bed, args, seed, out)
    model = Cell("demo", "default", seed, MINUTES).folder(args.start) / "sft"
    if not (model / "model").is_dir():
        print(f"seed {seed}: {model} has no model; run experiments.start.start first", flush=True)
        return
    started = time.process_time()
    cfg = run_config(bed, seed, args.work, args.aux_steps)
    run, said = run_folder(bed, cfg, model)
    rows = rows_of(bed, cfg, run)
    write_values(bed, args, rows, out)
    facts = json.loads((run / "answer" / "answer.json").read_text())
    done: dict[str, Any] = {
        "cpu_seconds": round(time.process_time() - started, 1),
        "stages": said,
        "day7": facts["ranker"],
        "fuse": facts["fuse"],
    }
    for folder in ("ranker", "ranker-no-beams")[: len(said) - 1]:
        about = json.loads((run / folder / "ranker-answer.json").read_text())
        kept = ("valid_ndcg@10", "rounds", "gain", "requests", "debias")
        done[folder] = {"learner": about["learner"]}
        done[folder] |= {name: about["facts"].get(name) for name in kept}
        done[folder]["diagnosis"] = json.loads((run / folder / "diagnosis.json").read_text())
    (out / "done.json").write_text(json.dumps(done, indent=1) + "\n")
    print(f"seed {seed}: scored, {done['cpu_seconds']:.0f} CPU s", flush=True)


def write_values(bed: Any, args: argparse.Namespace, rows: dict[str, Any], out: Path) -> None:
    """Score the rows that are compared on every test set, query by query."""
    values: dict[str, np.ndarray] = {}
    for each in bed.sets["test"]:
        truth = Truth.of_catalogue(each.qrels, each.query_ids, bed.catalogue, 1.0)
        for name in sorted({name for pair in pairs(args) for name in pair}):
            hits = rows[name].hits(each.prompts, DEPTH)
            found = score_ranking(truth, hits.rows, MEASURES)
            values[f"{each.name}/{name}"] = np.stack([found[m] for m in MEASURES], 1)
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / "values.npz", **values)


def score_without_model(bed: Any, args: argparse.Namespace, seed: int, out: Path) -> None:
    """Score ranker and smoothed memory of a seed over BM25, dense and counts alone."""
    from sidar.data import open_dataset
    from sidar.pipeline.rows.answer_log import read_log, run_key
    from sidar.pipeline.rows.answer_rows import AnswerSystem, CandidatePrior, MemorySystem
    from sidar.pipeline.rows.answering import fit
    from sidar.pipeline.rows.memory_row import MemoryFirst, fit_memory_row
    from sidar.pipeline.rows.ranked_row import RankerSystem, open_ranked
    from sidar.pipeline.rows.ranking import RankerParts

    started = time.process_time()
    cfg = run_config(bed, seed, args.work, 0)
    run = cfg.run_dir
    run.mkdir(parents=True, exist_ok=True)
    for name in ("data", "embed", "sid", "index"):
        if not (run / name).exists():
            (run / name).symlink_to(bed.run / name, target_is_directory=True)
    inputs = folders(run, ("data", "embed", "sid", "index"))
    said = {"ranker": made("ranker", stages.ranker, cfg, inputs, run)}
    dataset = open_dataset(run / "data")
    log = read_log(cfg, run / "data", run_key(cfg), run / ".log")
    parts = RankerParts(cfg, inputs, dataset, log)
    clicks, alive = dataset.priors().clicks, bed.catalogue.alive
    fitted = fit(log, parts.base, clicks, alive)
    prior = CandidatePrior(dataset.priors().prior, list(parts.base.values()))
    asked = [channel.hits(log.asked.prompts, 500) for channel in parts.base.values()]
    chosen = fit_memory_row(log, [*asked, prior.over(asked)], bed.catalogue)
    table = MemoryFirst(log.memory, log.secret, alive, chosen.half_life)
    smoothed = SmoothedMemory(fitted.params, clicks, alive, log.memory, log.secret)
    ranked = open_ranked(run / "ranker", inputs, dataset, parts.lexical, log.memory, log.secret)
    rows = {
        **parts.base,
        "prior": prior,
        "memory": MemorySystem(table, [*parts.base.values(), prior], chosen.fusion),
        "answer-without-lm": AnswerSystem("answer-without-lm", parts.base, smoothed),
        "ranker": RankerSystem(parts.base, ranked, parts.embedder),
    }
    write_values(bed, args, rows, out)
    about = json.loads((run / "ranker" / "ranker-answer.json").read_text())
    diagnosis = json.loads((run / "ranker" / "diagnosis.json").read_text())
    done = {
        "cpu_seconds": round(time.process_time() - started, 1),
        "stages": said,
        "ranker": {"learner": about["learner"], "facts": about["facts"], "diagnosis": diagnosis},
    }
    done["ranker"]["facts"].pop("embed")
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


def aggregate(bed: Any, args: argparse.Namespace) -> None:
    """Write results/ranker.json and the table of docs/ranker.md from the finished seeds."""
    seeds = [s for s in SEEDS if (args.work / "cells" / f"seed-{s}" / "done.json").is_file()]
    if not seeds:
        print("no seed is finished yet")
        return
    cells = {s: args.work / "cells" / f"seed-{s}" for s in seeds}
    values = {s: dict(np.load(cell / "values.npz")) for s, cell in cells.items()}
    facts = {str(s): json.loads((cell / "done.json").read_text()) for s, cell in cells.items()}
    figures: dict[str, float] = {"seeds": len(seeds)}
    tests: list[dict[str, Any]] = []
    means: dict[str, dict[str, dict[str, float]]] = {}
    for part, (each, at) in parts_of(bed).items():
        asked = [normalise_query(each.prompts[q].query) for q in at]
        labels = np.tile(np.unique(np.array(asked), return_inverse=True)[1], len(seeds))

        def of(name: str, m: int, each: EvalSet = each, at: np.ndarray = at) -> np.ndarray:
            return np.concatenate([values[s][f"{each.name}/{name}"][at, m] for s in seeds])

        rows = sorted({name for pair in pairs(args) for name in pair})
        means[part] = {
            name: {m: float(of(name, i).mean()) for i, m in enumerate(MEASURES)} for name in rows
        }
        keys = [(a, b, i) for a, b in pairs(args) for i in range(len(MEASURES))]
        apart = np.stack([of(a, i) - of(b, i) for a, b, i in keys], 1)
        found = paired_tests(apart, labels, 0, samples=2000)
        adjusted = holm([test.p for test in found])
        for (a, b, i), test, p in zip(keys, found, adjusted, strict=True):
            name = f"{a}_minus_{b}_{part}" + ("" if i == 0 else f"_{MEASURES[i]}")
            figures |= {name: test.effect, f"{name}_low": test.low, f"{name}_high": test.high}
            figures |= {f"{name}_p_holm": float(p), f"{name}_detectable": test.detectable}
            tests.append(
                {
                    "set": part,
                    "a": a,
                    "b": b,
                    "measure": MEASURES[i],
                    "effect": test.effect,
                    "low": test.low,
                    "high": test.high,
                    "p_holm": float(p),
                    "detectable": test.detectable,
                    "verdict": verdict(test, float(p)),
                    "queries": test.clusters,
                    "n": test.n,
                }
            )
    below = [
        f"{t['set']}: {t['b']} by {-t['effect']:.4f}"
        for t in tests
        if t["a"] == "ranker"
        and t["b"] in INPUTS
        and t["measure"] == "ndcg@10"
        and t["p_holm"] < 0.05
        and t["effect"] < 0
    ]
    figures["inputs_significantly_above_the_ranker"] = len(below)
    common.write_results(
        "ranker",
        {
            "expected": yaml.safe_load((HERE / "ranker.yaml").read_text()),
            "aux_steps": args.aux_steps,
            "without_model": args.without_model,
            "queries": args.queries,
            "origin": "SIMULATED traffic, preset demo; judged_test is real",
        },
        figures,
        means=means,
        tests=tests,
        below=below,
        seeds_not_run=[s for s in SEEDS if s not in seeds],
        cells=facts,
    )
    page = common.ROOT / "docs" / "ranker.md"
    common.write_between(page, MARKS, page_table(figures, means, args))
    shown = [t for t in tests if t["measure"] == "ndcg@10"]
    columns = ("set", "a", "b", "effect", "low", "high", "p_holm", "detectable", "verdict")
    common.print_table(list(columns), [[t[c] for c in columns] for t in shown], "item nDCG@10")


MARKS = ("<!-- ranker table -->\n", "<!-- /ranker table -->")


def page_table(figures: dict[str, float], means: dict[str, Any], args: argparse.Namespace) -> str:
    """The table of docs/ranker.md: item nDCG@10, effect and 95 % interval, bold after Holm."""
    sets = list(means)
    lines = [f"| ranker − | {' | '.join(sets)} |", "|---" * (len(sets) + 1) + "|"]
    words = {
        "answer": "smoothed memory",
        "answer-without-lm": "smoothed memory",
        "sft": "model",
        "ranker-no-beams": "without beams",
    }
    for a, b in pairs(args):
        if a != "ranker":
            continue
        cells = []
        for part in sets:
            key = f"{a}_minus_{b}_{part}"
            effect, low, high = figures[key], figures[f"{key}_low"], figures[f"{key}_high"]
            text = f"{effect:+.3f} ({low:+.3f} to {high:+.3f})"
            cells.append(f"**{text}**" if figures[f"{key}_p_holm"] < 0.05 else text)
        lines.append(f"| {words.get(b, b)} | {' | '.join(cells)} |")
    other = pairs(args)[0][1]
    seen = [f"{figures[f'ranker_minus_{other}_{part}_detectable']:.3f}" for part in sets]
    lines.append(f"| detectable, beside the smoothed memory | {' | '.join(seen)} |")
    if args.without_model:
        lines += ["", "Without a language model: neither row has its channel."]
    elif not args.aux_steps:
        lines += ["", "The ranker is without the features of beams (`ranker.sft_steps: 0`)."]
    lines += [
        "",
        f"{int(figures['seeds'])} seed(s); from `experiments/results/ranker.json` (`python "
        "-m experiments.ranker.ranker`).",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    temporary = Path(tempfile.gettempdir())
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--start", type=Path, default=temporary / "sidar-start")
    parser.add_argument("--queries", type=int, default=1000, help="test queries of each set")
    parser.add_argument("--aux-steps", type=int, default=150, help="steps of the second SFT")
    parser.add_argument(
        "--without-model", action="store_true", help="both answers over BM25, dense and counts"
    )
    parser.add_argument("--only", default="", help="seeds, comma-separated; default: all")
    parser.add_argument("--page", action="store_true", help="aggregate and run nothing")
    args = parser.parse_args()
    args.work, args.start = args.work.resolve(), args.start.resolve()
    bed = make_bed("demo", argparse.Namespace(work=args.start, queries=args.queries))
    if not args.page:
        for seed in [int(seed) for seed in args.only.split(",") if seed] or SEEDS:
            score(bed, args, seed)
    aggregate(bed, args)


if __name__ == "__main__":
    main()
