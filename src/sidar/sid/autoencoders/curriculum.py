"""ACRQ's second stage: from popular to cold items, anchored to the frozen manifold of the head
(docs/methods/acrq.md).

    L = ‖x − D(ẑ)‖² + β Σ_l ‖r_l − sg e_l‖² + λ_a Σ_{l ≤ m} ‖r_l − sg e^H_{nn,l}‖² + λ_s usage(T)
                                                                                [reconstruction]

λ_a falls linearly over the stage: strong anchor first. Only the items' own encoder and the
extension codes learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sidar.config import AcrqConfig
from sidar.fitting.loop import Loss
from sidar.precision import autocast
from sidar.sid.autoencoders.extension import AnchoredModel
from sidar.sid.autoencoders.fit import Assigned, QuantiserTraining, batch_rows, digest
from sidar.sid.autoencoders.losses import commitment, reconstruction, residuals

HEAD, WARM, COLD = 2, 1, 0


def buckets(counts: np.ndarray, kinds: np.ndarray) -> list[np.ndarray]:
    """Rows of torso, tail and cold items, each as long as it is not empty.

    ``kinds`` (N,): HEAD, WARM or COLD. Warm items by falling counts (N,), in two halves.
    [reconstruction]
    """
    warm = np.flatnonzero(kinds == WARM)
    warm = warm[np.argsort(-counts[warm], kind="stable")]
    half = -(-len(warm) // 2)
    return [rows for rows in (warm[:half], warm[half:], np.flatnonzero(kinds == COLD)) if len(rows)]


def anchor_weight(step: int, cfg: AcrqConfig) -> float:
    """λ_a at a 0-based step: linear from ``anchor_start`` to ``anchor_end`` over ``tail_steps``."""
    done = step / max(cfg.tail_steps - 1, 1)
    return cfg.anchor_start + (cfg.anchor_end - cfg.anchor_start) * done


def anchor(rest: Tensor, near: Tensor, dim: int) -> Tensor:
    """Σ_l mean over the batch of ‖r_l − sg e^H_nn‖² / D, for r and e (B, m, d)."""
    return (rest - near.detach()).square().sum(dim=(1, 2)).mean() / dim


def soft_anchor(rest: Tensor, target: Tensor, books: Sequence[Tensor]) -> Tensor:
    """Σ_l mean KL( p(code | r_l^H) ‖ p(code | r_l) ) in nats, over the frozen codes; r (B, m, d),
    r^H without gradient.

    p = softmax(−‖r − e‖² / T_l), T_l the mean over the batch of ‖r^H − nearest e‖².
    [reconstruction]
    """
    total = rest.new_zeros(())
    for level, book in enumerate(books):
        there = torch.cdist(target[:, level], book).square().detach()
        temperature = there.min(1).values.mean().clamp_min(1e-12)
        here = torch.cdist(rest[:, level], book).square()
        wanted = F.log_softmax(-there / temperature, dim=1)
        total = total + F.kl_div(
            F.log_softmax(-here / temperature, 1), wanted, reduction="batchmean", log_target=True
        )
    return total


def usage(rest: Tensor, books: Sequence[Tensor]) -> Tensor:
    """Σ_l ( log M_l − H(p̄_l) ) in nats: 0 where a batch's soft use p̄ of the extension codes is
    even. [reconstruction]

    ``rest`` (B, L, d); ``books`` the extension's (M_l, d). p = softmax(−‖r − t‖² / T), T the mean
    squared distance to the nearest extension code.
    """
    total = rest.new_zeros(())
    for level, book in enumerate(books):
        if len(book) < 2 or not len(rest):
            continue
        square = torch.cdist(rest[:, level], book).square()
        temperature = square.detach().min(1).values.mean().clamp_min(1e-12)
        even = F.softmax(-square / temperature, dim=1).mean(0)
        total = (
            total
            + torch.log(torch.tensor(float(len(book))))
            + (even * even.clamp_min(1e-12).log()).sum()
        )
    return total


@dataclass
class Anchored(Assigned):
    """With the rows that may take extension codes, and the nearest frozen centroids."""

    warm: Tensor  # (B,) bool
    near: Tensor  # (B, L, d)


class TailFit(QuantiserTraining[Anchored]):
    """Trains the tail's encoder and the extension of an :class:`AnchoredModel`.

    ``vectors`` (N, D) and ``counts`` (N,) of the whole catalogue, ``kinds`` (N,): HEAD, WARM or
    COLD; head items take no part. The stage has as many equal spans as there are buckets; each adds
    the next bucket to the pool.
    """

    model: AnchoredModel
    cfg: AcrqConfig

    def __init__(
        self,
        model: AnchoredModel,
        cfg: AcrqConfig,
        vectors: np.ndarray,
        counts: np.ndarray,
        kinds: np.ndarray,
        *,
        seed: int,
        device: str = "cpu",
        work: Path | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__(
            model,
            cfg.model_copy(update={"steps": cfg.tail_steps}),
            vectors,
            lr=cfg.lr * cfg.encoder_lr,
            seed=seed,
            device=device,
            work=work,
            progress=progress,
            title="acrq",
        )
        self.remedy = "lower sid.acrq.lr or sid.acrq.encoder_lr, or set sid.acrq.precision: fp32"
        self.kinds, self.counts = kinds, np.asarray(counts)
        self.buckets = buckets(counts, kinds)

    def pool(self, step: int) -> tuple[np.ndarray, int, int]:
        """Return the rows that ``step`` may draw from, the span's number, and the step inside the
        span.
        """
        spans = len(self.buckets)
        span = min(step * spans // self.cfg.steps, spans - 1)
        first = -(-span * self.cfg.steps // spans)
        return np.concatenate(self.buckets[: span + 1]), span, step - first

    def start(self) -> None:
        generator = torch.Generator().manual_seed(self.seed + 1)
        warm = np.flatnonzero(self.kinds == WARM)
        most = min(len(warm), self.cfg.init_sample * max(self.model.quantiser.sizes))
        rows = warm[np.sort(torch.randperm(len(warm), generator=generator)[:most].numpy())]
        if not len(rows):
            return
        with torch.no_grad():
            parts = self._tensor(self.vectors[rows]).split(8192)
            z = torch.cat([self.model.encode_tail(x) for x in parts])
        self.model.quantiser.start(z, self.batch, generator)

    def assign(self, step: int) -> Anchored:
        cfg = self.cfg
        pool, span, inside = self.pool(step)
        size, seed = min(self.batch, len(pool)), self.seed + 1000 * (span + 1)
        rows = pool[batch_rows(len(pool), size, seed, inside)]
        x = self._tensor(self.vectors[rows])
        warm = torch.from_numpy(self.kinds[rows] == WARM).to(x.device)
        with autocast(self.device, cfg.precision):
            z = self.model.encode_tail(x).float()
        every = torch.ones(len(x), dtype=torch.bool, device=x.device) if cfg.transfer else None
        codes, parts, near = self.model.quantiser.assign(z.detach(), warm, every)
        return Anchored(step, rows, x, self._generator(step), z, codes, parts, warm, near)

    def terms(self, batch: Anchored, restored: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        cfg, model, quantiser = self.cfg, self.model, self.model.quantiser
        rest = residuals(batch.z, batch.parts)
        terms = {
            "reconstruction": reconstruction(batch.x, restored),
            "commitment": commitment(batch.z, batch.parts, model.dim),
        }
        loss = terms["reconstruction"] + cfg.beta * terms["commitment"]
        if cfg.anchor != "none":
            terms["anchor"] = self._anchor(batch, rest)
            loss = loss + anchor_weight(batch.step, cfg) * terms["anchor"]
        if cfg.usage and sum(quantiser.extra):
            extension = [quantiser.part("book", level) for level in range(len(quantiser.extra))]
            terms["usage"] = usage(rest[batch.warm], extension) / model.dim
            loss = loss + cfg.usage * terms["usage"]
        return loss, terms

    def _anchor(self, batch: Anchored, rest: Tensor) -> Tensor:
        """What ties residuals ``rest`` (B, L, d) of the anchored levels to the frozen codes."""
        m, model = self.cfg.anchor_levels, self.model
        if self.cfg.anchor == "nearest":
            return anchor(rest[:, :m], batch.near[:, :m], model.dim)
        frozen = model.quantiser.frozen
        with torch.no_grad():
            latents = model.base.encode(batch.x)
            target = residuals(latents, frozen.assign(latents)[1])
        return soft_anchor(rest[:, :m], target[:, :m], frozen.books[:m]) / model.dim

    def loss(self, batch: Anchored) -> Loss:
        loss = super().loss(batch)
        codes, warm = batch.codes, batch.warm
        sizes = torch.tensor(self.model.quantiser.frozen.sizes, device=codes.device)
        on_extension = float((codes >= sizes)[warm].float().mean()) if warm.any() else 0.0
        loss.terms |= {"span": float(self.pool(batch.step)[1]), "on_extension": on_extension}
        return loss

    def restart(self, batch: Anchored) -> int:
        return self.model.quantiser.restart(
            batch.z.detach(),
            batch.codes,
            batch.parts,
            batch.warm,
            self.cfg.dead_below,
            batch.generator,
        )

    def identity(self) -> dict[str, object]:
        """The order of the counts decides the curriculum, so other counts with as many head items
        are other work.
        """
        popularity = digest(self.kinds) + digest(self.counts)
        return {**super().identity(), "stage": "tail", "popularity": popularity}
