"""What a table row must be able to do, and the rows that are made of others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from sidar.types import Hits, Prompt


class System(Protocol):
    """Anything that answers prompts with ranked items."""

    @property
    def name(self) -> str: ...

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        """The best k items of each prompt, (Q, k)."""


@runtime_checkable
class Generative(Protocol):
    """A system that ranks Semantic IDs."""

    @property
    def name(self) -> str: ...

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        """The best items of the SIDs of a beam."""

    def sid_ranking(self, prompts: Sequence[Prompt], beam: int) -> tuple[np.ndarray, np.ndarray]:
        """(Q, beam) SID numbers, best first, −1 = none, and their scores."""


class TextChannel(Protocol):
    """A baseline: query texts in, Hits out."""

    def search(self, queries: Sequence[str], k: int) -> Hits:
        """The best k items of each query."""


@dataclass(frozen=True)
class TextSystem:
    """A baseline as a system: it reads the query and nothing of the user."""

    name: str
    channel: TextChannel

    @property
    def about(self) -> str:
        """What the channel says of itself; shown in the report."""
        return str(getattr(self.channel, "about", ""))

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        return self.channel.search([prompt.query for prompt in prompts], k)


def is_scored(system: object) -> bool:
    """False for a channel that only takes part in fusions and is no row of its own."""
    return bool(getattr(system, "scored", True))


def ranks_sids(system: object) -> bool:
    """True where the system says itself in which order the SIDs come; the SIDs of others follow
    from their items.
    """
    return isinstance(system, Generative)


def is_generative(system: object) -> bool:
    """True where the system writes SIDs.

    A baseline that ranks SIDs without a model says so by its ``kind``.
    """
    return ranks_sids(system) and getattr(system, "kind", "generative") == "generative"


def fusion_parts(name: str, systems: Collection[str]) -> tuple[str, ...] | None:
    """``"bm25+dense+dpo+sft"`` → its parts, longest known names first; None where it is no fusion
    of ``systems``.
    """
    if name in systems:
        return None
    words, parts, at = name.split("+"), [], 0
    while at < len(words):
        for end in range(len(words), at, -1):
            if (part := "+".join(words[at:end])) in systems:
                parts.append(part)
                at = end
                break
        else:
            return None
    return tuple(parts)


#: Popularity as a channel of fusions: it orders what the others return.
PRIOR = "prior"


def dense_row(name: str, systems: Collection[str]) -> str:
    """``name`` (``dense``, ``dense-tuned``), or its row through an index where a run has that
    alone.
    """
    return f"{name}-ivf" if name not in systems and f"{name}-ivf" in systems else name


def default_fusions(
    systems: Collection[str], generative: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The lexical and dense channels together, and with each generative model: {name: parts}.

    Where there is a fine-tuned encoder (``dense-tuned``), the same again with it.
    """
    fusions: dict[str, tuple[str, ...]] = {}
    channels = [dense_row(name, systems) for name in ("dense", "dense-tuned")]
    for dense in [name for name in channels if name in systems] or ["dense"]:
        base = tuple(name for name in ("bm25", dense) if name in systems)
        if len(base) > 1:
            fusions["+".join(base)] = base
            if PRIOR in systems:
                fusions["+".join((*base, PRIOR))] = (*base, PRIOR)
        if base:
            fusions |= {"+".join((*base, name)): (*base, name) for name in generative}
    return fusions
