"""The toy shop ready for training: 64 unique SIDs (8/4/2 codes), a tiny embedded model, streams without files."""

import numpy as np

from sidar.config import LmConfig
from sidar.data import toy
from sidar.lm import SidLM
from sidar.types import SemanticIds


def toy_sids():
    """Shelf, then the place in two codes: 64 different SIDs."""
    rows = np.arange(64)
    codes = np.stack([rows // 8, rows % 8 // 2, rows % 2], 1).astype(np.int32)
    lengths = np.full(64, 3, np.int32)
    return SemanticIds(codes, lengths, (8, 4, 2), method="toy")


def tiny_lm(**changes):
    settings = {"layers": 2, "hidden": 64, "heads": 2, "kv_heads": 2, "intermediate": 128, "max_prompt_tokens": 48}
    return LmConfig(**{**settings, **changes})


def tiny_model(seed=0, **changes):
    return SidLM.build(tiny_lm(**changes), toy_sids(), seed=seed)


def item_texts():
    items = toy.catalogue()
    return [f"{t} {' '.join(c)}" for t, c in zip(items.column("title"), items.column("category"), strict=True)]
