"""What goes over the wire in answers; requests are :class:`~sidar.serve.request.SearchRequest`."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from sidar.serve.http.models import Searcher
    from sidar.serve.results import Result, SearchAnswer
    from sidar.serve.trace import Level


class Hit(BaseModel):
    """One item of the answer."""

    rank: int
    item_id: str
    title: str
    brand: str
    price: float | None
    image_url: str
    category: list[str]
    sid: list[int] = Field(
        description="Its Semantic ID: one code per level, or fewer where lengths differ."
    )
    sid_text: str
    score: float | None = Field(
        description="log π(SID | prompt) + log of the item's share in it, plus w · cosine where "
        "reranked; log P(item) "
        "where fused; null where the probability is 0."
    )
    probability: float | None = Field(
        description="Of the SID; null where only other channels found the item."
    )
    level_logp: list[float | None] = Field(
        description=(
            "log-probability of each code given the ones before; then of ending, where an "
            "SID may end early."
        )
    )
    cosine: float | None = Field(None, description="Of query and item, where reranked.")
    count: float | None = Field(
        None, description="Where fused: decayed count of this item for this query."
    )
    channels: list[str] = Field(
        [], description="Where fused: memory, bm25, dense, generative, as they found it."
    )

    @classmethod
    def of(cls, result: Result) -> Hit:
        fields = asdict(result)
        return cls(
            **fields
            | {"score": _json(result.score), "level_logp": [_json(x) for x in result.level_logp]}
        )


class Prefix(BaseModel):
    """One prefix that the search followed, and what lies below it."""

    codes: list[int]
    text: str
    logp: float | None
    probability: float
    items: int
    sids: int
    label: str = Field(description="Deepest category that holds at least half of its items.")
    share: float
    example: str
    ranks: list[int] = Field(description="Ranks of the returned items below it.")
    end: float | None = Field(
        None, description="Probability of the SID that ends here; null where there is none."
    )


class BeamLevel(BaseModel):
    """The beam at one depth."""

    depth: int
    codebook_size: int
    live: int = Field(description="Prefixes of this depth that lead to an item.")
    followed: int
    mass: float = Field(description="Probability of all followed prefixes together.")
    prefixes: list[Prefix]
    ended: float = Field(0.0, description="Probability of the SIDs that end at this depth.")

    @classmethod
    def of(cls, level: Level) -> BeamLevel:
        fields = asdict(level)
        return cls(
            **fields
            | {"prefixes": [Prefix(**p | {"logp": _json(p["logp"])}) for p in fields["prefixes"]]}
        )


class SearchResponse(BaseModel):
    """The answer, and which model gave it."""

    query: str
    model: str
    bundle: str = Field(description="Hash of the bundle that answered.")
    beam: int
    hits: list[Hit]
    notes: list[str] = Field(description="In words, where the request was not taken as it stood.")
    ignored_history: list[str]
    timing_ms: dict[str, float] = Field(
        description="prompt, prefill, decode, cards, total, and wait (for its turn)."
    )
    levels: list[BeamLevel] | None = Field(None, description="Only with `explain`.")
    mass: float = Field(
        0.0, description="Probability of all Semantic IDs that the search wrote, together."
    )
    rerank: float | None = Field(
        None, description="Weight w of the cosine; null where the beams decided alone."
    )
    fuse: str = Field("none", description="none, memory or ranker.")
    seen: float = Field(
        0.0, description="Where fused: decayed count of all that was chosen for this query before."
    )
    exact: bool = Field(
        False, description="Whether the best SIDs were searched exactly instead of with a beam."
    )

    @classmethod
    def of(cls, answer: SearchAnswer, model: str, wait_ms: float, explain: bool) -> SearchResponse:
        timing = answer.timing_ms | {"wait": wait_ms}
        return cls(
            query=answer.query,
            model=model,
            bundle=answer.bundle,
            beam=answer.beam,
            hits=[Hit.of(result) for result in answer.results],
            notes=list(answer.notes),
            ignored_history=list(answer.ignored_history),
            timing_ms={phase: round(ms, 3) for phase, ms in timing.items()},
            levels=[BeamLevel.of(level) for level in answer.levels] if explain else None,
            mass=answer.mass,
            rerank=answer.rerank,
            fuse=answer.fuse,
            seen=answer.seen,
            exact=answer.exact,
        )


class ModelInfo(BaseModel):
    """A model that this server answers with."""

    label: str
    bundle: str
    items: int
    sids: int
    codebook_sizes: list[int]
    beam: int
    exact: bool = Field(
        False, description="Whether it searches exactly where a request does not say."
    )

    @classmethod
    def of(cls, label: str, model: Searcher) -> ModelInfo:
        return cls(
            label=label,
            bundle=model.hash,
            items=len(model),
            sids=len(model.index),
            codebook_sizes=list(model.index.codebook_sizes),
            beam=model.beam,
            exact=model.exact,
        )


class Info(BaseModel):
    """What the page needs to know before the first search."""

    models: list[ModelInfo]
    examples: list[str]


class Problem(BaseModel):
    """An error in words: what is wrong, where, and what would be right."""

    error: str


def _json(value: float) -> float | None:
    """JSON has no infinities: a log-probability of −∞ is null."""
    return value if math.isfinite(value) else None
