"""``sidar.yaml``: one file, checked by pydantic, overridable as ``key.sub=value`` on the command
line.
"""

from __future__ import annotations

import json
import sys
from abc import abstractmethod
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sidar.extensions import CHANNELS, METRICS, OBJECTIVES, TOKENIZERS, Registry, load_plugins


class Part(BaseModel):
    """A section of the config: unknown keys are errors, because a misspelt option must not be
    ignored.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


def known(registry: Registry[Any], name: str) -> str:
    """Return ``name``; ``ValueError`` lists the parts of ``registry`` where it is none of them."""
    if name not in registry:
        raise ValueError(registry.unknown(name))
    return name


class Extensible(Part):
    """A section in which plug-ins have sections of their own, as ``sid: {method: mine, mine:
    {...}}``.
    """

    # sections of plug-ins; every other unknown key is refused below
    model_config = ConfigDict(extra="allow")
    registry: ClassVar[Registry[Any]]

    @abstractmethod
    def parts_in_use(self) -> list[str]:
        """Return the names of the parts that the section chooses."""

    @model_validator(mode="after")
    def _read_plugin_sections(self) -> Self:
        """Turn what is said of plug-ins into their options.

        Parts in use get their defaults where nothing is said, so that they are recorded with what
        they make.
        """
        extra = self.__pydantic_extra__
        assert extra is not None  # by extra="allow"
        for name in self.parts_in_use():
            if self.registry.is_external(name) and self.registry.options(name) is not None:
                if name in type(self).model_fields:
                    raise _fault(name, "is an option of Sidar; the plug-in needs another name")
                extra.setdefault(name, {})
        for key, value in extra.items():
            extra[key] = plugin_options(self.registry, key, value)
        return self

    def section(self, name: str) -> BaseModel | None:
        """Return the options of the part ``name``, built-in or a plug-in's; None
        where it has none.
        """
        value = {**dict(self), **(self.__pydantic_extra__ or {})}.get(name)
        return value if isinstance(value, BaseModel) else None


def plugin_options(registry: Registry[Any], name: str, value: Any) -> BaseModel:
    """Return ``value`` as the options of the plug-in's part ``name``."""
    options = registry.options(name) if registry.is_external(name) else None
    if options is None:
        raise _fault(name, "Extra inputs are not permitted")
    given = value.model_dump() if isinstance(value, BaseModel) else value
    try:
        return options.model_validate(given)
    except ValidationError as error:
        says = "; ".join(_said(fault) for fault in error.errors())
        raise _fault(name, says, deeper=True) from error


def _fault(key: str, says: str, deeper: bool = False) -> PydanticCustomError:
    """Return an error of the option ``key`` of a section; ``deeper``: ``says`` begins with a path
    below it.
    """
    return PydanticCustomError(
        "plugin_option", "{says}", {"key": key, "says": says, "deeper": deeper}
    )


class CatalogueConfig(Part):
    """Where the products come from."""

    path: str = Field(
        "", description="Catalogue file or folder (Parquet, CSV, JSONL or the format's own files)."
    )
    format: Literal["tabular", "esci", "esci_full", "sequences", "kuaisearch", "jdsearch"] = (
        "tabular"
    )
    columns: dict[str, str] = Field(
        {}, description="contract column -> your column, e.g. {item_id: sku, title: name}"
    )
    category_separator: str = Field(
        " > ", description="Splits a category given as one string into its path."
    )
    decimal: Literal[".", ","] = Field(
        ".", description='Mark before the fraction of numbers in text; "," reads 1.299,50.'
    )
    locale: str = Field("us", description="esci_full only: us, es or jp.")
    clicked_within_days: int | None = Field(
        None,
        description=(
            "Keep only items clicked in the last n days of the training log (RAD-DPO: two months)."
        ),
    )
    bad_rows: float = Field(
        0.01, ge=0, le=1, description="Share of malformed rows above which reading stops."
    )


class EventsConfig(Part):
    """Where the log comes from."""

    path: str = Field(
        "", description="Log file, folder or glob (Parquet, CSV, JSONL, UBI ndjson …)."
    )
    format: Literal["tabular", "ubi", "sequences", "esci_full", "kuaisearch", "jdsearch"] = (
        "tabular"
    )
    columns: dict[str, str] = Field({}, description="contract column -> your column")
    actions: dict[str, str] = Field(
        {},
        description=(
            "your action -> impression, click, cart or order; others are ignored and counted"
        ),
    )
    decimal: Literal[".", ","] = Field(
        ".", description='Mark before the fraction of numbers in text; "," reads 1.299,50.'
    )
    locale: str = Field("us", description="esci_full only: us, es or jp.")
    unknown_items: Literal["quarantine", "drop"] = "quarantine"
    bad_rows: float = Field(
        0.01, ge=0, le=1, description="Share of malformed rows above which reading stops."
    )
    memory: str = Field("1GB", description="DuckDB's memory cap while grouping.")
    ts_unit: Literal["auto", "us", "ms", "s"] = "auto"
    first_position: Literal[0, 1] | None = Field(
        None,
        description=(
            "What your log calls the top of a list; null = 1, and 0 means unknown (in UBI: 0)."
        ),
    )
    origin: Literal["log", "simulated"] = Field(
        "log", description="Printed beside every number made from this log."
    )


class UsersConfig(Part):
    """Profiles that may enter the prompt."""

    path: str = Field(
        "",
        description=(
            "Users file, folder or glob (Parquet, CSV, JSONL): user_id and what describes them."
        ),
    )
    columns: dict[str, str] = Field(
        {}, description="user_id -> your column, e.g. {user_id: customer}"
    )
    bad_rows: float = Field(
        0.01, ge=0, le=1, description="Share of malformed rows above which reading stops."
    )
    profile: list[str] = Field(
        [], description="Columns that enter the prompt as text; empty = all but user_id."
    )


class PrivacyConfig(Part):
    """What is hidden on reading."""

    min_users: int = Field(
        3,
        ge=1,
        description=(
            "In a bundle that leaves the machine: pairs of query and item that fewer "
            "users chose go."
        ),
    )
    hash_users: bool = Field(True, description="Replace user ids by a salted hash on reading.")
    salt: str = Field(
        "",
        description="Secret part of the hash; keep it the same so that users keep their history.",
    )


class HeldOutConfig(Part):
    """A file of queries that training must not see; the path alone is short for `match: near`."""

    queries: str = Field(description="CSV, TSV, JSONL or Parquet with a column query.")
    match: Literal["near", "exact"] = Field(
        "near",
        description=(
            "near = token sets with a Jaccard similarity of at least .8; exact = equal "
            "normalised text."
        ),
    )
    columns: dict[str, str] = Field(
        {}, description="contract column -> your column, e.g. {query: text}"
    )

    @model_validator(mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return {"queries": value} if isinstance(value, str) else value


class DataConfig(Part):
    """What training must not see."""

    held_out: list[HeldOutConfig] | None = Field(
        None,
        description="Files of held-out queries, each a path or {queries, match: near | exact}; "
        "null = those of evaluate.sets when the data stage runs.",
    )


class SplitConfig(Part):
    """How the log is cut into training, validation and test."""

    unit: Literal["day", "time", "fraction", "leave_one_out"] = Field(
        "day",
        description=(
            "day = calendar days (UTC), time = spans of 24 hours, fraction = shares of "
            "the requests."
        ),
    )
    test_days: int | None = Field(
        None,
        ge=1,
        description="Days of the test; null = 1, or with test_from: to the end of the log.",
    )
    valid_days: int | None = Field(
        None,
        ge=0,
        description="Days of validation, just before the test; null = 1, 0 = no validation.",
    )
    test_from: str | None = Field(
        None,
        description="Date or ISO time (UTC) at which the test starts; null = it ends with the log.",
    )
    test_fraction: float = Field(
        0.1, gt=0, lt=1, description="unit fraction: share of the last requests that test."
    )
    valid_fraction: float = Field(
        0.1, ge=0, lt=1, description="unit fraction: share of the requests before; 0 = none."
    )
    valid_day: int | None = Field(
        None,
        description=(
            "Older form: one day of validation by number; negative counts from the end of the log."
        ),
    )
    test_day: int | None = Field(
        None, description="Older form: one day of the test by number; later days are unused."
    )
    max_history: int = Field(
        20, ge=0, description="Most recent interactions of a user that enter a prompt."
    )

    @field_validator("test_from", mode="before")
    @classmethod
    def _moment(cls, value: Any) -> Any:
        """Write a date as ``2026-11-01`` and a time as ISO in UTC; a time without a zone is UTC."""
        if isinstance(value, str):
            text = value.strip()
            try:
                value = datetime.fromisoformat(text)
            except ValueError:
                raise ValueError(
                    f"{text!r} is neither a date (2026-11-01) nor an ISO time"
                ) from None
            if len(text) <= len("2026-11-01"):  # a date without a time of day
                return value.date().isoformat()
        if isinstance(value, datetime):
            return value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC).isoformat()
        return value.isoformat() if isinstance(value, date) else value

    @model_validator(mode="after")
    def _one_form(self) -> SplitConfig:
        if self.test_day is not None and (self.test_days is not None or self.test_from is not None):
            newer = "split.test_days" if self.test_days is not None else "split.test_from"
            raise ValueError(f"split.test_day and {newer} both say when the test is; keep {newer}")
        if self.valid_day is not None and self.valid_days is not None:
            raise ValueError(
                "split.valid_day and split.valid_days both say when validation is; keep "
                "split.valid_days"
            )
        if self.test_fraction + self.valid_fraction >= 1:
            raise ValueError(
                f"split.test_fraction {self.test_fraction:g} and split.valid_fraction "
                f"{self.valid_fraction:g} leave nothing to train on; want a sum below 1"
            )
        return self


class EmbedConfig(Part):
    """How item text becomes vectors."""

    model: str = Field(
        "minilm",
        description=(
            "`minilm` (offline default), a sentence-transformers folder, a hub name, or "
            "`hashing:64` (tests)."
        ),
    )
    fields: list[str] = ["title", "category"]
    batch_size: int = Field(
        32, ge=1, description="32 is fastest on a CPU (its activations stay in the cache)."
    )
    max_tokens: int = Field(128, ge=1, description="Longer texts are cut.")
    dtype: Literal["auto", "fp32", "bf16"] = "auto"


class TableConfig(Part):
    """IDs that others made (`sid.method: table`); `sid.table: ids.json` is short for its path."""

    path: str = Field(
        "",
        description=(
            "JSON, JSON lines, CSV or Parquet: item -> tokens such as <a_12> (docs/methods)."
        ),
    )
    columns: dict[str, str] = Field(
        {}, description="{item_id: yours, sid: yours}; several columns of codes as sid: c0,c1,c2."
    )
    missing: Literal["error", "encode"] = Field(
        "error",
        description="Items that the table lacks: encode = the nearest codes of stand-in codebooks.",
    )
    unknown: Literal["error", "drop"] = Field(
        "drop", description="Items of the table that the catalogue lacks."
    )


class SarqConfig(Part):
    """Adaptive lengths (docs/methods/sarq.md): popular items get longer SIDs, at the bits of fixed
    ones.
    """

    base: str = Field(
        "rqkmeans",
        description=(
            "What writes the codes; acrq makes SA2CRQ. Over rqvae train with progressive masking."
        ),
    )
    extra_levels: int = Field(
        2, ge=0, description="Levels beyond sid.levels, each of half as many codes."
    )
    rule: Literal["e3", "e2", "e1"] = Field(
        "e3",
        description=(
            "e3 = information against evidence, e2 = traffic, e1 = soft entropy. All "
            "reconstructions."
        ),
    )
    kappa: float = Field(
        1.0, ge=0, description="e3: bits that doubling an item's interactions is worth."
    )
    min_levels: int = Field(2, ge=1, description="Shortest SID; one code is too coarse for search.")
    budget: float | None = Field(
        None, gt=0, description="Mean bits per item; null = those of sid.levels fixed codes."
    )
    hysteresis: float = Field(
        1.0,
        ge=0,
        description=(
            "Daily refresh: bits by which credit must leave a length's range before it changes."
        ),
    )
    lengths: Literal["rule", "shuffled", "fixed"] = Field(
        "rule",
        description=(
            "Controls: the rule's lengths dealt at random, or sid.levels codes for every item."
        ),
    )

    @field_validator("base")
    @classmethod
    def _known(cls, value: str) -> str:
        if value in ("sarq", "table", "random"):
            raise ValueError(
                f"{value!r} writes no codes that could be cut; want rqkmeans, rqvae, cqsid or acrq"
            )
        return known(TOKENIZERS, value)


class RqVaeConfig(Part):
    """The residual-quantised autoencoder (TIGER; docs/methods/rqvae.md)."""

    hidden: list[int] = Field(
        [512, 256], description="Widths of the encoder's inner layers; the decoder mirrors them."
    )
    latent: int = Field(
        64, ge=1, description="Dimensions that are quantised; at most those of the vectors."
    )
    start: Literal["pca", "random"] = Field(
        "pca",
        description=(
            "pca = a linear path that starts as PCA beside the MLP; random = the MLP "
            "alone, as in TIGER."
        ),
    )
    steps: int = Field(1000, ge=0)
    batch_size: int = Field(1024, ge=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(
        0.02, ge=0, le=1, description="Share of the steps with rising learning rate."
    )
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip: float = Field(1.0, ge=0, description="Largest gradient norm; 0 = unclipped.")
    beta: float = Field(0.25, ge=0, description="Weight of the commitment term.")
    decay: float = Field(
        0.99, gt=0, lt=1, description="Of the moving averages that the codebooks follow."
    )
    dead_below: float = Field(
        0.05, ge=0, lt=1, description="A code used less than this share of the mean is restarted."
    )
    restart_every: int = Field(25, ge=1, description="Steps between two looks for dead codes.")
    progressive: bool = Field(
        False, description="PLUM: the decoder sees a prefix of random length; for short SIDs."
    )
    init_sample: int = Field(
        64, ge=1, description="Vectors per code for the k-means that starts each level."
    )
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    log_every: int = Field(50, ge=1)
    checkpoint_every: int = Field(200, ge=1, description="Rounded up to a multiple of log_every.")
    collapse_below: float = Field(
        0.5, ge=0, le=1, description="Share of a level's codes in use that is called collapse."
    )


class CqSidConfig(RqVaeConfig):
    """CQ-SID (arXiv 2605.14434; docs/methods/cqsid.md): category-guided first level, query
    contrast, split buckets.
    """

    beta: float = Field(1.0, ge=0, description="Weight of the commitment term.")
    category: bool = Field(
        True, description="Known category = its own first code; false = the ablation -category."
    )
    contrast: bool = Field(True, description="Query-item InfoNCE; false = the ablation -QI.")
    gamma: float = Field(0.001, ge=0, description="Weight of the contrast.")
    temperature: float = Field(0.1, gt=0)
    contrast_batch: int = Field(
        128, ge=2, description="Pairs that are contrasted with one another."
    )
    contrast_on: Literal["quantised", "encoder"] = Field(
        "quantised", description="The item's side: after quantisation (straight-through) or before."
    )
    max_queries: int = Field(
        200_000, ge=1, description="Most frequent training queries that are embedded."
    )
    max_bucket: int | None = Field(
        50, ge=1, description="SIDs of more items are split; null = never."
    )
    max_groups: int = Field(100, ge=2, description="Most groups of one SID.")


class AcrqConfig(RqVaeConfig):
    """Codebooks of the head, frozen, and a tail anchored to them (docs/methods/acrq.md). All of it
    a reconstruction.
    """

    head_items: float = Field(
        0.2, gt=0, le=1, description="The most popular share of the items is the head."
    )
    head_traffic: float | None = Field(
        None, gt=0, le=1, description="Instead: items with this share of all clicks."
    )
    tail_steps: int = Field(
        500, ge=0, description="Steps of the second stage; `steps` are the first's."
    )
    extension: float = Field(
        0.125, ge=0, description="Extension codes per frozen code; 0 = fully frozen codebooks."
    )
    handicap: float = Field(
        0.1, ge=0, description="Distances to extension codes are times 1 + this."
    )
    anchor: Literal["nearest", "kl", "none"] = Field(
        "nearest",
        description="What holds the tail: the nearest frozen code, or the head's soft assignment.",
    )
    anchor_levels: int = Field(
        2, ge=1, description="Levels that are anchored (and, with transfer, given)."
    )
    anchor_start: float = Field(
        1.0, ge=0, description="Weight of the anchor at the first step of the second stage …"
    )
    anchor_end: float = Field(0.1, ge=0, description="… and at its last.")
    usage: float = Field(0.01, ge=0, description="Weight of even use of the extension codes.")
    encoder_lr: float = Field(
        0.1, ge=0, description="Share of lr for the tail's encoder; 0 = the head's, unchanged."
    )
    transfer: bool = Field(
        False, description="Residual transfer: first codes from the nearest head reconstruction."
    )


class SidConfig(Extensible):
    """How vectors become Semantic IDs."""

    registry = TOKENIZERS

    method: str = Field(
        "rqkmeans",
        description=(
            "rqkmeans, rqvae, cqsid, acrq, sarq, table (IDs of others), random (a "
            "control), or a plug-in's."
        ),
    )
    levels: int = Field(3, ge=1)
    codebook_sizes: list[int] | None = Field(
        None, description="Codes per level; null = from the catalogue's size."
    )
    items_per_sid: float = Field(
        1.3, gt=1, description="Target of the automatic sizes (170M / 130M in the paper)."
    )
    iterations: int = 20
    init: Literal["kmeans++", "random"] = "kmeans++"
    restarts: int = 1
    balance_last: bool = False
    sample: int = Field(256, description="Training points per centroid; larger sets are sampled.")
    view: Literal["item", "query", "both"] = Field(
        "item",
        description=(
            "Item vectors by the item encoder; query, both: as two towers' query encoder sees them."
        ),
    )
    table: TableConfig = TableConfig()
    category_first: bool = Field(
        False,
        description=(
            "rqkmeans: a known category is its own first code (CQ-SID's first idea "
            "without its encoder)."
        ),
    )
    rqvae: RqVaeConfig = RqVaeConfig()
    cqsid: CqSidConfig = CqSidConfig()
    sarq: SarqConfig = SarqConfig()
    acrq: AcrqConfig = AcrqConfig()
    keep_margin: float = Field(
        0.1,
        ge=0,
        description=(
            "Daily refresh: a changed item keeps its SID while that costs at most this "
            "share of error."
        ),
    )
    reference: float = Field(
        0.1,
        ge=0,
        lt=0.5,
        description=(
            "Items left out of a second fit that tells the drift alarm what to expect; 0 = none."
        ),
    )

    @field_validator("method")
    @classmethod
    def _known(cls, value: str) -> str:
        return known(TOKENIZERS, value)

    @field_validator("table", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    def parts_in_use(self) -> list[str]:
        return [self.method]


class LoraConfig(Part):
    """Low-rank adapters; new SID rows are always trained beside them."""

    r: int = 16
    alpha: int = 32
    targets: list[str] | None = Field(
        None, description="null = all linear layers of the backbone's blocks."
    )


class LmConfig(Part):
    """The language model that writes SIDs."""

    backbone: str = Field(
        "embedded", description="`embedded`, or a local folder or hub name of a causal LM."
    )
    layers: int = Field(6, description="Embedded default only.")
    hidden: int = 384
    heads: int = 6
    kv_heads: int = 6
    intermediate: int = 1024
    text_embeddings: Literal["minilm", "random"] = "minilm"
    head: Literal["level", "full"] = "level"
    init: Literal["centroid", "mean"] = "centroid"
    geometry: bool = Field(
        False,
        description=(
            "Level heads also read the query's sentence vector and start as quantised "
            "dense (grown.md)."
        ),
    )
    geometry_exact: int = Field(
        250_000,
        ge=0,
        description=(
            "SIDs up to which the geometry's first code is exact; above it has two "
            "stages. 0 = always."
        ),
    )
    geometry_top: int = Field(
        8, ge=0, description="Two stages: first codes of a prompt whose SIDs are all scored."
    )
    lora: LoraConfig | None = None
    max_prompt_tokens: int = 96
    history_items: int = 5
    attention: Literal["auto", "sdpa", "eager"] = Field(
        "auto",
        description=(
            "auto = plain products for short rows on a CPU, torch's fused kernel otherwise."
        ),
    )
    template: str = Field("default", description="Name of a prompt template in lm/prompts.py.")


class OptimConfig(Part):
    """What both training stages share."""

    steps: int = Field(400, ge=1)
    batch_size: int = Field(64, ge=1)
    accumulate: int = Field(1, ge=1)
    lr_new: float = Field(5e-4, description="Learning rate of parts that start untrained.")
    lr_pretrained: float = Field(
        3e-5, description="Learning rate of weights that came from a checkpoint."
    )
    weight_decay: float = 0.01
    warmup: float = Field(0.05, description="Share of the steps with rising learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip: float = Field(1.0, ge=0, description="Largest gradient norm; 0 = unclipped.")
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    validate_every: int = 100
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    log_every: int = 10
    valid_requests: int = Field(
        256, description="Validation requests, chosen by hash; fewer where the day has fewer."
    )
    valid_beam: int = Field(
        8, ge=1, description="Beam of the recall@8 that picks the best checkpoint."
    )


class SftConfig(OptimConfig):
    """Supervised training (RAD-DPO eq. 1)."""

    positives: Literal["mean", "flat"] = Field(
        "mean", description="eq. 1's mean over positives, or one example each."
    )
    mixture: dict[Literal["item", "pseudo", "query"], float] = Field(
        {"item": 0.25, "pseudo": 0.35, "query": 0.4},
        description="Shares of item text, pseudo-queries and logged queries.",
    )
    max_positives: int = Field(
        8, ge=1, description="Positives of one example: top tiers and best positions first."
    )


class PreferenceConfig(Part):
    """How a logged request becomes a preference list."""

    negatives: Literal["shown", "skip_above", "sampled", "beam"] = Field(
        "shown",
        description=(
            "skip_above = shown above the lowest choice, so taken for seen and passed over."
        ),
    )
    debias: Literal["none", "ips"] = Field(
        "none",
        description=(
            "ips = a positive weighs 1 / p(position), measured in the log's bucket `random`."
        ),
    )
    max_positives: int = Field(
        8,
        ge=1,
        description=(
            "Positives of one list that are trained on; those left out are still no negatives."
        ),
    )
    max_negatives: int = Field(3, ge=0)


#: Values of `align` options that are null, by objective; `+sft` changes none. An option that an
#: objective does not read is not listed and stays null. The objectives (sidar.align) read their
#: constants from here, so that what is recorded with a model is what it was trained with; this file
#: must not import them. RAD-DPO's beta [reconstruction: the paper gives no figure]: 2 is SimPO's
#: scale of length-normalised rewards. The softmax reading pushes more than the printed one at the
#: same beta. At a quarter of it and 120 steps next-day clicks were higher (SID MRR +.0054); on true
#: utility no difference was told (docs/evidence.md, Sweeps).
OBJECTIVE_DEFAULTS: dict[str, dict[str, float]] = {
    "raddpo": {"beta": 0.5},
    "raddpo-paper": {"beta": 2.0},
    "dpo": {"beta": 0.1},
    "sdpo": {"beta": 1.0},
    "dmpo": {"beta": 0.1},
    "simpo": {"beta": 2.0, "gamma": 0.25},
    "orpo": {"lam": 0.1},
}


class AlignConfig(OptimConfig, Extensible):
    """The alignment stage: objective, its constants and its ablation switches
    (docs/methods/raddpo.md).
    """

    registry = OBJECTIVES

    objective: str = Field(
        "raddpo",
        description="raddpo, raddpo-paper, sft, dpo, simpo, orpo, sdpo, dmpo, or a plug-in's; "
        "`+sft` adds eq. 1 to a "
        "baseline.",
    )
    label: str | None = Field(
        None, description="Names the folder align-<label>; null = the objective."
    )
    steps: int = Field(
        480, ge=1, description="Rows of alignment = steps x batch_size (docs/evidence.md, Sweeps)."
    )
    batch_size: int = Field(16, ge=1)
    lr_new: float = Field(
        3e-5, description="As a validation day of clicks chose it for 120 steps and beta 2."
    )
    lr_pretrained: float = 1.8e-6
    beta: float | None = Field(
        None,
        description=(
            "null = the objective's own: raddpo 0.5, raddpo-paper and simpo 2, dpo and "
            "dmpo 0.1, sdpo 1."
        ),
    )
    gamma: float | None = Field(None, description="SimPO's gamma/beta ratio.")
    lam: float | None = Field(None, description="ORPO's weight of the odds ratio.")
    beta_inside: bool = Field(
        False, description="softmax reading: beta inside the log-sum-exp, as S-DPO prints it."
    )
    mlsft: Literal["all", "top", "none"] = "all"
    contrast: Literal["global", "pairwise"] = "global"
    tlgd: bool = True
    rdrw: bool = True
    rdrw_state: Literal["eos_out", "last_code", "item_vector"] = "eos_out"
    rdrw_window: int = 4096
    rdrw_lambda: float = 12.0
    rdrw_warmup_weight: float = 1.0
    rdrw_update: Literal["window", "ema", "frozen"] = "window"
    rdrw_alpha: float = Field(0.01, description="Step of the ema update.")
    rdrw_weights: Literal["similarity", "constant", "shuffled"] = Field(
        "similarity",
        description="Controls: rdrw_constant for all, or eq. 6's weights permuted in the batch.",
    )
    rdrw_constant: float = Field(
        0.75, gt=0, description="w of every negative under `rdrw_weights: constant`."
    )
    lcp: Literal["star", "any_pos"] = "star"
    positives: Literal["mean", "flat"] | None = Field(
        None, description="null = as in sft, so that rows compare."
    )
    item_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of item text -> SID kept in alignment, same for every method.",
    )

    def parts_in_use(self) -> list[str]:
        return [self.objective.removesuffix("+sft")]

    @property
    def folder(self) -> str:
        return f"align-{self.label or self.objective}"

    def resolved(self, sft: SftConfig) -> AlignConfig:
        """Return a copy in which every null that the objective reads is replaced by the value it
        will use.
        """
        values: dict[str, Any] = dict(
            OBJECTIVE_DEFAULTS.get(self.objective.removesuffix("+sft"), {})
        )
        values["positives"] = sft.positives
        missing = {name: value for name, value in values.items() if getattr(self, name) is None}
        return self.model_copy(update=missing)

    @field_validator("objective")
    @classmethod
    def _known(cls, value: str) -> str:
        return known(OBJECTIVES, value)


class DecodeConfig(Part):
    """Beam width, the shares of items inside an SID, and precision: the same in tables, tuning and
    the bundle.
    """

    beam: int = Field(
        128, ge=1, description="Beams of every search, raised to the items asked for."
    )
    item_share: Literal["counts", "uniform", "none"] = Field(
        "counts",
        description="Items score log pi(SID) + log of their share inside the SID: by training "
        "clicks, or equal shares; "
        "none = SIDs are listed whole, one after another.",
    )
    share_pseudo: float = Field(
        1.0, gt=0, description="Pseudo-count of each item in its share: new items are found."
    )
    share_temperature: float = Field(
        1.0, gt=0, description="Of the shares; 1 = as counted, larger = flatter."
    )
    exact: bool = Field(
        False,
        description=(
            "Search best first for the true top `beam` SIDs, in tables and in the bundle; slower."
        ),
    )
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    rerank: Literal["none", "dense"] = Field(
        "none",
        description="dense = also rows <model>+rerank, and a bundle that orders what its beams "
        "reach so. The weight is "
        "chosen on validation requests with a query text; without any the bundle does not rerank, "
        "and says so.",
    )
    fuse: Literal["auto", "none", "memory"] = Field(
        "auto",
        description="What a bundle answers: none = its model alone, memory = counts of the query "
        "smoothed with all "
        "channels; auto = memory where the log has clicks.",
    )


class MemoryConfig(Part):
    """The counts of what was chosen for each query, and how they become the answer
    (docs/answer.md).
    """

    key_file: str = Field(
        "",
        description="File with the secret under which queries are kept; empty = memory.key of the "
        "run, made when it is "
        "missing. SIDAR_MEMORY_KEY goes before it. Keep it out of bundles.",
    )
    debias: Literal["none", "ips"] = Field(
        "none",
        description=(
            "ips = a choice weighs 1 / p(position), measured in the log's bucket "
            "`random`, at most 10."
        ),
    )
    requests: int = Field(
        1000, ge=1, description="Validation requests that the answer is fitted to, chosen by hash."
    )


class EvalSetConfig(Part):
    """One set of queries with graded truth."""

    name: str
    queries: str = Field(
        description="CSV, TSV, JSONL or Parquet: query_id, query (optional history, profile)."
    )
    qrels: str = Field(
        description=(
            "The same formats, or TREC: query_id, item_id, grade; one row per pair. May "
            "be the file of queries."
        )
    )
    columns: dict[str, str] = Field(
        {},
        description="contract column -> your column in either file; docid, query-id, rating and "
        "other common names "
        "need none.",
    )
    origin: Literal["real", "simulated"] = "real"
    role: Literal["test", "valid"] = "test"
    topic_oracle: bool = Field(
        False, description="Print the topic-oracle row (judged sets that are topic clusters)."
    )


class EvaluateConfig(Extensible):
    """What is scored, on which queries, against what; it makes no stage stale but `evaluate`."""

    registry = METRICS

    sets: list[EvalSetConfig] = []
    prompts: Literal["personalised", "semantic"] = Field(
        "personalised",
        description="semantic = the query alone, without history and profile, in every prompt.",
    )
    targets: list[Literal["click", "order", "random_click"]] = Field(
        ["click"], description="Targets in the log's test window."
    )
    max_queries: int | None = Field(
        300, description="Cap per simulated or log set, chosen by hash; null = all."
    )
    systems: list[str] = Field(
        [], description="Empty = every baseline, sft, every aligned model, and fusions."
    )
    invalid_queries: int = Field(
        64, description="Queries on which exact invalid mass and free beams are measured."
    )
    invalid_seconds: float = Field(
        120.0,
        gt=0,
        description=(
            "Time for that, per model and set; where it is up, the report says how many it did."
        ),
    )
    best: bool = Field(
        False, description="Also score the checkpoint that was best on the validation day."
    )
    wide_beam: int | None = Field(
        None,
        ge=1,
        description=(
            "Also a row <model>@<beams> of this wider beam; the bundle answers with decode.beam."
        ),
    )
    tune_queries: int = Field(
        64, description="Queries per validation set on which fusion weights are chosen."
    )
    bootstrap: int = Field(1000, ge=1)
    depth: int = Field(500, ge=1, description="All lists are cut here.")
    metrics: list[str] = Field(
        [], description="Metrics of plug-ins beside those of every table (docs/extending.md)."
    )

    @field_validator("metrics")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        return [known(METRICS, name) for name in value]

    def parts_in_use(self) -> list[str]:
        return self.metrics


class DenseConfig(Part):
    """Fine-tuning of the encoder on the training rows (`sidar tune-dense`), and the index of the
    dense channel.
    """

    towers: Literal["tied", "two"] = Field(
        "tied",
        description="tied = one encoder for both sides; two = SCI's query tower and item tower.",
    )
    loss: Literal["infonce", "hinge"] = "infonce"
    margin: float = Field(0.2, gt=0, description="Of the hinge, over cosines.")
    swap: float = Field(
        1.0, ge=0, description="Two towers: weight of alignment by input swapping; 0 = none."
    )
    cross: float = Field(
        0.0, ge=0, description="Two towers: weight of the two terms inside one tower (ablation)."
    )
    match: Literal["none", "mean", "coral"] = Field(
        "none",
        description="Two towers: draw means or covariances of both sides together (baselines).",
    )
    match_weight: float = Field(1.0, ge=0, description="Weight of `match`.")
    train_layers: int | None = Field(
        None, ge=1, description="Train the last n layers only; null = all."
    )
    steps: int = Field(300, ge=1)
    batch_size: int = Field(
        64, ge=2, description="Pairs of query and item; the other items are the negatives."
    )
    lr: float = Field(2e-5, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(
        0.1, ge=0, le=1, description="Share of the steps with rising learning rate."
    )
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    clip: float = Field(1.0, ge=0, description="Largest gradient norm; 0 = unclipped.")
    temperature: float = Field(0.05, gt=0, description="Of the softmax over cosines: 1 / scale.")
    symmetric: bool = Field(False, description="Also ask each item for its query.")
    mixture: dict[Literal["pseudo", "query"], float] = Field(
        {"pseudo": 0.5, "query": 0.5}, description="Shares of pseudo-queries and logged queries."
    )
    query_tokens: int = Field(24, ge=1, description="Longer queries are cut in training.")
    item_tokens: int = Field(48, ge=1, description="Longer item texts are cut in training.")
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    validate_every: int = Field(75, ge=1)
    valid_queries: int = Field(256, ge=1, description="Queries per validation set, chosen by hash.")
    valid_items: int = Field(
        10_000, ge=1, description="Items ranked in validation: all judged ones, then a sample."
    )
    index: Literal["auto", "exact", "ivf", "both"] = Field(
        "auto",
        description="How the dense rows and a fused bundle search; auto = exact up to 100,000 "
        "items, faiss IVF above "
        "or with towers (a bundle goes through the IVF only where there is no exact row).",
    )
    coarse_view: Literal["item", "query", "both"] = Field(
        "query",
        description=(
            "Cells of the IVF: query = in the query encoder's space (SCI), item = the "
            "ordinary index."
        ),
    )
    lists: int | None = Field(None, ge=1, description="Cells of the IVF; null = 4 √N, at most N/8.")
    nprobe: int = Field(32, ge=1, description="Cells that a query looks into.")

    @model_validator(mode="after")
    def _two(self) -> DenseConfig:
        if self.towers == "tied" and (self.cross or self.match != "none"):
            raise ValueError(
                "cross and match are terms of two towers; set dense.towers to two, or leave them "
                "out"
            )
        return self


class AlarmsConfig(Part):
    """When `sidar sids alarms` rings (sid/alarms.py has each test)."""

    error: float = Field(
        0.1,
        ge=0,
        description="Excess of new items' quantisation error over unseen items' at the fit.",
    )
    codes: float = Field(
        0.1,
        ge=0,
        description="Distance of new items' first codes from those at the fit, beyond chance.",
    )
    p: float = Field(0.01, gt=0, lt=1, description="Chance below which either of them counts.")
    least: int = Field(30, ge=2, description="Fewer new items are not tested.")
    growth: float = Field(0.25, ge=0, description="Growth of the items that share an item's SID.")
    bucket: int = Field(50, ge=1, description="Items of one SID.")
    tombstones: float = Field(0.5, ge=0, le=1, description="Share of rows of retired items.")


class ServeConfig(Part):
    """The HTTP service."""

    host: str = "127.0.0.1"
    port: int = 8000
    root_path: str = Field(
        "",
        description=(
            "Prefix such as /shop under which a proxy shows the server and which it takes off."
        ),
    )

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, value: str) -> str:
        """Write a prefix with one slash before it and none after it."""
        path = value.strip().strip("/")
        return f"/{path}" if path else ""


class Config(Part):
    """The whole of ``sidar.yaml``.

    Relative paths are relative to the file's own folder, in overrides as well.
    """

    name: str = "run"
    seed: int = 0
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 …")
    threads: int | None = Field(None, description="CPU threads; null = all cores.")
    runs: str = Field("runs", description="Folder that holds runs/<name>.")
    plugins: list[str] = Field(
        [],
        description="Modules, or .py files, with parts of your own (docs/extending.md).",
    )
    channels: dict[str, Any] = Field(
        {},
        description="Channels of plug-ins that are rows of every table: name -> its options.",
    )
    catalogue: CatalogueConfig = CatalogueConfig()
    events: EventsConfig = EventsConfig()
    users: UsersConfig = UsersConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    embed: EmbedConfig = EmbedConfig()
    sid: SidConfig = SidConfig()
    lm: LmConfig = LmConfig()
    sft: SftConfig = SftConfig()
    preference: PreferenceConfig = PreferenceConfig()
    align: AlignConfig = AlignConfig()
    decode: DecodeConfig = DecodeConfig()
    memory: MemoryConfig = MemoryConfig()
    dense: DenseConfig = DenseConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    alarms: AlarmsConfig = AlarmsConfig()
    serve: ServeConfig = ServeConfig()
    warm_start: str | None = Field(
        None, description="Bundle that the daily refresh starts from (`sidar run --from`)."
    )

    @property
    def run_dir(self) -> Path:
        return Path(self.runs) / self.name

    def resolved(self) -> Config:
        """Return a copy that states what it leaves to defaults in the code: the form to record with
        an artefact.

        A recorded null would take the meaning of whatever version reads it. These stay null or
        `auto`, because a run decides them from its data or machine, and their value is recorded
        with what they make: `sid.codebook_sizes` and `sid.sarq.budget` by the catalogue (shapes of
        the SID folder, and its table); `lm.lora.targets` by the backbone (the model's config.json);
        `precision`, `embed.dtype` and `lm.attention` by the machine (they change rounding and
        speed; the shapes of a training stage name its precision); `events.ts_unit` by the log (its
        dates are in the report); `dense.index` and `dense.lists` by the size of the catalogue, and
        nothing is trained on them. Other nulls mean "none", "never" or "all" and have no value
        behind them.
        """
        return self.model_copy(update={"align": self.align.resolved(self.sft)})

    @model_validator(mode="before")
    @classmethod
    def _load_plugins(cls, raw: Any) -> Any:
        """Import the plug-ins first: sections may name what they register."""
        plugins = raw.get("plugins") if isinstance(raw, dict) else None
        if isinstance(plugins, list):
            load_plugins([plugin for plugin in plugins if isinstance(plugin, str)])
        return raw

    @field_validator("channels")
    @classmethod
    def _channels(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Read the options of each channel; one without options has none."""
        found: dict[str, Any] = {}
        for name, given in value.items():
            if name in CHANNELS.builtin:
                raise _fault(name, "is a row of every table and has no options")
            if name not in CHANNELS:
                raise ValueError(CHANNELS.unknown(name, CHANNELS.external()))
            plain = CHANNELS.options(name) is None and not given
            found[name] = {} if plain else plugin_options(CHANNELS, name, given or {})
        return found

    @model_validator(mode="after")
    def _fits(self) -> Config:
        stated = self.sid.codebook_sizes  # a table of others has its own number of levels
        if stated is not None and len(stated) != self.sid.levels and self.sid.method != "table":
            raise ValueError(
                f"sid.codebook_sizes has {len(stated)} entries but sid.levels is {self.sid.levels}"
            )
        return self


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: keys are text (``0:``, ``yes:``, dates), so are names of columns and
    actions.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Read keys as they are written, and everything below ``columns``, ``actions`` and
        ``profile``.
        """
        for i, (key, value) in enumerate(node.value):
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                key = _as_text(key)
                node.value[i] = key, _texts(value) if _is_text(key.value) else value
        return super().construct_mapping(node, deep)


def _is_text(key: str) -> bool:
    """Return whether an option maps or lists names of the user's own."""
    return key in ("columns", "actions", "profile")


def _as_text(node: yaml.ScalarNode) -> yaml.ScalarNode:
    return yaml.ScalarNode(
        "tag:yaml.org,2002:str", node.value, node.start_mark, node.end_mark, node.style
    )


def _texts(node: yaml.Node) -> yaml.Node:
    """Return a mapping or list with its scalars as they are written; empty ones and null stay
    nothing.
    """
    if isinstance(node, yaml.MappingNode):
        node.value = [(key, _texts(value)) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        node.value = [_texts(value) for value in node.value]
    elif isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:null":
        return _as_text(node)
    return node


def _said(error: Mapping[str, Any]) -> str:
    """Return one fault of a config; a value that YAML read as something else than text is to be
    quoted.
    """
    typed = (
        isinstance(error.get("input"), (bool, int, float, date)) and error["type"] == "string_type"
    )
    hint = f"; YAML reads it as {error['input']!r}: quote it" if typed else ""
    if error["type"] == "plugin_option":
        path = ".".join([*map(str, error["loc"]), error["ctx"]["key"]])
        return f"{path}{'.' if error['ctx']['deeper'] else ': '}{error['msg']}"
    return f"{'.'.join(map(str, error['loc'])) or 'config'}: {error['msg']}{hint}"


def load_config(path: str | Path | None, overrides: list[str] | None = None) -> Config:
    """Read a config file and apply ``key.sub=value`` overrides (values are YAML).

    Relative paths, those in overrides too, are taken from the file's folder, or the working folder
    without a file. Raises ``ValueError`` with one line per wrong field, naming the field and what
    it wants.
    """
    raw: dict[str, Any] = {}
    base = Path.cwd()
    if path is not None:
        file = Path(path)
        if not file.is_file():
            raise ValueError(f"config file {file} does not exist; write one with `sidar init`")
        try:
            raw = yaml.load(file.read_text(), _Loader) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"{file} is not valid YAML: {error}") from error
        if not isinstance(raw, dict):
            raise ValueError(f"{file} must hold a mapping of sections, got {type(raw).__name__}")
        base = file.resolve().parent
    for override in overrides or []:
        key, sep, value = override.partition("=")
        if not sep:
            raise ValueError(f"override {override!r} is not key=value")
        node = raw
        *parents, last = key.split(".")
        for part in parents:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ValueError(f"override {override!r}: {part} is not a section")
        try:
            if _is_text(last) or (parents and _is_text(parents[-1])):
                value = (
                    json.dumps(last) + ": " + value
                    if _is_text(last)
                    else f"columns: {{{json.dumps(last)}: {value}}}"
                )
                value_read = yaml.load(value, _Loader)
                node[last] = value_read[last] if _is_text(last) else value_read["columns"][last]
            else:
                node[last] = yaml.load(value, _Loader)
        except yaml.YAMLError as error:
            raise ValueError(f"override {override!r}: {value!r} is not a YAML value") from error
    _drop_retired(raw)
    if isinstance(raw.get("plugins"), list):  # before they are imported, unlike all other paths
        raw["plugins"] = [_plugin_path(plugin, base) for plugin in raw["plugins"]]
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        lines = [_said(fault) for fault in error.errors()]
        raise ValueError(f"{path or 'config'}: " + "; ".join(lines)) from error
    _anchor(config, base)
    return config


def _plugin_path(plugin: Any, base: Path) -> Any:
    """Return the path of a plug-in's file under ``base``; a module's name as it is."""
    return str(base / plugin) if isinstance(plugin, str) and plugin.endswith(".py") else plugin


#: Options that older versions had, and what to do instead; they are left out with this notice.
RETIRED = {
    (
        "decode",
        "item_beam",
    ): "tables, tuning and bundle search with one width, decode.beam; for one more row of a "
    "wider beam set evaluate.wide_beam",
    ("decode", "search_beam"): "tables, tuning and bundle search with one width, decode.beam",
}


def _drop_retired(raw: dict[str, Any]) -> None:
    """Remove options of older versions from ``raw`` and say on the error stream
    what replaces them.
    """
    for (section, key), instead in RETIRED.items():
        part = raw.get(section)
        if isinstance(part, dict) and key in part:
            del part[key]
            print(
                f"note: {section}.{key} is no longer an option and is left out: {instead}",
                file=sys.stderr,
            )


#: Names of encoders and backbones that are never folders, whatever lies beside the file
#: (``hashing:64`` likewise).
BUILT_IN = ("minilm", "hashing", "embedded")


def _anchor(config: Config, base: Path) -> None:
    """Make the file's relative paths relative to ``base``; a model is a name unless its folder is
    there.
    """
    anchored = [
        (config, "runs"),
        (config.catalogue, "path"),
        (config.events, "path"),
        (config.users, "path"),
    ]
    anchored += [(config.sid.table, "path"), (config, "warm_start"), (config.memory, "key_file")]
    anchored += [(held, "queries") for held in config.data.held_out or []]
    for part, name in [
        *anchored,
        *((s, n) for s in config.evaluate.sets for n in ("queries", "qrels")),
    ]:
        value = getattr(part, name)
        if value and not Path(value).is_absolute():
            setattr(part, name, str(base / value))
    for part, name in ((config.embed, "model"), (config.lm, "backbone")):
        value = getattr(part, name)
        named = value.partition(":")[0] in BUILT_IN
        if value and not named and not Path(value).is_absolute() and (base / value).exists():
            setattr(part, name, str(base / value))
