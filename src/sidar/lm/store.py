"""A SidLM on disk: ``config.json``, ``model.safetensors``, ``backbone/config.json`` and
``tokenizer/``.

All weights are written, adapters and frozen ones too, in fp32: a folder needs neither the network
nor the checkpoint that it was trained from.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import load_file, save_file

from sidar.lm.backbone import kernel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sidar.lm.model import SidLM

#: Version of the folder's layout, kept in ``config.json``.
FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"


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
