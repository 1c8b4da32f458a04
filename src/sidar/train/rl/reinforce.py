"""Reinforcement in the alignment stage: the model learns from SIDs that it writes while it trains.

A round draws the requests of a batch, writes a group of SIDs for each with the weights as they are
(:class:`sidar.train.rl.rollouts.Explorer`), and descends the objective on the packed groups once,
or ``align.rollouts.inner_steps`` times. A share of item text → SID is kept, as for every objective.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from sidar.align import Objective, objective, take_rows
from sidar.config import AlignConfig
from sidar.data.dataset import Dataset
from sidar.fitting.picture import Panel
from sidar.lm.candidates import Candidate
from sidar.lm.model import SidLM
from sidar.lm.packing import Packed, pack, score
from sidar.precision import autocast
from sidar.train.examples import Example, LogStream, Stream
from sidar.train.loop import Outcome
from sidar.train.order import Draw, Order, Pools
from sidar.train.parts import frozen_copy, with_items
from sidar.train.rl.groups import Group
from sidar.train.rl.rollouts import Asked, Explorer
from sidar.train.stage import PANELS as OF_TRAINING
from sidar.train.validate import Validator
from sidar.types import CandidateScores

PANELS = (
    *OF_TRAINING,
    Panel("Reward of a group", (("group/reward_mean", "mean"), ("group/reward_std", "deviation"))),
    Panel(
        "Groups, shares",
        (
            ("group/zero_variance", "one reward for all"),
            ("gate/open", "gate open"),
            ("expert/squeezed", "squeezed by an expert"),
            ("group/valid", "valid"),
            ("rollout/distinct", "distinct in a batch"),
        ),
        "share",
    ),
    Panel(
        "Requests with a hit among what was drawn",
        (("rollout/click_hit", "chosen item"), ("rollout/exposure_hit", "shown item")),
        "share",
    ),
    Panel(
        "Strata of the gate",
        (
            ("stratum/difficult_discriminable/share", "difficult, discriminable"),
            ("stratum/difficult_only/share", "difficult only"),
            ("stratum/discriminable_only/share", "discriminable only"),
            ("stratum/neither/share", "neither"),
        ),
        "share",
    ),
)


@dataclass(frozen=True)
class _Drawn:
    """An example of a pool before anything was written for it; None = an item's text."""

    example: Example
    asked: Asked | None = None


class ReinforceTask:
    """Groups of rollouts and item rows under one objective (see :class:`sidar.train.loop.Task`).

    The order of the requests depends on (seed, round) alone, and a group on these and the weights,
    so that a run that was cut goes on as it would have. Inside a round of several steps the groups
    are kept in the checkpoint.
    """

    def __init__(
        self,
        model: SidLM,
        requests: LogStream,
        items: Stream,
        validator: Validator,
        cfg: AlignConfig,
        seed: int,
        explorer: Explorer,
    ) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                f"align.objective {cfg.objective!r} writes its rollouts in one process; start it "
                "without torchrun or accelerate launch"
            )
        self.model, self.cfg = model, cfg
        self.objective: Objective = objective(cfg.objective)
        self._requests, self._items, self._validator = requests, items, validator
        self._explorer = explorer
        compares = self.objective.compares_with_reference(cfg)
        self._reference = frozen_copy(model) if compares else None
        sizes = {"list": len(requests), "item": len(items)}
        shares = {"list": 1.0 - cfg.item_share, "item": cfg.item_share}
        order = Order(sizes, shares, cfg.batch_size, seed)
        self._pools = Pools(order, self._prepare, lambda drawn: drawn.example.length)
        self._round = -1  # of which the next two are
        self._examples: list[Example] = []
        self._seen: dict[str, float] = {}

    def _prepare(self, draws: list[Draw]) -> list[_Drawn]:
        numbers = [index for source, index, _ in draws if source == "list"]
        items = [(index, epoch) for source, index, epoch in draws if source == "item"]
        asked = [
            Asked(example, request, number)
            for example, request, number in zip(
                self._requests.rows(numbers), self._requests.requests(numbers), numbers, strict=True
            )
        ]
        drawn = [_Drawn(one.example, one) for one in asked]
        return drawn + [_Drawn(example) for example in self._items.examples(items) if items]

    # ------------------------------------------------------------------ a step

    def batch(self, step: int) -> list[Example]:
        self.model.eval()  # dropout off: what is learned from is what was drawn
        number, inner = divmod(step, self.cfg.rollouts.inner_steps)
        if number != self._round:
            if inner:
                raise ValueError(f"step {step} continues round {number}, which no checkpoint holds")
            self._begin(number)
        return self._examples

    def _begin(self, number: int) -> None:
        """Write the groups of a round with the weights as they are."""
        drawn = self._pools.batch(number)
        asked = [one.asked for one in drawn if one.asked is not None]
        groups, self._seen = self._explorer(asked, number) if asked else ([], {})
        if self.cfg.rollouts.inner_steps > 1:
            groups = self._teacher_forced(groups)
        written = iter(groups)
        self._examples = [one.example if one.asked is None else next(written) for one in drawn]
        self._round = number

    @torch.no_grad()
    def _teacher_forced(self, examples: Sequence[Example]) -> list[Example]:
        """Fill ``old_logp`` of all candidates, experts too, under the policy as it is now."""
        size = max(1, self.cfg.batch_size // self.cfg.accumulate)
        filled = []
        for at in range(0, len(examples), size):
            part = examples[at : at + size]
            packed = pack([x.tokens for x in part], [x.candidates for x in part], self.model.vocab)
            with autocast(self.model.device, self.cfg.precision):
                logp = score(self.model, packed.to(self.model.device)).logp.float().cpu().numpy()
            for example, steps in zip(part, logp, strict=True):
                assert example.group is not None  # the explorer gives one to each
                group = replace(example.group, old_logp=steps[: len(example.candidates)])
                filled.append(replace(example, group=group))
        return filled

    def forward(self, packed: Packed, is_list: Tensor) -> Outcome:
        scores = score(self.model, packed)
        if not is_list.any():
            return Outcome(with_items(None, scores, is_list))
        if self._reference is not None:
            self._reference.to(packed.tokens.device)
            with torch.no_grad():
                scores.ref_logp = score(self._reference, packed).logp
        lists = take_rows(scores, is_list)
        assert lists.rollout is not None  # every request has a group
        lists.is_negative = lists.is_negative & ~lists.rollout
        terms: dict[str, Tensor | float] = {**self._seen}
        if self.cfg.rollouts.inner_steps == 1:
            terms["rollout/logp_gap"] = _gap(lists)
            lists.old_logp = lists.logp.detach()  # on policy, whatever rounding says
        parts = self.objective.parts(lists, self.cfg, None)
        terms |= parts.logs
        loss = with_items(parts.total, scores, is_list)
        return Outcome(loss, parts, lists, terms)

    def validate(self) -> dict[str, float]:
        return self._validator(self.model)

    # ------------------------------------------------------------------ what survives a kill

    def state_dict(self) -> dict[str, Any]:
        if self.cfg.rollouts.inner_steps == 1:
            return {}
        groups = [
            {
                "codes": [candidate.codes for candidate in example.candidates],
                **example.group.to_json(),
            }
            for example in self._examples
            if example.group is not None
        ]
        return {"round": self._round, "seen": self._seen, "groups": groups}

    def earlier_models(self) -> dict[str, SidLM]:
        return {}  # a round's groups are kept, not the model that wrote them

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not state:
            return
        self._round, self._seen = state["round"], state["seen"]
        stored = iter(state["groups"])
        self._examples = [
            one.example if one.asked is None else _with_group(one.example, next(stored))
            for one in self._pools.batch(self._round)
        ]


def _with_group(example: Example, stored: dict[str, Any]) -> Example:
    """Return a request's example with the group that a checkpoint holds."""
    codes = stored.pop("codes")[len(example.candidates) :]
    members = [Candidate(tuple(one)) for one in codes]
    return replace(
        example, candidates=[*example.candidates, *members], group=Group.from_json(stored)
    )


def _gap(lists: CandidateScores) -> Tensor:
    """Return () the largest difference between log-probs as drawn and as the forward computes them.

    Rounding makes it small; a policy that drew with other weights would make it large.
    """
    assert lists.old_logp is not None  # filled for every group
    gap = (lists.logp.detach().float() - lists.old_logp).abs()
    known = lists.mask & ~lists.old_logp.isnan()
    return torch.where(known, gap, 0.0).amax()


def with_exposures(table: pa.Table, data: Dataset) -> pa.Table:
    """Return lists with the column ``exposed``: rows that each request showed and nobody chose.

    They come from the requests, because a list's negatives may be of another kind
    (``preference.negatives``) and are cut.
    """
    requests = pq.read_table(
        data.folder / "requests.parquet", columns=["request_id", "rows", "actions"]
    )
    found = pc.index_in(table.column("request_id"), requests.column("request_id"))
    requests = requests.take(found)
    rows, actions = requests.column("rows"), requests.column("actions")
    offsets = rows.combine_chunks().offsets.to_numpy()
    shown = pc.list_flatten(actions).to_numpy() == 0
    counts = np.concatenate([[0], np.cumsum(shown)])[offsets]
    kept = pc.list_flatten(rows).to_numpy()[shown]
    return table.append_column("exposed", pa.ListArray.from_arrays(counts.astype(np.int32), kept))
