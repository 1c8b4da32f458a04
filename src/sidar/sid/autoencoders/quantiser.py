"""Residual codebooks that follow moving averages of what is assigned to them (VQ-VAE, appendix A.1
[known]).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sidar.precision import Precision
from sidar.sid.autoencoders.losses import residuals
from sidar.sid.codebooks.guided import first_book, first_codes
from sidar.sid.codebooks.kmeans import Nearest, group_sums, kmeans, nearest

_FADED = 1e-6  # a code whose moving count is below this keeps its place


class ResidualQuantiser(nn.Module):
    """L codebooks (K_l, d) as buffers: ``book_l``, and the moving averages ``count_l`` (K,) and
    ``total_l`` (K, d).

    Per step and level, with n_k items on code k and m_k the sum of their residuals:
    N_k ← γ N_k + (1 − γ) n_k, M_k ← γ M_k + (1 − γ) m_k, e_k = M_k / N_k.

    With categories, the first ``reserved`` codes of level 1 belong to one category each and are
    never restarted, and only the first ``used`` (a buffer) occur at all.
    """

    used: Tensor

    def __init__(
        self, sizes: Sequence[int], dim: int, decay: float, precision: Precision = "auto"
    ) -> None:
        super().__init__()
        self.sizes, self.decay, self.precision = tuple(sizes), decay, precision
        self.reserved = 0
        for level, size in enumerate(self.sizes):
            self.register_buffer(f"book_{level}", torch.zeros(size, dim))
            self.register_buffer(f"count_{level}", torch.zeros(size))
            self.register_buffer(f"total_{level}", torch.zeros(size, dim))
        self.register_buffer("used", torch.tensor(self.sizes[0]))

    def part(self, name: str, level: int) -> Tensor:
        """The buffer ``name`` ∈ book, count, total of a level."""
        return getattr(self, f"{name}_{level}")

    @property
    def books(self) -> list[Tensor]:
        return [self.part("book", level) for level in range(len(self.sizes))]

    @torch.no_grad()
    def assign(self, z: Tensor, first: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Codes (B, L) int64 and their centroids (B, L, d) for latents (B, d): at each level the
        nearest.

        ``first`` (B,) int64: the first code of each row, −1 = the nearest open one.
        """
        codes, parts, rest = [], [], z
        for level, book in enumerate(self.books):
            code = self._nearest(level, rest, first)
            codes.append(code)
            parts.append(book.index_select(0, code))
            rest = rest - parts[-1]
        return torch.stack(codes, 1), torch.stack(parts, 1)

    def _nearest(self, level: int, rest: Tensor, first: Tensor | None) -> Tensor:
        book = self.part("book", level)
        if level:
            return nearest(rest, book, self.precision, measure=False)[0]
        return first_codes(rest, Nearest(book[: int(self.used)], self.precision), first)

    def restore(self, codes: Tensor) -> Tensor:
        """(B, d) sum of the centroids of codes (B, ≤ L), −1 past the end."""
        found = torch.zeros(len(codes), self.books[0].shape[1], device=self.books[0].device)
        for level in range(codes.shape[1]):
            inside = codes[:, level] >= 0
            found[inside] += self.part("book", level)[codes[inside, level]]
        return found

    # ------------------------------------------------------------------ learning

    @torch.no_grad()
    def start(
        self, z: Tensor, first: Tensor | None, batch: int, generator: torch.Generator
    ) -> None:
        """Each level begins as k-means of the residuals of a sample z (n, d); counts as in a batch
        of ``batch`` rows.

        With ``first`` (n,), level 1 begins as :func:`~sidar.sid.codebooks.guided.first_book` says.
        """

        def cluster(points: Tensor, k: int) -> Tensor:
            return kmeans(points, k, generator=generator, precision=self.precision)

        rest = z
        for level, size in enumerate(self.sizes):
            book = self.part("book", level)
            if level == 0 and first is not None:
                book.copy_(first_book(z, first, size, self.reserved, int(self.used), cluster))
            else:
                book.copy_(cluster(rest, size))
            code = self._nearest(level, rest, first)
            count = torch.bincount(code, minlength=size) * (batch / len(z))
            self.part("count", level).copy_(count)
            self.part("total", level).copy_(book * count[:, None])
            rest = rest - book.index_select(0, code)

    @torch.no_grad()
    def follow(self, z: Tensor, codes: Tensor, parts: Tensor) -> None:
        """One step of the moving averages, for what :meth:`assign` said of z (B, d)."""
        rest = residuals(z, parts)
        for level in range(len(self.sizes)):
            book, count, total = (self.part(name, level) for name in ("book", "count", "total"))
            now = torch.bincount(codes[:, level], minlength=len(book))
            count.mul_(self.decay).add_(now, alpha=1 - self.decay)
            sums = group_sums(rest[:, level], codes[:, level], now)
            total.mul_(self.decay).add_(sums, alpha=1 - self.decay)
            book.copy_(
                torch.where(count[:, None] > _FADED, total / count.clamp_min(_FADED)[:, None], book)
            )

    def dead(self, level: int, share: float) -> Tensor:
        """Codes used less than ``share`` of their level's mean, unused and reserved ones aside."""
        count = self.part("count", level)
        below = count < share * count.sum() / len(count)
        if level == 0:
            below[: self.reserved] = False
            below[int(self.used) :] = False
        return torch.nonzero(below)[:, 0]

    @torch.no_grad()
    def restart(
        self,
        z: Tensor,
        codes: Tensor,
        parts: Tensor,
        share: float,
        generator: torch.Generator,
        known: Tensor | None,
    ) -> int:
        """Give dead codes a new place; returns how many. ``known`` (B,) bool: rows whose first code
        is not chosen.

        The place is half-way between a residual, drawn by its squared error, and its code: a
        residual itself is too far out to be the mean of anything (docs/findings.md). [ours]
        """
        done = 0
        rest = residuals(z, parts)
        for level in range(len(self.sizes)):
            dead = self.dead(level, share)
            if not len(dead):
                continue
            left, own = rest[:, level], parts[:, level]
            if level == 0 and known is not None:
                left, own = left[~known], own[~known]
            error = (left - own).square().sum(1).double().cpu()
            take = min(len(dead), int((error > 0).sum()))
            if not take:
                continue
            drawn = torch.multinomial(error, take, generator=generator).to(z.device)
            count = self.part("count", level)
            place = (left[drawn] + own[drawn]) / 2
            mean = count.sum() / len(count)
            self.part("book", level)[dead[:take]] = place
            self.part("total", level)[dead[:take]] = place * mean
            count[dead[:take]] = mean
            done += take
        return done

    def use(self, share: float) -> dict[str, float]:
        """Per level (named from 1): ``use`` = codes that are not dead, ``perplexity`` of the moving
        counts.
        """
        found = {}
        for level in range(len(self.sizes)):
            count = self.part("count", level)
            total = int(self.used) if level == 0 else len(count)
            part = count / count.sum().clamp_min(1e-12)
            entropy = -(part * part.clamp_min(1e-30).log()).sum()
            dead = len(self.dead(level, share))
            found[f"use_{level + 1}"] = 1 - dead / total
            found[f"perplexity_{level + 1}"] = float(entropy.exp())
        return found
