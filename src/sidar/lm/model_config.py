"""What a SidLM is built from, as it stands in a checkpoint's ``config.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sidar.config import LmConfig
from sidar.lm.store import FORMAT


@dataclass(frozen=True)
class SidLMConfig:
    """What a checkpoint must know to be built again, beside the backbone's own config and its
    tokenizer.
    """

    codebook_sizes: tuple[int, ...]
    text_vocab: int
    variable_length: bool
    backbone: str  # `embedded`, or the folder or hub name that the weights came from
    pretrained: Literal["none", "text", "all"]  # what did not start at random
    head: Literal["level", "full"] = "level"
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    tied: bool = True  # head="full": text logits use the word embeddings
    centroid_dim: int = 0  # width of the stored codebooks, 0 = none stored
    geometry: int = 0  # width of the sentence vector that the level heads read, 0 = they read none
    # SIDs up to which the prior of the first code is exact, 0 = always (as before it was kept)
    geometry_exact: int = 0
    geometry_top: int = 0  # above: prefixes of depth 1 that are exact for each prompt
    lora: dict[str, Any] | None = None
    template: str = "default"
    max_prompt_tokens: int = 96
    history_items: int = 5
    sid_version: str = ""
    format: int = FORMAT

    @classmethod
    def of(
        cls,
        cfg: LmConfig,
        *,
        codebook_sizes: tuple[int, ...],
        text_vocab: int,
        variable_length: bool,
        pretrained: Literal["none", "text", "all"],
        tied: bool,
        centroid_dim: int,
        sid_version: str,
    ) -> SidLMConfig:
        """Return the config of a new model: section ``lm``, and facts of its parts."""
        return cls(
            codebook_sizes=codebook_sizes,
            text_vocab=text_vocab,
            variable_length=variable_length,
            backbone=cfg.backbone,
            pretrained=pretrained,
            head=cfg.head,
            attention=cfg.attention,
            tied=tied,
            centroid_dim=centroid_dim,
            geometry=centroid_dim if cfg.geometry else 0,
            geometry_exact=cfg.geometry_exact if cfg.geometry else 0,
            geometry_top=cfg.geometry_top if cfg.geometry else 0,
            lora=cfg.lora.model_dump() if cfg.lora else None,
            template=cfg.template,
            max_prompt_tokens=cfg.max_prompt_tokens,
            history_items=cfg.history_items,
            sid_version=sid_version,
        )


def check_codebooks(
    cfg: LmConfig, sizes: tuple[int, ...], codebooks: Sequence[np.ndarray] | None
) -> None:
    """Raise ``ValueError`` where codebooks are not those of the table, or lack where heads start at
    the geometry.
    """
    if codebooks is not None and (given := tuple(len(c) for c in codebooks)) != sizes:
        raise ValueError(
            f"codebooks of {given} codes do not belong to an SID table of {sizes}; fit both with "
            "`sidar sid`"
        )
    if cfg.geometry and (codebooks is None or cfg.head == "full"):
        full = "lm.head: full has logits of text too"
        why = full if cfg.head == "full" else "no codebooks were given"
        raise ValueError(
            f"lm.geometry starts level heads at the codes' centroids, but {why}; set it to false"
        )
