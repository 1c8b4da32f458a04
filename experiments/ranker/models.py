"""The language models that the ranker's experiment reads: the SFT of the training days, and one of
the days before the day that the ranker learns from.

    python -m experiments.ranker.models --work /var/tmp/sidar-ranker --seed 0 --which sft
    python -m experiments.ranker.models --work /var/tmp/sidar-ranker --seed 0 --which auxiliary

Both take ``--steps`` steps of the demo's model, which is a third of the demo's own training. The
same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from experiments import common

common.single_thread()

from experiments.start.start import make_bed
from sidar.config import Config
from sidar.pipeline.rows.auxiliary import train_before
from sidar.pipeline.runtime import folders

WORK = Path(tempfile.gettempdir()) / "sidar-ranker"
#: Steps of both models, and between two checkpoints.
STEPS, CHECKPOINT = 200, 50


def config(bed: Any, seed: int, steps: int) -> Config:
    """Return the demo's config with ``steps`` steps of SFT under ``seed``."""
    return bed.configured("default", seed, steps=steps, checkpoint_every=CHECKPOINT)


def folder(work: Path, seed: int, steps: int, which: str) -> Path:
    """Return the folder in which a model is made."""
    return work / "models" / f"{which}-{seed}-{steps}"


def sft(bed: Any, work: Path, seed: int, steps: int) -> Path:
    """Train the SFT of the training days where it is not there yet, and return its model."""
    from experiments.start.grown import train

    out = folder(work, seed, steps, "sft")
    train(config(bed, seed, steps), bed.run, out, steps)
    return out / "model"


def auxiliary(bed: Any, work: Path, seed: int, steps: int) -> Path:
    """Train the SFT of the days before the last training day, and return its model."""
    from sidar.data import open_dataset
    from sidar.ranker.requests import DAY_US

    days = {one.ts // DAY_US for one in open_dataset(bed.run / "data").requests("train")}
    cfg = config(bed, seed, steps)
    cfg = cfg.model_copy(update={"ranker": cfg.ranker.model_copy(update={"sft_steps": steps})})
    inputs = folders(bed.run, ("data", "embed", "sid"))
    made = folder(work, seed, steps, "auxiliary") / "sft"
    return train_before(cfg, inputs, max(days), made)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--which", choices=("sft", "auxiliary"), required=True)
    args = parser.parse_args()
    work = args.work.resolve()
    bed = make_bed("demo", argparse.Namespace(work=work, queries=1000))
    make = sft if args.which == "sft" else auxiliary
    print(make(bed, work, args.seed, args.steps))


if __name__ == "__main__":
    main()
