"""Training of an RQ-VAE: logged, resumable, a function of (seed, step) alone.

A killed fit continues from its last checkpoint (:mod:`sidar.fitting.checkpoint`) and ends
bit-identical: batches, learning rate and every draw of step s depend on the seed and s, and
codebooks and moving averages are checkpointed as buffers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sidar.config import CqSidConfig, RqVaeConfig
from sidar.fitting import checkpoint
from sidar.fitting.logs import RunLog
from sidar.fitting.schedule import lr_factor, step_seed
from sidar.precision import autocast
from sidar.sid.autoencoder import Autoencoder
from sidar.sid.contrast import QueryPairs
from sidar.sid.losses import bi_infonce, commitment, reconstruction, straight_through

#: Share of the steps after which dead codes stay: a code restarted at the very end would not be
#: trained.
_RESTARTS_UNTIL = 0.9
#: Logged for the person who watches, left out of what is kept: it differs from run to run.
_SPEED = "vectors_per_s"


def batch_rows(n: int, size: int, seed: int, step: int) -> np.ndarray:
    """(size,) rows of step ``step``: the epochs' permutations of n rows, one after the other, cut
    into batches.
    """
    places = np.arange(step * size, (step + 1) * size)
    epochs, inside = np.divmod(places, n)
    return np.concatenate(
        [_permutation(n, seed, int(e))[inside[epochs == e]] for e in np.unique(epochs)]
    )


@lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 7, epoch]).permutation(n)


class AutoencoderFit:
    """Trains ``model`` on vectors (N, D) for ``cfg.steps`` steps; :meth:`run` returns the log's
    records.

    ``first`` (N,) int64: first code of each item, −1 = the nearest; ``pairs``: queries to contrast
    items with (then ``cfg`` is a :class:`CqSidConfig`). ``work``: folder that keeps log and
    checkpoints of an interrupted fit; those of other settings or inputs are deleted with a line.
    """

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
        self.model, self.cfg, self.vectors, self.seed, self.device = (
            model.to(device),
            cfg,
            vectors,
            seed,
            device,
        )
        self.first = (
            None if first is None else torch.from_numpy(np.asarray(first, np.int64)).to(device)
        )
        self.pairs, self.work, self.progress, self.title = pairs, work, progress, title
        self.batch = min(cfg.batch_size, len(vectors))
        groups = [
            {
                "params": [p for p in model.parameters() if p.dim() >= 2],
                "weight_decay": cfg.weight_decay,
            },
            {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ]
        # Errors per dimension are near 1e-3, and so their gradients are small beside AdamW's usual
        # eps.
        self.optimizer = torch.optim.AdamW(groups, lr=cfg.lr, eps=1e-12, foreach=False)
        self.buffers = [name for name, _ in model.named_buffers()]
        self.every = -(-cfg.checkpoint_every // cfg.log_every) * cfg.log_every
        self.records: list[dict[str, Any]] = []
        self.told: set[int] = set()
        self.discarded = ""  # why interrupted work was not continued

    def run(self) -> list[dict[str, Any]]:
        """Fit; the model ends in eval mode.

        Raises ``ValueError`` where the loss stops being finite.
        """
        at = self._resume()
        with torch.random.fork_rng(devices=[]):
            if at == 0:
                self._start()
            with self._log(at) as log:
                if self.discarded and log is not None:
                    log.say(
                        f"{self.title}: starting afresh; an interrupted fit was of others: "
                        f"{self.discarded}"
                    )
                if at and log is not None:
                    log.say(f"{self.title}: continuing at step {at} of {self.cfg.steps}")
                self._train(at, log)
        self.model.eval()
        return self.records

    # ------------------------------------------------------------------ steps

    def _start(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        n = len(self.vectors)
        most = min(n, self.cfg.init_sample * max(self.model.quantiser.sizes))
        rows = np.sort(torch.randperm(n, generator=generator)[:most].numpy())
        sample = self._tensor(self.vectors[rows])
        self.model.start(sample)
        with torch.no_grad():
            z = torch.cat([self.model.encode(x) for x in sample.split(8192)])
        first = None if self.first is None else self.first[torch.from_numpy(rows).to(self.device)]
        self.model.quantiser.start(z, first, self.batch, generator)

    def _train(self, at: int, log: RunLog | None) -> None:
        cfg, window, since = self.cfg, [], time.monotonic()
        restarts = 0
        for step in range(at, cfg.steps):
            terms, restarted = self._step(step)
            window.append(terms)
            restarts += restarted
            if (step + 1) % cfg.log_every == 0 or step + 1 == cfg.steps:
                scalars = {key: sum(t[key] for t in window) / len(window) for key in window[0]}
                scalars |= self.model.quantiser.use(cfg.dead_below)
                scalars |= {"restarts": restarts, "lr": self.optimizer.param_groups[0]["lr"]}
                self.records.append({"step": step + 1, **scalars})
                self._watch(scalars, log)
                if log is not None:
                    speed = len(window) * self.batch / max(time.monotonic() - since, 1e-9)
                    fifth = (step + 1) * 5 // cfg.steps > (step + 1 - len(window)) * 5 // cfg.steps
                    shown = ("error", "use_1", _SPEED)
                    log.write(
                        "train", step + 1, {**scalars, _SPEED: speed}, show=shown, speak=fifth
                    )
                window, restarts, since = [], 0, time.monotonic()
            if log is not None:
                log.advance(step + 1)
            if self.work is not None and ((step + 1) % self.every == 0 or step + 1 == cfg.steps):
                self._save(step + 1)

    def _watch(self, scalars: dict[str, float], log: RunLog | None) -> None:
        """Say once when a level that has items enough falls below the share of used codes that is
        called collapse.
        """
        for level, size in enumerate(self.model.quantiser.sizes, start=1):
            use = scalars[f"use_{level}"]
            if (
                use < self.cfg.collapse_below
                and len(self.vectors) > size
                and level not in self.told
            ):
                self.told.add(level)
                if log is not None:
                    log.say(
                        f"{self.title}: level {level} uses {use:.0%} of its codes (moving "
                        "average): it collapses"
                    )

    def _step(self, step: int) -> tuple[dict[str, float], int]:
        """One optimizer step: the terms of its loss, and how many codes were restarted."""
        cfg, model = self.cfg, self.model
        generator = torch.Generator().manual_seed(step_seed(self.seed, step))
        for group in self.optimizer.param_groups:
            group["lr"] = cfg.lr * lr_factor(step, cfg)
        rows = batch_rows(len(self.vectors), self.batch, self.seed, step)
        x = self._tensor(self.vectors[rows])
        first = None if self.first is None else self.first[torch.from_numpy(rows).to(self.device)]
        with autocast(self.device, cfg.precision):
            z = model.encode(x).float()
        codes, parts = model.quantiser.assign(z.detach(), first)
        shown = parts.sum(1)
        if cfg.progressive:  # PLUM: ẑ = Σ_{l ≤ r} e_l, r ~ U{1 … L}
            depth = torch.randint(1, parts.shape[1] + 1, (len(x), 1), generator=generator).to(
                x.device
            )
            shown = (
                parts * (torch.arange(parts.shape[1], device=x.device) < depth)[:, :, None]
            ).sum(1)
        with autocast(self.device, cfg.precision):
            restored = model.decode(straight_through(z, shown)).float()
        terms = {
            "reconstruction": reconstruction(x, restored),
            "commitment": commitment(z, parts, model.dim),
        }
        loss = terms["reconstruction"] + cfg.beta * terms["commitment"]
        if self.pairs is not None:
            assert isinstance(cfg, CqSidConfig)
            terms["contrast"] = self._contrast(rows, step, z, parts, cfg)
            loss = loss + cfg.gamma * terms["contrast"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), cfg.clip or float("inf")))
        value = float(loss.detach())
        if not (np.isfinite(value) and np.isfinite(norm)):
            raise ValueError(
                f"{self.title}: step {step + 1} has loss {value} and gradient norm {norm}; lower "
                f"sid.{self.title}.lr or set its precision: fp32. The last checkpoint is untouched"
            )
        self.optimizer.step()
        model.quantiser.follow(z.detach(), codes, parts)
        restarted = 0
        if (step + 1) % cfg.restart_every == 0 and step + 1 <= _RESTARTS_UNTIL * cfg.steps:
            known = None if first is None else first >= 0
            restarted = model.quantiser.restart(
                z.detach(), codes, parts, cfg.dead_below, generator, known
            )
        found = {name: float(term.detach()) for name, term in terms.items()}
        return {
            "loss": value,
            "error": found["reconstruction"] * model.dim,
            **found,
            "grad_norm": norm,
        }, restarted

    def _contrast(
        self, rows: np.ndarray, step: int, z: Tensor, parts: Tensor, cfg: CqSidConfig
    ) -> Tensor:
        """The query side is the encoder's output, as a search sends it: continuous.

        [reconstruction]
        """
        assert self.pairs is not None
        drawn = self.pairs.draw(rows, cfg.contrast_batch, step)
        if not len(drawn.places):
            return z.sum() * 0
        places = torch.from_numpy(drawn.places).to(z.device)
        items = straight_through(z, parts.sum(1)) if cfg.contrast_on == "quantised" else z
        with autocast(self.device, cfg.precision):
            queries = self.model.encode(self._tensor(self.pairs.vectors[drawn.queries])).float()
        return bi_infonce(
            items[places], queries, torch.from_numpy(drawn.hidden).to(z.device), cfg.temperature
        )

    def _tensor(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)

    # ------------------------------------------------------------------ what survives

    def _log(self, at: int) -> Any:
        if self.work is None:
            return nullcontext()
        return RunLog(self.work, at, self.cfg.steps, self.title, progress=self.progress)

    def _save(self, step: int) -> None:
        assert self.work is not None
        state = {
            "identity": self._identity,
            "environment": checkpoint.environment(),
            "records": self.records,
        }
        checkpoint.save(
            self.work / "checkpoints", step, self.model, self.optimizer, state, buffers=self.buffers
        )

    def _resume(self) -> int:
        if self.work is None:
            return 0
        self._identity = self._describe()
        found = checkpoint.newest(self.work / "checkpoints")
        if found is None:
            return 0
        # of no use to this fit nor to a later one
        if changed := checkpoint.differing(found, self._identity):
            self.discarded = "; ".join(changed)
            shutil.rmtree(found.path.parent)
            return 0
        checkpoint.check_identity(found, self._identity)
        checkpoint.restore(found, self.model, self.optimizer, self.buffers)
        self.records = list(found.state["records"])
        return found.step

    def _describe(self) -> dict[str, Any]:
        """What an interrupted fit must share with the one that continues it."""
        return {
            "config": json.loads(self.cfg.model_dump_json()),
            "codebook_sizes": list(self.model.quantiser.sizes),
            "seed": self.seed,
            "vectors": digest(self.vectors),
            "first": "" if self.first is None else digest(self.first.cpu().numpy()),
            "pairs": ""
            if self.pairs is None
            else digest(self.pairs.keys) + digest(self.pairs.vectors),
        }


def digest(array: np.ndarray) -> str:
    """Hash of an array's shape and values."""
    found = hashlib.sha256(str(array.shape).encode())
    for start in range(0, len(array), 1 << 16):
        found.update(np.ascontiguousarray(array[start : start + (1 << 16)]).data)
    return found.hexdigest()
