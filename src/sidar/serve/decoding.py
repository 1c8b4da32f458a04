"""How a bundle was made to decode, and the shares of items inside their SID that go with it."""

from __future__ import annotations

import numpy as np

from sidar.config import DecodeConfig
from sidar.index import PrefixIndex
from sidar.index.shares import ItemShares
from sidar.serve.bundle import Bundle


def stored_decoding(opened: Bundle) -> DecodeConfig:
    """Return the settings that a bundle was made with; an older one goes on answering as it did."""
    stored = opened.config.get("decode", {})
    known = {name: stored[name] for name in DecodeConfig.model_fields if name in stored}
    decode = DecodeConfig(**known)
    if "search_beam" in stored:  # as it answered: SIDs listed whole, never exactly
        decode.beam = int(stored["search_beam"])
        decode.item_share, decode.exact = "none", False
    return decode


def item_shares(
    index: PrefixIndex, alive: np.ndarray | None, decode: DecodeConfig
) -> ItemShares | None:
    """Return the shares that ``decode`` asks for, over the live items; None = SIDs are listed
    whole.
    """
    if decode.item_share == "none":
        return None
    return ItemShares.of(
        index,
        alive,
        rule=decode.item_share,
        pseudo=decode.share_pseudo,
        temperature=decode.share_temperature,
    )
