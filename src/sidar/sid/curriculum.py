"""ACRQ's second stage: from popular to cold items, anchored to the frozen manifold of the head
(docs/methods/acrq.md).

    L = ‖x − D(ẑ)‖² + β Σ_l ‖r_l − sg e_l‖² + λ_a Σ_{l ≤ m} ‖r_l − sg e^H_{nn,l}‖² + λ_s usage(T)
                                                                                [reconstruction]

λ_a falls linearly over the stage: strong anchor first. Only the items' own encoder and the
extension codes learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidar.config import AcrqConfig
from sidar.fitting.schedule import lr_factor, step_seed
from sidar.precision import autocast
from sidar.sid.extension import AnchoredModel
from sidar.sid.fit import AutoencoderFit, batch_rows, digest
from sidar.sid.losses import commitment, reconstruction, residuals, straight_through

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


class TailFit(AutoencoderFit):
    """Trains the tail's encoder and the extension of an :class:`AnchoredModel`; logged and
    resumable as stage H is.

    ``vectors`` (N, D) and ``counts`` (N,) of the whole catalogue, ``kinds`` (N,): HEAD, WARM or
    COLD; head items take no part. The stage has as many equal spans as there are buckets; each adds
    the next bucket to the pool.
    """

    model: AnchoredModel  # type: ignore[assignment]  # trained like an autoencoder, and is none
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
        stage = cfg.model_copy(update={"steps": cfg.tail_steps})
        super().__init__(
            model,  # type: ignore[arg-type]  # as above
            stage,
            vectors,
            seed=seed,
            device=device,
            work=work,
            progress=progress,
            title="acrq",
        )
        self.kinds, self.counts = kinds, np.asarray(counts)
        self.buckets = buckets(counts, kinds)
        for group in self.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p.requires_grad]

    def pool(self, step: int) -> tuple[np.ndarray, int, int]:
        """Rows that step ``step`` may draw from, the span's number, and the step
        inside the span.
        """
        spans = len(self.buckets)
        span = min(step * spans // self.cfg.steps, spans - 1)
        first = -(-span * self.cfg.steps // spans)
        return np.concatenate(self.buckets[: span + 1]), span, step - first

    def _start(self) -> None:
        generator = torch.Generator().manual_seed(self.seed + 1)
        warm = np.flatnonzero(self.kinds == WARM)
        most = min(len(warm), self.cfg.init_sample * max(self.model.quantiser.sizes))
        rows = warm[np.sort(torch.randperm(len(warm), generator=generator)[:most].numpy())]
        with torch.no_grad():
            parts = [
                self.model.encode_tail(x) for x in self._tensor(self.vectors[rows]).split(8192)
            ]
        z = torch.cat(parts) if len(rows) else torch.zeros(0, 1)
        if len(rows):
            self.model.quantiser.start(z, self.batch, generator)

    def _step(self, step: int) -> tuple[dict[str, float], int]:
        cfg, model, quantiser = self.cfg, self.model, self.model.quantiser
        generator = torch.Generator().manual_seed(step_seed(self.seed, step))
        for group in self.optimizer.param_groups:
            group["lr"] = cfg.lr * cfg.encoder_lr * lr_factor(step, cfg)
        pool, span, inside = self.pool(step)
        rows = pool[
            batch_rows(len(pool), min(self.batch, len(pool)), self.seed + 1000 * (span + 1), inside)
        ]
        x = self._tensor(self.vectors[rows])
        warm = torch.from_numpy(self.kinds[rows] == WARM).to(x.device)
        with autocast(self.device, cfg.precision):
            z = model.encode_tail(x).float()
        every = torch.ones(len(x), dtype=torch.bool, device=x.device) if cfg.transfer else None
        codes, parts, near = quantiser.assign(z.detach(), warm, every)
        shown = parts.sum(1)
        if cfg.progressive:
            depth = torch.randint(1, parts.shape[1] + 1, (len(x), 1), generator=generator).to(
                x.device
            )
            shown = (
                parts * (torch.arange(parts.shape[1], device=x.device) < depth)[:, :, None]
            ).sum(1)
        with autocast(self.device, cfg.precision):
            restored = model.decode(straight_through(z, shown)).float()
        rest, m, weight = residuals(z, parts), cfg.anchor_levels, anchor_weight(step, cfg)
        terms = {
            "reconstruction": reconstruction(x, restored),
            "commitment": commitment(z, parts, model.dim),
        }
        loss = terms["reconstruction"] + cfg.beta * terms["commitment"]
        if cfg.anchor == "nearest":
            terms["anchor"] = anchor(rest[:, :m], near[:, :m], model.dim)
            loss = loss + weight * terms["anchor"]
        elif cfg.anchor == "kl":
            with torch.no_grad():
                frozen = model.base.encode(x)
                target = residuals(frozen, quantiser.frozen.assign(frozen)[1])
            terms["anchor"] = (
                soft_anchor(rest[:, :m], target[:, :m], quantiser.frozen.books[:m]) / model.dim
            )
            loss = loss + weight * terms["anchor"]
        if cfg.usage and sum(quantiser.extra):
            extension = [quantiser.part("book", level) for level in range(len(quantiser.extra))]
            terms["usage"] = usage(rest[warm], extension) / model.dim
            loss = loss + cfg.usage * terms["usage"]
        norm = 0.0
        if cfg.encoder_lr > 0:
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = float(
                nn.utils.clip_grad_norm_(
                    [p for p in model.parameters() if p.requires_grad], cfg.clip or 1e9
                )
            )
        value = float(loss.detach())
        if not (np.isfinite(value) and np.isfinite(norm)):
            raise ValueError(
                f"acrq, tail: step {step + 1} has loss {value} and gradient norm {norm}; lower "
                "sid.acrq.lr or sid.acrq.encoder_lr, or set sid.acrq.precision: fp32. The last "
                "checkpoint is untouched"
            )
        if cfg.encoder_lr > 0:
            self.optimizer.step()
        quantiser.follow(z.detach(), codes, parts)
        restarted = 0
        if (step + 1) % cfg.restart_every == 0 and step + 1 <= 0.9 * cfg.steps:
            restarted = quantiser.restart(z.detach(), codes, parts, warm, cfg.dead_below, generator)
        found = {name: float(term.detach()) for name, term in terms.items()}
        sizes = torch.tensor(quantiser.frozen.sizes, device=codes.device)
        extra = float((codes >= sizes)[warm].float().mean()) if warm.any() else 0.0
        shown_terms = {
            "loss": value,
            "error": found["reconstruction"] * model.dim,
            **found,
            "grad_norm": norm,
        }
        return {**shown_terms, "span": float(span), "on_extension": extra}, restarted

    def _watch(self, scalars: dict[str, float], log: Any) -> None:
        """The extension may go unused: the head's codes are what most of the tail should take."""

    def _describe(self) -> dict[str, Any]:
        """The order of the counts decides the curriculum, so other counts with as many head items
        are other work.
        """
        popularity = digest(self.kinds) + digest(self.counts)
        return {**super()._describe(), "stage": "tail", "popularity": popularity}
