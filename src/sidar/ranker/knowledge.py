"""What the features read of items and of the log before a moment."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np

from sidar.answer.memory import Memory
from sidar.index import PrefixIndex
from sidar.index.shares import ItemShares
from sidar.types import Catalogue, Json

#: µs of a day.
DAY_US = 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Half-life in days of the counts that the feature ``count_recent`` shows.
RECENT = 1.0


@dataclass(frozen=True)
class Numbers:
    """The numbers of brands, category paths and first levels; they are only ever added to, so that
    facts of an earlier catalogue stay true.
    """

    brand: dict[str, int] = field(default_factory=dict)
    leaf: dict[tuple[str, ...], int] = field(default_factory=dict)
    root: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ItemFacts:
    """What the catalogue says of N items, by row.

    ``log_price`` (N,) NaN where there is no price above 0; ``brand``, ``leaf`` and ``root`` (N,)
    numbers of brands, category paths and first levels, −1 = none; ``created`` (N,) days since 1970,
    NaN = not known. ``numbers``: what the numbers stand for, which may be more than N items have.
    """

    log_price: np.ndarray
    brand: np.ndarray
    leaf: np.ndarray
    root: np.ndarray
    created: np.ndarray
    alive: np.ndarray
    numbers: Numbers = field(default_factory=Numbers)

    @classmethod
    def of(cls, catalogue: Catalogue) -> ItemFacts:
        """Read the catalogue."""
        created = catalogue.table.column("created").cast("int64").to_pylist()
        days = [None if moment is None else moment // DAY_US for moment in created]
        return cls._read(
            Numbers(),
            catalogue.column("price"),
            catalogue.column("brand"),
            catalogue.column("category"),
            days,
            catalogue.alive,
        )

    def changed(self, alive: np.ndarray, items: Mapping[int, Json]) -> ItemFacts:
        """Return the facts with the fields of ``items`` by row; ``alive`` (N,) of all. Rows beyond
        those of before must be among them.
        """
        fields = list(items.values())
        moments = [item["created"] for item in fields]
        days = [None if at is None else (at - _EPOCH) // timedelta(days=1) for at in moments]
        new = self._read(
            self.numbers,
            [item["price"] for item in fields],
            [item["brand"] for item in fields],
            [item["category"] for item in fields],
            days,
            alive,
        )
        rows = np.fromiter(items, np.int64)

        def placed(before: np.ndarray, values: np.ndarray) -> np.ndarray:
            out = np.zeros(len(alive), before.dtype)
            out[: len(before)] = before
            out[rows] = values
            return out

        return replace(
            new,
            log_price=placed(self.log_price, new.log_price),
            brand=placed(self.brand, new.brand),
            leaf=placed(self.leaf, new.leaf),
            root=placed(self.root, new.root),
            created=placed(self.created, new.created),
        )

    @classmethod
    def _read(
        cls,
        numbers: Numbers,
        prices: Sequence[float | None],
        brands: Sequence[str | None],
        categories: Sequence[Sequence[str] | None],
        days: Sequence[int | None],
        alive: np.ndarray,
    ) -> ItemFacts:
        paths = [tuple(path or ()) for path in categories]
        price = np.array([value or np.nan for value in prices], np.float64)
        return cls(
            log_price=np.log(np.where(price > 0, price, np.nan)),
            brand=_numbered([brand or None for brand in brands], numbers.brand),
            leaf=_numbered([path or None for path in paths], numbers.leaf),
            root=_numbered([path[0] if path else None for path in paths], numbers.root),
            created=np.array([np.nan if day is None else day for day in days], np.float64),
            alive=alive,
            numbers=numbers,
        )


def _numbered(values: Sequence[Hashable | None], number: dict[Any, int]) -> np.ndarray:
    """(n,) int64 number of each value in the order of appearance, which ``number`` keeps; −1 for
    None.
    """
    found = [-1 if value is None else number.setdefault(value, len(number)) for value in values]
    return np.array(found, np.int64)


@dataclass(frozen=True)
class QueryFacts:
    """What was chosen for one query: ``rows`` (m,) rising, their counts and their recent counts;
    ``total`` of all, ``log_price`` the mean log price, and the shares by category number.
    """

    rows: np.ndarray
    counts: np.ndarray
    recent: np.ndarray
    total: float
    log_price: float
    leaf: dict[int, float]
    root: dict[int, float]


@dataclass(frozen=True)
class Known:
    """What is known when a request comes: the memory of the days before, and ``clicks`` (N,) by
    row, counted on training days before.

    ``log_share`` (N,) is log s(item | SID) by those clicks, NaN for an item without an SID.
    """

    items: ItemFacts
    memory: Memory
    secret: bytes
    clicks: np.ndarray
    log_share: np.ndarray

    @property
    def today(self) -> int:
        """The day of the request: the one after the last that was counted (days since 1970)."""
        return self.memory.facts.last_day + 1

    @cached_property
    def log_prior(self) -> np.ndarray:
        """(N,) log of the smoothed share of all clicks."""
        weight = np.maximum(self.clicks, 0).astype(np.float64) + 1.0
        return np.log(weight / weight.sum())

    @cached_property
    def age(self) -> np.ndarray:
        """(N,) days since each item was created; NaN where that is not known."""
        return np.maximum(self.today - self.items.created, 0.0)

    @cached_property
    def last_chosen(self) -> np.ndarray:
        """(N,) days since each item was last chosen for any query; NaN = never."""
        last = np.full(len(self.clicks), np.nan)
        np.fmax.at(last, self.memory.rows, self.memory.days.astype(np.float64))
        return self.today - last

    def remembered(self, text: str, most: int) -> np.ndarray:
        """Return at most ``most`` rows that were chosen for ``text``, most counted first."""
        rows, counts = self.memory.counts(text, self.secret, alive=self.items.alive)
        return rows[np.argsort(-counts, kind="stable")[:most]]

    def query(self, text: str, own: dict[int, float] | None = None) -> QueryFacts:
        """Return what was chosen for ``text``; ``own`` {row: weight} is left out of the counts.

        The counts that a logged request added itself are no knowledge before it.
        """
        rows, counts = self.memory.counts(text, self.secret, alive=self.items.alive)
        _, recent = self.memory.counts(text, self.secret, RECENT, self.items.alive)
        if own and len(rows):
            taken = np.array([own.get(int(row), 0.0) for row in rows])
            kept = counts - taken
            recent = np.where(counts > 0, recent * np.maximum(kept, 0) / counts, 0.0)
            some = kept > 1e-9
            rows, counts, recent = rows[some], kept[some], recent[some]
        total = float(counts.sum())
        prices = self.items.log_price[rows]
        priced = np.isfinite(prices)
        usual = np.nan
        if priced.any():
            usual = float(np.average(prices[priced], weights=counts[priced]))
        return QueryFacts(
            rows,
            counts,
            recent,
            total,
            usual,
            _shares(self.items.leaf[rows], counts),
            _shares(self.items.root[rows], counts),
        )


def _shares(numbers: np.ndarray, weights: np.ndarray) -> dict[int, float]:
    """{number: share of the weights}; items without a number take part in the total alone."""
    total = float(weights.sum())
    found: dict[int, float] = {}
    for number, weight in zip(numbers.tolist(), weights.tolist(), strict=True):
        if number >= 0:
            found[number] = found.get(number, 0.0) + weight / total
    return found


def before_day(memory: Memory, day: int) -> Memory:
    """Return the counts of the days before ``day`` (days since 1970) alone, from which ages count.

    Counts are kept by day, so this equals counting a log that ends on the evening before.
    """
    kept = memory.days < day
    return Memory(
        memory.keys[kept],
        memory.rows[kept],
        memory.days[kept],
        memory.weights[kept],
        memory.users[kept],
        replace(memory.facts, last_day=day - 1),
    )


def log_shares(index: PrefixIndex, clicks: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Return (N,) log s(item | SID) by ``clicks`` (N,); NaN for a retired item and one without SID.

    The index holds the clicks of all training days; those of the days before a request are given.
    """
    counted = replace(index, counts=clicks.astype(np.float32))
    shares = ItemShares.of(counted, alive).log_share.astype(np.float64)
    found = np.full(len(clicks), np.nan)
    found[index.rows] = np.where(np.isfinite(shares), shares, np.nan)
    return found
