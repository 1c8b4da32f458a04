"""A catalogue grown by attribute variants, as real shops have them: the same product in other
colours, sizes, packs.

Larger catalogues than the sample are needed to study what Semantic IDs lose, and real ones cannot
be shipped. Variants keep the parent's category, brand and description; title, colour field, price
and popularity change. They are made up: every one says so in its attributes (``simulated``,
``variant_of``) and every file in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.data.catalogue import found
from sidar.simulate.axes import Axis, axes_of
from sidar.simulate.lexicon import load_lexicon
from sidar.types import CATALOGUE_SCHEMA, Catalogue, Json, PathLike

#: Most variants of one product.
MOST = 1000
CHUNK = 20_000
# sigma of the log-normal that makes some products come in many variants and most in few
_SPREAD = 0.8


class Growth:
    """Which variants a catalogue gets. ``Growth(catalogue, seed).tables(100_000)`` yields them in
    chunks.

    Rows: first the catalogue's own, then variants in an order that depends on catalogue and seed
    alone, so that a larger growth begins with the smaller one row by row. Memory: the parents and
    one chunk.
    """

    def __init__(self, catalogue: Catalogue, seed: int = 0) -> None:
        self.catalogue, self.seed = catalogue, seed
        words = load_lexicon()
        columns = (
            catalogue.column(name)
            for name in ("item_id", "title", "category", "brand", "attributes")
        )
        self._parents: list[tuple[list[Axis], np.ndarray]] = []
        weights, shares = [], []
        for (item_id, title, path, brand, raw), alive in zip(
            zip(*columns, strict=True), catalogue.alive.tolist(), strict=True
        ):
            rng = _rng(seed, item_id)
            known = json.loads(raw) if raw else {}
            colour = str(known.get("color") or known.get("colour") or "")
            axes = axes_of(title, path or (), colour, brand or "", words, rng) if alive else []
            order, natural = _order(axes, rng)
            self._parents.append((axes, order))
            weights.append(np.sqrt(natural) * np.exp(_SPREAD * rng.standard_normal()))
            shares.append(
                np.minimum(np.exp(rng.normal(-1.5, 1.0, len(order))), 1).astype(np.float32)
            )
        sizes = np.asarray([len(order) for _, order in self._parents])
        parent = np.repeat(np.arange(len(sizes)), sizes)
        number = np.arange(len(parent)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        # the n-th variant of a product that comes in many is early
        turn = (number + 1) / np.asarray(weights)[parent]
        first = np.argsort(turn, kind="stable")
        self._parent, self._number = parent[first].astype(np.int32), number[first].astype(np.int32)
        self._share = np.concatenate(shares)[first]  # of the parent's ratings

    @property
    def capacity(self) -> int:
        """The most items that the catalogue can grow to."""
        return len(self.catalogue) + len(self._parent)

    def tables(self, items: int, chunk: int = CHUNK) -> Iterator[pa.Table]:
        """The grown catalogue of ``items`` rows as tables of :data:`~sidar.types.CATALOGUE_SCHEMA`.

        Raises ``ValueError`` where ``items`` is fewer than the catalogue has or more than it can
        grow to.
        """
        own = len(self.catalogue)
        if not own <= items <= self.capacity:
            raise ValueError(
                f"a catalogue of {own:,} items grows to {own:,} … {self.capacity:,}, not to "
                f"{items:,}"
            )
        table = self.catalogue.table.select(CATALOGUE_SCHEMA.names).replace_schema_metadata(None)
        yield table
        for start in range(0, items - own, chunk):
            stop = min(start + chunk, items - own)
            made = [self.variant(at) for at in range(start, stop)]
            columns = {name: [row[name] for row in made] for name in made[0]}
            kept = table.take(pa.array(self._parent[start:stop]))  # category, brand, picture, dates
            for name, values in columns.items():
                at = kept.schema.get_field_index(name)
                kept = kept.set_column(
                    at, CATALOGUE_SCHEMA.field(name), pa.array(values, CATALOGUE_SCHEMA.types[at])
                )
            yield kept.cast(CATALOGUE_SCHEMA)

    def variant(self, at: int) -> Json:
        """What the ``at``-th variant has of its own: item_id, title, text, price, attributes."""
        parent, number = int(self._parent[at]), int(self._number[at])
        title, text, price, raw, item_id = (column[parent] for column in self._columns)
        axes, order = self._parents[parent]
        chosen: dict[str, str] = {}
        known: Json = json.loads(raw) if raw else {}
        ranks = np.unravel_index(int(order[number]), [len(axis.values) + 1 for axis in axes])
        for axis, rank in zip(axes, ranks, strict=True):
            if rank:
                value = axis.values[int(rank) - 1]
                chosen[axis.name] = value
                title = axis.write(title, value)
                if price is not None:
                    price = round(price * axis.factors[int(rank) - 1], 2)
        if "colour" in chosen:
            known.pop("colour", None)
            known["color"] = chosen["colour"]
        if known.get("rating_count"):
            known["rating_count"] = int(known["rating_count"] * self._share[at])
        known |= {"simulated": True, "variant_of": item_id, "variant": chosen}
        said = ", ".join(f"{name} {value}" for name, value in chosen.items())
        return {
            "item_id": f"{item_id}-{number + 1}",
            "title": title,
            "text": f"{said.capitalize()}. {text or ''}".strip(),
            "price": price,
            "attributes": json.dumps(known, ensure_ascii=False),
        }

    @cached_property
    def _columns(self) -> list[list[Any]]:
        return [
            self.catalogue.column(name)
            for name in ("title", "text", "price", "attributes", "item_id")
        ]


def grow(catalogue: Catalogue, items: int, seed: int = 0) -> Catalogue:
    """``catalogue`` with simulated variants, ``items`` rows in all; its own come first and keep
    their rows.

    The same catalogue, number and seed give the same items, and a larger number the same ones and
    more. Raises ``ValueError`` where the catalogue cannot grow to that size.
    """
    return found(pa.concat_tables(Growth(catalogue, seed).tables(items)))


def write_grown(catalogue: Catalogue, items: int, path: PathLike, seed: int = 0) -> int:
    """Stream :func:`grow` into one Parquet file, a chunk at a time, labelled simulated; returns the
    number of rows.
    """
    note = {
        "sidar.simulated": "true",
        "sidar.grown_from": catalogue.lineage,
        "sidar.grown_seed": str(seed),
    }
    rows = 0
    with pq.ParquetWriter(path, CATALOGUE_SCHEMA.with_metadata(note), compression="zstd") as file:
        for table in Growth(catalogue, seed).tables(items):
            file.write_table(table.replace_schema_metadata(note))
            rows += len(table)
    return rows


def _order(axes: list[Axis], rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Combinations of values in the order in which a shop would list them, and how many there are
    without ``model``.

    A combination is a number in mixed radix (rank of the value per axis, 0 = the parent's own);
    cheap ones, with few changes and early values, come first.
    """
    if not axes:
        return np.zeros(0, np.int32), 1
    shape = [len(axis.values) + 1 for axis in axes]
    total = np.zeros(shape)
    for place, axis in enumerate(axes):
        ranks = np.arange(shape[place]) * axis.cost
        total += ranks.reshape([-1 if other == place else 1 for other in range(len(axes))])
    cost = total.ravel() + rng.random(total.size)
    cost[0] = -1  # the parent itself
    near = np.argpartition(cost, min(MOST, len(cost) - 1))[: MOST + 1]
    return near[np.argsort(cost[near], kind="stable")][1:].astype(np.int32), int(
        np.prod(shape[:-1])
    )


def _rng(seed: int, name: str) -> np.random.Generator:
    """A generator for one product: the draws of one do not depend on which others there are."""
    return np.random.default_rng(
        [seed, int.from_bytes(sha256(name.encode()).digest()[:8], "little")]
    )
