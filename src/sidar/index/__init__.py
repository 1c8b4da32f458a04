"""Which SIDs exist, and which items each stands for."""

from sidar.index.prefix import PrefixIndex, pack_keys

__all__ = ["PrefixIndex", "pack_keys"]
