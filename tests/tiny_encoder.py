"""A sentence-transformers folder that costs nothing to load or train."""

from __future__ import annotations

from pathlib import Path

from sidar.embed import minilm_folder


def save_tiny_encoder(folder: Path, seed: int) -> Path:
    """A sentence-transformers folder with a random two-layer BERT and mean pooling."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    try:
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ModuleNotFoundError:  # before sentence-transformers 6
        from sentence_transformers.models import Pooling, Transformer

    torch.manual_seed(seed)
    folder.mkdir()
    config = BertConfig(
        vocab_size=30_522,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast.from_pretrained(minilm_folder()).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu").save(str(folder / "st"))
    return folder / "st"
