"""SIDs that others published, through the whole pipeline, beside our own: a small-budget
comparison.

Data: Amazon "Scientific" (item texts, user sequences, leave-one-out) and three SID sets of four
levels that were published for it (LETTER, residual k-means, RQ-VAE; CollisionGenRec, CIKM 2026).
Every table runs through the same stages: data (reader ``sequences``) → embed → sid (``sid.method:
table``) → SFT of one small model on "history → next item" → index → constrained beam → items. Ours:
RQ-KMeans at its automatic sizes and at the published ones.

The budget is the same number of steps and examples for each table and far below what the papers
train, so the figures say which IDs are learnt quickly here, not which are best. One seed; intervals
and tests are of users, not of seeds.

``python -m experiments.tokenizers.published_sids --data <folder>``, which holds
``Scientific.item.json``, ``Scientific.inter.json`` and ``published_sids/``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.common import print_table, single_thread, write_results

single_thread()

import numpy as np

from sidar import pipeline
from sidar.artifacts import sha256_file
from sidar.config import Config
from sidar.data import open_dataset
from sidar.embed import load_items
from sidar.evaluate.measures.metrics import score_ranking
from sidar.evaluate.measures.truth import Truth
from sidar.evaluate.stats import bootstrap_intervals, holm, paired_test
from sidar.index import PrefixIndex
from sidar.pipeline.rows.generative import GenerativeSystem
from sidar.sid import load_sids, load_tokenizer
from sidar.sid.tokenizers.imported import TableTokenizer
from sidar.types import SidInputs

MEASURES = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
PUBLISHED = {
    "letter": "letter_native.json",
    "rkmeans": "rkmeans_native.json",
    "rqvae": "rqvae_native.json",
}
OURS: dict[str, dict[str, Any]] = {
    "ours, automatic": {"method": "rqkmeans"},
    "ours, 4 x 256": {"method": "rqkmeans", "levels": 4, "codebook_sizes": [256] * 4},
}


def settings(
    data: Path, runs: Path, name: str, sid: dict[str, Any], args: argparse.Namespace
) -> Config:
    """One run's config: everything but ``sid`` and the name is the same for all."""
    width = args.hidden
    return Config.model_validate(
        {
            "name": name,
            "runs": str(runs),
            "threads": 1,
            "device": "cpu",
            "catalogue": {"path": str(data / "Scientific.item.json"), "format": "sequences"},
            "events": {"path": str(data / "Scientific.inter.json"), "format": "sequences"},
            "split": {"unit": "leave_one_out"},
            "preference": {"negatives": "sampled"},
            "embed": {"model": args.embed},
            "sid": sid,
            "lm": {
                "layers": args.layers,
                "hidden": width,
                "heads": 4,
                "kv_heads": 4,
                "intermediate": 2 * width,
                "text_embeddings": "random",
                "history_items": 10,
                "max_prompt_tokens": 56,
            },
            "sft": {
                "steps": args.steps,
                "batch_size": args.batch,
                "lr_new": args.lr,
                "mixture": {"query": 1.0},
                "validate_every": args.steps,
                "valid_requests": 128,
                "checkpoint_every": args.steps,
            },
            "decode": {"beam": args.beam},
            "evaluate": {"max_queries": args.queries},
        }
    )


def share_stages(first: Path, run: Path) -> None:
    """Data and vectors do not depend on the IDs: hard links of the first run's."""
    for name in ("data", "embed"):
        shutil.copytree(first / name, run / name, copy_function=os.link)


def score(cfg: Config) -> tuple[np.ndarray, list[str]]:
    """(users, measures) item-level values of the SFT model on the test set, and the users."""
    run = cfg.run_dir
    data = open_dataset(run / "data")
    (test,) = data.eval_sets("test")
    sids = load_sids(run / "sid" / "sids.parquet", data.catalogue.item_ids)
    index = PrefixIndex.load(run / "index")
    system = GenerativeSystem(
        "sft", run / "sft" / "model", index, sids, data.catalogue, cfg.decode, "cpu"
    )
    truth = Truth.of_catalogue(test.qrels, test.query_ids, data.catalogue, 1.0)
    ranked = np.concatenate(
        [system.hits(test.prompts[i : i + 64], 10).rows for i in range(0, len(test), 64)]
    )
    values = score_ranking(truth, ranked, MEASURES)
    return np.stack([values[measure] for measure in MEASURES], axis=1), list(test.query_ids)


def popularity(cfg: Config) -> np.ndarray:
    """The same values for the most popular items of the training split."""
    data = open_dataset(cfg.run_dir / "data")
    (test,) = data.eval_sets("test")
    top = np.argsort(-data.priors().prior, kind="stable")[:10]
    truth = Truth.of_catalogue(test.qrels, test.query_ids, data.catalogue, 1.0)
    values = score_ranking(truth, np.tile(top, (len(test), 1)), MEASURES)
    return np.stack([values[measure] for measure in MEASURES], axis=1)


def quality(cfg: Config) -> dict[str, float]:
    """ID quality in a flat map, the code budget, and how far quantised vectors find the items they
    came from.
    """
    run = cfg.run_dir
    report = json.loads((run / "sid" / "quality.json").read_text())
    purity = {(p["prefix_depth"], p["category_depth"]): p for p in report["purity"]}
    found = {
        "items": report["items"],
        "sids": report["sids"],
        "collision_rate": report["collision_rate"],
        "largest_sid": report["largest_sid"],
        "gini": report["gini"],
        "bits_per_item": report["code_bits"]["per_item"],
        "variance_lost": report["reconstruction"]["share_of_variance_lost"],
    }
    for level, facts in enumerate(report["levels"], start=1):
        found |= {f"used_{level}": facts["utilisation"], f"evenness_{level}": facts["evenness"]}
    for depth in (1, 2):
        if (depth, 2) in purity:
            found |= {
                f"purity_{depth}": purity[depth, 2]["purity"],
                f"purity_{depth}_by_chance": purity[depth, 2]["chance"],
            }
    return found


def encoding_of_new_items(cfg: Config, share: float = 0.1) -> dict[str, float]:
    """Leave items out of the published table and encode them by the stand-ins: how often do the
    codes agree?
    """
    run = cfg.run_dir
    tokenizer = load_tokenizer(run / "sid")
    if not isinstance(tokenizer, TableTokenizer):
        return {}
    vectors = np.asarray(load_items(run / "embed"))
    ids = open_dataset(run / "data").catalogue.item_ids
    out = np.random.default_rng(0).random(len(ids)) < share
    kept = set(ids[~out])
    table = tokenizer.table
    rows = np.array([item in kept for item in table.item_ids])
    smaller = type(table)(
        tuple(i for i, k in zip(table.item_ids, rows, strict=True) if k),
        table.codes[rows],
        table.codebook_sizes,
        table.names,
        table.method,
    )
    fitted = TableTokenizer(smaller).fit(SidInputs(vectors[~out], item_ids=ids[~out].tolist()))
    theirs = tokenizer.encode(SidInputs(vectors[out], item_ids=ids[out].tolist())).codes
    mine = fitted.encode(SidInputs(vectors[out])).codes
    first = np.bincount(theirs[:, 0])
    return {
        "new_first_code_agrees": float((mine[:, 0] == theirs[:, 0]).mean()),
        "new_first_code_agrees_by_chance": float(((first / first.sum()) ** 2).sum()),
        "new_two_codes_agree": float((mine[:, :2] == theirs[:, :2]).all(1).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--beam", type=int, default=20)
    parser.add_argument("--queries", type=int, default=2000, help="test users, chosen by hash")
    parser.add_argument("--embed", default="minilm")
    parser.add_argument("--tables", nargs="+", default=[*PUBLISHED, *OURS])
    parser.add_argument("--work", type=Path, help="keep the runs here")
    parser.add_argument("--save", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    published = args.data / "published_sids"
    tables = {
        name: {"method": "table", "table": str(published / file)}
        for name, file in PUBLISHED.items()
    } | OURS
    tables = {name: tables[name] for name in args.tables}
    work = args.work or Path(tempfile.mkdtemp(prefix="published-sids-"))
    figures: dict[str, float] = {}
    values: dict[str, np.ndarray] = {}
    users: list[str] = []
    first: Path | None = None
    for name, sid in tables.items():
        cfg = settings(args.data, work, name.replace(" ", "-").replace(",", ""), sid, args)
        if first is not None and not cfg.run_dir.exists():
            share_stages(first, cfg.run_dir)
        first = first or cfg.run_dir
        started = time.monotonic()
        for stage in ("sid", "sft", "index"):
            pipeline.run(cfg, only=stage)
        values[name], users = score(cfg)
        found = quality(cfg) | encoding_of_new_items(cfg)
        figures |= {f"{name}: {key}": value for key, value in found.items()}
        means = dict(zip(MEASURES, values[name].mean(0).round(4).tolist(), strict=True))
        print(f"{name}: {time.monotonic() - started:.0f} s, {means}", flush=True)
    values["popularity"] = popularity(cfg)
    rows: list[list[str]] = []
    tests: list[dict[str, Any]] = []
    for name, mine in values.items():
        intervals = bootstrap_intervals(mine, samples=2000)
        for at, measure in enumerate(MEASURES):
            figures[f"{name}: {measure}"] = float(mine[:, at].mean())
            figures[f"{name}: {measure} low"], figures[f"{name}: {measure} high"] = map(
                float, intervals[at]
            )
        cells = [
            f"{m:.4f} [{low:.4f}, {high:.4f}]"
            for m, (low, high) in zip(mine.mean(0), intervals, strict=True)
        ]
        rows.append([name, *cells])
        if name != "ours, automatic" and "ours, automatic" in values:
            test = paired_test(values["ours, automatic"][:, 1], mine[:, 1])
            tests.append({"a": "ours, automatic", "b": name, "measure": "recall@10", **vars(test)})
    for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = float(p)
    print_table(
        ["SIDs", *MEASURES], rows, title=f"{len(users):,} users, {args.steps} steps of {args.batch}"
    )
    chosen = {
        key: value
        for key, value in vars(args).items()
        if key not in ("data", "work", "save", "tables")
    }
    hashes = {file.name: sha256_file(file)[:16] for file in sorted(args.data.rglob("*.json"))}
    if args.save:
        note = (
            "small-budget comparison: one seed, far fewer steps than the papers train; "
            "intervals are of users"
        )
        print(
            write_results(
                "published_sids",
                chosen,
                figures,
                note=note,
                users=len(users),
                tests=tests,
                data=hashes,
            )
        )


if __name__ == "__main__":
    main()
