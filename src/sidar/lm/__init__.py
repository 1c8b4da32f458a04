"""The language model that writes Semantic IDs.

Names load on first use, so importing ``sidar.lm`` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Candidate": "candidates",
    "Packed": "packing",
    "PromptBuilder": "prompts",
    "SidLM": "model",
    "SidLMConfig": "model",
    "SidVocab": "vocab",
    "export_hf": "export",
    "pack": "packing",
    "score": "packing",
    "to_candidates": "candidates",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sidar.lm' has no attribute {name!r}")
    return getattr(import_module(f"sidar.lm.{_HOME[name]}"), name)
