"""Bodies of the routes that change something: items, events and bundles.

They need pydantic only, so that a client reads and writes them, too.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Id = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(max_length=4096)]
Words = Annotated[str, Field(max_length=65_536)]


class Item(BaseModel):
    """A product, whole: what is not given is empty."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    item_id: Id
    title: Words
    text: Words | None = None
    category: tuple[Words, ...] = Field((), description="From the top, e.g. Home, Towels.")
    brand: Words | None = None
    price: float | None = Field(None, allow_inf_nan=False)
    image_url: Words | None = None
    in_stock: bool | None = True
    created: datetime | None = None
    attributes: dict[str, Any] | None = Field(None, description="Any JSON object.")


class Patch(BaseModel):
    """What changes of a product without a new vector; a field that is not given stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    item_id: Id
    price: float | None = Field(None, allow_inf_nan=False)
    in_stock: bool | None = None
    image_url: Words | None = None


class Changed(BaseModel):
    """What was changed; every answer from now on is of this version or a later one."""

    items: int
    catalogue_version: int


class Event(BaseModel):
    """One click, cart or order. What it does not say is taken from the item's impression under
    its ``request_id``, where the server keeps impressions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    event_id: Id = Field(description="Sent again, it changes nothing.")
    request_id: Id = Field(description="That of the answer that showed the item.")
    item_id: Id
    action: Literal["click", "cart", "order"]
    ts: int | None = Field(
        None, ge=631_152_000_000_000, description="Microseconds since 1970, UTC; default: now."
    )
    user_id: Id | None = None
    session_id: Text | None = None
    query: Text | None = None
    position: int | None = Field(None, ge=1, le=1_000_000, description="From 1.")
    value: float | None = Field(None, allow_inf_nan=False)
    dwell_s: float | None = Field(None, ge=0, allow_inf_nan=False)
    bucket: Text | None = None


class Taken(BaseModel):
    """How many events were kept."""

    accepted: int = Field(description="New ones; they are on the disk.")
    repeated: int = Field(description="Ones that were there before.")


class Erased(BaseModel):
    """How much of a user was forgotten."""

    rows: int


class Files(BaseModel):
    """The files that were written."""

    files: list[str]


class BundleState(BaseModel):
    """A bundle that this server may load, and what it does with it."""

    name: str
    state: str = Field(description="active, previous (a rollback brings it back), loaded or known.")
    bundle: str | None = Field(None, description="Its hash; null until it is loaded.")
    items: int | None = Field(None, description="How many items it has; null until it is loaded.")


class BundleList(BaseModel):
    """All bundles that the server knows, with the one that answers where a request names none."""

    active: str
    previous: str | None
    bundles: list[BundleState]
