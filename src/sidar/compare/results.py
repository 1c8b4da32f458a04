"""The results of a comparison, as in ``results.json``: all that its page shows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, TypeAdapter

from sidar.artifacts import replace_file
from sidar.evaluate.stats import Verdict
from sidar.types import Json

FILE = "results.json"


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` queries with its 95 % bootstrap interval; None where it is not finite."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class PairedResult:
    """A paired test of a − b on one set; ``other`` is b's measure where it is not a's."""

    set: str
    question: str
    measure: str
    a: str
    b: str
    effect: float
    low: float
    high: float
    p: float
    p_holm: float
    detectable: float | None  # smallest true effect seen with 80 % power
    n: int
    clusters: int
    agree: int  # seeds with the sign of the effect
    verdict: Verdict
    other: str = ""


@dataclass(frozen=True)
class Standing:
    """Who leads one set by the endpoint, and which methods the leader does not beat."""

    leader: str
    together: Annotated[list[str], Field(alias="with")]
    means: dict[str, float]
    detectable: float  # largest detectable difference to those; 0 where the leader is alone


@dataclass(frozen=True)
class Leaders:
    """The answer: ``everywhere`` are the methods that no leader beats on any set."""

    kind: Literal["best", "cannot tell", "depends", "alone"]
    everywhere: list[str]
    sets: dict[str, Standing]
    tests: list[PairedResult]


@dataclass(frozen=True)
class Level:
    """One level of the codes."""

    utilisation: float  # share of the codes that any item has


@dataclass(frozen=True)
class Purity:
    """Share of items with the commonest category under their prefix, and the same by chance."""

    prefix_depth: int
    category_depth: int
    purity: float
    chance: float


@dataclass(frozen=True)
class Reconstruction:
    """What the codes lose of the vectors."""

    share_of_variance_lost: float


@dataclass(frozen=True)
class Collapse:
    """A level on which the codebook collapsed."""

    says: str


@dataclass(frozen=True)
class Quality:
    """The quality of an SID table, from ``quality.json``: the mean over seeds."""

    items: float
    sids: float
    items_per_sid: float
    collision_rate: float
    largest_sid: float
    gini: float
    lengths: dict[str, float]
    levels: list[Level]
    purity: list[Purity] = field(default_factory=list)
    reconstruction: Reconstruction | None = None
    collapse: list[Collapse] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def category_purity(self, depth: int) -> Purity | None:
        """Return the purity below ``depth`` codes in the deepest category level."""
        known = [purity for purity in self.purity if purity.prefix_depth == depth]
        return max(known, key=lambda purity: purity.category_depth, default=None)


@dataclass(frozen=True)
class MethodResult:
    """One method: its codes and costs, or the stage that ``failed`` and its ``error``."""

    about: str
    must_lose_to: str = ""
    equal: bool = False  # within the code budget
    failed: str = ""
    error: str = ""
    failed_seed: int | None = None
    codebook_sizes: list[int] = field(default_factory=list)
    bits: float = 0.0
    bits_over: float = 0.0  # relative to the reference's
    density: float = 0.0  # share of all writable IDs that are products
    mean_length: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)  # CPU time by stage
    quality: Quality | None = None


@dataclass(frozen=True)
class SetResult:
    """One evaluation set and the estimates of every system on it."""

    origin: str
    queries: int
    clusters: int
    relevant_from: float
    relevant_per_query: float
    without_relevant: int
    systems: dict[str, dict[str, Estimate]]


@dataclass(frozen=True)
class Model:
    """The language model that is trained on every method's IDs."""

    stage: str
    backbone: str
    layers: int
    hidden: int
    steps: int
    batch_size: int
    align_steps: int


@dataclass(frozen=True)
class CatalogueResult:
    """The catalogue, and whether its log is real."""

    items: int
    origin: str
    classes: dict[str, int]


@dataclass(frozen=True)
class Latency:
    """Median milliseconds of a search with ``beam``, by method, on queries of one set."""

    set: str
    beam: int
    ms: dict[str, float]


@dataclass(frozen=True)
class Results:
    """A whole comparison."""

    name: str
    reference: str
    primary: str
    tolerance: float
    seeds: list[int]
    bootstrap: int
    beam: int
    model: Model
    catalogue: CatalogueResult
    methods: dict[str, MethodResult]
    swept: str
    sets: dict[str, SetResult]
    tests: list[PairedResult]
    leaders: Leaders
    sentence: str
    latency: Latency | None = None
    version: int = 2

    @classmethod
    def from_json(cls, value: Mapping[str, JsonValue]) -> Results:
        """Return what :meth:`to_json` wrote, or a version before it."""
        return _adapter().validate_python(value if "latency" in value else _upgraded(dict(value)))

    def to_json(self) -> dict[str, JsonValue]:
        """Return JSON with floats of six digits, and null for what is not finite."""
        whole = _adapter().dump_python(self, by_alias=True)
        return {key: _rounded(inner) for key, inner in whole.items()}

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read ``results.json``."""
        return cls.from_json(json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        """Write ``results.json``."""
        replace_file(path, json.dumps(self.to_json(), indent=1) + "\n")

    def complete(self) -> list[str]:
        """Return the methods that did not fail, in the order of the comparison."""
        return [name for name, method in self.methods.items() if not method.failed]

    def contenders(self) -> list[str]:
        """Return the methods that did not fail, kept the budget and are no controls."""
        methods = self.methods
        return [
            name
            for name in self.complete()
            if methods[name].equal and not methods[name].must_lose_to
        ]

    def asked(self, question: str, *measures: str) -> list[PairedResult]:
        """Return the tests of one question, on ``measures`` where any are named."""
        return [
            test
            for test in self.tests
            if test.question == question and (not measures or test.measure in measures)
        ]


def _upgraded(value: Json) -> Json:
    """Return results of version 1, which held beams of many widths, as results of today.

    The oldest of them listed the items of an SID whole, from an item beam: they stay version 1.
    """
    beams, decoding = value["beams"], value["decoding"]
    latency = None
    if decoding:
        width = str(decoding["equal_beam"])
        ms = {name: costs[width]["ms"] for name, costs in decoding["costs"].items()}
        latency = {"set": decoding["set"], "beam": width, "ms": ms}
    version = 1 if "item" in beams else 2
    beam = beams["item" if "item" in beams else "beam"]
    return {**value, "beam": beam, "latency": latency, "version": version}


@cache
def _adapter() -> TypeAdapter[Results]:
    return TypeAdapter(Results)


def _rounded(value: object) -> JsonValue:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _rounded(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(inner) for inner in value]
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"results hold numbers, text, lists and mappings, not {type(value).__name__}")
