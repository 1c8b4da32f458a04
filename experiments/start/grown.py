"""A catalogue of 50,000 products grown from the sample: what Semantic IDs keep, a start at the
geometry, and reranking.

    python -m experiments.start.grown --minutes 20 --threads 2

Everything is SIMULATED: variants, log and queries (docs/grown.md). Rows: BM25 (tuned on the
validation queries), exact and quantised dense, the model before its first step and after
``--minutes`` of training with ``lm.geometry``, after as many steps without it (``--no-without``
leaves that out), and each model's expanded items reranked with the dense score. Both trainings have
the same rows, steps and rates. The number of steps is the budget over the seconds of a step with
the geometry on ``--threads`` threads, measured once on an idle machine and kept in ``--work``, as
is what was trained: the same command goes on. ``--train-threads 1`` makes the same steps on one
thread, beside other work. Held out by intent: the test queries' intents are in no training row.
Weights come from the validation queries.

Writes ``results/grown.json`` and from it the table of docs/grown.md; ``--page`` writes that table
again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.common import (
    RESULTS,
    ROOT,
    print_table,
    process_cpu_timer,
    write_between,
    write_results,
)

MEASURES = ("ndcg@10", "recall@10", "recall@100", "mrr")
NAMES = {"ndcg@10": "nDCG@10", "recall@10": "R@10", "recall@100": "R@100", "mrr": "MRR"}
PROBE = 12  # steps whose cost is measured
TUNE = 200  # validation queries for weights
WARMUP = 4  # of the probe's steps
PAGE = ROOT / "docs" / "grown.md"
MARKS = ("<!-- grown table -->\n", "<!-- /grown table -->")


def settings(work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The run's config; sizes as in the demo, which is made for minutes on two cores."""
    inputs = work / "inputs"
    return {
        "name": "grown",
        "threads": args.train_threads or args.threads,
        "device": "cpu",
        "runs": str(work / "runs"),
        "catalogue": {"path": str(inputs / "catalogue.parquet")},
        "events": {"path": str(inputs / "events.parquet"), "origin": "simulated"},
        "users": {"path": str(inputs / "users.parquet")},
        "sid": {"codebook_sizes": [int(size) for size in args.sizes.split("/")], "reference": 0.0},
        "lm": {"layers": 4, "max_prompt_tokens": 40},
        "sft": {
            "batch_size": 128,
            "accumulate": 2,
            "lr_new": 1e-3,
            "mixture": {"item": 0.1, "pseudo": 0.5, "query": 0.4},
            "checkpoint_every": 100_000,
            "validate_every": 100_000,
            "valid_requests": 128,
        },
        "data": {
            "held_out": [
                {"queries": str(inputs / f"grounded_{role}.queries.tsv"), "match": "exact"}
                for role in ("valid", "test")
            ]
        },
        "evaluate": {
            "max_queries": None,
            "sets": [
                {
                    "name": f"grounded_{role}",
                    "queries": str(inputs / f"grounded_{role}.queries.tsv"),
                    "qrels": str(inputs / f"grounded_{role}.qrels.tsv"),
                    "origin": "simulated",
                    "role": role,
                }
                for role in ("valid", "test")
            ],
        },
    }


def make_inputs(folder: Path, items: int, traffic: str) -> dict[str, Any]:
    """Grow the sample and simulate a log over it, unless they are there; returns the simulator's
    report.
    """
    from sidar import simulate
    from sidar.artifacts import read_manifest, write_artifact
    from sidar.data import sample

    config = simulate.load_config(traffic)
    wanted = {"items": items, "simulator": config.model_dump(mode="json")}
    manifest = read_manifest(folder)
    if manifest is None or manifest.config != wanted:
        with write_artifact(folder, "inputs", config=wanted) as draft:
            draft.shapes.update(
                simulate.run(simulate.grow(sample.load_catalogue(), items), config, draft.path)
            )
        manifest = read_manifest(folder)
    assert manifest is not None
    return manifest.shapes


def train(cfg: Any, run: Path, out: Path, steps: int) -> dict[str, float]:
    """Train ``cfg.lm`` for ``steps`` steps into ``out`` (kept where it stands); its CPU and wall
    seconds.
    """
    from sidar.train import train_sft

    wanted = {
        "steps": steps,
        "lm": cfg.lm.model_dump(),
        "sft": cfg.sft.model_dump(mode="json"),
        "seed": cfg.seed,
    }
    done = out / "trained.json"
    if done.is_file() and (found := json.loads(done.read_text()))["wanted"] == json.loads(
        json.dumps(wanted)
    ):
        return found["cost"]
    cfg = cfg.model_copy(update={"sft": cfg.sft.model_copy(update={"steps": steps})})
    started = time.monotonic()
    with process_cpu_timer() as cpu:
        report = train_sft(cfg, run / "data", run / "embed", run / "sid", out, progress=False)
    cost = {
        "steps": steps,
        "cpu_seconds": cpu[0],
        "seconds": time.monotonic() - started,
        "valid_nll": report["final"]["nll"],
        "valid_recall@8": report["final"]["recall@8"],
    }
    done.write_text(json.dumps({"wanted": wanted, "cost": cost}) + "\n")
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("grown"))
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--traffic", default="full", help="preset of the simulator")
    parser.add_argument("--sizes", default="512/256/128")
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="of training, per model, on --threads cores"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the budget")
    parser.add_argument("--train-threads", type=int, default=0, help="0 = --threads")
    parser.add_argument("--queries", type=int, default=1400, help="held-out queries, evenly spaced")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--without", action=argparse.BooleanOptionalAction, default=True, help="also from scratch"
    )
    parser.add_argument("--save", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--page", action="store_true")
    args = parser.parse_args()
    if args.page:
        write_page(json.loads((RESULTS / "grown.json").read_text()))
        return
    # torch may take fewer later, not more
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    import torch

    from sidar import pipeline
    from sidar.config import Config

    work = args.work.resolve()
    facts = make_inputs(work / "inputs", args.items, args.traffic)
    cfg = Config.model_validate({**settings(work, args), "seed": args.seed})
    pipeline.run(cfg, only="sid")
    pipeline.run(cfg, only="index")
    run, models = cfg.run_dir, work / f"models-{args.sizes.replace('/', '-')}"

    with_geometry = cfg.model_copy(update={"lm": cfg.lm.model_copy(update={"geometry": True})})
    torch.set_num_threads(args.threads)
    # the first of the three fills the cache of the log's queries
    _, short, long = (
        train(with_geometry, run, models / f"probe-{n}", n) for n in (1, WARMUP, WARMUP + PROBE)
    )
    per_step = {name: (long[name] - short[name]) / PROBE for name in ("seconds", "cpu_seconds")}
    steps = max(20, round(args.minutes * 60 / per_step["seconds"]))
    print(
        f"{per_step['seconds']:.2f} seconds a step: {steps} steps in {args.minutes:g} minutes on "
        f"{args.threads} threads"
    )
    torch.set_num_threads(cfg.threads)

    costs: dict[str, Any] = {}
    folders = {"geometry, step 0": step_zero(with_geometry, run, models / "step-0")}
    name = f"geometry, {args.minutes:g} min"
    costs[name] = train(with_geometry, run, models / f"geometry-{steps}", steps)
    folders[name] = models / f"geometry-{steps}" / "model"
    if args.without:
        name = f"from scratch, {args.minutes:g} min"
        costs[name] = train(cfg, run, models / f"scratch-{steps}", steps)
        folders[name] = models / f"scratch-{steps}" / "model"
    rows, weights, intervals = score(cfg, run, folders, args.queries)
    report(cfg, args, facts, rows, weights, intervals, costs, per_step)


def step_zero(cfg: Any, run: Path, folder: Path) -> Path:
    """The untrained model, saved like any other."""
    from sidar.train.inputs import Inputs
    from sidar.train.sft import start_model

    start_model(cfg, Inputs.open(run / "data", run / "sid"), run / "sid").save_pretrained(
        folder / "model"
    )
    return folder / "model"


def score(cfg: Any, run: Path, folders: dict[str, Path], queries: int) -> tuple[Any, Any, Any]:
    """Per-query measures of every row on the held-out queries, the weights chosen, and paired
    intervals.
    """
    import numpy as np

    from sidar.baselines import Bm25, Dense, QuantisedDense, reconstruct
    from sidar.data import open_dataset
    from sidar.embed import load_embedder, load_items
    from sidar.evaluate.measures.metrics import objective, score_ranking
    from sidar.evaluate.measures.truth import Truth
    from sidar.evaluate.stats import bootstrap_intervals
    from sidar.index import PrefixIndex
    from sidar.pipeline.rows.generative import GenerativeSystem
    from sidar.pipeline.rows.rerank import Reranked
    from sidar.sid import load_sids, load_tokenizer
    from sidar.types import EvalSet

    data = open_dataset(run / "data")
    catalogue = data.catalogue
    sets = {each.name: each for each in data.eval_sets()}
    valid, whole = sets["grounded_valid"], sets["grounded_test"]
    at = np.unique(np.linspace(0, len(whole) - 1, min(queries, len(whole))).astype(int))
    ids, prompts = ([part[i] for i in at] for part in (whole.query_ids, whole.prompts))
    test = EvalSet(whole.name, tuple(ids), tuple(prompts), whole.qrels, whole.origin)
    truth = Truth.of_catalogue(test.qrels, test.query_ids, catalogue, 1.0)
    embedder, items = load_embedder(cfg.embed, "cpu"), load_items(run / "embed")
    sids, index = (
        load_sids(run / "sid" / "sids.parquet", catalogue.item_ids),
        PrefixIndex.load(run / "index"),
    )
    clusters = reconstruct(load_tokenizer(run / "sid").codebooks_, index.table)
    lexical = Bm25(catalogue).tune(
        [p.query for p in valid.prompts[:TUNE]], objective(_cut(valid), catalogue, "ndcg@10")
    )
    dense = Dense(np.asarray(items), embedder, alive=catalogue.alive)
    quantised = QuantisedDense(clusters, index.expand_with_source, embedder)
    asked = [prompt.query for prompt in test.prompts]
    found = {
        "BM25": lexical.search(asked, 500),
        "exact dense": dense.search(asked, 500),
        "quantised dense": quantised.search(asked, 500),
    }
    weights = {}
    for name, folder in folders.items():
        model = GenerativeSystem(
            name, folder, index, sids, catalogue, cfg.decode, "cpu", embedder.encode
        )
        found[name] = model.hits(test.prompts, 500)
        reranked = Reranked(model, embedder.encode, items)
        weights[name] = reranked.tune([valid], catalogue, TUNE)["weight"]
        found[f"{name} + rerank"] = reranked.hits(test.prompts, 500)
        print(f"scored {name}", flush=True)
    rows = {name: score_ranking(truth, hits.rows, MEASURES) for name, hits in found.items()}
    intervals = {}
    for name, base in paired(list(rows)):
        difference = np.stack([rows[name][m] - rows[base][m] for m in MEASURES], 1)
        low_high = bootstrap_intervals(difference, seed=0)
        intervals[f"{name} − {base}"] = {
            m: [float(difference[:, i].mean()), *map(float, low_high[i])]
            for i, m in enumerate(MEASURES)
        }
    return rows, weights, intervals


def _cut(each: Any) -> Any:
    from sidar.types import EvalSet

    return EvalSet(each.name, each.query_ids[:TUNE], each.prompts[:TUNE], each.qrels, each.origin)


def paired(names: list[str]) -> list[tuple[str, str]]:
    """What is compared with what: models with quantised dense, reranked ones with exact dense, the
    two starts.
    """
    plain = [name for name in names[3:] if not name.endswith("rerank")]
    pairs = [(name, "quantised dense") for name in plain]
    pairs += [(f"{name} + rerank", "exact dense") for name in plain]
    trained = [name for name in plain if "step 0" not in name]
    return pairs + ([(trained[0], trained[1])] if len(trained) > 1 else [])


def report(
    cfg: Any,
    args: argparse.Namespace,
    facts: dict[str, Any],
    rows: Any,
    weights: Any,
    intervals: Any,
    costs: Any,
    per_step: Mapping[str, float],
) -> None:
    """Print the table and the targets, and keep both."""
    table = {name: {m: float(values[m].mean()) for m in MEASURES} for name, values in rows.items()}
    print_table(
        ["SIMULATED", *NAMES.values(), "w"],
        [
            [name, *row.values(), weights.get(name.removesuffix(" + rerank"), 0.0)]
            for name, row in table.items()
        ],
        title=(
            f"{args.items:,} products, {len(next(iter(rows.values()))['mrr'])} held-out "
            f"queries, {args.sizes}"
        ),
    )
    trained = f"geometry, {args.minutes:g} min"
    quantised, dense = table["quantised dense"], table["exact dense"]
    best = table[f"{trained} + rerank"]
    figures = {
        "step_0_minus_quantised_recall@100": table["geometry, step 0"]["recall@100"]
        - quantised["recall@100"],
        "trained_minus_quantised_recall@100": table[trained]["recall@100"]
        - quantised["recall@100"],
        "rerank_minus_dense_ndcg@10": best["ndcg@10"] - dense["ndcg@10"],
        "rerank_minus_dense_recall@100": best["recall@100"] - dense["recall@100"],
        **{f"{name}_per_step": value for name, value in per_step.items()},
        "minutes": args.minutes,
    }
    quality = json.loads((cfg.run_dir / "sid" / "quality.json").read_text())
    for name, value in figures.items():
        print(f"{name:42} {value:.4f}")
    if args.save:
        kept = {
            "config": {
                **cfg.model_dump(mode="json", include={"sid", "lm", "sft", "decode", "seed"}),
                **vars(args),
            },
            "table": table,
            "weights": weights,
            "paired": intervals,
            "training": costs,
            "sids": {k: quality[k] for k in ("items", "sids", "items_per_sid", "quantised_dense")},
            "simulator": {k: facts[k] for k in ("config_hash", "lexicon_hash", "grounded_queries")},
        }
        kept["config"]["work"] = args.work.name
        path = write_results("grown", kept.pop("config"), figures, threads=args.threads, **kept)
        write_page(json.loads(path.read_text()))
        print(path)


def page_table(results: Mapping[str, Any]) -> str:
    """The table of docs/grown.md, with the intervals of what the rows are measured against."""
    lines = [
        "| SIMULATED | " + " | ".join(NAMES.values()) + " | weight |",
        "|---|" + "---:|" * (len(NAMES) + 1),
    ]
    for name, row in results["table"].items():
        weight = (
            results["weights"].get(name.removesuffix(" + rerank"))
            if name.endswith("rerank")
            else None
        )
        cells = [f"{row[m]:.3f}".removeprefix("0") for m in NAMES]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {'' if weight is None else f'{weight:g}'} |"
        )
    lines += ["", "| difference, 95 % interval | nDCG@10 | R@100 |", "|---|---:|---:|"]
    for name, each in results["paired"].items():
        shown = ["{:+.3f} [{:+.3f}, {:+.3f}]".format(*each[m]) for m in ("ndcg@10", "recall@100")]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def write_page(results: Mapping[str, Any]) -> None:
    """Put :func:`page_table` between the marks of the page."""
    write_between(PAGE, MARKS, page_table(results))


if __name__ == "__main__":
    main()
