"""Text → vectors: sentence-transformers encoders, the offline default, and the cached embedding of a catalogue."""

from sidar.embed.encoder import Embedder, HashingEmbedder, SentenceEmbedder, load_embedder
from sidar.embed.items import build, item_texts, load_items
from sidar.embed.minilm import minilm_folder

__all__ = [
    "Embedder",
    "HashingEmbedder",
    "SentenceEmbedder",
    "build",
    "item_texts",
    "load_embedder",
    "load_items",
    "minilm_folder",
]
