"""Losses of query–item pairs as pure functions of unit vectors: InfoNCE, hinge, SCI's swap term,
two baselines.

For pairs (q_i, d_i) of unit vectors, S the cosine, and negatives j: the batch's items that do not
answer q_i too,

    InfoNCE   −(1/B) Σ_i log [ exp(S(q_i, d_i) / τ) / Σ_{j or i} exp(S(q_i, d_j) / τ) ]
    hinge     mean over (i, j) of max(0, δ − S(q_i, d_i) + S(q_i, d_j))

InfoNCE is [known: sentence-transformers' MultipleNegativesRankingLoss, scale 20 = 1/τ], the hinge
SCI's L_original [source: N9; arXiv 2512.13074]. The mask of other positives is ours: a batch of
popular queries holds many items that answer several of them.

Two towers f_q, f_i that both read queries Q and items I give four views, and with ℓ either of the
two losses

    L = ℓ(f_q(Q), f_i(I)) + λ ℓ(f_i(Q), f_q(I)) + γ [ℓ(f_q(Q), f_q(I)) + ℓ(f_i(Q), f_i(I))]

λ is SCI's alignment by input swapping [source: N9 gives the swapped inputs; the term itself is a
reconstruction], γ the rest of the 2 × 2 grid, an ablation [reconstruction]. Nothing is added to the
parameters. At λ = 1 L is the same after exchanging the towers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sidar.config import DenseConfig


def in_batch_loss(
    queries: Tensor, items: Tensor, hide: Tensor, temperature: float = 0.05, symmetric: bool = False
) -> Tensor:
    """InfoNCE of unit vectors ``queries`` and ``items``, each (B, D); ``hide`` (B, B) bool: item j
    is no negative of i.

    ``symmetric``: the mean of both directions, queries as each other's negatives in the second.
    """
    scores = (queries @ items.T / temperature).masked_fill(hide, -torch.inf)
    own = torch.arange(len(scores), device=scores.device)
    loss = F.cross_entropy(scores, own)
    return (loss + F.cross_entropy(scores.T, own)) / 2 if symmetric else loss


def hinge_loss(
    queries: Tensor, items: Tensor, hide: Tensor, margin: float = 0.2, symmetric: bool = False
) -> Tensor:
    """SCI's L_original, inputs as in :func:`in_batch_loss`; the mean over all negatives, 0 where
    there is none.

    ``symmetric``: the mean of both directions; as printed the items alone are negatives.
    """
    scores = queries @ items.T
    own = scores.diagonal()
    counts = (~hide).fill_diagonal_(False)

    def mean(excess: Tensor, counts: Tensor) -> Tensor:
        return torch.where(counts, excess.relu(), 0).sum() / counts.sum().clamp_min(1)

    loss = mean(margin - own[:, None] + scores, counts)
    return (loss + mean(margin - own[:, None] + scores.T, counts.T)) / 2 if symmetric else loss


def pair_loss(queries: Tensor, items: Tensor, hide: Tensor, dense: DenseConfig) -> Tensor:
    """ℓ as ``dense.loss`` names it."""
    if dense.loss == "hinge":
        return hinge_loss(queries, items, hide, dense.margin, dense.symmetric)
    return in_batch_loss(queries, items, hide, dense.temperature, dense.symmetric)


@dataclass(frozen=True)
class Views:
    """Unit vectors (B, D) of one batch of pairs; the swapped views are None where no term asks for
    them.
    """

    queries: Tensor  # f_q(Q)
    items: Tensor  # f_i(I)
    queries_as_items: Tensor | None = None  # f_i(Q)
    items_as_queries: Tensor | None = None  # f_q(I)


def tower_loss(views: Views, hide: Tensor, dense: DenseConfig) -> Tensor:
    """L as above with λ = ``dense.swap`` and γ = ``dense.cross``, and the moment term of
    ``dense.match``.
    """
    loss = pair_loss(views.queries, views.items, hide, dense)
    q_as_i, i_as_q = views.queries_as_items, views.items_as_queries
    if q_as_i is not None and i_as_q is not None:
        if dense.swap:
            loss = loss + dense.swap * pair_loss(q_as_i, i_as_q, hide, dense)
        if dense.cross:
            cross = pair_loss(views.queries, i_as_q, hide, dense) + pair_loss(
                q_as_i, views.items, hide, dense
            )
            loss = loss + dense.cross * cross
    if dense.match != "none":
        apart = mean_gap if dense.match == "mean" else coral
        loss = loss + dense.match_weight * apart(views.queries, views.items)
    return loss


def mean_gap(queries: Tensor, items: Tensor) -> Tensor:
    """Squared distance of the two sides' means: the modality gap as a loss, a baseline."""
    return (queries.mean(0) - items.mean(0)).square().sum()


def coral(queries: Tensor, items: Tensor) -> Tensor:
    """‖C_q − C_i‖_F² of the two sides' covariances, a baseline [known: Sun & Saenko 2016, arXiv
    1607.01719].

    Without its factor 1 / (4 D²), which is for features of unbounded length: these vectors have
    length 1.
    """
    return (_covariance(queries) - _covariance(items)).square().sum()


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.T @ centred / max(len(x) - 1, 1)
