"""A SidLM on disk: ``config.json``, ``model.safetensors``, ``backbone/config.json`` and
``tokenizer/``.

All weights are written, adapters and frozen ones too, in fp32: a folder needs neither the network
nor the checkpoint that it was trained from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from sidar.config import LmConfig
from sidar.lm.backbone import kernel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sidar.lm.model import SidLM

#: Version of the folder's layout, kept in ``config.json``.
FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"


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


def save(model: SidLM, folder: Path) -> None:
    """Write ``model`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    model.backbone.config.save_pretrained(folder / "backbone")
    model.tokenizer.save_pretrained(folder / "tokenizer")
    (folder / CONFIG).write_text(json.dumps(asdict(model.config), indent=1) + "\n")


@dataclass(frozen=True)
class StoredModel:
    """What a folder holds: the model's config as written, its decoder (untrained), tokenizer and
    weights.
    """

    config: dict[str, Any]
    decoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights: dict[str, torch.Tensor]
    file: Path

    def fill(self, model: torch.nn.Module) -> None:
        """Give ``model`` the weights; ``ValueError`` where they are not those of its parameters."""
        missing, unexpected = model.load_state_dict(self.weights, strict=False)
        if missing or unexpected:
            raise ValueError(
                f"{self.file} lacks {missing[:3]} and has unknown {unexpected[:3]}; save the "
                "model again"
            )


def read(folder: Path, attention: Literal["auto", "sdpa", "eager"] | None = None) -> StoredModel:
    """Read what :func:`save` wrote; ``ValueError`` where ``folder`` holds no model, or one of
    another format.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} holds no Sidar model (no {CONFIG}); train one with `sidar sft`")
    raw = json.loads((folder / CONFIG).read_text())
    if raw.get("format") != FORMAT:
        raise ValueError(
            f"{folder} has model format {raw.get('format')}, this version of Sidar reads {FORMAT}"
        )
    raw["codebook_sizes"] = tuple(raw["codebook_sizes"])
    raw["attention"] = attention or raw["attention"]
    decoder = AutoModel.from_config(
        AutoConfig.from_pretrained(folder / "backbone", local_files_only=True),
        attn_implementation=kernel(raw["attention"]),
        dtype=torch.float32,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    return StoredModel(raw, decoder, tokenizer, load_file(folder / WEIGHTS), folder / WEIGHTS)
