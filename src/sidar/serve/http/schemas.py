"""What goes over the wire in answers; requests are :class:`~sidar.serve.request.SearchRequest`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

if TYPE_CHECKING:
    from sidar.serve.info import BundleInfo
    from sidar.serve.results import Result, SearchAnswer
    from sidar.serve.trace import Level


def _no_field_is_certain(schema: JsonDict) -> None:
    """A request chooses the fields of its hits."""
    schema.pop("required", None)


class Hit(BaseModel):
    """One item of the answer."""

    model_config = ConfigDict(json_schema_extra=_no_field_is_certain)

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
        [], description="Those of memory, bm25, dense and generative that found the item."
    )
    origins: dict[str, float] = Field(
        {},
        description="With `explain`, where fused with the memory: share of the memory, each "
        "channel and the prior in the item's probability, largest first.",
    )

    @classmethod
    def of(cls, result: Result) -> Hit:
        return cls(
            **vars(result)
            | {"score": _json(result.score), "level_logp": [_json(x) for x in result.level_logp]}
            | {"category": list(result.category), "sid": list(result.sid)}
            | {"channels": list(result.channels) or ["generative"]}
            | {"origins": dict(result.origins)}
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
    allowed: int | None = Field(
        None, description="Items below it that the filter allows; null where there was none."
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
    cut: int = Field(0, description="Prefixes of this depth that the filter took away.")
    cut_mass: float = Field(
        0.0, description="Probability of those that followed prefixes would have led to."
    )
    cut_prefixes: list[Prefix] = Field([], description="The most probable of these.")

    @classmethod
    def of(cls, level: Level) -> BeamLevel:
        fields = asdict(level)
        for name in ("prefixes", "cut_prefixes"):
            fields[name] = [Prefix(**p | {"logp": _json(p["logp"])}) for p in fields[name]]
        return cls(**fields)


class Facet(BaseModel):
    """A value of a column, and how many of the allowed items have it."""

    value: str | bool | float
    count: int


class SearchResponse(BaseModel):
    """The answer, and which model gave it."""

    request_id: str = Field("", description="Names this answer in events (/v1/events).")
    bucket: str = Field("", description="The user's bucket in the experiment; empty without one.")
    query: str
    model: str
    bundle: str = Field(description="Hash of the bundle that answered.")
    catalogue_version: int = Field(
        0, description="Changes of the catalogue since the bundle was made."
    )
    beam: int
    requested: int = Field(0, description="k of the request.")
    returned: int = Field(0, description="How many hits there are.")
    reason: str | None = Field(
        None,
        description=(
            "Why there are fewer hits than requested: `beam` (it reached no more items), "
            "`filter_allows_<n>` (all n of them came), `catalogue` (it has no more), "
            "`deadline` (timeout_ms was over); else null."
        ),
    )
    hits: list[Hit] = Field(
        description="Best first, with those of their fields that the request chose."
    )
    notes: list[str] = Field(description="In words, where the request was not taken as it stood.")
    ignored_history: list[str]
    timing_ms: dict[str, float] = Field(
        description="prompt, prefill, decode, cards, total, and wait (for its turn); of a fused "
        "answer also bm25, dense and memory or ranker, which are parts of cards."
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

    allowed: int | None = Field(
        None, description="Live items that the filter allows; null where there was none."
    )
    facets: dict[str, list[Facet]] = Field(
        {},
        description="Values of the columns of `facets`, most frequent first, at most 50 of each.",
    )

    @classmethod
    def of(cls, answer: SearchAnswer, model: str, wait_ms: float, explain: bool) -> SearchResponse:
        timing = answer.timing_ms | {"wait": wait_ms}
        return cls(
            query=answer.query,
            model=model,
            bundle=answer.bundle,
            catalogue_version=answer.catalogue_version,
            beam=answer.beam,
            requested=answer.requested,
            returned=answer.returned,
            reason=answer.reason,
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
            allowed=answer.allowed,
            facets={
                key: [Facet(**asdict(count)) for count in counts]
                for key, counts in answer.facets.items()
            },
        )

    def body(self, fields: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the answer as JSON has it, its hits with ``fields`` only; None = all."""
        body = self.model_dump(mode="json")
        if fields is not None:
            body["hits"] = [{name: hit[name] for name in fields} for hit in body["hits"]]
        return body

    def http(self, fields: Sequence[str] | None = None) -> Response:
        """Return :meth:`body` as an HTTP response; a whole one is written without a dict of it."""
        if fields is None:
            return Response(self.model_dump_json(), media_type="application/json")
        return JSONResponse(self.body(fields))


class BatchResponse(BaseModel):
    """The answers to several searches, in their order."""

    answers: list[SearchResponse]


class FellOut(BaseModel):
    """Where the beam lost the item's SID."""

    level: int = Field(description="From 1.")
    prefix: str
    logp: float | None = Field(description="null = the model gives it no probability.")
    against: str = Field(description="The weakest prefix that was kept at this level.")
    against_logp: float
    margin: float | None = Field(description="How much more log-probability that one has.")


class WhyResponse(BaseModel):
    """The place of one item in a search, and what it was lost to."""

    query: str
    model: str
    bundle: str
    catalogue_version: int
    beam: int
    item_id: str
    title: str
    sid: list[int]
    returned: bool
    rank: int | None = Field(description="null below the first 2,000.")
    score: float | None
    behind: float | None = Field(
        description="How much its score is below that of the last item returned."
    )
    fell_out: FellOut | None = Field(description="null where the beam reached its SID.")
    words: str = Field(description="The reason in one sentence.")

    @classmethod
    def of(cls, answer: SearchAnswer, model: str) -> WhyResponse:
        assert answer.why is not None
        fields = asdict(answer.why)
        for name in ("score", "behind"):
            fields[name] = None if fields[name] is None else _json(fields[name])
        lost = fields["fell_out"]
        if lost is not None:
            lost |= {"logp": _json(lost["logp"]), "margin": _json(lost["margin"])}
        return cls(
            query=answer.query,
            model=model,
            bundle=answer.bundle,
            catalogue_version=answer.catalogue_version,
            beam=answer.beam,
            **fields,
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
    fuse: str = Field("none", description="How it fuses where a request does not say.")
    report: bool = Field(False, description="Whether its run left a report (/v1/report).")

    @classmethod
    def of(cls, label: str, info: BundleInfo) -> ModelInfo:
        return cls(
            label=label,
            bundle=info.hash,
            items=info.items,
            sids=info.defaults.sids,
            codebook_sizes=list(info.codebook_sizes),
            beam=info.defaults.beam,
            exact=info.defaults.exact,
            fuse=info.defaults.fuse,
            report=bool(info.report),
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
