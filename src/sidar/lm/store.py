"""A SidLM on disk: ``config.json``, ``model.safetensors``, ``backbone/config.json`` and ``tokenizer/``.

All weights are written, adapters and frozen ones too, in fp32: a folder needs neither the network nor the checkpoint
that it was trained from.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file

from sidar.config import LoraConfig
from sidar.lm.backbone import Backbone, kernel
from sidar.lm.model import FORMAT, SidLM, SidLMConfig

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save(model: SidLM, folder: Path) -> None:
    """Write ``model`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    model.backbone.config.save_pretrained(folder / "backbone")
    model.tokenizer.save_pretrained(folder / "tokenizer")
    (folder / CONFIG).write_text(json.dumps(asdict(model.config), indent=1) + "\n")


def load(folder: Path, attention: Literal["auto", "sdpa", "eager"] | None = None) -> SidLM:
    """Read a model back; raises ``ValueError`` where ``folder`` holds none, or one of another format."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} holds no Sidar model (no {CONFIG}); train one with `sidar sft`")
    raw = json.loads((folder / CONFIG).read_text())
    if raw.get("format") != FORMAT:
        raise ValueError(f"{folder} has model format {raw.get('format')}, this version of Sidar reads {FORMAT}")
    raw["codebook_sizes"] = tuple(raw["codebook_sizes"])
    raw["attention"] = attention or raw["attention"]
    config = SidLMConfig(**raw)
    decoder = AutoModel.from_config(
        AutoConfig.from_pretrained(folder / "backbone", local_files_only=True),
        attn_implementation=kernel(config.attention),
        dtype=torch.float32,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    model = SidLM(config, Backbone(decoder, tokenizer, None, config.pretrained))
    if config.lora:
        model.adapt(LoraConfig(**config.lora))
    missing, unexpected = model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    if missing or unexpected:
        raise ValueError(
            f"{folder / WEIGHTS} lacks {missing[:3]} and has unknown {unexpected[:3]}; save the model again"
        )
    return model
