"""Training: one loop, crash-safe checkpoints, and the SFT and alignment stages.

Names load torch on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "fit": "loop",
    "train_align": "align",
    "train_dense": "encoder.dense",
    "train_progressive": "progressive",
    "train_sft": "sft",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sidar.train' has no attribute {name!r}")
    return getattr(import_module(f"sidar.train.{_HOME[name]}"), name)
