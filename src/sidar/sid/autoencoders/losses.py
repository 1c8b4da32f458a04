"""The terms of an RQ-VAE's loss as functions of tensors (TIGER; CQ-SID, docs/methods/cqsid.md).

Errors are squared distances *per input dimension* (divided by D), as public RQ-VAE code has them
[known]. Only the ratios of the terms matter to AdamW; with sums instead, the paper's γ = .001 would
weigh 1/D of what it does [reconstruction].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reconstruction(x: Tensor, restored: Tensor) -> Tensor:
    """Mean over the batch of ‖x − x̂‖² / D, for x, x̂ (B, D)."""
    return (x - restored).square().mean()


def residuals(z: Tensor, parts: Tensor) -> Tensor:
    """(B, L, d) what each level quantises: r_l = z − Σ_{j<l} e_j, for z (B, d) and its chosen
    centroids (B, L, d).
    """
    return z[:, None] - (parts.cumsum(1) - parts)


def commitment(z: Tensor, parts: Tensor, dim: int) -> Tensor:
    """Σ_l mean over the batch of ‖r_l − sg e_l‖² / D; its gradient moves z alone."""
    parts = parts.detach()
    return (residuals(z, parts) - parts).square().sum(dim=(1, 2)).mean() / dim


def straight_through(z: Tensor, quantised: Tensor) -> Tensor:
    """The value of ``quantised`` with the gradient of ``z``, both (B, d) (VQ-VAE [known])."""
    return z + (quantised - z).detach()


def bi_infonce(items: Tensor, queries: Tensor, hidden: Tensor, temperature: float) -> Tensor:
    """−½ mean_i [ log e^{s_ii} / Σ_j e^{s_ij} + log e^{s_ii} / Σ_j e^{s_ji} ], s_ij = cos(e_i, q_j)
    / τ.

    ``items``, ``queries`` (P, d): pair i is an item and a query that led to it. ``hidden`` (P, P)
    bool, diagonal False: query j led to item i as well, so that the two are no negatives of one
    another. [ours]
    """
    scores = F.normalize(items, dim=1) @ F.normalize(queries, dim=1).T / temperature
    scores = scores.masked_fill(hidden, -torch.inf)
    own = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
