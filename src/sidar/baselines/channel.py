"""Rows of the tables, and the retrieval channels among them that users may add."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeVar

import numpy as np
from pydantic import BaseModel

from sidar.baselines.dense import Encoder
from sidar.extensions import CHANNELS, check_class, check_name, checked_options
from sidar.types import Catalogue, Hits, Prompt

if TYPE_CHECKING:
    import pyarrow as pa

    from sidar.data.dataset import Dataset
    from sidar.data.training.priors import Priors

#: What a row is: retrieval without a model that writes SIDs, such a model, or made of other rows.
Kind = Literal["baseline", "generative", "fusion"]


class System(ABC):
    """A row of the tables: anything that answers prompts with ranked items."""

    name: str
    kind: Kind = "baseline"
    #: False: only takes part in fusions and is no row.
    scored: bool = True

    @property
    def about(self) -> str:
        """How it ranks, in a few words; shown in the report."""
        return ""

    @abstractmethod
    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        """Return the best k items of each prompt, (Q, k)."""


class SidSystem(System):
    """A row that ranks Semantic IDs by itself; the SIDs of others follow from their items."""

    kind: Kind = "generative"

    @abstractmethod
    def sid_ranking(self, prompts: Sequence[Prompt], beam: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (Q, beam) SID numbers, best first, −1 = none, and their scores."""

    def invalid(
        self, prompts: Sequence[Prompt], seconds: float = math.inf
    ) -> dict[str, np.ndarray]:
        """Return rates of invalid output per prompt, by name; empty where there can be none.

        Stops after ``seconds``: the values are then those of the first prompts.
        """
        return {}


class TextChannel(Protocol):
    """What ranks items by a query's text alone: BM25, dense vectors, popularity."""

    @property
    def about(self) -> str:
        """How it ranks, in a few words."""

    def search(self, queries: Sequence[str], k: int) -> Hits:
        """Return the best k items of each query, (Q, k)."""


@dataclass(frozen=True)
class Validation:
    """Queries to choose constants on: ``value(hits of the prompts)`` is their mean nDCG@10."""

    prompts: tuple[Prompt, ...]
    value: Callable[[Hits], float]


@dataclass(frozen=True)
class ChannelInputs:
    """What a channel may look at; nothing here knows the test.

    ``vectors`` (N, D) are the items' by ``encoder``, both of the run's stage ``embed``;
    ``validation`` is None where there is no evaluation set of role valid.
    """

    dataset: Dataset
    vectors: np.ndarray
    encoder: Encoder
    validation: Validation | None = None
    seed: int = 0
    device: str = "cpu"

    @property
    def catalogue(self) -> Catalogue:
        """The products; ``catalogue.alive`` (N,) is False where a product has gone."""
        return self.dataset.catalogue

    @cached_property
    def priors(self) -> Priors:
        """Clicks, carts and orders per item on training days."""
        return self.dataset.priors()

    def training_rows(self) -> pa.Table:
        """Return the logged requests that the model is trained on, without held-out queries.

        Columns: ``source``, ``query``, ``history`` and ``positives`` (lists of catalogue rows),
        ``tiers`` of the positives, ``profile``, ``request_id`` and ``ts``.
        """
        return self.dataset.sft()


class Channel(System):
    """A retrieval channel: a row that is fitted once and then answers prompts.

    One of your own is a subclass with :meth:`fit` and :meth:`hits`, registered by
    :func:`register_channel` (docs/extending.md). What a user sets comes as ``options``, an instance
    of the pydantic model given there.
    """

    options_class: ClassVar[type[BaseModel] | None] = None

    def __init__(self, options: BaseModel | Mapping[str, Any] | None = None) -> None:
        self.options: Any = checked_options(self.options_class, options)

    @abstractmethod
    def fit(self, inputs: ChannelInputs) -> Self:
        """Read the catalogue, and what else of the inputs the channel ranks by."""


#: Names that would be read as fusions, widths or folders.
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*", re.IGNORECASE)
#: Rows that a run makes of its artefacts; a channel cannot have their names.
ROWS = (
    *("dense", "dense-ivf", "dense-tuned", "dense-tuned-ivf", "quantised-dense", "prior"),
    *("memory", "answer", "answer-without-lm", "ranker", "sft"),
)

T = TypeVar("T", bound=type[Channel])


def register_channel(name: str, options: type[BaseModel] | None = None) -> Callable[[T], T]:
    """Return a class decorator: ``channels: {<name>: {...}}`` finds the class and its options."""

    check_name(name, "register_channel")

    def add(cls: T) -> T:
        check_class(cls, Channel, "register_channel")
        if not _NAME.fullmatch(name) or name in ROWS:
            reason = "is a row of every table" if name in ROWS else "wants letters, digits, - and _"
            raise ValueError(f"channels: the name {name!r} {reason}; choose another")
        cls.name = name
        if options is not None:
            cls.options_class = options
        CHANNELS.add(name, cls, cls.__module__, cls.options_class)
        return cls

    return add


def fitted_channel(name: str, inputs: ChannelInputs, options: BaseModel | None = None) -> System:
    """Return the channel ``name``, fitted; what a plug-in's channel returns is checked."""
    channel = CHANNELS[name](options)
    fitted = channel.fit(inputs)
    if not CHANNELS.is_external(name):
        return fitted
    if not isinstance(fitted, Channel):
        raise _fault(name, f"fit must return self, got {type(fitted).__name__}")
    return CheckedChannel(fitted, inputs.catalogue.alive)


class CheckedChannel(System):
    """A plug-in's channel; ``ValueError`` names its file where results are no ranking."""

    def __init__(self, channel: Channel, alive: np.ndarray) -> None:
        self.name, self.kind = channel.name, channel.kind
        self._channel, self._alive = channel, alive

    @property
    def about(self) -> str:
        return self._channel.about

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        hits = self._channel.hits(prompts, k)
        if reason := why_no_ranking(hits, len(prompts), k, self._alive):
            raise _fault(self.name, f"hits {reason}")
        return hits


def why_no_ranking(hits: object, n_prompts: int, k: int, alive: np.ndarray) -> str | None:
    """Return what is wrong with a channel's results, in words; None where they are a ranking."""
    if not isinstance(hits, Hits):
        return f"must return sidar.types.Hits, got {type(hits).__name__}"
    rows, scores = np.asarray(hits.rows), np.asarray(hits.scores)
    if rows.ndim != 2 or len(rows) != n_prompts or rows.shape[1] > k or scores.shape != rows.shape:
        return (
            f"must return rows and scores ({n_prompts}, at most {k}), got {rows.shape} and "
            f"{scores.shape}"
        )
    if (
        rows.dtype.kind not in "iu"
        or rows.min(initial=-1) < -1
        or rows.max(initial=-1) >= len(alive)
    ):
        return f"must return whole numbers from −1 to {len(alive) - 1}, rows of the catalogue"
    present = rows >= 0
    if (present[:, 1:] & ~present[:, :-1]).any():
        return "must put −1 (no item) behind the items"
    if not alive[rows[present]].all():
        return "return an item that has gone; leave out those that are not alive"
    ordered = np.sort(np.where(present, rows, -1 - np.arange(rows.shape[1])), axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        return "return an item twice for one prompt"
    shown = np.where(present, scores, 0)
    falls = np.where(present[:, 1:], scores[:, 1:] <= scores[:, :-1], True)
    if not np.isfinite(shown).all() or not falls.all():
        return "must return finite scores, best first"
    return None


def _fault(name: str, says: str) -> ValueError:
    """Return an error that names the channel and the file of the plug-in."""
    return ValueError(f"channels: {name!r} ({CHANNELS.file(name)}): {says}")
