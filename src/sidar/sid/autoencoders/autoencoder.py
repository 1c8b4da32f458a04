"""Encoder and decoder around the quantiser."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from sidar.config import RqVaeConfig
from sidar.sid.autoencoders.quantiser import ResidualQuantiser


class Autoencoder(nn.Module):
    """x (B, D) → z (B, d) → x̂ (B, D), with a :class:`ResidualQuantiser` for what lies between.

    ``start: random`` is TIGER's: an MLP either way. ``start: pca`` adds a linear path to each,
    which starts as PCA while the MLP's last layer starts at 0: step 0 is residual k-means on
    principal components, and training improves on it. From random weights the MLP takes far longer
    to get there (docs/methods/rqvae.md). [ours]

    z has the units of x; the MLPs see inputs of unit variance per dimension (vectors have length
    1).
    """

    mean: Tensor

    def __init__(self, dim: int, sizes: Sequence[int], cfg: RqVaeConfig, seed: int) -> None:
        super().__init__()
        latent = min(cfg.latent, dim)
        self.scale = dim**0.5
        self.register_buffer("mean", torch.zeros(dim))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = _mlp([dim, *cfg.hidden, latent])
            self.decoder = _mlp([latent, *reversed(cfg.hidden), dim])
        self.linear = cfg.start == "pca"
        if self.linear:
            self.inward = nn.Parameter(torch.zeros(latent, dim))
            self.outward = nn.Parameter(torch.zeros(dim, latent))
            with torch.no_grad():
                for last in (self.encoder[-1], self.decoder[-1]):
                    for parameter in last.parameters():
                        parameter.zero_()
        self.quantiser = ResidualQuantiser(sizes, latent, cfg.decay, cfg.precision)

    @property
    def dim(self) -> int:
        return len(self.mean)

    def encode(self, x: Tensor) -> Tensor:
        """(B, d) latents."""
        x = x - self.mean
        z = self.encoder(x * self.scale) / self.scale
        return z + x @ self.inward.T if self.linear else z

    def decode(self, z: Tensor) -> Tensor:
        """(B, D) vectors."""
        x = self.decoder(z * self.scale) / self.scale + self.mean
        return x + z @ self.outward.T if self.linear else x

    @torch.no_grad()
    def start(self, sample: Tensor) -> None:
        """Centre, and PCA of a sample (n, D) into the linear path; each axis points where its
        largest weight is > 0.
        """
        self.mean.copy_(sample.mean(0))
        if not self.linear:
            return
        spread = torch.zeros(self.dim, self.dim, dtype=torch.float64, device=sample.device)
        for rows in sample.split(8192):  # the sample in float64 would be the peak of a fit
            centred = (rows - self.mean).double()
            spread += centred.T @ centred
        _, axes = torch.linalg.eigh(spread)  # rising variance
        axes = axes[:, -len(self.inward) :].flip(1)
        largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
        axes = axes * torch.where(largest < 0, -1.0, 1.0)
        self.inward.copy_(axes.T)
        self.outward.copy_(axes)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers[:-1])
