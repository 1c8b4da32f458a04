"""The answer of a search as values."""

from __future__ import annotations

from dataclasses import dataclass, field

from sidar.filters import FacetCount
from sidar.serve.browse.views import BrowseView
from sidar.serve.trace import Level


@dataclass(frozen=True)
class Result:
    """One item.

    Answered by the model alone, ``score`` = log π(SID | prompt) + log of the item's share inside
    its SID, plus weight · ``cosine`` of query and item where reranked.  Fused with the memory,
    ``score`` = log P(item | query, user); ordered by the ranker, ``score`` = log of the item's
    softmax share among the candidates. ``probability`` is π of the SID either way, = exp Σ
    ``level_logp``; None, and no ``level_logp``, where only other channels found the item.
    ``level_logp`` has one entry per code, and where SIDs have several lengths one more for the end
    of a shorter one.
    """

    rank: int  # from 1
    item_id: str
    title: str
    brand: str
    price: float | None
    image_url: str
    category: tuple[str, ...]
    score: float
    probability: float | None
    sid: tuple[int, ...]
    level_logp: tuple[float, ...]
    sid_text: str
    cosine: float | None = None  # only where reranked
    count: float | None = None  # only where fused: decayed count of this item for this query
    # only where fused: which channels found it (memory, bm25, dense, generative)
    channels: tuple[str, ...] = ()
    # only where fused with the memory and explained: share of the memory, each channel and the
    # prior in the probability (sidar.answer.origins), largest first; says how, is no part of what
    origins: tuple[tuple[str, float], ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class FellOut:
    """Where the beam lost an item's SID: at ``level`` (from 1) its ``prefix`` had ``logp``, and
    ``against``, the weakest prefix that was kept there, had ``margin`` more.  An SID that ended
    earlier is its own prefix.
    """

    level: int
    prefix: str
    logp: float
    against: str
    against_logp: float
    margin: float


@dataclass(frozen=True)
class Why:
    """The place of one item in an answer.

    ``rank`` is None below the first 2,000; ``behind``: how much its score is below that of the
    last item returned; ``fell_out``: None where the beam reached its SID.
    """

    item_id: str
    title: str
    sid: tuple[int, ...]
    returned: bool
    rank: int | None
    score: float | None
    behind: float | None
    fell_out: FellOut | None
    words: str


@dataclass(frozen=True)
class SearchAnswer:
    """An answer and how it came about. ``notes`` say in words where the request was not taken as it
    stood.

    ``reason``: why there are fewer results than were ``requested``, None where there are not:
    ``filter_allows_<n>`` (all n came), ``beam`` (it reached no more items), ``catalogue`` (it has
    no more), ``deadline`` (it passed before the search ended). A short answer is no error, and
    nothing is filled up.

    ``mass``: the probability of all SIDs that the search wrote, together. ``rerank``: weight of the
    cosine, None = not reranked. ``fuse``: ``none``, ``memory`` or ``ranker``; ``seen``: decayed
    count of all that was chosen for the query before. ``allowed``: live items that the filter
    allows, None = there was none; ``facets``: counts of values among them.
    """

    query: str
    results: list[Result]
    beam: int
    # prompt, prefill, decode, cards, total; of all queries answered together. Empty at a deadline
    timing_ms: dict[str, float]
    notes: tuple[str, ...] = ()
    ignored_history: tuple[str, ...] = ()
    levels: list[Level] = field(default_factory=list)
    mass: float = 0.0
    rerank: float | None = None
    fuse: str = "none"
    seen: float = 0.0
    exact: bool = False  # the best ``beam`` SIDs of all, not what a beam of that width found
    allowed: int | None = None
    facets: dict[str, tuple[FacetCount, ...]] = field(default_factory=dict)
    bundle: str = ""  # hash of the bundle that answered; empty for parts in memory
    catalogue_version: int = 0  # changes of the catalogue since the bundle was made
    requested: int = 0  # k
    reason: str | None = None
    why: Why | None = None  # only where it was asked for
    view: BrowseView | None = None  # of the catalogue, where that was asked for

    @property
    def returned(self) -> int:
        """How many items came back."""
        return len(self.results)
