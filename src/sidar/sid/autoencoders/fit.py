"""Training of an RQ-VAE: what it gives the training loop (:mod:`sidar.fitting.loop`).

Batches and every draw of step s depend on the seed and s alone; codebooks and moving averages are
checkpointed as buffers.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sidar.config import CqSidConfig, RqVaeConfig
from sidar.fitting.loop import Loss, Scalars, Settings, Training
from sidar.fitting.schedule import step_seed
from sidar.precision import autocast
from sidar.sid.autoencoders.autoencoder import Autoencoder
from sidar.sid.autoencoders.contrast import QueryPairs
from sidar.sid.autoencoders.extension import AnchoredModel
from sidar.sid.autoencoders.losses import bi_infonce, commitment, reconstruction, straight_through

#: Share of the steps after which dead codes stay: a code restarted at the very end would not be
#: trained.
_RESTARTS_UNTIL = 0.9


def batch_rows(n: int, size: int, seed: int, step: int) -> np.ndarray:
    """Return (size,) rows of step ``step``: the epochs' permutations of n rows, one after the
    other, cut into batches.
    """
    places = np.arange(step * size, (step + 1) * size)
    epochs, inside = np.divmod(places, n)
    return np.concatenate(
        [_permutation(n, seed, int(e))[inside[epochs == e]] for e in np.unique(epochs)]
    )


@lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 7, epoch]).permutation(n)


@dataclass
class Assigned:
    """Vectors of one step, and where the quantiser put their latents."""

    step: int
    rows: np.ndarray  # (B,) of the vectors
    x: Tensor  # (B, D)
    generator: torch.Generator  # of every draw of the step, in order
    z: Tensor  # (B, d) latents with gradients
    codes: Tensor  # (B, L)
    parts: Tensor  # (B, L, d) centroids of the codes


@dataclass
class Guided(Assigned):
    """With the first codes that were given, −1 = the nearest; None = all the nearest."""

    first: Tensor | None  # (B,)


A = TypeVar("A", bound=Assigned)


class QuantiserTraining(Training[A]):
    """Training of a model with a quantiser whose codebooks follow moving averages.

    :meth:`fit` returns the records of the log; ``work`` as in
    :class:`~sidar.fitting.loop.Training`, where work of other settings or inputs is deleted with a
    line.
    """

    unit = "vectors"
    shown = ("error", "use_1")
    discards_other_work = True
    model: Autoencoder | AnchoredModel

    def __init__(
        self,
        model: Autoencoder | AnchoredModel,
        cfg: RqVaeConfig,
        vectors: np.ndarray,
        *,
        lr: float,
        seed: int,
        device: str,
        work: Path | None,
        progress: bool,
        title: str,
    ) -> None:
        self.cfg, self.vectors = cfg, vectors
        self.batch = min(cfg.batch_size, len(vectors))
        trained = [p for p in model.to(device).parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() >= 2], "weight_decay": cfg.weight_decay},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
        ]
        # Errors per dimension are near 1e-3, and so their gradients are small beside AdamW's usual
        # eps.
        optimizer = torch.optim.AdamW(groups, lr=lr, eps=1e-12, foreach=False)
        checkpoint_every = -(-cfg.checkpoint_every // cfg.log_every) * cfg.log_every
        super().__init__(
            model,
            optimizer,
            Settings(cfg, cfg.log_every, checkpoint_every),
            seed=seed,
            device=device,
            work=work,
            title=title,
            progress=progress,
            buffers=[name for name, _ in model.named_buffers()],
        )
        self.remedy = f"lower sid.{title}.lr or set its precision: fp32"
        self.records: list[dict[str, Any]] = []
        self._restarts = 0  # since the last record
        self._assigned: A | None = None

    def fit(self) -> list[dict[str, Any]]:
        """Train and return the log's records without times; the model ends in eval mode.

        Raises ``ValueError`` where the loss stops being finite.
        """
        self.run()
        self.model.eval()
        return self.records

    # ------------------------------------------------------------------ steps

    @abstractmethod
    def assign(self, step: int) -> A:
        """Return the vectors of ``step`` with their latents and codes."""

    @abstractmethod
    def terms(self, batch: A, restored: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch and its unweighted terms; ``restored`` (B, D) is decoded."""

    @abstractmethod
    def restart(self, batch: A) -> int:
        """Give dead codes a new place; return how many."""

    def batches(self, step: int) -> Sequence[A]:
        self._assigned = self.assign(step)
        return [self._assigned]

    def loss(self, batch: A) -> Loss:
        with autocast(self.device, self.cfg.precision):
            restored = self.model.decode(straight_through(batch.z, self._shown(batch)))
        value, terms = self.terms(batch, restored.float())
        logged = {name: float(term.detach()) for name, term in terms.items()}
        error = {"error": logged["reconstruction"] * self.model.dim}
        return Loss(value, self.batch, {**error, **logged})

    def _shown(self, batch: Assigned) -> Tensor:
        """(B, d): the quantised latents that the decoder sees."""
        parts, x = batch.parts, batch.x
        if not self.cfg.progressive:
            return parts.sum(1)
        # PLUM: ẑ = Σ_{l ≤ r} e_l, r ~ U{1 … L}
        levels = parts.shape[1]
        depth = torch.randint(1, levels + 1, (len(x), 1), generator=batch.generator).to(x.device)
        kept = torch.arange(levels, device=x.device) < depth
        return (parts * kept[:, :, None]).sum(1)

    def after_step(self, step: int, loss: float) -> None:
        batch, cfg = self._assigned, self.cfg
        assert batch is not None
        self.model.quantiser.follow(batch.z.detach(), batch.codes, batch.parts)
        if (step + 1) % cfg.restart_every == 0 and step + 1 <= _RESTARTS_UNTIL * cfg.steps:
            self._restarts += self.restart(batch)

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(step_seed(self.seed, step))

    def _tensor(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)

    # ------------------------------------------------------------------ log and state

    def figures(self) -> Scalars:
        restarts, self._restarts = self._restarts, 0
        return {**self.model.quantiser.use(self.cfg.dead_below), "restarts": restarts}

    def recorded(self, kind: str, step: int, scalars: Scalars, say: Callable[[str], None]) -> None:
        self.records.append({"step": step, **scalars})

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.records, "restarts": self._restarts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.records, self._restarts = list(state["records"]), int(state["restarts"])

    def identity(self) -> dict[str, object]:
        return {
            "config": json.loads(self.cfg.model_dump_json()),
            "codebook_sizes": list(self.model.quantiser.sizes),
            "seed": self.seed,
            "vectors": digest(self.vectors),
        }


class AutoencoderFit(QuantiserTraining[Guided]):
    """Trains ``model`` on vectors (N, D) for ``cfg.steps`` steps.

    ``first`` (N,) int64: first code of each item, −1 = the nearest; ``pairs``: queries to contrast
    items with (then ``cfg`` is a :class:`CqSidConfig`).
    """

    model: Autoencoder

    def __init__(
        self,
        model: Autoencoder,
        cfg: RqVaeConfig,
        vectors: np.ndarray,
        *,
        seed: int,
        device: str = "cpu",
        first: np.ndarray | None = None,
        pairs: QueryPairs | None = None,
        work: Path | None = None,
        progress: bool = False,
        title: str = "rqvae",
    ) -> None:
        super().__init__(
            model,
            cfg,
            vectors,
            lr=cfg.lr,
            seed=seed,
            device=device,
            work=work,
            progress=progress,
            title=title,
        )
        self.first = None if first is None else self._tensor(np.asarray(first, np.int64))
        self.pairs = pairs
        self._collapsed: set[int] = set()  # levels that were warned of

    def start(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        n = len(self.vectors)
        most = min(n, self.cfg.init_sample * max(self.model.quantiser.sizes))
        rows = np.sort(torch.randperm(n, generator=generator)[:most].numpy())
        sample = self._tensor(self.vectors[rows])
        self.model.start(sample)
        with torch.no_grad():
            z = torch.cat([self.model.encode(x) for x in sample.split(8192)])
        self.model.quantiser.start(z, self._first_of(rows), self.batch, generator)

    def _first_of(self, rows: np.ndarray) -> Tensor | None:
        return None if self.first is None else self.first[torch.from_numpy(rows).to(self.device)]

    def assign(self, step: int) -> Guided:
        rows = batch_rows(len(self.vectors), self.batch, self.seed, step)
        x, first = self._tensor(self.vectors[rows]), self._first_of(rows)
        with autocast(self.device, self.cfg.precision):
            z = self.model.encode(x).float()
        codes, parts = self.model.quantiser.assign(z.detach(), first)
        return Guided(step, rows, x, self._generator(step), z, codes, parts, first)

    def terms(self, batch: Guided, restored: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        cfg = self.cfg
        terms = {
            "reconstruction": reconstruction(batch.x, restored),
            "commitment": commitment(batch.z, batch.parts, self.model.dim),
        }
        loss = terms["reconstruction"] + cfg.beta * terms["commitment"]
        if self.pairs is not None:
            assert isinstance(cfg, CqSidConfig)
            terms["contrast"] = self._contrast(batch, self.pairs, cfg)
            loss = loss + cfg.gamma * terms["contrast"]
        return loss, terms

    def _contrast(self, batch: Assigned, pairs: QueryPairs, cfg: CqSidConfig) -> Tensor:
        """The query side is the encoder's output, as a search sends it: continuous.

        [reconstruction]
        """
        z = batch.z
        drawn = pairs.draw(batch.rows, cfg.contrast_batch, batch.step)
        if not len(drawn.places):
            return z.sum() * 0
        places = torch.from_numpy(drawn.places).to(z.device)
        on_codes = cfg.contrast_on == "quantised"
        items = straight_through(z, batch.parts.sum(1)) if on_codes else z
        with autocast(self.device, cfg.precision):
            queries = self.model.encode(self._tensor(pairs.vectors[drawn.queries])).float()
        hidden = torch.from_numpy(drawn.hidden).to(z.device)
        return bi_infonce(items[places], queries, hidden, cfg.temperature)

    def restart(self, batch: Guided) -> int:
        known = None if batch.first is None else batch.first >= 0
        return self.model.quantiser.restart(
            batch.z.detach(),
            batch.codes,
            batch.parts,
            self.cfg.dead_below,
            batch.generator,
            known,
        )

    def recorded(self, kind: str, step: int, scalars: Scalars, say: Callable[[str], None]) -> None:
        """Also warn once of each level that has items enough and uses a share of its codes that is
        called collapse.
        """
        super().recorded(kind, step, scalars, say)
        for level, size in enumerate(self.model.quantiser.sizes, start=1):
            use = scalars[f"use_{level}"]
            collapses = use < self.cfg.collapse_below and len(self.vectors) > size
            if collapses and level not in self._collapsed:
                self._collapsed.add(level)
                say(
                    f"{self.title}: level {level} uses {use:.0%} of its codes (moving average): "
                    "it collapses"
                )

    def identity(self) -> dict[str, object]:
        pairs = self.pairs
        return {
            **super().identity(),
            "first": "" if self.first is None else digest(self.first.cpu().numpy()),
            "pairs": "" if pairs is None else digest(pairs.keys) + digest(pairs.vectors),
        }


def digest(array: np.ndarray) -> str:
    """Return the hash of an array's shape and values."""
    hasher = hashlib.sha256(str(array.shape).encode())
    for start in range(0, len(array), 1 << 16):
        hasher.update(np.ascontiguousarray(array[start : start + (1 << 16)]).data)
    return hasher.hexdigest()
