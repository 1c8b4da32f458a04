"""Options of the data: catalogue, log, users, privacy, held-out queries, split."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sidar.config.section import Part


class CatalogueConfig(Part):
    """Where the products come from."""

    path: str = Field(
        "",
        description=(
            "Catalogue file, folder or glob (Parquet, CSV, JSONL, JSON, or the format's own files)."
        ),
    )
    format: Literal["tabular", "esci", "esci_full", "sequences", "kuaisearch", "jdsearch"] = Field(
        "tabular",
        description="tabular = columns of your own; the others are formats of public data.",
    )
    columns: dict[str, str] = Field(
        {}, description="contract column -> your column, e.g. {item_id: sku, title: name}"
    )
    price_divisor: float = Field(
        1.0, gt=0, description="Prices are divided by it: 100 where the file has cents."
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
        "",
        description=(
            "Log file, folder or glob (Parquet, CSV, JSONL, UBI ndjson …); empty = there is no log "
            "(docs/no-log.md)."
        ),
    )
    format: Literal["tabular", "ubi", "sequences", "esci_full", "kuaisearch", "jdsearch"] = Field(
        "tabular",
        description="tabular = columns of your own; the others are formats of public data.",
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
    unknown_items: Literal["quarantine", "drop"] = Field(
        "quarantine",
        description="Rows of items that the catalogue lacks: in the quarantine file, or left out.",
    )
    bad_rows: float = Field(
        0.01, ge=0, le=1, description="Share of malformed rows above which reading stops."
    )
    memory: str = Field("1GB", description="DuckDB's memory cap while grouping.")
    ts_unit: Literal["auto", "us", "ms", "s"] = Field(
        "auto", description="Unit of times that are numbers; auto = by their size."
    )
    first_position: Literal[0, 1] | None = Field(
        None,
        description=(
            "What your log calls the top of a list; null = 1, and 0 means unknown (in UBI: 0)."
        ),
    )
    origin: Literal["log", "simulated"] = Field(
        "log", description="Printed beside every number made from this log."
    )

    @property
    def described(self) -> list[str]:
        """Options that describe a log, whether or not one is named."""
        keys = [key for key in ("columns", "actions") if getattr(self, key)]
        return keys if self.format == "tabular" else ["format", *keys]


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
    history: Literal["recent", "related"] = Field(
        "recent",
        description=(
            "related = of these only products of categories that the query is about "
            "(docs/progressive.md)."
        ),
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
