"""The one training loop: SFT and every alignment objective go through it.

accelerate supplies device placement and data parallelism; everything that must survive a crash is
ours (:mod:`sidar.fitting.checkpoint`).  A run is a function of its config, its inputs and its seed:
batch, learning rate and random draws of step s depend on (seed, s) alone, so continuing after a
kill repeats what would have happened.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sidar.align import INACTIVE, Parts, gradient_ratio, list_statistics
from sidar.artifacts import fsync_tree, replace_folder
from sidar.config import OptimConfig
from sidar.fitting import checkpoint
from sidar.fitting.logs import RunLog
from sidar.fitting.schedule import lr_factor, step_seed
from sidar.lm.model import SidLM
from sidar.lm.packing import Packed, pack
from sidar.precision import autocast
from sidar.train.examples import Example
from sidar.types import CandidateScores


@dataclass
class Outcome:
    """One forward: the ``loss`` to descend, and the preference lists among its rows (None in SFT)
    for the logs.
    """

    loss: Tensor
    parts: Parts | None = None
    scores: CandidateScores | None = None


class Task(Protocol):
    """What a stage trains: a model, the examples of each step, a loss, a validation, and state to
    keep.
    """

    model: SidLM

    def batch(self, step: int) -> list[Example]: ...

    def forward(self, packed: Packed, is_list: Tensor) -> Outcome: ...

    def validate(self) -> dict[str, float]:
        """Scalars; ``recall@8`` (higher is better) then ``nll`` choose the best checkpoint.

        Without any, the last step is the best.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class Fit:
    """How a run went: ``best`` and ``final`` validation scalars (and their ``step``), ``counts`` of
    packing.
    """

    best: dict[str, float] = field(default_factory=dict)
    final: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    loss: float = float("nan")
    gradient_ratio: float | None = None
    resumed_from: int = 0


class _Forward(nn.Module):
    """The task's forward as a module, so that data parallelism sees one call from
    inputs to loss.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self._task = task

    def forward(self, packed: Packed, is_list: Tensor) -> Outcome:
        return self._task.forward(packed, is_list)


def fit(
    task: Task,
    cfg: OptimConfig,
    *,
    seed: int,
    device: str,
    work: Path,
    identity: dict[str, Any],
    title: str,
    validate_first: bool = False,
    progress: bool = True,
) -> Fit:
    """Train ``task`` for ``cfg.steps`` optimizer steps and return what happened; continues what
    ``work`` holds.

    ``work`` receives ``checkpoints/``, ``best/`` (a saved model), ``log.jsonl`` and
    ``tensorboard/``.  ``identity`` (config and input hashes) must be that of the interrupted run.
    Raises ``ValueError`` when it is not, when all checkpoints are damaged, and when the loss stops
    being finite.
    """
    cards = [torch.cuda.current_device()] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cards):  # the caller's random state is left as it was
        return _Run(task, cfg, seed, device, work, identity, title, progress).train(validate_first)


class _Run:
    def __init__(
        self,
        task: Task,
        cfg: OptimConfig,
        seed: int,
        device: str,
        work: Path,
        identity: dict[str, Any],
        title: str,
        progress: bool,
    ) -> None:
        from accelerate import Accelerator

        self.task, self.cfg, self.seed, self.work, self.title, self.progress = (
            task,
            cfg,
            seed,
            work,
            title,
            progress,
        )
        self.accelerator = Accelerator(cpu=torch.device(device).type == "cpu")
        self.ranks = self.accelerator.num_processes
        self.device = self.accelerator.device if self.ranks > 1 else torch.device(device)
        if cfg.batch_size % (self.ranks * cfg.accumulate):
            raise ValueError(
                f"batch_size {cfg.batch_size} must be a multiple of {self.ranks} processes x "
                f"{cfg.accumulate} accumulated passes"
            )
        task.model.to(self.device)
        self.identity = {**identity, "frozen": checkpoint.frozen_hash(task.model)}
        groups = task.model.parameter_groups(cfg)
        self.optimizer = torch.optim.AdamW(groups, fused=self.device.type in ("cpu", "cuda"))
        self.base_lr = [group["lr"] for group in self.optimizer.param_groups]
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.forward: nn.Module = _Forward(task)
        if self.ranks > 1:
            self.forward = self.accelerator.prepare_model(self.forward)
        self.fit = Fit()
        self.counts: Counter[str] = Counter()
        self.ratios: list[float] = []

    # ------------------------------------------------------------------ the run

    def train(self, validate_first: bool) -> Fit:
        cfg, start = self.cfg, self.resume()
        began = time.monotonic() - self.fit.seconds
        losses: list[float] = []
        if self.ranks > 1 and not self.main:
            return self.follow(start)
        with RunLog(self.work, start, cfg.steps, self.title, progress=self.progress) as log:
            if start:
                log.say(f"{self.title}: continuing at step {start} of {cfg.steps}")
            if validate_first and start == 0 and (before := self.task.validate()):
                log.write("valid", 0, before, show=("recall@8", "nll"))
            tokens, since = 0, time.monotonic()
            for step in range(start, cfg.steps):
                due = self.every(cfg.log_every, step)
                loss, norm, seen, stats = self.step(step, look=due)
                losses.append(loss)
                tokens += seen
                if due:
                    now = time.monotonic()
                    recent = losses[-cfg.log_every :]
                    log.write(
                        "train",
                        step + 1,
                        {
                            "loss": sum(recent) / len(recent),
                            "grad_norm": norm,
                            "lr": max(group["lr"] for group in self.optimizer.param_groups),
                            "tokens_per_s": tokens / max(now - since, 1e-9),
                            "seconds": now - began,
                            **stats,
                        },
                        show=("loss", "tokens_per_s"),
                    )
                    tokens, since = 0, now
                    self.watch_contrast(stats, log)
                log.advance(step + 1)
                if self.every(cfg.validate_every, step):
                    self.validate(step + 1, log)
                self.fit.loss, self.fit.seconds = loss, time.monotonic() - began
                if self.every(cfg.checkpoint_every, step):
                    self.save(step + 1)
        return self.finish()

    def follow(self, start: int) -> Fit:
        """The other ranks: the same steps, without files."""
        for step in range(start, self.cfg.steps):
            self.step(step, look=False)
            if self.every(self.cfg.validate_every, step):
                self.accelerator.wait_for_everyone()
        return self.finish()

    def finish(self) -> Fit:
        self.accelerator.wait_for_everyone()
        self.fit.counts = dict(self.counts)
        self.fit.gradient_ratio = statistics.median(self.ratios) if self.ratios else None
        return self.fit

    @property
    def main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def every(self, period: int, step: int) -> bool:
        """True after each ``period`` steps and after the last one."""
        return (step + 1) % max(period, 1) == 0 or step + 1 == self.cfg.steps

    # ------------------------------------------------------------------ one step

    def step(self, step: int, look: bool) -> tuple[float, float, int, dict[str, float]]:
        """One optimizer step: (loss, gradient norm, tokens, what ``look`` saw of the lists)."""
        torch.manual_seed(step_seed(self.seed, step))
        for group, base in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = base * lr_factor(step, self.cfg)
        examples = self.task.batch(step)
        for example in examples:
            self.counts.update(example.counts)
        mine = examples[self.accelerator.process_index :: self.ranks]
        size = len(mine) // self.cfg.accumulate
        total, tokens, stats = 0.0, 0, {}
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(self.cfg.accumulate):
            rows = mine[part * size : (part + 1) * size]
            packed = pack(
                [x.tokens for x in rows], [x.candidates for x in rows], self.task.model.vocab
            )
            packed, is_list = (
                packed.to(self.device),
                torch.tensor([x.is_list for x in rows], device=self.device),
            )
            last = part == self.cfg.accumulate - 1
            with self.accelerator.no_sync(self.forward) if not last else _nothing():
                with autocast(self.device, self.cfg.precision):
                    outcome = self.forward(packed, is_list)
                if look and part == 0:
                    stats = _look(outcome)
                (outcome.loss / self.cfg.accumulate).backward()
            total += float(outcome.loss.detach()) / self.cfg.accumulate
            tokens += sum(x.length for x in rows)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.cfg.clip or float("inf")))
        if norm != norm or total != total or norm == float("inf"):
            raise ValueError(
                f"{self.title}: step {step + 1} has loss {total} and gradient norm {norm}; lower "
                "lr_new and lr_pretrained, or set precision: fp32. The last checkpoint is "
                "untouched"
            )
        self.optimizer.step()
        return total, norm, tokens, stats

    def watch_contrast(self, stats: dict[str, float], log: RunLog) -> None:
        if (ratio := stats.get("gradient_ratio")) is not None:
            self.ratios.append(ratio)
            if len(self.ratios) == 3 and statistics.median(self.ratios) < INACTIVE:
                log.say(
                    f"{self.title}: the contrast is inactive (its gradient is {ratio:.2%} of the "
                    "SFT term's)"
                )

    # ------------------------------------------------------------------ validation and what
    # survives

    def validate(self, step: int, log: RunLog) -> None:
        scalars = self.task.validate()
        found = self.fit.final = {**scalars, "step": step}
        if scalars:
            log.write("valid", step, scalars, show=("recall@8", "nll"))
            better = not self.fit.best or _rank(found) > _rank(self.fit.best)
        else:
            better = step == self.cfg.steps  # nothing to choose by: the final model is the best one
        if better:
            self.fit.best = found
            save_model(self.task.model, self.work / "best", step)
        if self.ranks > 1:
            self.accelerator.wait_for_everyone()

    def save(self, step: int) -> None:
        state = {
            "identity": self.identity,
            "environment": checkpoint.environment(),
            "seed": self.seed,
            "schedule": {
                "kind": self.cfg.schedule,
                "steps": self.cfg.steps,
                "warmup": self.cfg.warmup,
            },
            "best": self.fit.best,
            "final": self.fit.final,
            "seconds": self.fit.seconds,
            "loss": self.fit.loss,
            "counts": dict(self.counts),
            "ratios": self.ratios,
            "task": self.task.state_dict(),
        }
        checkpoint.save(
            self.work / "checkpoints",
            step,
            self.task.model,
            self.optimizer,
            state,
            self.cfg.keep_checkpoints,
        )

    def resume(self) -> int:
        """Continue from the newest intact checkpoint; the step to go on with, 0 where there is
        none.
        """
        found = checkpoint.newest(self.work / "checkpoints")
        if found is None:
            return 0
        checkpoint.check_identity(found, self.identity)
        checkpoint.restore(found, self.task.model, self.optimizer)
        state = found.state
        self.task.load_state_dict(state["task"])
        self.fit = Fit(
            best=state["best"],
            final=state["final"],
            seconds=state["seconds"],
            loss=state["loss"],
            resumed_from=found.step,
        )
        self.counts, self.ratios = Counter(state["counts"]), list(state["ratios"])
        return found.step


def save_model(model: SidLM, folder: Path, step: int) -> None:
    """Replace ``folder`` by the model as it is now, atomically, with the step beside it."""
    tmp = folder.with_name(f".{folder.name}.tmp")
    model.save_pretrained(tmp)
    (tmp / "step.json").write_text(json.dumps({"step": step}) + "\n")
    fsync_tree(tmp)
    replace_folder(tmp, folder)


def _look(outcome: Outcome) -> dict[str, float]:
    """What the logs want of a batch's preference lists."""
    if outcome.parts is None or outcome.scores is None or len(outcome.scores.star) == 0:
        return {}
    parts, scores = outcome.parts, outcome.scores
    seen = {**list_statistics(scores), **parts.logs}
    if parts.sft is not None:
        seen["loss/sft"] = parts.sft.detach()
    if parts.contrast is not None:
        seen["loss/contrast"] = parts.contrast.detach()
    if parts.sft is not None and parts.contrast is not None and scores.is_negative.any():
        seen["gradient_ratio"] = gradient_ratio(parts.contrast, parts.sft, scores.logp)
    return {name: float(value) for name, value in seen.items()}


def _rank(found: dict[str, float]) -> tuple[float, float]:
    return found.get("recall@8", 0.0), -found["nll"]


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()
