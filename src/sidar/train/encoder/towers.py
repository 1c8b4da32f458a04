"""From a batch of pairs to a loss with gradients: one encoder for both sides, or SCI's two towers.

Two towers start from the same sentence encoder, so f_q and f_i share one space before the first
step, and both read both kinds of text (``embed/towers.py``). A step with swapped inputs encodes
every text twice, once by each tower: twice the cost in training, none in serving.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidar.config import DenseConfig, EmbedConfig
from sidar.embed import SentenceEmbedder, TowerEmbedder, load_embedder
from sidar.embed.towers import TowerView
from sidar.precision import autocast
from sidar.train.encoder.contrast import Views, pair_loss, tower_loss
from sidar.train.encoder.pairs import Pair, hidden

Trainable = SentenceEmbedder | TowerEmbedder


def trainable(cfg: EmbedConfig, device: str, dense: DenseConfig | None = None) -> Trainable:
    """What ``dense.towers`` trains: the encoder of ``embed.model``, or two towers that start from
    it.

    A folder of two towers is trained on as it is. ``ValueError`` where there are no weights to
    tune, where a folder of two towers is asked to be one encoder, or where fewer layers exist than
    ``dense.train_layers`` names.
    """
    dense = dense or DenseConfig()
    embedder = load_embedder(cfg, device)
    if isinstance(embedder, TowerEmbedder):
        if dense.towers == "tied":
            raise ValueError(
                f"embed.model {cfg.model!r} has two towers; set dense.towers to two to train them "
                "further"
            )
    elif not isinstance(embedder, SentenceEmbedder):
        raise ValueError(
            f"embed.model {cfg.model!r} has no weights, so it cannot be fine-tuned; "
            "set embed.model to minilm or to a sentence-transformers folder"
        )
    elif dense.towers == "two":
        other = load_embedder(cfg, device)
        assert isinstance(other, SentenceEmbedder)
        embedder = TowerEmbedder(embedder.model, other.model, cfg.max_tokens, cfg.dtype)
    for model in _encoders(embedder):
        train_last(model, dense.train_layers)
    return embedder


def train_last(model: nn.Module, layers: int | None) -> None:
    """Freeze all but the last ``layers`` blocks of a transformer and what follows it; None = all
    are trained.
    """
    if layers is None:
        return
    stacks = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
    blocks = max(stacks, key=len) if stacks else nn.ModuleList()
    if len(blocks) < layers:
        raise ValueError(
            f"dense.train_layers is {layers}, but the encoder has {len(blocks)} layers; set it to "
            "null"
        )
    kept = [*blocks[len(blocks) - layers :]]
    # sentence-transformers: the transformer, then pooling, projections …
    if isinstance(model, nn.Sequential):
        inside = [any(part is blocks for part in child.modules()) for child in model]
        kept += [*model][inside.index(True) + 1 :]
    model.requires_grad_(False)
    for part in kept:
        part.requires_grad_(True)


def batch_loss(
    embedder: Trainable, pairs: Sequence[Pair], texts: Sequence[str], dense: DenseConfig
) -> Tensor:
    """The loss of one batch; ``texts`` (N,) by catalogue row."""
    queries, items = [pair.query for pair in pairs], [texts[pair.row] for pair in pairs]
    if isinstance(embedder, TowerEmbedder):
        views = tower_views(embedder, queries, items, dense)
        return tower_loss(views, _mask(pairs, views.queries), dense)
    q, i = (
        encode(embedder.model, queries, dense.query_tokens, dense),
        encode(embedder.model, items, dense.item_tokens, dense),
    )
    return pair_loss(q, i, _mask(pairs, q), dense)


def tower_views(
    towers: TowerEmbedder, queries: Sequence[str], items: Sequence[str], dense: DenseConfig
) -> Views:
    """The views that the terms of ``dense`` ask for, (B, D) each, with gradients."""

    def side(view: TowerView, texts: Sequence[str], max_tokens: int) -> Tensor:
        return encode(view.encoder.model, view.texts(texts), max_tokens, dense)

    straight = (
        side(towers.queries, queries, dense.query_tokens),
        side(towers.items, items, dense.item_tokens),
    )
    if not dense.swap and not dense.cross:
        return Views(*straight)
    return Views(
        *straight,
        queries_as_items=side(towers.queries_as_items, queries, dense.query_tokens),
        items_as_queries=side(towers.items_as_queries, items, dense.item_tokens),
    )


def encode(model: Any, texts: Sequence[str], max_tokens: int, dense: DenseConfig) -> Tensor:
    """(B, D) float32 unit vectors with gradients; ``texts`` are cut at ``max_tokens``."""
    limit = model.max_seq_length
    if limit != math.inf:
        model.max_seq_length = max_tokens if limit is None else min(max_tokens, limit)
    try:
        # the latter before sentence-transformers 6
        read = getattr(model, "preprocess", None) or model.tokenize
        features = {
            k: v.to(model.device) if isinstance(v, Tensor) else v
            for k, v in read(list(texts)).items()
        }
    finally:
        if limit != math.inf:
            model.max_seq_length = limit
    with autocast(model.device, dense.precision):
        vectors = model(features)["sentence_embedding"]
    return F.normalize(vectors.float(), dim=1)


def _mask(pairs: Sequence[Pair], like: Tensor) -> Tensor:
    return torch.from_numpy(hidden(pairs)).to(like.device)


def _encoders(embedder: Trainable) -> list[nn.Module]:
    if isinstance(embedder, TowerEmbedder):
        return [view.encoder.model for view in (embedder.queries, embedder.items)]
    return [embedder.model]
