"""Writing what happened: the log in contract columns, and beside it the truth that a real log never
has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.simulate.behaviour import Acts, Chances
from sidar.simulate.intents import EXACT, GRADES
from sidar.types import ACTIONS

_SECOND = 1_000_000


@dataclass(frozen=True)
class Page:
    """S shown items of one day with all that is known of them; ``request`` numbers the whole log's
    requests.
    """

    request: np.ndarray
    row: np.ndarray
    position: np.ndarray
    code: np.ndarray
    taste: np.ndarray
    chances: Chances
    acts: Acts


@dataclass(frozen=True)
class Names:
    """What numbers are called in the files."""

    item: np.ndarray  # (N,) object
    user: np.ndarray  # (U,) object
    query: np.ndarray  # (Q,) object


def events(
    page: Page,
    requests: Mapping[str, np.ndarray],
    names: Names,
    price: np.ndarray,
    rng: np.random.Generator,
) -> pa.Table:
    """The day's rows of ``events.parquet`` in order of time: one per impression, click, cart and
    order.

    ``requests`` holds (R,) arrays ts, user, session, query, random of the whole log. A click comes
    seconds after the page, later for lower positions; ``dwell_s`` (s) belongs to clicks, ``value``
    (the price) to orders.
    """
    n = len(page.row)
    shown_at = requests["ts"][page.request]
    clicked_at = shown_at + ((2 + 1.5 * page.position + rng.exponential(8, n)) * _SECOND).astype(
        np.int64
    )
    dwell = rng.lognormal(np.log(18) + 0.5 * (page.code == EXACT) + 0.2 * page.taste, 0.7)
    carted_at = clicked_at + (dwell * _SECOND).astype(np.int64)
    ordered_at = carted_at + (rng.uniform(60, 900, n) * _SECOND).astype(np.int64)
    moments = (shown_at, clicked_at, carted_at, ordered_at)
    masks = (np.ones(n, dtype=bool), page.acts.click, page.acts.cart, page.acts.order)
    which = np.concatenate([np.flatnonzero(mask) for mask in masks])  # (E,) index into the page
    action = np.repeat(np.arange(len(ACTIONS)), [int(mask.sum()) for mask in masks])
    ts = np.concatenate([at[mask] for at, mask in zip(moments, masks, strict=True)])
    order = np.lexsort((action, page.position[which], ts))
    which, action, ts = which[order], action[order], ts[order]
    request = page.request[which]
    value = np.where(action == ACTIONS.index("order"), price[page.row[which]], np.nan)
    seconds = np.where(action == ACTIONS.index("click"), dwell[which], np.nan)
    return pa.table(
        {
            "ts": pa.array(ts, pa.int64()),
            "user_id": _named(names.user, requests["user"][request]),
            "session_id": pa.array([f"s{s:07d}" for s in requests["session"][request]]),
            "request_id": pa.array([f"r{r:08d}" for r in request]),
            "query": _named(names.query, requests["query"][request]),
            "item_id": _named(names.item, page.row[which]),
            "position": pa.array(page.position[which], pa.int32()),
            "action": _named(np.asarray(ACTIONS, dtype=object), action),
            "value": pa.array(value, from_pandas=True),
            "dwell_s": pa.array(seconds, from_pandas=True),
            "bucket": _named(
                np.asarray(["main", "random"], dtype=object),
                requests["random"][request].astype(int),
            ),
        }
    )


def truth(page: Page, names: Names) -> pa.Table:
    """The day's rows of ``truth.parquet``: what was relevant, seen, liked, and missed, per shown
    item.
    """
    acts, of = page.acts, page.chances
    return pa.table(
        {
            "request_id": pa.array([f"r{r:08d}" for r in page.request]),
            "item_id": _named(names.item, page.row),
            "position": pa.array(page.position, pa.int32()),
            "relevance": pa.array(np.asarray(GRADES)[page.code]),
            "examined": pa.array(acts.examined),
            "clicked": pa.array(acts.click),
            "pseudo_negative": pa.array((page.code == EXACT) & ~acts.click),
            "taste": pa.array(page.taste, pa.float32()),
            "p_click": pa.array(of.click, pa.float32()),
            "utility": pa.array(of.utility, pa.float32()),
        }
    )


class Sink:
    """Appends tables to a Parquet file; the first one fixes the columns.

    Every file says that it is simulated.
    """

    def __init__(self, path: Path, note: Mapping[str, str]) -> None:
        self._path, self._note = path, dict(note)
        self._writer: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> None:
        if self._writer is None:
            schema = table.schema.with_metadata(self._note)
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd")
        self._writer.write_table(table.replace_schema_metadata(self._note))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _named(names: np.ndarray, numbers: np.ndarray) -> pa.Array:
    return pa.array(names, pa.string()).take(pa.array(numbers))
