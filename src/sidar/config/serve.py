"""Options of the HTTP service."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from sidar.config.section import Part


class LimitsConfig(Part):
    """The largest requests that the service takes; a larger one is refused, not cut."""

    body: int = Field(1 << 20, ge=1, description="Bytes of a request's body.")
    body_seconds: float = Field(10.0, gt=0, description="Seconds for a client to send its body.")
    header_seconds: float = Field(
        10.0, gt=0, description="Seconds for a client to send a request's headers."
    )
    stall_seconds: float = Field(
        30.0, gt=0, description="Seconds in which a client reads nothing of its answer."
    )
    query: int = Field(512, ge=1, description="Characters of a query.")
    k: int = Field(500, ge=1, description="Items of an answer.")
    beam: int = Field(1024, ge=1, description="Beams of a search.")
    batch: int = Field(64, ge=1, description="Searches of one request to /v1/search/batch.")
    items: int = Field(1000, ge=1, description="Items of one request to /v1/items.")
    events: int = Field(1000, ge=1, description="Events of one request to /v1/events.")
    history: int = Field(200, ge=1, description="Item ids of a history.")
    profile: int = Field(2048, ge=1, description="Characters of a profile.")


class KeyConfig(Part):
    """One API key, sent as ``Authorization: Bearer <key>``; only its hash stands here."""

    name: str = Field(description="Name of the key's holder, shown in metrics and errors.")
    sha256: str = Field(
        pattern="^[0-9a-f]{64}$", description="SHA-256 of the key: printf %s KEY | sha256sum."
    )
    role: Literal["read", "write", "admin"] = Field(
        "read", description="read = search, write = also events and items, admin = also bundles."
    )
    per_minute: int | None = Field(
        None, ge=1, description="Requests a minute; null = as many as there are."
    )


class ExperimentConfig(Part):
    """Buckets of users, drawn as `sidar ab` checks them; see docs/ab.md."""

    name: str = Field("", description="Name whose hash draws the buckets; empty = no experiment.")
    shares: dict[str, float] = Field({}, description="Relative sizes, e.g. {a: 50, b: 50}.")
    models: dict[str, str] = Field(
        {}, description="Label of the model that answers a bucket; default: the first."
    )

    @model_validator(mode="after")
    def _whole(self) -> ExperimentConfig:
        """Refuse an experiment without buckets, and models of buckets that it has not."""
        if self.name and len(self.shares) < 2:
            raise ValueError("an experiment needs at least two shares, e.g. {a: 50, b: 50}")
        unknown = [bucket for bucket in self.models if bucket not in self.shares]
        if unknown:
            raise ValueError(f"models.{unknown[0]}: the shares have no bucket {unknown[0]!r}")
        return self


class LogConfig(Part):
    """The server's log on stderr."""

    format: Literal["text", "json"] = Field(
        "text", description="text = warnings and errors; json = also a line of JSON per request."
    )
    queries: bool = Field(False, description="Lines of JSON hold the queries.")
    users: bool = Field(False, description="Lines of JSON hold the user ids, as they were sent.")


class OtelConfig(Part):
    """Spans for OpenTelemetry; needs the extra `sidar[otel]`."""

    endpoint: str = Field(
        "",
        description="Collector that takes OTLP over HTTP, e.g. http://localhost:4318; empty = the "
        "standard variables (OTEL_EXPORTER_OTLP_ENDPOINT) say, and without them nothing is sent.",
    )
    service: str = Field("sidar", description="Name of this service; OTEL_SERVICE_NAME wins.")
    content: bool = Field(
        False,
        description="Spans also hold queries and pseudonyms of users; needs answers_log, which "
        "says that those are kept.",
    )


class ServeConfig(Part):
    """The HTTP service."""

    host: str = Field("127.0.0.1", description="Address that the server listens on.")
    port: int = Field(8000, description="Port that the server listens on.")
    root_path: str = Field(
        "",
        description=(
            "Prefix such as /shop under which a proxy shows the server and which it takes off."
        ),
    )
    workers: int = Field(
        0, ge=0, description="Worker processes of each bundle; 0 = the server's own process."
    )
    queue: int = Field(256, ge=1, description="Requests that may wait; more are answered 503.")
    batch: int = Field(32, ge=1, description="Most searches that share one pass.")
    timeout_ms: int | None = Field(
        None, ge=1, description="Deadline of searches that name none; null = none."
    )
    drain_seconds: int = Field(
        30, ge=1, description="On SIGTERM, seconds for accepted requests to be answered."
    )
    limits: LimitsConfig = LimitsConfig()
    keys: list[KeyConfig] = Field(
        [], description="API keys; without one nothing can be written over HTTP."
    )
    read_key: bool = Field(False, description="Searches need a key, too.")
    bundles: dict[str, str] = Field(
        {},
        description="Bundles that may be loaded over HTTP: name -> folder. No other folder can be.",
    )

    store: str = Field(
        "",
        description="File (SQLite) or postgresql:// URL of events, histories and live items; "
        "empty = none are taken.",
    )
    answers_log: str = Field(
        "",
        description="Folder for the log of what was shown and chosen, a file a day, as "
        "`events.path` reads it; empty = impressions are not kept.",
    )
    history: int = Field(
        20, ge=0, description="Items of a user's history that a search with user_id reads."
    )
    experiment: ExperimentConfig = ExperimentConfig()
    log: LogConfig = LogConfig()
    otel: OtelConfig = OtelConfig()

    @model_validator(mode="after")
    def _has_store(self) -> ServeConfig:
        """Refuse a log of answers that has nowhere to be kept."""
        if self.answers_log and not self.store:
            raise ValueError("answers_log needs a store: set serve.store to a file or a URL")
        if self.otel.content and not self.answers_log:
            raise ValueError("otel.content needs answers_log, which keeps queries and users")
        return self

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, value: str) -> str:
        """Write a prefix with one slash before it and none after it."""
        path = value.strip().strip("/")
        return f"/{path}" if path else ""

    @field_validator("keys")
    @classmethod
    def _names(cls, value: list[KeyConfig]) -> list[KeyConfig]:
        """Refuse two keys of one name, whose holders could not be told apart."""
        names = [key.name for key in value]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two keys are named {twice!r}; give each a name of its own")
        return value
