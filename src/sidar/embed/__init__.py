"""Text → vectors: sentence-transformers encoders, the offline default, and the cached embedding of
a catalogue.
"""

from sidar.embed.encoder import Embedder, HashingEmbedder, SentenceEmbedder
from sidar.embed.items import build, embed_texts, item_texts, load_items
from sidar.embed.load import load_embedder
from sidar.embed.minilm import minilm_folder
from sidar.embed.towers import TowerEmbedder, View, query_side

__all__ = [
    "Embedder",
    "HashingEmbedder",
    "SentenceEmbedder",
    "TowerEmbedder",
    "View",
    "build",
    "embed_texts",
    "item_texts",
    "load_embedder",
    "load_items",
    "minilm_folder",
    "query_side",
]
