"""The served answer beside what a shop already has: the click table, lexical and dense search, each model alone.

    python -m benchmarks.answer --work /var/tmp/sidar-answer

Everything is SIMULATED: preset `full` on the embedded sample, the bed of the evidence for RAD-DPO, with the shipped
RAD-DPO. Per seed an SFT and an aligned model are trained; what the answer needs is fitted on day 7 with the counts of
the days before, as the pipeline's stage `answer` does it, and day 8 is scored: clicks, orders, clicks in the randomised
bucket, true utility, each over all, seen and unseen queries, and the held-out judged and grounded queries. Expected
signs stand in answer.yaml. Resumable by seed; `--only 0,1` runs some, `--page` aggregates what there is.

Writes results/answer.json: figures `<a>_minus_<b>_<target>_<part>` with `_low`, `_high`, `_p`, `_detectable`, and the
per-query values of `memory` on the evidence's kept test requests with the comparisons that it turns.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT, print_table, single_thread, write_results

WORK = Path(tempfile.gettempdir()) / "sidar-answer"
POOLS = ("day8", "judged_test", "grounded_test")
MEASURES = ("ndcg@10", "mrr", "recall@100")
#: Rows of which one is the other's control: (name in figures, a, b).
PAIRS = (
    ("answer_minus_memory", "answer", "memory"),
    ("answer_minus_without_lm", "answer", "answer-without-lm"),
    ("answer_minus_bm25_dense", "answer", "bm25+dense"),
    ("answer_minus_bm25_dense_prior", "answer", "bm25+dense+prior"),
    ("answer_minus_bm25", "answer", "bm25"),
    ("answer_minus_dense", "answer", "dense"),
    ("answer_minus_raddpo", "answer", "raddpo"),
    ("answer_minus_raddpo_rerank", "answer", "raddpo+rerank"),
    ("answer_minus_bm25_dense_raddpo", "answer", "bm25+dense+raddpo"),
    ("share_minus_listed_sft", "sft", "sft listed"),
    ("share_minus_listed_raddpo", "raddpo", "raddpo listed"),
    ("raddpo_minus_sft", "raddpo", "sft"),
    ("memory_minus_bm25_dense_raddpo", "memory", "bm25+dense+raddpo"),
    ("memory_minus_raddpo", "memory", "raddpo"),
)


def settings(seed: int) -> dict[str, Any]:
    """What differs from the bed: the shipped alignment (beta .5, 480 steps) and the seed."""
    from benchmarks.evidence.registration import registration

    align = {**registration()["bed"]["settings"]["align"], "steps": 480, "checkpoint_every": 480, "validate_every": 240}
    return {"seed": seed, "threads": 1, "device": "cpu", "align": align, "decode": {"rerank": "dense"}}


def train(work: Path, seed: int) -> Path:
    """Train the SFT and the aligned model of a seed; finished ones are kept, interrupted work goes on."""
    import torch

    from benchmarks.evidence.bed import Bed
    from benchmarks.evidence.registration import registration
    from sidar.train import train_align, train_sft

    torch.set_num_threads(1)
    bed, folder = Bed(work), work / "models" / f"seed-{seed}"
    cfg = bed.config(**settings(seed))
    data, sid = bed.data(), bed.sid("/".join(map(str, registration()["bed"]["codebooks"])))
    for name in ("sft", "raddpo"):
        if (folder / name / "done.json").is_file():
            continue
        tmp = folder / f".{name}.tmp"
        shutil.rmtree(tmp, ignore_errors=True)
        keep = folder / f".{name}.work"
        started = time.process_time()
        if name == "sft":
            report = train_sft(cfg, data, None, sid, tmp, work=keep, progress=False)
        else:
            report = train_align(cfg, data, sid, folder / "sft", tmp, work=keep, progress=False)
        shutil.rmtree(tmp / "best", ignore_errors=True)
        facts = {"cpu_seconds": round(time.process_time() - started, 1), "summary": report["summary"]}
        (tmp / "done.json").write_text(json.dumps(facts) + "\n")
        shutil.rmtree(folder / name, ignore_errors=True)
        tmp.rename(folder / name)
        shutil.rmtree(keep, ignore_errors=True)
        print(f"seed {seed}: {name}, {facts['cpu_seconds']:.0f} CPU s: {facts['summary']}", flush=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="Seeds, comma-separated; default: all that are registered.")
    parser.add_argument("--train-only", action="store_true")
    args = parser.parse_args()
    single_thread()
    from benchmarks.evidence.bed import Bed

    Bed(args.work).build()
    seeds = [int(seed) for seed in args.only.split(",") if seed] or [0, 1, 2, 3, 4]
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        pool.starmap(train, [(args.work, seed) for seed in seeds], chunksize=1)


if __name__ == "__main__":
    main()
