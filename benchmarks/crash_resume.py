"""kill −9 at random moments of training, some of them inside a save: does a resumed run end where it would have?

SFT and then RAD-DPO (with RDRW's window, the state that is easiest to lose) are trained on the toy shop by the
pipeline's own stage functions.  One child process trains undisturbed; then another is killed with SIGKILL again and
again, each time at a random moment, and started anew until both stages are done.  Saves are slowed down *in the
child* (nothing in the library knows) so that kills land inside them.  At the end every weight file of the two runs
must have the same sha256, and so must the validation records of their logs.

`python benchmarks/crash_resume.py` prints the table and writes results/crash_resume.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
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

# Everything is imported before the first fork, and nothing is computed: no thread pool may exist in the parent.
import numpy as np
import torch
import torch.utils.tensorboard

from sidar.artifacts import fsync_tree, sha256_file
from sidar.config import Config
from sidar.data import build, open_dataset, toy
from sidar.embed import HashingEmbedder
from sidar.sid import RqKmeans
from sidar.sid.table import save_sids
from sidar.train import checkpoint, train_align, train_sft
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


def train(folder: Path, run: Path, steps: int, slow: float) -> None:
    """Both stages, continuing what is there; a finished stage is not run again."""
    cfg = make_config(folder, steps)
    (run / "saving").unlink(missing_ok=True)

    def slowly(path: Path) -> None:
        (run / "saving").touch()
        time.sleep(slow)
        fsync_tree(path)
        (run / "saving").unlink(missing_ok=True)

    if slow:
        checkpoint.fsync_tree = slowly  # type: ignore[assignment]
    sft, align = run / "sft", run / "align-raddpo"
    work = {stage: run / f".{stage.name}.work" for stage in (sft, align)}
    if not (sft / "done").exists():
        train_sft(cfg, folder / "data", None, folder / "sid", sft, work=work[sft], progress=False)
        (sft / "done").touch()
    if not (align / "done").exists():
        train_align(cfg, folder / "data", folder / "sid", sft, align, work=work[align], progress=False)
        (align / "done").touch()


def fork(job: Callable[[], None]) -> int:
    """Run ``job`` in a forked child and return its pid; the child's exit status says whether it finished."""
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


def position(run: Path) -> dict[str, Any]:
    """How far the interrupted run had come, by its newest finished checkpoint."""
    for stage in ("align-raddpo", "sft"):
        found = sorted((run / f".{stage}.work" / "checkpoints").glob("step-*"))
        if found:
            return {"stage": stage, "checkpoint": int(found[-1].name[5:])}
    return {"stage": "sft", "checkpoint": 0}


def kill_once(pid: int, run: Path, wait: float, inside: bool, slow: float, rng: random.Random) -> Kill | None:
    """Kill ``pid`` after about ``wait`` seconds, inside a save if asked for; None when it finished before."""
    until = time.monotonic() + wait
    while True:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return None
        saving = (run / "saving").exists()
        if time.monotonic() >= until and (saving or not inside):
            if inside:
                time.sleep(rng.uniform(0, 0.8 * slow))
            break
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return {"inside_save": (run / "saving").exists(), **position(run)}


def evidence(run: Path) -> dict[str, str]:
    """Hashes of all weights, and the validation records, of a finished run."""
    found: dict[str, str] = {}
    for stage in ("sft", "align-raddpo"):
        for which in ("model", "best"):
            found[f"{stage}/{which}"] = sha256_file(run / stage / which / "model.safetensors")
        records = [json.loads(line) for line in (run / stage / "log.jsonl").read_text().splitlines()]
        found[f"{stage}/validation"] = json.dumps([r for r in records if r["kind"] == "valid"])
    return found


def show(folder: Path, kills: int, inside: int, steps: int, seed: int, slow: float) -> dict[str, Any]:
    """The whole experiment in ``folder``; returns kills and figures."""
    rng = random.Random(seed)
    finished(fork(lambda: prepare(folder, steps)))
    whole, cut = folder / "whole", folder / "cut"
    whole.mkdir()
    cut.mkdir()
    started = time.monotonic()
    finished(fork(lambda: train(folder, whole, steps, 0.0)))
    undisturbed = time.monotonic() - started

    wanted = [True] * inside + [False] * (kills - inside)
    rng.shuffle(wanted)
    happened: list[Kill] = []
    starts = 0
    while len(happened) < kills:
        pid = fork(lambda: train(folder, cut, steps, slow))
        starts += 1
        # long enough to get some way on average, short enough that the run outlives all kills
        wait = rng.uniform(0.1, 2.0 * undisturbed / (kills + 1))
        kill = kill_once(pid, cut, wait, wanted[len(happened)], slow, rng)
        if kill is None:  # done before enough kills: once more from the beginning
            shutil.rmtree(cut)
            cut.mkdir()
            continue
        happened.append(kill)
    finished(fork(lambda: train(folder, cut, steps, 0.0)))
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
            "undisturbed_seconds": undisturbed,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--inside", type=int, default=3, help="of these, at least so many inside a save")
    parser.add_argument("--steps", type=int, default=120, help="of each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slow", type=float, default=0.15, help="seconds that each flush of a save takes longer")
    parser.add_argument("--out", type=Path, default=None, help="write the result here instead of results/")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = show(Path(folder), args.kills, args.inside, args.steps, args.seed, args.slow)
    rows = [
        [n, k["stage"], k["checkpoint"], "yes" if k["inside_save"] else ""] for n, k in enumerate(result["kills"], 1)
    ]
    common.print_table(["kill", "stage", "newest checkpoint", "inside a save"], rows, "SIGKILL")
    common.print_table(["file", "identical"], [[n, str(s)] for n, s in result["same"].items()], "\nafter resuming")
    figures = result.pop("figures")
    if args.out:
        args.out.write_text(json.dumps({"figures": figures, **result}))
    else:
        config = {k: v for k, v in vars(args).items() if k != "out"}
        common.write_results("crash_resume", config, figures, **result)
    if figures["files_identical"] != figures["files_compared"] or figures["kills_inside_a_save"] < args.inside:
        sys.exit(1)


if __name__ == "__main__":
    main()
