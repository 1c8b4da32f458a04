"""Options of the encoder: item vectors, its fine-tuning, the dense channel."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sidar.config.section import Part


class EmbedConfig(Part):
    """How item text becomes vectors."""

    model: str = Field(
        "minilm",
        description=(
            "`minilm` (offline default), a sentence-transformers folder, a hub name, or "
            "`hashing:64` (tests)."
        ),
    )
    fields: list[str] = Field(
        ["title", "category"], description="Columns that make an item's text, joined in this order."
    )
    batch_size: int = Field(
        32, ge=1, description="32 is fastest on a CPU (its activations stay in the cache)."
    )
    max_tokens: int = Field(128, ge=1, description="Longer texts are cut.")
    dtype: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto = bf16 where the device computes in it, else fp32."
    )


class DenseConfig(Part):
    """Fine-tuning of the encoder on the training rows (`sidar tune-dense`), and the index of the
    dense channel.
    """

    towers: Literal["tied", "two"] = Field(
        "tied",
        description="tied = one encoder for both sides; two = SCI's query tower and item tower.",
    )
    loss: Literal["infonce", "hinge"] = Field("infonce", description="Over the items of the batch.")
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
    steps: int = Field(300, ge=1, description="Training steps.")
    batch_size: int = Field(
        64, ge=2, description="Pairs of query and item; the other items are the negatives."
    )
    lr: float = Field(2e-5, gt=0, description="Learning rate.")
    weight_decay: float = Field(0.01, ge=0, description="Of AdamW.")
    warmup: float = Field(
        0.1, ge=0, le=1, description="Share of the steps with rising learning rate."
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "linear", description="How the learning rate goes after the warm-up."
    )
    clip: float = Field(1.0, ge=0, description="Largest gradient norm; 0 = unclipped.")
    temperature: float = Field(0.05, gt=0, description="Of the softmax over cosines: 1 / scale.")
    symmetric: bool = Field(False, description="Also ask each item for its query.")
    mixture: dict[Literal["pseudo", "query"], float] = Field(
        {"pseudo": 0.5, "query": 0.5}, description="Shares of pseudo-queries and logged queries."
    )
    query_tokens: int = Field(24, ge=1, description="Longer queries are cut in training.")
    item_tokens: int = Field(48, ge=1, description="Longer item texts are cut in training.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto = bf16 where the device computes in it, else fp32."
    )
    validate_every: int = Field(75, ge=1, description="Steps between two validations.")
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
