"""Options of the tokenizers and of their life from day to day."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from sidar.config.section import Extensible, Part, known
from sidar.extensions import TOKENIZERS


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
    steps: int = Field(1000, ge=0, description="Training steps.")
    batch_size: int = Field(1024, ge=1, description="Vectors of a step.")
    lr: float = Field(1e-3, gt=0, description="Learning rate.")
    weight_decay: float = Field(0.01, ge=0, description="Of AdamW; biases do not decay.")
    warmup: float = Field(
        0.02, ge=0, le=1, description="Share of the steps with rising learning rate."
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate goes after the warm-up."
    )
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
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto = bf16 where the device computes in it, else fp32."
    )
    log_every: int = Field(50, ge=1, description="Steps between two records of the log.")
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
    temperature: float = Field(0.1, gt=0, description="Of the contrast's softmax over cosines.")
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
    levels: int = Field(3, ge=1, description="Codes of an SID.")
    codebook_sizes: list[int] | None = Field(
        None, description="Codes per level; null = from the catalogue's size."
    )
    items_per_sid: float = Field(
        1.3, gt=1, description="Target of the automatic sizes (170M / 130M in the paper)."
    )
    iterations: int = Field(20, description="k-means: most passes.")
    init: Literal["kmeans++", "random"] = Field(
        "kmeans++", description="k-means: how centroids start."
    )
    restarts: int = Field(1, description="k-means: fits per level; the best one stays.")
    balance_last: bool = Field(
        False, description="Spread the items of one parent evenly over the codes of the last level."
    )
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


class AlarmsConfig(Part):
    """When `sidar sids alarms` rings (sid/lifecycle/alarms.py has each test)."""

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
