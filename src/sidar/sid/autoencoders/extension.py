"""Frozen codebooks with room for what they have not seen: ACRQ's quantiser and model
(docs/methods/acrq.md).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sidar.precision import Precision
from sidar.sid.autoencoders.autoencoder import Autoencoder
from sidar.sid.autoencoders.losses import residuals
from sidar.sid.autoencoders.quantiser import ResidualQuantiser
from sidar.sid.codebooks.kmeans import group_sums, kmeans, nearest

_FADED = 1e-6  # an extension code whose moving count is below this keeps its place
#: Extension codes begin among the residuals that the frozen codes fit worst, this share of them.
#: [ours]
_WORST = 0.25


class ExtendedQuantiser(nn.Module):
    """Per level [C^l frozen ; T^l trainable]: codes 0 … K_l − 1 are the frozen ones, K_l … K_l +
    M_l − 1 the extension.

    An item takes the nearest code of the union, with distances to the extension times 1 +
    ``handicap``; items that are not ``warm`` see the frozen codes only.  T^l follows moving
    averages as an RQ-VAE's codebooks do; C^l never moves. ``prefixes`` (P, m): the head's live
    prefixes, for residual transfer (:meth:`assign`).
    """

    prefixes: Tensor

    def __init__(
        self,
        frozen: ResidualQuantiser,
        extra: Sequence[int],
        decay: float,
        handicap: float,
        precision: Precision = "auto",
    ) -> None:
        super().__init__()
        # a submodule of the model that owns it, not of this one: stored once
        self._frozen = (frozen,)
        self.extra, self.decay, self.handicap, self.precision = (
            tuple(extra),
            decay,
            handicap,
            precision,
        )
        dim = frozen.books[0].shape[1]
        for level, size in enumerate(self.extra):
            self.register_buffer(f"book_{level}", torch.zeros(size, dim))
            self.register_buffer(f"count_{level}", torch.zeros(size))
            self.register_buffer(f"total_{level}", torch.zeros(size, dim))
        self.register_buffer("prefixes", torch.zeros((0, 0), dtype=torch.long))

    @property
    def frozen(self) -> ResidualQuantiser:
        return self._frozen[0]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(k + m for k, m in zip(self.frozen.sizes, self.extra, strict=True))

    def part(self, name: str, level: int) -> Tensor:
        """The extension's buffer ``name`` ∈ book, count, total of a level."""
        return getattr(self, f"{name}_{level}")

    def books(self) -> list[Tensor]:
        """(K_l + M_l, d) per level, frozen codes first."""
        return [
            torch.cat([book, self.part("book", level)])
            for level, book in enumerate(self.frozen.books)
        ]

    @torch.no_grad()
    def assign(
        self, z: Tensor, warm: Tensor, transfer: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (B, L) int64, their centroids (B, L, d), and at each level the nearest *frozen*
        centroid (B, L, d).

        ``z`` (B, d) latents, ``warm`` (B,) bool: rows that may take extension codes. ``transfer``
        (B,) bool: rows whose first m codes are those of the head's prefix whose sum is nearest to
        z, so that the later levels quantise what the head's nearest reconstruction leaves (residual
        transfer).
        """
        codes, parts, near, rest = [], [], [], z
        given = self._transferred(z, transfer)
        for level, book in enumerate(self.frozen.books):
            code, distance = nearest(rest, book, self.precision)
            close = book[code]
            part = close
            if self.extra[level] and warm.any():
                rows = torch.nonzero(warm)[:, 0]
                extra, theirs = nearest(rest[rows], self.part("book", level), self.precision)
                better = rows[(1 + self.handicap) ** 2 * theirs < distance[rows]]
                code, part = code.clone(), close.clone()
                code[better] = len(book) + extra[(1 + self.handicap) ** 2 * theirs < distance[rows]]
                part[better] = self.part("book", level)[code[better] - len(book)]
            if given is not None and level < given.shape[1]:
                rows = torch.nonzero(given[:, 0] >= 0)[:, 0]
                code, part, close = code.clone(), part.clone(), close.clone()
                code[rows] = given[rows, level]
                part[rows] = close[rows] = book[given[rows, level]]
            codes.append(code)
            parts.append(part)
            near.append(close)
            rest = rest - part
        return torch.stack(codes, 1), torch.stack(parts, 1), torch.stack(near, 1)

    def _transferred(self, z: Tensor, transfer: Tensor | None) -> Tensor | None:
        """(B, m) codes of the nearest head prefix, −1 in rows that choose for themselves."""
        if transfer is None or not len(self.prefixes) or not transfer.any():
            return None
        found = torch.full((len(z), self.prefixes.shape[1]), -1, dtype=torch.long, device=z.device)
        found[transfer] = self.prefixes[
            nearest(z[transfer], self.frozen.restore(self.prefixes), self.precision)[0]
        ]
        return found

    def restore(self, codes: Tensor) -> Tensor:
        """(B, d) sum of the centroids of codes (B, ≤ L), −1 past the end."""
        found = torch.zeros(
            len(codes), self.frozen.books[0].shape[1], device=self.frozen.books[0].device
        )
        for level, book in enumerate(self.books()[: codes.shape[1]]):
            inside = codes[:, level] >= 0
            found[inside] += book[codes[inside, level]]
        return found

    # ------------------------------------------------------------------ learning

    @torch.no_grad()
    def start(self, z: Tensor, batch: int, generator: torch.Generator) -> None:
        """T^l begins as k-means of the residuals of warm items z (n, d) that C^l fits worst; counts
        as in a batch.
        """
        rest = z
        for level, size in enumerate(self.extra):
            distance = nearest(rest, self.frozen.books[level], self.precision)[1]
            if size and len(z):
                worst = distance.topk(
                    max(1, min(len(z), max(size, round(_WORST * len(z)))))
                ).indices
                book = kmeans(rest[worst], size, generator=generator, precision=self.precision)
                self.part("book", level).copy_(book)
                mean = batch / sum(self.sizes[level : level + 1])
                self.part("count", level).fill_(mean)
                self.part("total", level).copy_(book * mean)
            every = torch.ones(len(z), dtype=torch.bool, device=z.device)
            rest = z - self.assign(z, every)[1][:, : level + 1].sum(1)

    @torch.no_grad()
    def follow(self, z: Tensor, codes: Tensor, parts: Tensor) -> None:
        """One step of the extension's moving averages, for what :meth:`assign` said of z (B, d)."""
        rest = residuals(z, parts)
        for level, size in enumerate(self.extra):
            if not size:
                continue
            book, count, total = (self.part(name, level) for name in ("book", "count", "total"))
            own = codes[:, level] - self.frozen.sizes[level]
            mine = own >= 0
            now = torch.bincount(own[mine], minlength=size)
            count.mul_(self.decay).add_(now, alpha=1 - self.decay)
            total.mul_(self.decay).add_(
                group_sums(rest[mine, level], own[mine], now), alpha=1 - self.decay
            )
            book.copy_(
                torch.where(count[:, None] > _FADED, total / count.clamp_min(_FADED)[:, None], book)
            )

    def dead(self, level: int, share: float) -> Tensor:
        """Extension codes used less than ``share`` of their level's mean."""
        count = self.part("count", level)
        return torch.nonzero(count < share * count.sum() / max(len(count), 1))[:, 0]

    @torch.no_grad()
    def restart(
        self,
        z: Tensor,
        codes: Tensor,
        parts: Tensor,
        warm: Tensor,
        share: float,
        generator: torch.Generator,
    ) -> int:
        """Give dead extension codes a new place among the residuals of warm rows; returns how many.

        The place is half-way between a residual, drawn by its squared error, and its code (as in an
        RQ-VAE). [ours]
        """
        done, rest = 0, residuals(z, parts)[warm]
        own = parts[warm]
        for level, size in enumerate(self.extra):
            dead = self.dead(level, share) if size else torch.zeros(0)
            error = (rest[:, level] - own[:, level]).square().sum(1).double().cpu()
            take = min(len(dead), int((error > 0).sum()))
            if not take:
                continue
            drawn = torch.multinomial(error, take, generator=generator).to(z.device)
            place = (rest[drawn, level] + own[drawn, level]) / 2
            mean = self.part("count", level).mean()
            self.part("book", level)[dead[:take]] = place
            self.part("total", level)[dead[:take]] = place * mean
            self.part("count", level)[dead[:take]] = mean
            done += take
        return done

    def use(self, share: float) -> dict[str, float]:
        """Per level (named from 1): the share of extension codes that are alive, and the perplexity
        of their counts.
        """
        found = {}
        for level, size in enumerate(self.extra):
            if not size:
                continue
            part = self.part("count", level) / self.part("count", level).sum().clamp_min(1e-12)
            found[f"use_{level + 1}"] = 1 - len(self.dead(level, share)) / size
            found[f"perplexity_{level + 1}"] = float(
                torch.exp(-(part * part.clamp_min(1e-30).log()).sum())
            )
        return found


class AnchoredModel(nn.Module):
    """The head's manifold, frozen, and for all other items an encoder of their own that starts as
    the head's.

    Head items go through the frozen encoder, so nothing of what they are can change; one frozen
    decoder serves both.
    """

    def __init__(
        self, base: Autoencoder, extra: Sequence[int], decay: float, handicap: float
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False).eval()
        self.encoder = copy.deepcopy(base.encoder).requires_grad_(True)
        if base.linear:
            self.inward = nn.Parameter(base.inward.detach().clone())
        self.quantiser = ExtendedQuantiser(
            base.quantiser, extra, decay, handicap, base.quantiser.precision
        )

    @property
    def dim(self) -> int:
        return self.base.dim

    def encode(self, x: Tensor, head: Tensor) -> Tensor:
        """(B, d) latents of x (B, D): rows where ``head`` (B,) by the frozen encoder, the others by
        their own.
        """
        z = self.encode_tail(x)
        return torch.where(head[:, None], self.base.encode(x), z) if head.any() else z

    def encode_tail(self, x: Tensor) -> Tensor:
        """(B, d) latents of items that are not head."""
        centred = x - self.base.mean
        z = self.encoder(centred * self.base.scale) / self.base.scale
        return z + centred @ self.inward.T if self.base.linear else z

    def decode(self, z: Tensor) -> Tensor:
        """(B, D) vectors, by the frozen decoder."""
        return self.base.decode(z)
