"""The alignment stage: move the SFT model towards what was clicked and away from what was only
shown.

Every objective sees the same rows in the same order with the same steps (docs/evaluation.md):
preference lists, and a share of item text → SID that keeps the whole catalogue reachable.  Dropout
is off: candidates of one list share their prompt's dropout mask in a packed forward, and a
reference compared under noise is no reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sidar.align import Objective, SimilarityWindow, objective, take_rows
from sidar.config import AlignConfig, Config
from sidar.lm.model import SidLM
from sidar.lm.packing import Packed, score
from sidar.precision import resolve_device, used_precision
from sidar.rewards import RewardInputs, fitted_reward
from sidar.train.examples import Example, LogStream, Stream
from sidar.train.inputs import Inputs, binding, hash_of
from sidar.train.loop import Fit, Outcome, fit
from sidar.train.negatives import BeamNegatives
from sidar.train.order import Draw, Order, Pools
from sidar.train.parts import frozen_copy, with_items
from sidar.train.rl.judge import Judge
from sidar.train.rl.reinforce import PANELS as OF_REINFORCEMENT
from sidar.train.rl.reinforce import ReinforceTask, with_exposures
from sidar.train.rl.rollouts import Explorer
from sidar.train.stage import PANELS, finish
from sidar.train.validate import Validator
from sidar.train.vectors import attach


@dataclass(frozen=True)
class _Drawn:
    """An example of a pool; ``list`` is its index among the preference lists, None = an item."""

    example: Example
    list: int | None = None


class AlignTask:
    """Preference lists and item rows under one objective (see :class:`sidar.train.loop.Task`).

    A batch of B₁ lists and B₂ item rows descends (B₁ · objective(lists) + B₂ · SFT(items)) / (B₁ +
    B₂).  Objectives with a reference compare with a frozen copy of the model as it came in, scored
    on the same packed batch: one extra forward without gradient, nothing to cache, and nothing that
    a resume could find stale.
    """

    def __init__(
        self,
        model: SidLM,
        lists: LogStream,
        items: Stream,
        validator: Validator,
        cfg: AlignConfig,
        seed: int,
        beam_negatives: BeamNegatives | None = None,
        refresh_every: int = 0,
    ) -> None:
        """``refresh_every``: steps between two refreshes of ``beam_negatives``; 0 = never."""
        self.model, self.cfg = model, cfg
        self.objective: Objective = objective(cfg.objective)
        self._lists, self._items, self._validator, self._beam = (
            lists,
            items,
            validator,
            beam_negatives,
        )
        self._refresh_every = refresh_every if beam_negatives is not None else 0
        compares = self.objective.compares_with_reference(cfg)
        self._reference = frozen_copy(model) if compares else None
        self.window = (
            SimilarityWindow(
                cfg.rdrw_window,
                lam=cfg.rdrw_lambda,
                warmup_weight=cfg.rdrw_warmup_weight,
                update=cfg.rdrw_update,
                alpha=cfg.rdrw_alpha,
            )
            if self.objective.needs_window and cfg.rdrw and cfg.rdrw_weights != "constant"
            else None
        )
        # of RDRW's similarity with equal length, batch by batch
        self.length_correlations: list[float] = []
        sizes = {"list": len(lists), "item": len(items)}
        shares = {"list": 1.0 - cfg.item_share, "item": cfg.item_share}
        order = Order(sizes, shares, cfg.batch_size, seed)
        self._pools = Pools(order, self._prepare, self._length)

    def _prepare(self, draws: list[Draw]) -> list[_Drawn]:
        lists = [index for source, index, _ in draws if source == "list"]
        # the beam's negatives are drawn for each batch: a pool of batches may span a refresh
        none: list[list[int]] | None = [[] for _ in lists] if self._beam else None
        examples = self._lists.rows(lists, none) if lists else []
        items = [(index, epoch) for source, index, epoch in draws if source == "item"]
        drawn = [_Drawn(example, index) for example, index in zip(examples, lists, strict=True)]
        return drawn + [_Drawn(example) for example in self._items.examples(items) if items]

    def _length(self, drawn: _Drawn) -> int:
        """Return the length by which a pool is sorted, counting the beam's negatives that a list
        will get: the order of a run must not depend on what its model answers.
        """
        coming = self._beam is not None and drawn.list is not None
        return drawn.example.length + (self._lists.most_negative_codes if coming else 0)

    def batch(self, step: int) -> list[Example]:
        self.model.eval()  # dropout off; nothing else in a decoder depends on the mode
        if self._beam is not None and self._is_refresh(step):
            self._beam.refresh(self.model)
        batch = self._pools.batch(step)
        lists = [drawn.list for drawn in batch if drawn.list is not None]
        if self._beam is None or not lists:
            return [drawn.example for drawn in batch]
        examples = iter(self._lists.rows(lists, *self._beam.mined(self._lists, lists)))
        return [drawn.example if drawn.list is None else next(examples) for drawn in batch]

    def _is_refresh(self, step: int) -> bool:
        return bool(self._refresh_every and step and step % self._refresh_every == 0)

    def forward(self, packed: Packed, is_list: Tensor) -> Outcome:
        state = self.cfg.rdrw_state if self.window is not None else None
        scores = score(self.model, packed, rdrw_state=state)
        if self._reference is not None:
            self._reference.to(packed.tokens.device)
            with torch.no_grad():
                scores.ref_logp = score(self._reference, packed).logp
        lists = take_rows(scores, is_list)
        parts = self.objective.parts(lists, self.cfg, self.window)
        if (correlation := parts.logs.get("rdrw/length_correlation")) is not None:
            self.length_correlations.append(float(correlation))
        return Outcome(with_items(parts.total, scores, is_list), parts, lists)

    def validate(self) -> dict[str, float]:
        return self._validator(self.model)

    def state_dict(self) -> dict[str, Any]:
        return {"window": self.window.state_dict()} if self.window else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.window is not None:
            self.window.load_state_dict(state["window"])
        if self._beam is not None:
            self._beam.reread()

    def earlier_models(self) -> dict[str, SidLM]:
        """Return the model of the last refresh; without any, it is rebuilt from the SFT model."""
        if self._beam is None or not self._refresh_every:
            return {}
        return {"negatives": self._beam.model}


def train_align(
    cfg: Config,
    data_folder: Path,
    sid_folder: Path,
    sft_folder: Path,
    out: Path,
    *,
    work: Path | None = None,
    progress: bool = True,
    embed_folder: Path | None = None,
) -> dict[str, Any]:
    """Align the SFT model under ``cfg.align`` and write ``model/``, ``best/``, ``log.jsonl``,
    ``tensorboard/``, ``fit.png``.

    Starts from the *final* SFT model; ``embed_folder`` as in ``train_sft``.  Interrupted work is
    kept in ``work`` (default: ``.<stage>.work`` beside ``out``).  The log's step 0 is the SFT model
    on the same validation lists. Returns a report as ``train_sft`` does; raises ``ValueError`` for
    an unknown objective, a log without lists, or interrupted work of another config.
    """
    align = cfg.align.resolved(cfg.sft)  # also what a checkpoint's identity records
    objective(align.objective)  # a misspelt name is told before anything is loaded
    inputs = Inputs.open(Path(data_folder), Path(sid_folder))
    device = resolve_device(cfg.device)
    model = SidLM.from_pretrained(Path(sft_folder) / "model")
    model.vocab.check_fits(inputs.sids, f"the model of {sft_folder}")
    vectors = attach(model, cfg, inputs.data, inputs.index, embed_folder, device)
    reinforces = objective(align.objective).needs_rollouts
    lists = _training_lists(cfg, inputs, model, Path(data_folder), reinforces)
    run = Path(data_folder).parent
    preference = cfg.preference
    valid = inputs.valid_lists(
        model.prompts, align.valid_requests, preference.max_positives, preference.max_negatives
    )
    items = inputs.items(cfg.embed.fields, model.prompts, vectors)
    validator = Validator(valid, inputs.index, beam=align.valid_beam, precision=align.precision)
    task: AlignTask | ReinforceTask
    if reinforces:
        explorer = _explorer(cfg, align, inputs, model, run, device)
        task = ReinforceTask(model, lists, items, validator, align, cfg.seed, explorer)
    else:
        beam = _beam_negatives(cfg, align, inputs, model, run, device)
        every = preference.refresh_every
        task = AlignTask(model, lists, items, validator, align, cfg.seed, beam, every)
    identity: dict[str, object] = {
        "stage": align.folder,
        "seed": cfg.seed,
        "align": binding(align),
        "preference": preference.model_dump(mode="json"),
        "fields": cfg.embed.fields,
        "data": hash_of(Path(data_folder), ["lists.parquet", "catalogue.arrow"]),
        "sid": hash_of(Path(sid_folder), ["sids.parquet"]),
        "sft": hash_of(Path(sft_folder), ["model/model.safetensors", "model/config.json"]),
    }

    def train(folder: Path) -> Fit:
        return fit(
            task,
            align,
            seed=cfg.seed,
            device=device,
            work=folder,
            identity=identity,
            title=align.folder,
            validate_first=True,
            progress=progress,
        )

    facts: dict[str, object] = {
        "lists": len(lists),
        "requests_without_sid": lists.dropped,
        "valid_lists": len(valid),
        "precision": used_precision(device, align.precision),
    }
    panels = OF_REINFORCEMENT if reinforces else PANELS
    report = finish(train, model, Path(out), work, facts, panels)
    if isinstance(task, AlignTask) and task.window is not None:
        _add_rdrw(report, task, task.window, align)
    return report


def _training_lists(
    cfg: Config, inputs: Inputs, model: SidLM, data_folder: Path, reinforces: bool
) -> LogStream:
    """Return the preference lists of training days; for rewards with what was shown, and for
    reinforcement without negatives.
    """
    table = inputs.data.lists("train")
    rewarded = reinforces or cfg.preference.judge != "log"
    lists = LogStream(
        with_exposures(table, inputs.data) if rewarded else table,
        inputs.sids,
        model.prompts,
        max_positives=cfg.preference.max_positives,
        max_negatives=0 if reinforces else cfg.preference.max_negatives,
        is_list=True,
    )
    if not len(lists):
        raise ValueError(
            f"{data_folder} holds no preference list whose positives have an SID; alignment needs "
            "logged clicks (see events in sidar.yaml)"
        )
    return lists


def _explorer(
    cfg: Config, align: AlignConfig, inputs: Inputs, model: SidLM, run: Path, device: str
) -> Explorer:
    """Return what writes and rewards groups of rollouts."""
    known = RewardInputs(inputs.data, inputs.index, run, cfg.seed, device)
    reward = fitted_reward(align, known)
    return Explorer(model, inputs.index, inputs.sids, reward, align, cfg.seed)


def _beam_negatives(
    cfg: Config, align: AlignConfig, inputs: Inputs, model: SidLM, run: Path, device: str
) -> BeamNegatives | None:
    """Return what draws negatives from the model as it came in; None where the log has them."""
    preference, index = cfg.preference, inputs.index
    if preference.negatives != "beam":
        return None
    judge = None
    if preference.judge != "log":
        known = RewardInputs(inputs.data, index, run, cfg.seed, device)
        of_judge = align.model_copy(update={"reward": preference.judge})
        judge = Judge(fitted_reward(of_judge, known), index, inputs.sids)
    width = preference.max_positives + preference.max_negatives
    start = frozen_copy(model).to(device)
    return BeamNegatives(start, index, width, preference.max_positives, judge)


def _add_rdrw(
    report: dict[str, Any], task: AlignTask, window: SimilarityWindow, align: AlignConfig
) -> None:
    """Add what RDRW's window saw to a report, and warn where it told nothing of the lists."""
    report["shapes"]["rdrw"] = {
        "pairs_seen": window.seen,
        "window": align.rdrw_window,
        "quartiles": window.quartiles,
    }
    correlations = task.length_correlations
    mean = sum(correlations) / len(correlations) if correlations else 0.0
    if mean > 0.5:
        report["summary"] += (
            f"; RDRW's similarity mostly tells lengths apart (correlation {mean:.2f}): "
            "align.rdrw_state: item_vector compares SIDs of any length"
        )
    if window.quartiles is None:
        report["summary"] += (
            f"; RDRW stayed in its warm-up ({window.seen} of {align.rdrw_window} pairs)"
        )
