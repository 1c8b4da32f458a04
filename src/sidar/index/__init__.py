"""Which SIDs exist, and which items each stands for."""

from sidar.index.live import LivePrefixes
from sidar.index.prefix import PrefixIndex, pack_keys
from sidar.index.stage import build_stage

__all__ = ["LivePrefixes", "PrefixIndex", "build_stage", "pack_keys"]
