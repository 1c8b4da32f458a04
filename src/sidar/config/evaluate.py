"""Options of what is scored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from sidar.config.section import Extensible, Part, known
from sidar.extensions import METRICS


class EvalSetConfig(Part):
    """One set of queries with graded truth."""

    name: str = Field(description="Name of the set in tables and files.")
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
    origin: Literal["real", "simulated"] = Field(
        "real", description="Printed beside every number of the set."
    )
    role: Literal["test", "valid"] = Field(
        "test", description="valid = the set tunes weights of fusions instead of being reported."
    )
    tuning_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of a test set's queries, chosen by hash, that tune weights instead of "
        "being reported; they are the set <name>-tuning.",
    )
    topic_oracle: bool = Field(
        False, description="Print the topic-oracle row (judged sets that are topic clusters)."
    )

    @model_validator(mode="after")
    def _share_of_a_test(self) -> EvalSetConfig:
        if self.tuning_share and self.role == "valid":
            raise ValueError(
                f"tuning_share {self.tuning_share:g} cuts a test set, and role: valid tunes on all "
                "of it; remove one of them"
            )
        return self


class EvaluateConfig(Extensible):
    """What is scored, on which queries, against what; it makes no stage stale but `evaluate`."""

    registry = METRICS

    sets: list[EvalSetConfig] = Field([], description="Judged queries (docs/tutorial.md).")
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
    bootstrap: int = Field(1000, ge=1, description="Samples behind an interval.")
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
