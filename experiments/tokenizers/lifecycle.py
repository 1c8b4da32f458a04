"""How Semantic IDs age on the embedded sample: what alarms hear, what small edits move, what cold
items find.

Four parts, all on real products of the sample (6,764 items, MiniLM vectors) with RQ-KMeans at
512/256/128:

* ``optimism``: error of items that the codebooks were fitted to against items that were left out;
* ``alarms``: how often they ring for random items left out (false alarms), and for whole categories
  left out;
* ``edits``: how many SIDs move when titles are corrected, at several ``sid.keep_margin``, and what
  keeping costs;
* ``cold``: the simulator's launches of days 5 to 8 through ``sidar sids encode`` under a model
  trained without them.

The log of the last part is simulated. One thread; ``--steps`` are the model's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.common import print_table, single_thread, write_results

single_thread()

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from sidar import pipeline, simulate
from sidar.config import AlarmsConfig, Config, SidConfig
from sidar.data import open_dataset, sample
from sidar.embed import item_texts, load_embedder, load_items
from sidar.pipeline.coldstart import cold_start
from sidar.pipeline.refresh import check, encode
from sidar.serve.bundle import BundleSources, build_bundle
from sidar.sid import RqKmeans
from sidar.sid.lifecycle.alarms import Alarm, alarms
from sidar.sid.lifecycle.ledger import squared_errors, write_up
from sidar.sid.lifecycle.reference import make_reference
from sidar.sid.lifecycle.refresh import refresh
from sidar.simulate.schedule import first_moment
from sidar.types import Catalogue, SidInputs

SIZES = (512, 256, 128)
EDITS: dict[str, Callable[[dict[str, Any]], str]] = {
    "last word dropped": lambda item: " ".join(item["title"].split()[:-1]) or item["title"],
    "'New' put in front": lambda item: f"New {item['title']}",
    "commas to dashes": lambda item: item["title"].replace(",", " -"),
}


def left_out(
    vectors: np.ndarray, out: np.ndarray, seed: int
) -> tuple[dict[str, float], list[Alarm]]:
    """Fit without ``out``, encode them as new: errors and alarms."""
    old = np.setdiff1d(np.arange(len(vectors)), out)
    inputs = SidInputs(vectors[old])
    tokenizer = RqKmeans(SIZES, seed=seed).fit(inputs)
    reference = make_reference(SidConfig(), tokenizer, tokenizer.encode(inputs), inputs, seed)
    sids = tokenizer.encode(SidInputs(vectors))
    new = np.zeros(len(vectors), bool)
    new[out] = True
    ids = [str(row) for row in range(len(vectors))]
    cause = np.where(new, "new", "fit").astype(object)
    ledger = write_up(SidInputs(vectors, item_ids=ids), tokenizer, sids, ~new, cause)
    errors = {
        "fitted": float(ledger.error[~new].mean()),
        "left out": float(ledger.error[new].mean()),
        "reference": reference["errors"]["mean"],
    }
    return errors, alarms(sids, ids, ledger, reference, AlarmsConfig())


def alarm_rates(vectors: np.ndarray, categories: list[Any], repeats: int) -> dict[str, float]:
    """Random deliveries of 100, 300 and 700 items, and the largest categories left out whole or by
    half.
    """
    figures: dict[str, float] = {}
    rng = np.random.default_rng(0)
    ratios, heard = [], Counter[str]()
    for turn in range(repeats):
        out = np.sort(rng.permutation(len(vectors))[: (100, 300, 700)[turn % 3]])
        errors, found = left_out(vectors, out, seed=turn)
        ratios.append(
            (errors["left out"] / errors["fitted"], errors["left out"] / errors["reference"])
        )
        heard.update(alarm.name for alarm in found if alarm.rings)
    figures["optimism: left out over fitted"] = float(np.mean([r[0] for r in ratios]))
    figures["optimism: left out over reference"] = float(np.mean([r[1] for r in ratios]))
    figures["alarms: random deliveries"] = repeats
    for name in ("error", "codes"):
        figures[f"alarms: {name} rings for random"] = heard[name] / repeats
    second = [" > ".join(path[:2]) if path else "" for path in categories]
    largest = [name for name, _ in Counter(name for name in second if name).most_common(6)]
    for kind in ("whole", "half"):
        heard = Counter[str]()
        for name in largest:
            rows = np.flatnonzero([each == name for each in second])
            rows = rows if kind == "whole" else np.sort(rng.permutation(rows)[: len(rows) // 2])
            heard.update(alarm.name for alarm in left_out(vectors, rows, seed=0)[1] if alarm.rings)
        for name in ("error", "codes"):
            figures[f"alarms: {name} rings for {kind} categories"] = heard[name] / len(largest)
    return figures


def edits(vectors: np.ndarray, catalogue: Catalogue, cfg: Config, n: int = 300) -> dict[str, float]:
    """Edit the titles of ``n`` items, embed them again, and refresh at several margins."""
    inputs = SidInputs(np.asarray(vectors))
    tokenizer = RqKmeans(SIZES, seed=0).fit(inputs)
    rows = np.sort(np.random.default_rng(0).permutation(len(vectors))[:n])
    before = tokenizer.encode(SidInputs(vectors[rows]))
    embedder = load_embedder(cfg.embed, "cpu")
    items = catalogue.table.take(rows).to_pylist()
    figures: dict[str, float] = {}
    for name, edit in EDITS.items():
        table = catalogue.table.take(rows)
        place = table.column_names.index("title")
        table = table.set_column(place, "title", [[edit(item) for item in items]])
        now = np.asarray(
            embedder.encode(item_texts(table, cfg.embed.fields), batch_size=32), np.float32
        )
        today = SidInputs(now, item_ids=[item["item_id"] for item in items])
        for margin in (0.0, 0.05, 0.1, 0.2):
            found = refresh(tokenizer, before, None, today, margin=margin)
            figures[f"edits: {name}, margin {margin}: moved"] = float(
                (found.cause == "text").mean()
            )
            error = squared_errors(tokenizer, now, found.sids.codes)
            figures[f"edits: {name}, margin {margin}: error"] = float(error.mean())
    swapped = np.roll(vectors[rows], 1, axis=0)
    other = SidInputs(swapped, item_ids=[item["item_id"] for item in items])
    found = refresh(tokenizer, before, None, other, margin=0.1)
    figures["edits: another product's text, margin 0.1: moved"] = float(
        (found.cause == "text").mean()
    )
    return figures


def settings(work: Path, name: str, catalogue: Path, steps: int) -> Config:
    """A run on the simulated log; day 4's and day 8's differ in the catalogue alone."""
    return Config.model_validate(
        {
            "name": name,
            "runs": str(work / "runs"),
            "threads": 1,
            "device": "cpu",
            "catalogue": {"path": str(catalogue)},
            "events": {"path": str(work / "events.parquet"), "unknown_items": "drop",
            "origin": "simulated"},
            "sid": {"codebook_sizes": list(SIZES)},
            "lm": {"layers": 2, "hidden": 192, "heads": 4, "kv_heads": 4, "intermediate": 384,
            "max_prompt_tokens": 40,
                   "text_embeddings": "minilm"},
            "sft": {"steps": steps, "batch_size": 128, "lr_new": 2e-3, "validate_every": steps,
            "valid_requests": 64,
                    "checkpoint_every": steps, "mixture": {"item": 0.3, "pseudo": 0.6,
                    "query": 0.1}},
            "data": {"held_out": [{"queries": str(work / "grounded_test.queries.tsv"),
            "match": "exact"}]},
            "evaluate": {
                "max_queries": 400,
                "sets": [{"name": "grounded", "queries": str(work / "grounded_test.queries.tsv"),
                          "qrels": str(work / "grounded_test.qrels.tsv"), "origin": "simulated"}],
            },
        }
    )  # fmt: skip


def cold(work: Path, steps: int) -> tuple[dict[str, float], Config]:
    """Day 4's run and bundle, day 8's encoding, and what :func:`cold_start` says of the two."""
    preset = simulate.load_config("demo")
    if not (work / "events.parquet").is_file():
        simulate.run(sample.load_catalogue(), preset, work)
    whole = pq.read_table(work / "catalogue.parquet")
    pq.write_table(
        whole.filter(pc.less(pc.cast(whole["created"], "int64"), first_moment(preset))),
        work / "day4.parquet",
    )
    first = settings(work, "day4", work / "day4.parquet", steps)
    for stage in ("sft", "index"):
        pipeline.run(first, only=stage)
    parts: dict[str, Any] = {
        name: first.run_dir / name for name in ("data", "embed", "sid", "index")
    }
    before = first.run_dir / "bundle"
    model = first.run_dir / "sft" / "model"
    build_bundle(before, BundleSources(**parts, model=model, config={}, label="sft"))
    second = settings(work, "day8", work / "catalogue.parquet", steps)
    after = encode(second, before)
    found = cold_start(before, after, open_dataset(second.run_dir / "data").eval_sets("test"))
    figures = pipeline_flat(found, "cold: ")
    for alarm in check(after, AlarmsConfig()):
        figures |= {
            f"cold: alarm {alarm.name}: rings": float(alarm.rings),
            f"cold: alarm {alarm.name}": alarm.value or 0.0,
        }
    return figures, second


def pipeline_flat(value: Any, prefix: str) -> dict[str, float]:
    """Every number of a nested report under a readable name."""
    if not isinstance(value, dict):
        return {prefix.rstrip(": "): float(value)}
    return {
        k: v
        for key, inner in value.items()
        for k, v in pipeline_flat(inner, f"{prefix}{key}: ").items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=30, help="random deliveries")
    parser.add_argument("--work", type=Path, help="keep the runs here")
    parser.add_argument("--save", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = args.work or Path(tempfile.mkdtemp(prefix="lifecycle-"))
    work.mkdir(parents=True, exist_ok=True)
    figures, cfg = cold(work, args.steps)
    catalogue = open_dataset(cfg.run_dir / "data").catalogue
    vectors = np.array(load_items(cfg.run_dir / "embed"))
    figures |= edits(vectors, catalogue, cfg)
    figures |= alarm_rates(vectors, catalogue.column("category"), args.repeats)
    print_table(["figure", "value"], [[name, float(value)] for name, value in figures.items()])
    if args.save:
        print(
            write_results(
                "lifecycle",
                {"steps": args.steps, "repeats": args.repeats, "sizes": list(SIZES)},
                figures,
            )
        )


if __name__ == "__main__":
    main()
