"""An item that was shown, and one that was chosen, as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shown:
    """One item of one answer; ``ts`` in µs UTC, ``position`` from 1, ``channels`` separated by
    blanks.
    """

    request_id: str
    ts: int
    user: str
    session_id: str
    query: str
    bucket: str
    item_id: str
    position: int
    channels: str


@dataclass(frozen=True)
class Chosen:
    """One event of a client; ``action`` is an index into :data:`sidar.types.ACTIONS`.

    Fields that are None are taken from the item's impression under ``request_id``, where there is
    one.
    """

    event_id: str
    request_id: str
    ts: int
    item_id: str
    action: int
    user: str | None = None
    session_id: str | None = None
    query: str | None = None
    position: int | None = None
    value: float | None = None
    dwell_s: float | None = None
    bucket: str | None = None
