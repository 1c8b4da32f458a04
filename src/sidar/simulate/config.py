"""The simulator's settings.

``simulator.yaml`` holds the presets; its hash is frozen before the first alignment run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from sidar.artifacts import sha256_json
from sidar.config import Part
from sidar.types import Json

_PACKAGED = Path(__file__).with_name("simulator.yaml")


class QueriesConfig(Part):
    """Catalogue-grounded queries: how many, how phrased, how bounded."""

    count: int = Field(
        ge=10, description="Distinct intents (noun plus constraints), over all three splits."
    )
    constraints: list[float] = Field(description="Shares of intents with 0, 1, 2, 3 constraints.")
    min_items: int = Field(ge=1, description="Nouns with fewer items ask no queries.")
    max_exact: int = Field(
        ge=1, description="Intents with more exact items are too broad and dropped."
    )
    single: float = Field(
        ge=0, le=1, description="Largest share of intents with one exact item only."
    )
    max_related: int = Field(ge=0, description="Related items (grade .01) kept per intent.")
    train: float = Field(gt=0, lt=1, description="Share of intents that the log may use.")
    valid: float = Field(
        ge=0, lt=1, description="Share held out for validation; the rest is the test."
    )
    typo: float = Field(ge=0, le=1, description="Share of phrasings with one slip of the keyboard.")
    synonym: float = Field(
        ge=0, le=1, description="Chance that a word with synonyms is replaced by one."
    )
    reorder: float = Field(
        ge=0, le=1, description="Share of phrasings with words in another order."
    )
    variants: int = Field(
        ge=1, description="Phrasings of a head intent in the log; rarer intents have fewer."
    )


class TasteConfig(Part):
    """What a shopper likes beyond relevance, in logits per standard deviation."""

    dims: int = Field(ge=1, description="Latent dimensions of brand taste.")
    brand: float
    colour: float
    price: float
    profile: float = Field(
        ge=0, le=1, description="Share of brand taste that age band and region explain."
    )


class LoggerConfig(Part):
    """What chose and ordered the items that were shown."""

    pool: int = Field(ge=20, description="Lexical candidates per phrasing.")
    popular: int = Field(
        ge=0, description="Candidates per phrasing drawn from its department by popularity."
    )
    lexical: float
    popularity: float
    fresh: float = Field(description="Bonus of items launched during the log.")
    noise: float = Field(ge=0, description="Scale of the Gumbel noise on every score.")
    explore: float = Field(
        ge=0, le=1, description="Expected share of shown items that the explorer placed."
    )
    random_share: float = Field(
        ge=0, le=1, description="Share of each day's requests shown in random order."
    )
    shown_min: int = Field(ge=1)
    shown_max: int = Field(ge=1)


class BehaviourConfig(Part):
    """Examination by position; then click, cart and order, each a logistic of grade and taste."""

    examine: float = Field(ge=0, description="Position k is examined with probability k^−examine.")
    click: list[float] = Field(
        description="Logits for exact, substitute, related, irrelevant, given examination."
    )
    cart: list[float] = Field(description="The same, given a click.")
    order: list[float] = Field(description="The same, given a cart.")
    click_taste: float
    cart_taste: float
    order_taste: float


class SimulatorConfig(Part):
    """Everything that shapes a simulated log."""

    seed: int = 0
    start: str = Field("2026-01-05", description="First day of the log (UTC).")
    days: int = Field(8, ge=3)
    users: int = Field(ge=1)
    requests: int = Field(ge=1, description="Searches over all days.")
    activity: float = Field(
        ge=0, description="Sigma of the log-normal number of sessions per user."
    )
    session_stop: float = Field(
        gt=0, le=1, description="Chance that a session ends after a search."
    )
    session_stay: float = Field(
        ge=0, le=1, description="Chance that the next search stays with the same noun."
    )
    zipf: float = Field(ge=0, description="Exponent of query popularity over its rank.")
    zipf_offset: float = Field(
        ge=0, description="Added to the rank (Zipf–Mandelbrot): flattens the very head."
    )
    interest: float = Field(
        gt=0, description="Dirichlet concentration of a user's departments; small = narrow."
    )
    launch_share: float = Field(
        ge=0, lt=1, description="Share of items that appear during the log."
    )
    launch_from_day: int = Field(5, ge=1)
    queries: QueriesConfig
    taste: TasteConfig
    logger: LoggerConfig
    behaviour: BehaviourConfig

    @property
    def hash(self) -> str:
        """Names this configuration; any change voids numbers made with another."""
        return sha256_json(self.model_dump())

    @model_validator(mode="after")
    def _fits(self) -> SimulatorConfig:
        if self.queries.train + self.queries.valid >= 1:
            raise ValueError("queries.train + queries.valid must leave a share for the test")
        if self.logger.shown_min > self.logger.shown_max:
            raise ValueError("logger.shown_min exceeds logger.shown_max")
        if self.logger.shown_max > self.logger.pool + self.logger.popular:
            raise ValueError(
                "logger.shown_max exceeds the candidates (logger.pool + logger.popular)"
            )
        for name in ("click", "cart", "order"):
            if len(getattr(self.behaviour, name)) != 4:
                raise ValueError(
                    f"behaviour.{name} needs four logits: exact, substitute, related, irrelevant"
                )
        return self


def load_config(
    preset: str = "demo", path: str | Path | None = None, **changes: Any
) -> SimulatorConfig:
    """A preset of ``simulator.yaml`` (or of another file), with ``changes`` on top.

    Nested settings are merged: ``load_config("demo", users=50, logger={"noise": 0.2})``.
    Raises ``ValueError`` that names the presets there are.
    """
    file = Path(path) if path is not None else _PACKAGED
    raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    if preset not in raw["presets"]:
        raise ValueError(
            f"{file.name} has no preset {preset!r}; there are {', '.join(raw['presets'])}"
        )
    return SimulatorConfig.model_validate(
        _merged(_merged(raw["defaults"], raw["presets"][preset]), changes)
    )


def _merged(below: Json, above: Json) -> Json:
    out = dict(below)
    for key, value in above.items():
        out[key] = (
            _merged(out[key], value)
            if isinstance(value, dict) and isinstance(out.get(key), dict)
            else value
        )
    return out
