"""The one training loop: language models, tokenizers and encoders all go through :class:`Training`.

A run is a function of its config, its inputs and its seed: batch, learning rate and random draws of
step s depend on (seed, s) alone, so continuing after a kill repeats what would have happened.  What
must survive a kill is in :mod:`sidar.fitting.checkpoint`, what a person watches in
:mod:`sidar.fitting.logs`.
"""

from __future__ import annotations

import math
import shutil
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from sidar.config import DcnConfig, DenseConfig, OptimConfig, RqVaeConfig
from sidar.fitting import checkpoint
from sidar.fitting.logs import NoLog, RunLog
from sidar.fitting.schedule import lr_factor, step_seed

#: Version of what a checkpoint says of the loop; part of the identity, so others are not continued.
FORMAT = 2

Batch = TypeVar("Batch")
Scalars = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """When a training of ``rates.steps`` steps logs, validates and saves; each also after the last
    step.
    """

    rates: OptimConfig | DenseConfig | RqVaeConfig | DcnConfig  # steps, warmup, schedule, clip
    log_every: int
    checkpoint_every: int
    validate_every: int | None = None  # None: there is no validation
    keep_checkpoints: int = 2

    @property
    def steps(self) -> int:
        return self.rates.steps


@dataclass
class Loss:
    """One forward: the loss to descend, and what the log shows of it.

    ``terms`` are averaged over the steps of a record that have them; ``look`` is called before the
    backward pass of a step that ends a record; ``size`` counts what the speed is measured in.
    """

    value: Tensor
    size: int
    terms: dict[str, Tensor | float] = field(default_factory=dict)
    look: Callable[[], Scalars] | None = None


@dataclass
class Result:
    """How a run went: ``best`` and ``final`` validation scalars with their ``step``; ``loss`` of
    the last step.
    """

    best: Scalars = field(default_factory=dict)
    final: Scalars = field(default_factory=dict)
    loss: float = float("nan")
    seconds: float = 0.0
    step_seconds: float = 0.0  # without validation, logs and checkpoints


class Training(ABC, Generic[Batch]):
    """One resumable run; a subclass gives what differs: batches, loss, and what it validates.

    With ``work`` (a folder) the run leaves ``log.jsonl``, ``tensorboard/`` and ``checkpoints/``
    there and continues what an interrupted run left; without it nothing is written.
    """

    unit = "examples"  # what Loss.size counts
    shown: tuple[str, ...] = ("loss",)  # scalars beside the bar
    validates_first = False  # also before the first step
    #: Interrupted work of other settings or inputs is deleted with a line, not refused.
    discards_other_work = False
    remedy = "lower the learning rate, or set precision: fp32"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        *,
        seed: int,
        device: str | torch.device,
        work: Path | None,
        title: str,
        progress: bool,
        buffers: Sequence[str] = (),
    ) -> None:
        self.model, self.optimizer, self.settings = model, optimizer, settings
        self.seed, self.work, self.title, self.progress = seed, work, title, progress
        self.device = torch.device(device)
        self.buffers = buffers  # names of the model's buffers that training moves
        self.clipped = [p for p in model.parameters() if p.requires_grad]
        self.base_lr = [group["lr"] for group in optimizer.param_groups]
        self.result = Result()
        self.resumed_from = 0
        self._window: list[Scalars] = []  # terms of the steps since the last record
        self._looked: Scalars = {}
        self._norm, self._size, self._since, self._began = 0.0, 0, 0.0, 0.0
        self._identity: dict[str, object] = {}
        self._discarded = ""  # why interrupted work was not continued

    # ------------------------------------------------------------------ what a subclass gives

    @abstractmethod
    def batches(self, step: int) -> Sequence[Batch]:
        """Return the batches whose mean gradient is that of ``step`` (0-based)."""

    @abstractmethod
    def loss(self, batch: Batch) -> Loss:
        """Return the loss of one batch, with gradients."""

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """Return what an interrupted run must share with the one that continues it."""

    def start(self) -> None:
        """Prepare the model of a run that begins at step 0."""

    def after_step(self, step: int, loss: float) -> None:
        """Follow an optimizer step: what moves without a gradient."""

    def figures(self) -> Scalars:
        """Return scalars of the model as it is now for a record of the log."""
        return {}

    def recorded(self, kind: str, step: int, scalars: Scalars, say: Callable[[str], None]) -> None:
        """Take note of a record of the log, of ``kind`` train or valid; ``scalars`` without the
        times of this machine.
        """

    def validate(self) -> Scalars:
        """Return the validation scalars; without any the last step is the best one."""
        return {}

    def is_better(self, now: Scalars, best: Scalars) -> bool:
        """Return whether validation ``now`` beats ``best``, the best so far (empty at first)."""
        return not best

    def keep_best(self, step: int) -> None:
        """Keep the model as it is now: no earlier validation was better."""

    def state_dict(self) -> dict[str, Any]:
        """Return what else a checkpoint must hold, as JSON."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""

    def kept(self) -> dict[str, Tensor]:
        """Return tensors beside the model that a checkpoint must hold; a resume fills them in place
        before :meth:`load_state_dict`.
        """
        return {}

    # ------------------------------------------------------------------ processes that share a run

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return True

    def no_sync(self, last: bool) -> AbstractContextManager[object]:
        """Hold gradients back from other processes until the ``last`` batch of a step."""
        return nullcontext()

    def wait(self) -> None:
        """Wait for the other processes."""

    # ------------------------------------------------------------------ the run

    def run(self) -> Result:
        """Train to the last step and return how it went; the caller's random state stays as it was.

        Raises ``ValueError`` where the loss stops being finite, where all checkpoints are damaged,
        and where the interrupted run in ``work`` is another one.
        """
        cards = [torch.cuda.current_device()] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cards):
            first = self._resume()
            if first == 0:
                self.start()
            with self._open_log(first) as log:
                self._tell_where_it_starts(first, log)
                self._train(first, log)
        self.wait()
        return self.result

    def _train(self, first: int, log: RunLog | NoLog) -> None:
        settings, result = self.settings, self.result
        self._began = time.monotonic() - result.seconds
        if self.validates_first and first == 0:
            self._validate(0, log)
        self._size, self._since = 0, time.monotonic()
        for step in range(first, settings.steps):
            started = time.perf_counter()
            result.loss = self._step(step)
            result.step_seconds += time.perf_counter() - started
            if self._is_due(settings.log_every, step):
                self._record(step + 1, log)
            log.advance(step + 1)
            if settings.validate_every and self._is_due(settings.validate_every, step):
                self._validate(step + 1, log)
            result.seconds = time.monotonic() - self._began
            if self._is_due(settings.checkpoint_every, step):
                self._save(step + 1)

    def _is_due(self, period: int, step: int) -> bool:
        """True after each ``period`` steps and after the last one."""
        return (step + 1) % max(period, 1) == 0 or step + 1 == self.settings.steps

    def _step(self, step: int) -> float:
        """Take one optimizer step and return its loss."""
        torch.manual_seed(step_seed(self.seed, step))
        factor = lr_factor(step, self.settings.rates)
        for group, base in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = base * factor
        looks = self.is_main and self._is_due(self.settings.log_every, step)
        batches = self.batches(step)
        terms: Scalars = {"loss": 0.0}
        counted: Counter[str] = Counter()
        self.optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(batches):
            with self.no_sync(last=number == len(batches) - 1):
                loss = self.loss(batch)
                if looks and number == 0:
                    self._looked = loss.look() if loss.look else {}
                (loss.value / len(batches)).backward()
            for name, value in {"loss": loss.value.detach(), **loss.terms}.items():
                terms[name] = terms.get(name, 0.0) + float(value) / len(batches)
                counted[name] += 1
            self._size += loss.size
        for name, times in counted.items():
            if times < len(batches):  # a mean over those that have it
                terms[name] *= len(batches) / times
        limit = self.settings.rates.clip or float("inf")
        self._norm = float(nn.utils.clip_grad_norm_(self.clipped, limit))
        if not (math.isfinite(terms["loss"]) and math.isfinite(self._norm)):
            raise ValueError(
                f"{self.title}: step {step + 1} has loss {terms['loss']} and gradient norm "
                f"{self._norm}; {self.remedy}. The last checkpoint is untouched"
            )
        self.optimizer.step()
        self.after_step(step, terms["loss"])
        self._window.append(terms)
        return terms["loss"]

    # ------------------------------------------------------------------ logs and validation

    def _open_log(self, first: int) -> RunLog | NoLog:
        if self.work is None or not self.is_main:
            return NoLog()
        return RunLog(self.work, first, self.settings.steps, self.title, progress=self.progress)

    def _tell_where_it_starts(self, first: int, log: RunLog | NoLog) -> None:
        if self._discarded:
            log.say(
                f"{self.title}: starting afresh; an interrupted fit was of others: "
                f"{self._discarded}"
            )
        if first:
            log.say(f"{self.title}: continuing at step {first} of {self.settings.steps}")

    def _record(self, step: int, log: RunLog | NoLog) -> None:
        """Write the means of the steps since the last record, and what the model looks like."""
        window, now = self._window, time.monotonic()
        names = dict.fromkeys(name for terms in window for name in terms)
        having = {name: [terms[name] for terms in window if name in terms] for name in names}
        scalars = {name: sum(values) / len(values) for name, values in having.items()}
        scalars |= {
            "grad_norm": self._norm,
            "lr": max(group["lr"] for group in self.optimizer.param_groups),
            **self.figures(),
            **self._looked,
        }
        speed = f"{self.unit}_per_s"
        times = {
            speed: self._size / max(now - self._since, 1e-9),
            "seconds": now - self._began,
        }
        # Where no validation is printed, a log file gets a line after each fifth of the run.
        fifths = [at * 5 // self.settings.steps for at in (step - len(window), step)]
        speak = self.settings.validate_every is None and fifths[0] < fifths[1]
        log.write("train", step, {**scalars, **times}, show=(*self.shown, speed), speak=speak)
        self._window, self._size, self._since = [], 0, now
        self.recorded("train", step, scalars, log.say)

    def _validate(self, step: int, log: RunLog | NoLog) -> None:
        if self.is_main:
            scalars = self.validate()
            record = {**scalars, "step": step}
            self.result.final = record
            if scalars:
                log.write("valid", step, scalars, show=self.shown)
                self.recorded("valid", step, scalars, log.say)
                better = self.is_better(record, self.result.best)
            else:
                better = step == self.settings.steps
            if better:
                self.result.best = record
                self.keep_best(step)
        self.wait()

    # ------------------------------------------------------------------ what survives a kill

    @property
    def _checkpoints(self) -> Path | None:
        return None if self.work is None else self.work / "checkpoints"

    def _save(self, step: int) -> None:
        if self._checkpoints is None or not self.is_main:
            return
        rates = self.settings.rates
        state = {
            "identity": self._identity,
            "environment": checkpoint.environment(),
            "seed": self.seed,
            "schedule": {"kind": rates.schedule, "steps": rates.steps, "warmup": rates.warmup},
            "result": asdict(self.result),
            "window": self._window,
            "task": self.state_dict(),
        }
        checkpoint.save(
            self._checkpoints,
            step,
            self.model,
            self.optimizer,
            state,
            self.settings.keep_checkpoints,
            self.buffers,
            self.kept(),
        )

    def _resume(self) -> int:
        """Continue the newest intact checkpoint; return the step to go on with, 0 for none."""
        if self._checkpoints is None:
            return 0
        frozen = checkpoint.frozen_hash(self.model)
        self._identity = {**self.identity(), "frozen": frozen, "format": FORMAT}
        newest = checkpoint.newest(self._checkpoints)
        if newest is None:
            return 0
        if self.discards_other_work and (changed := checkpoint.differing(newest, self._identity)):
            self._discarded = "; ".join(changed)
            shutil.rmtree(self._checkpoints)
            return 0
        checkpoint.check_identity(newest, self._identity)
        checkpoint.restore(newest, self.model, self.optimizer, self.buffers, self.kept())
        self.result = Result(**newest.state["result"])
        self._window = newest.state["window"]
        self.load_state_dict(newest.state["task"])
        self.resumed_from = newest.step
        return newest.step
