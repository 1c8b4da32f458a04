"""What a table row must be able to do, and the rows that are made of others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sidar.baselines import SidSystem, System, TextChannel
from sidar.types import Hits, Prompt


@dataclass(frozen=True)
class TextSystem(System):
    """A baseline as a system: it reads the query and nothing of the user."""

    name: str
    channel: TextChannel

    @property
    def about(self) -> str:
        """What the channel says of itself; shown in the report."""
        return self.channel.about

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        return self.channel.search([prompt.query for prompt in prompts], k)


def is_generative(system: System) -> bool:
    """Return whether the system writes SIDs; a baseline may rank them without a model."""
    return isinstance(system, SidSystem) and system.kind == "generative"


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
    systems: Collection[str], generative: Sequence[str], plugins: Sequence[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Return the lexical and dense channels together, and with each generative model and each
    channel of ``plugins``: {name: parts}.

    Where there is a fine-tuned encoder (``dense-tuned``), the same again with it.
    """
    added = [name for name in (*plugins, *generative) if name in systems]
    fusions: dict[str, tuple[str, ...]] = {}
    channels = [dense_row(name, systems) for name in ("dense", "dense-tuned")]
    for dense in [name for name in channels if name in systems] or ["dense"]:
        base = tuple(name for name in ("bm25", dense) if name in systems)
        if len(base) > 1:
            fusions["+".join(base)] = base
            if PRIOR in systems:
                fusions["+".join((*base, PRIOR))] = (*base, PRIOR)
        if base:
            fusions |= {"+".join((*base, name)): (*base, name) for name in added}
    return fusions
