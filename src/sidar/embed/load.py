"""The encoder that the config names."""

from __future__ import annotations

from sidar.config import EmbedConfig
from sidar.embed.encoder import (
    Embedder,
    HashingEmbedder,
    SentenceEmbedder,
    load_sentence_transformer,
)
from sidar.embed.minilm import minilm_folder
from sidar.embed.towers import has_towers, load_towers
from sidar.precision import resolve_device


def load_embedder(config: EmbedConfig, device: str = "auto") -> Embedder:
    """The encoder that ``embed.model`` names: ``minilm``, ``hashing`` or ``hashing:<dim>``, a
    folder, or a hub name.

    A folder of two towers gives a :class:`~sidar.embed.TowerEmbedder`. Raises ``ValueError`` that
    names the model when it cannot be loaded.
    """
    kind, _, dim = config.model.partition(":")
    if kind == "hashing":
        if dim and not (dim.isdecimal() and int(dim)):
            raise ValueError(f"embed.model {config.model!r}: write hashing:<dim>, e.g. hashing:64")
        return HashingEmbedder(int(dim or 64))
    if has_towers(config.model):
        return load_towers(config.model, config.max_tokens, config.dtype, resolve_device(device))
    name = str(minilm_folder()) if config.model == "minilm" else config.model
    return SentenceEmbedder(
        load_sentence_transformer(name, resolve_device(device)), config.max_tokens, config.dtype
    )
