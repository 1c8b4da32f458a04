"""Training of a language model: what SFT and alignment give the training loop.

accelerate supplies device placement and data parallelism; the loop itself, and everything that must
survive a crash, is in :mod:`sidar.fitting.loop`.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sidar.align import INACTIVE, WATCHED, Parts, gradient_ratio, list_statistics
from sidar.artifacts import fsync_tree, replace_folder
from sidar.config import OptimConfig
from sidar.fitting import checkpoint
from sidar.fitting.loop import Loss, Result, Scalars, Settings, Training
from sidar.lm.model import SidLM
from sidar.lm.packing import Packed, pack
from sidar.precision import autocast
from sidar.train.examples import Example
from sidar.train.rl.groups import tabulate
from sidar.types import CandidateScores


@dataclass
class Outcome:
    """One forward: the ``loss`` to descend, and the preference lists among its rows (None in SFT)
    for the logs. ``terms`` are averaged over the steps of a record; the others are looked at in its
    last step.
    """

    loss: Tensor
    parts: Parts | None = None
    scores: CandidateScores | None = None
    terms: Mapping[str, Tensor | float] = field(default_factory=dict)


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

    def earlier_models(self) -> dict[str, SidLM]:
        """Earlier states of ``model`` that later steps read and that only a checkpoint can bring
        back, by name; a resume fills their trained weights in place, then calls
        :meth:`load_state_dict`.
        """
        ...


@dataclass
class Fit(Result):
    """How a run went: also ``counts`` of packing, and the median ratio of the contrast's gradient
    to the SFT term's.
    """

    counts: dict[str, int] = field(default_factory=dict)
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
    identity: dict[str, object],
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
    training = LmTraining(task, cfg, seed, device, work, identity, title, progress)
    training.validates_first = validate_first
    return training.fit()


class LmTraining(Training[Sequence[Example]]):
    """A :class:`Task` in the training loop; a batch are the examples of one accumulated pass."""

    unit = "tokens"
    shown = ("loss", "recall@8", "nll", "group/reward_mean")
    remedy = "lower lr_new and lr_pretrained, or set precision: fp32"

    def __init__(
        self,
        task: Task,
        cfg: OptimConfig,
        seed: int,
        device: str,
        work: Path,
        identity: dict[str, object],
        title: str,
        progress: bool,
    ) -> None:
        from accelerate import Accelerator

        self.task, self.cfg, self._inputs, self._folder = task, cfg, identity, work
        self.accelerator = Accelerator(cpu=torch.device(device).type == "cpu")
        self.ranks = self.accelerator.num_processes
        if cfg.batch_size % (self.ranks * cfg.accumulate):
            raise ValueError(
                f"batch_size {cfg.batch_size} must be a multiple of {self.ranks} processes x "
                f"{cfg.accumulate} accumulated passes"
            )
        placed = self.accelerator.device if self.ranks > 1 else torch.device(device)
        groups = task.model.to(placed).parameter_groups(cfg)
        optimizer = torch.optim.AdamW(groups, fused=placed.type in ("cpu", "cuda"))
        super().__init__(
            task.model,
            optimizer,
            Settings(
                cfg, cfg.log_every, cfg.checkpoint_every, cfg.validate_every, cfg.keep_checkpoints
            ),
            seed=seed,
            device=placed,
            work=work,
            title=title,
            progress=progress,
        )
        self.clipped = [p for group in optimizer.param_groups for p in group["params"]]
        self.forward: nn.Module = _Forward(task)
        if self.ranks > 1:
            self.forward = self.accelerator.prepare_model(self.forward)
        self.counts: Counter[str] = Counter()
        self.ratios: list[float] = []
        self._warned: set[str] = set()

    def fit(self) -> Fit:
        result = self.run()
        return Fit(
            **vars(result),
            counts=dict(self.counts),
            gradient_ratio=statistics.median(self.ratios) if self.ratios else None,
            resumed_from=self.resumed_from,
        )

    def identity(self) -> dict[str, object]:
        return self._inputs

    # ------------------------------------------------------------------ one step

    def batches(self, step: int) -> list[Sequence[Example]]:
        examples = self.task.batch(step)
        for example in examples:
            self.counts.update(example.counts)
        mine = examples[self.accelerator.process_index :: self.ranks]
        size = len(mine) // self.cfg.accumulate
        return [mine[part * size : (part + 1) * size] for part in range(self.cfg.accumulate)]

    def loss(self, batch: Sequence[Example]) -> Loss:
        vocab = self.task.model.vocab
        packed = pack([x.tokens for x in batch], [x.candidates for x in batch], vocab)
        packed.given = tabulate([x.group for x in batch], packed.tier.shape[1])
        is_list = torch.tensor([x.is_list for x in batch], device=self.device)
        with autocast(self.device, self.cfg.precision):
            outcome = self.forward(packed.to(self.device), is_list)
        size = sum(x.length for x in batch)
        return Loss(outcome.loss, size, dict(outcome.terms), look=lambda: _look(outcome))

    # ------------------------------------------------------------------ processes that share a run

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def no_sync(self, last: bool) -> AbstractContextManager[object]:
        return nullcontext() if last else self.accelerator.no_sync(self.forward)

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    # ------------------------------------------------------------------ log and validation

    def recorded(self, kind: str, step: int, scalars: Scalars, say: Callable[[str], None]) -> None:
        """Warn once where the contrast's gradient is next to nothing beside the SFT term's, and of
        each share of groups that is too large (:data:`~sidar.align.WATCHED`).
        """
        for name, (limit, says) in WATCHED.items():
            if scalars.get(name, 0.0) > limit and name not in self._warned:
                self._warned.add(name)
                say(f"{self.title}: {says} ({name} {scalars[name]:.0%})")
        if (ratio := scalars.get("gradient_ratio")) is None:
            return
        self.ratios.append(ratio)
        if len(self.ratios) == 3 and statistics.median(self.ratios) < INACTIVE:
            say(
                f"{self.title}: the contrast is inactive (its gradient is {ratio:.2%} of the SFT "
                "term's)"
            )

    def validate(self) -> Scalars:
        return self.task.validate()

    def is_better(self, now: Scalars, best: Scalars) -> bool:
        """The model as it came in is shown in the log, and is not chosen."""
        return now["step"] > 0 and (not best or _rank(now) > _rank(best))

    def keep_best(self, step: int) -> None:
        save_model(self.task.model, self._folder / "best", step)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        return {
            "counts": dict(self.counts),
            "ratios": self.ratios,
            "task": self.task.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts, self.ratios = Counter(state["counts"]), list(state["ratios"])
        self.task.load_state_dict(state["task"])

    def kept(self) -> dict[str, Tensor]:
        trained = checkpoint.trainable(self.task.model)
        return {
            f"{earlier}/{name}": model.get_parameter(name)
            for earlier, model in self.task.earlier_models().items()
            for name in trained
        }


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
    compared = scores.is_negative.any() or scores.rollout is not None
    if parts.sft is not None and parts.contrast is not None and compared:
        seen["gradient_ratio"] = gradient_ratio(parts.contrast, parts.sft, scores.logp)
    return {name: float(value) for name, value in seen.items() if name not in outcome.terms}


def _rank(record: Scalars) -> tuple[float, float]:
    return record.get("recall@8", 0.0), -record["nll"]
