"""How long a report takes: 2,000 queries over 50,000 products with three models, on two threads.

    python benchmarks/report_cost.py --work /var/tmp/sidar-grown

The catalogue is the grown one of experiments/start/grown.py (SIMULATED), whose data, vectors and
SIDs are made once in --work. The models are of the demo's sizes and hardly trained: what they cost
does not depend on what they know, except that invalid mass of an untrained model is the dearest
there is, as no prefix is improbable. Wall-clock minutes of the stage `evaluate` (bar: 15), and of
its parts as the log tells them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, print_table, write_results

sys.path.append(str(ROOT))
from experiments.start.grown import make_inputs, settings

QUERIES, ITEMS = 2000, 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "sidar-grown")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    args.sizes, args.train_threads = "512/256/128", None
    from sidar import pipeline
    from sidar.config import Config
    from sidar.pipeline import stages
    from sidar.pipeline.runtime import folders
    from sidar.pipeline.variants import variants

    make_inputs(args.work / "inputs", ITEMS, "full")
    chosen = settings(args.work, args)
    chosen |= {
        "align": {
            "steps": 2,
            "batch_size": 8,
            "validate_every": 2,
            "checkpoint_every": 2,
            "valid_requests": 16,
        }
    }
    chosen["sft"] |= {"steps": 2, "valid_requests": 16}
    chosen["name"] = "grown"
    cfg = Config.model_validate(chosen)
    pipeline.run(cfg, only="index")
    cost = cfg.model_copy(update={"name": "report-cost"})
    run = cost.run_dir
    run.mkdir(parents=True, exist_ok=True)
    for name in ("data", "embed", "sid", "index"):
        if not (run / name).exists():
            (run / name).symlink_to(cfg.run_dir / name, target_is_directory=True)
    aligns = variants(cost.align, "raddpo,dpo")
    cost.evaluate.targets, cost.evaluate.sets = ["click"], []
    cost.evaluate.max_queries = QUERIES
    pipeline.run(cost, aligns, only="bundle")
    models = ("sft", *(align.folder for align in aligns))
    for align in aligns[1:]:
        own = cost.model_copy(update={"align": align})
        if not (run / align.folder).exists():
            pipeline.run(own, [align], only=align.folder)
    out = Path(tempfile.mkdtemp(dir=args.work))
    lines: list[tuple[str, float]] = []
    started = time.monotonic()
    stages.progress = lambda text: lines.append((text, time.monotonic() - started))
    inputs = folders(run, ("data", "embed", "sid", "index", "answer", *models))
    report = stages.evaluate(
        cost.model_copy(update={"align": aligns[0]}), inputs, out, run / ".work"
    )
    minutes = (time.monotonic() - started) / 60
    sets = report["shapes"]["sets"]
    figures = {
        "evaluate_minutes": minutes,
        "queries": sum(sets.values()),
        "items": ITEMS,
        "models": len(models),
    }
    ends = [*(at for _, at in lines[1:]), 60 * minutes]
    steps = [
        {"step": text, "seconds": round(end - at, 1)}
        for (text, at), end in zip(lines, ends, strict=True)
    ]
    sampled = {name: facts["invalid_sampled"] for name, facts in report["scores"]["sets"].items()}
    config = {"queries": QUERIES, "items": ITEMS, "threads": args.threads, "beam": cost.decode.beam}
    write_results(
        "report_cost", config, figures, threads=args.threads, steps=steps, invalid_sampled=sampled
    )
    print_table(
        ["step", "seconds"],
        [[one["step"], one["seconds"]] for one in steps],
        "report, 50,000 products",
    )
    print(f"{minutes:.1f} minutes for {figures['queries']:,} queries; {report['summary']}")


if __name__ == "__main__":
    main()
