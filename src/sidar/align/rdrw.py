"""Similarity-based dynamic reward weighting (RAD-DPO's RDRW): negatives that look like y_w* are
punished less.

    sim_j = cos(h(y_w*, x), h(y_j, x)),   h = final hidden state that emits EOS      (eq. 5) [seed]
    w(sim) = 1                                          sim < Q25
           = 0.5 + 0.5 / (1 + exp(λ (sim − Q50)))       Q25 ≤ sim ≤ Q75,   λ = 12    (eq. 6) [seed]
           = 0.5                                        sim > Q75

Q25, Q50, Q75 are quartiles of the first N = 4096 similarities, "dynamically updated" [seed]; how is
not said, so the default is a sliding window of the last N [reconstruction].  During the warm-up w =
1, which is eq. 2 [reconstruction]. Similarities and weights carry no gradient: otherwise the loss
could fall by moving h [reconstruction]. A limitation to know: about a quarter of the pairs gets 1
and a quarter 0.5 whatever the noise in the log.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from sidar.align.terms import full_precision
from sidar.types import Json

Quartiles = tuple[float, float, float]

#: Similarities closer than this are equal: rounding in fp32 is about a tenth of it.
SAME = 1e-6


def star_similarity(hidden: Tensor, star: Tensor) -> Tensor:
    """(B, C) cosine between each candidate's state and that of y_w* (eq. 5), without gradient.

    NaN where a state has no direction (zero norm) or is not finite: such a pair has no similarity.
    """
    with torch.no_grad():
        states = full_precision(hidden)
        unit = states / states.norm(dim=-1, keepdim=True)  # 0/0 = NaN on purpose
        anchor = unit[torch.arange(len(star), device=star.device), star]  # (B, d)
        return (unit * anchor[:, None]).sum(-1)


def similarity_weight(sim: Tensor, quartiles: Quartiles, lam: float = 12.0) -> Tensor:
    """Eq. 6 for each entry of ``sim``; same shape.

    Not continuous: with quartiles at ±.1 around the median it jumps from 1 to .88 at Q25 and from
    .62 to .5 at Q75. Where the quartiles coincide (at least half of the similarities are equal), a
    similarity equal to them gets the median's weight, .75; lower ones still get 1 and higher ones
    .5. Values within :data:`SAME` count as equal, because the cosine of one pair differs by
    rounding from batch to batch.
    """
    q25, q50, q75 = quartiles
    if q75 - q25 < SAME:
        q25, q75 = q25 - SAME, q75 + SAME
    middle = 0.5 + 0.5 * torch.sigmoid(-lam * (sim - q50))
    return torch.where(sim < q25, 1.0, torch.where(sim > q75, 0.5, middle))


def shuffled(weights: Tensor) -> Tensor:
    """``weights`` (n,) in a random order: the same numbers, no longer where the similarity put
    them.

    The control of RDRW against chance [reconstruction: docs/evaluation.md]. Drawn from torch's CPU
    generator, which the training loop seeds at every step, so a resumed run repeats it; ranks
    permute their own batch.
    """
    return weights[torch.randperm(len(weights)).to(weights.device)]


class SimilarityWindow:
    """The running anchors of eq. 6: JSON-able state, shared by all ranks.

    ``update``: ``window`` = quartiles of the last ``size`` similarities; ``ema`` = quartiles of the
    first ``size``, then Q ← (1 − α) Q + α Q_batch; ``frozen`` = quartiles of the first ``size`` for
    ever.
    """

    def __init__(
        self,
        size: int = 4096,
        *,
        lam: float = 12.0,
        warmup_weight: float = 1.0,
        update: Literal["window", "ema", "frozen"] = "window",
        alpha: float = 0.01,
    ) -> None:
        self.size, self.lam, self.warmup_weight, self.update, self.alpha = (
            size,
            lam,
            warmup_weight,
            update,
            alpha,
        )
        self.seen = 0
        self._values: deque[float] = deque(maxlen=size)
        self._quartiles: Quartiles | None = None

    @property
    def quartiles(self) -> Quartiles | None:
        """The anchors for the next batch; None during the warm-up."""
        return self._quartiles

    def weigh(self, sims: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Weights of ``sims`` (n,) under the anchors of *earlier* batches, and what to log of them.

        A pair without similarity (NaN) keeps the full weight 1.
        """
        if self._quartiles is None:
            weights = torch.full_like(sims, self.warmup_weight)
        else:
            weights = similarity_weight(sims, self._quartiles, self.lam)
        weights = torch.where(torch.isfinite(sims), weights, 1.0)
        logs = {"rdrw/seen": torch.tensor(float(self.seen))}
        if len(sims):
            logs["rdrw/weight_mean"] = weights.mean()
        for name, value in zip(("q25", "q50", "q75"), self._quartiles or (), strict=False):
            logs[f"rdrw/{name}"] = torch.tensor(value)
        return weights, logs

    def add(self, sims: Tensor) -> None:
        """Take a batch of similarities (n,) in, from every rank, so that all ranks keep the same
        anchors.
        """
        batch = gather_ragged(sims.detach().float())
        values = batch[torch.isfinite(batch)].cpu().double().numpy()
        warm = self._quartiles is not None
        self.seen += len(values)
        if self.update == "window" or not warm:
            # "frozen" and "ema" anchor at exactly the first N; the window at the last N
            room = len(values) if self.update == "window" else self.size - len(self._values)
            self._values.extend(values[:room].tolist())
            if len(self._values) == self.size:
                self._quartiles = _quartiles(np.asarray(self._values))
        elif self.update == "ema" and len(values):
            old = np.asarray(self._quartiles)
            new = (1 - self.alpha) * old + self.alpha * np.asarray(_quartiles(values))
            self._quartiles = (float(new[0]), float(new[1]), float(new[2]))

    def state_dict(self) -> Json:
        """JSON-able; floats survive JSON exactly."""
        return {
            "size": self.size,
            "update": self.update,
            "seen": self.seen,
            "values": list(self._values),
            "quartiles": self._quartiles,
        }

    def load_state_dict(self, state: Json) -> None:
        """Continue from ``state``; ``ValueError`` when it belongs to a window of another size or
        rule.
        """
        if (state["size"], state["update"]) != (self.size, self.update):
            raise ValueError(
                f"this state is of a window of {state['size']} ({state['update']}), "
                f"not of {self.size} ({self.update}); keep rdrw_window and rdrw_update, or start "
                "the stage afresh"
            )
        self.seen = int(state["seen"])
        self._values = deque(state["values"], maxlen=self.size)
        anchors = state["quartiles"]
        self._quartiles = (
            None if anchors is None else (float(anchors[0]), float(anchors[1]), float(anchors[2]))
        )


def _quartiles(values: np.ndarray) -> Quartiles:
    q = np.quantile(values, (0.25, 0.5, 0.75))
    return float(q[0]), float(q[1]), float(q[2])


def gather_ragged(values: Tensor) -> Tensor:
    """Concatenate ``values`` (n,) of all ranks in rank order, whatever each n; the input itself on
    one process.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values
    count = torch.tensor([len(values)], device=values.device)
    counts = [torch.empty_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    longest = int(torch.stack(counts).max())
    padded = F.pad(values, (0, longest - len(values)))
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(n)] for part, n in zip(parts, counts, strict=True)])
