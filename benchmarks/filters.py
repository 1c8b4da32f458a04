"""Filters: what a filtered search costs beside an unfiltered one, and whether k items come back.

A million items with random SIDs (8192/4096/2048) of one item each, ten typed columns, the model of
``decode.py`` at d256, beam 128, k 100, one prompt of 32 tokens, one thread. A *search* is
everything from the filter's JSON to item rows: looking the filter up or compiling it, decoding,
expansion.

``warm``: the filter was asked before. ``cold``: nothing of it is cached, but its columns have been
read; ``read_ms_<column>`` is the first read of a column. Selectivity is that of a range on one
column, or of two ranges on two columns that correlate at .9. ``cover``: all survivors scored
instead of searched with the beam, by the number of survivors.

    python benchmarks/filters.py
"""

from __future__ import annotations

from common import interleave, print_table, process_cpu_timer, single_thread, write_results

single_thread()

import argparse
import json
from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from decode import BEAM, N_SIDS, SIZES, Setting, config, random_index

from sidar.data.catalogue import found
from sidar.decode import Trie, beam_search, to_hits
from sidar.filters import Filter, read_filter
from sidar.index import PrefixIndex
from sidar.index.shares import ItemShares
from sidar.lm import SidLM
from sidar.lm.scorer import LmScorer
from sidar.serve.filtering import COVER, FilterIndex
from sidar.serve.plan import SearchPlan
from sidar.types import CATALOGUE_SCHEMA, Catalogue, Hits, SemanticIds

K = 100
SELECTIVITIES = (1.0, 0.5, 0.1, 0.01, 0.001, 0.0001, 0.00001)
SURVIVORS = (32, 64, 128, 160, 192, 256, 512)
COLUMNS = (
    *("price", "brand", "in_stock", "created", "category"),
    *("attributes.cost", "attributes.colour", "attributes.tags", "attributes.fragile"),
    "attributes.released",
)


def catalogue(n: int, seed: int) -> Catalogue:
    """Items with values in ten columns; ``price`` is uniform, ``attributes.cost`` goes with it."""
    rng = np.random.default_rng(seed)
    price = rng.random(n)
    cost = (price + 0.14 * rng.standard_normal(n)).round(6).tolist()  # correlation .9
    colour, tag = rng.integers(12, size=n).tolist(), rng.integers(6, size=(n, 2)).tolist()
    fragile, day = (rng.random(n) < 0.3).tolist(), rng.integers(1, 29, size=n).tolist()
    attributes = [
        f'{{"cost": {c}, "colour": "c{o}", "tags": ["t{t[0]}", "t{t[1]}"], '
        f'"fragile": {json.dumps(f)}, "released": "2024-01-{d:02d}"}}'
        for c, o, t, f, d in zip(cost, colour, tag, fragile, day, strict=True)
    ]
    shelf = rng.integers(50, size=n)
    columns: dict[str, Any] = {name: pa.nulls(n, t.type) for name, t in _fields()}
    columns |= {
        "item_id": [f"P{row}" for row in range(n)],
        "category": [[f"d{s % 7}", f"d{s % 7}s{s}"] for s in shelf.tolist()],
        "brand": [f"b{b}" for b in rng.integers(300, size=n).tolist()],
        "price": price,
        "in_stock": rng.random(n) < 0.8,
        "created": pa.array(rng.integers(1.6e15, 1.7e15, n)).cast(pa.timestamp("us", tz="UTC")),
        "attributes": attributes,
        "alive": np.ones(n, bool),
    }
    return found(pa.table(columns, schema=CATALOGUE_SCHEMA))


def _fields() -> list[tuple[str, pa.Field]]:
    return [(field.name, field) for field in CATALOGUE_SCHEMA]


class World:
    """Index, model and filters, and one search through all of them."""

    def __init__(self, items: int, seed: int) -> None:
        torch.manual_seed(seed)
        whole = random_index(seed)
        codes = whole.table[np.random.default_rng(seed).permutation(N_SIDS)[:items]]
        sids = SemanticIds(codes, np.full(len(codes), 3, np.int32), SIZES)
        self.index = PrefixIndex.build(sids)
        setting = Setting(256, 32, 1)
        model = SidLM.build(config(setting), SIZES, seed=seed).eval()
        self.scorer = LmScorer(model)
        self.trie = Trie(self.index)
        self.shares = ItemShares.of(self.index)
        self.catalogue = catalogue(len(codes), seed)
        self.filters = self.fresh()
        rng = np.random.default_rng(seed)
        self.prompts = rng.integers(1, model.text_vocab, (5, setting.prompt)).tolist()
        self._next = cycle(self.prompts)

    def fresh(self) -> FilterIndex:
        """Filters of which nothing has been asked."""
        return FilterIndex(self.catalogue, self.index, self.trie, self.shares)

    def forget(self) -> None:
        """Drop what was compiled, and keep the columns."""
        columns = self.filters.masks.columns
        self.filters = self.fresh()
        self.filters.masks.columns = columns

    def search(self, wanted: Filter | None, width: int = BEAM) -> Hits:
        """Return the K best items of the next prompt."""
        allowed = self.filters.allowed(wanted)
        plan = SearchPlan(K, width, False, None, False).within(allowed)
        trie = self.trie.within([None if allowed is None else allowed.masks])
        beams = beam_search(self.scorer, [next(self._next)], trie, plan.width)
        rows = None if allowed is None else allowed.rows
        return to_hits(beams, self.index, K, shares=self.shares, allowed=rows)

    def cold(self, wanted: Filter) -> Hits:
        """Return the same from a filter that was not asked before."""
        self.forget()
        return self.search(wanted)


def one(share: float) -> Filter:
    """A range that allows ``share`` of the items."""
    return read_filter({"must": [{"key": "price", "range": {"lt": share}}]})


def two(world: World, share: float) -> Filter:
    """Two ranges of columns that go together, which allow ``share`` of the items in common."""
    price = world.filters.masks.columns.column("price").numbers.values
    cost = np.array([json.loads(text)["cost"] for text in world.catalogue.column("attributes")])
    bound = float(np.quantile(np.maximum(price, cost), share))
    conditions = [
        {"key": "price", "range": {"lte": bound}},
        {"key": "attributes.cost", "range": {"lte": bound}},
    ]
    return read_filter({"must": conditions})


def name_of(share: float) -> str:
    return f"{100 * share:g}pct".replace(".", "_")


def measure_reads(world: World) -> dict[str, float]:
    """CPU milliseconds of the first read of each column."""
    figures = {}
    for key in COLUMNS:
        with process_cpu_timer() as seconds:
            world.filters.masks.columns.column(key)
        figures[f"read_ms_{key.removeprefix('attributes.')}"] = 1000 * seconds[0]
    return figures


def measure_costs(world: World, filters: dict[str, Filter], repeats: int) -> dict[str, float]:
    """p50 of warm and cold searches, and both over the unfiltered one."""
    variants: dict[str, Callable[[], Any]] = {"unfiltered": lambda: world.search(None)}
    for name, wanted in filters.items():
        variants[f"warm_{name}"] = lambda wanted=wanted: world.search(wanted)
    for wanted in filters.values():
        world.search(wanted)
    warm = interleave(variants, repeats)
    cold: dict[str, Callable[[], Any]] = {"unfiltered": variants["unfiltered"]}
    for name, wanted in filters.items():
        cold[f"cold_{name}"] = lambda wanted=wanted: world.cold(wanted)
    figures = {f"{name}_ms": 1000 * seconds for name, seconds in warm.items()}
    for taken in (warm, interleave(cold, repeats)):
        for name, seconds in taken.items():
            if name != "unfiltered":
                figures[f"{name}_over_unfiltered"] = seconds / taken["unfiltered"]
    return figures


def measure_cover(world: World, repeats: int) -> dict[str, float]:
    """Searches whose beam holds all survivors, over the unfiltered search with beam 128."""
    rng = np.random.default_rng(1)
    variants: dict[str, Callable[[], Any]] = {"unfiltered": lambda: world.search(None)}
    for count in SURVIVORS:
        rows = rng.choice(len(world.catalogue), count, replace=False)
        ids = world.catalogue.item_ids[rows].tolist()
        wanted = read_filter({"must": [{"has_id": ids}]})
        world.search(wanted)
        variants[f"cover_{count}"] = lambda wanted=wanted, n=count: world.search(wanted, n)
    taken = interleave(variants, repeats)
    return {
        f"{name}_over_unfiltered": seconds / taken["unfiltered"]
        for name, seconds in taken.items()
        if name != "unfiltered"
    }


def measure_returned(world: World, filters: dict[str, Filter]) -> dict[str, float]:
    """Share of searches that returned k items, or all that there are; and how many of an unfiltered
    search's items a filter behind it would have left.
    """
    complete, behind = [], {}
    for name, wanted in filters.items():
        allowed = world.filters.allowed(wanted)
        assert allowed is not None
        left = []
        for _ in world.prompts:
            rows = world.search(wanted).rows[0]
            rows = rows[rows >= 0]
            assert allowed.rows[rows].all()
            complete.append(len(rows) == min(K, allowed.n))
            unfiltered = world.search(None).rows[0]
            left.append(int(allowed.rows[unfiltered[unfiltered >= 0]].sum()))
        behind[f"returned_by_a_filter_behind_the_search_{name}"] = float(np.mean(left))
    return {"k_returned_when_k_exist": float(np.mean(complete)), **behind}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=N_SIDS)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    world = World(args.items, args.seed)
    figures = measure_reads(world)
    filters = {name_of(share): one(share) for share in SELECTIVITIES}
    filters |= {f"two_{name_of(share)}": two(world, share) for share in SELECTIVITIES[2:]}
    for name, wanted in filters.items():
        allowed = world.filters.allowed(wanted)
        assert allowed is not None
        figures[f"allowed_{name}"] = allowed.n
    figures |= measure_costs(world, filters, args.repeats)
    figures |= measure_cover(world, args.repeats)
    figures |= measure_returned(world, filters)
    rows = [
        [
            name,
            int(figures[f"allowed_{name}"]),
            round(figures[f"warm_{name}_ms"], 1),
            round(figures[f"warm_{name}_over_unfiltered"], 3),
            round(figures[f"cold_{name}_over_unfiltered"], 3),
            figures[f"returned_by_a_filter_behind_the_search_{name}"],
        ]
        for name in filters
    ]
    title = (
        f"{args.items:,} items, beam {BEAM}, k {K}; unfiltered {figures['unfiltered_ms']:.1f} ms"
    )
    header = ["filter", "allowed", "warm ms", "warm/unf.", "cold/unf.", "filter behind returns"]
    print_table(header, rows, title)
    print({key: round(value, 3) for key, value in figures.items() if "cover" in key})
    print({key: round(value, 1) for key, value in figures.items() if "read" in key})
    print("k returned when k exist:", figures["k_returned_when_k_exist"])
    about = {
        "beam": BEAM,
        "k": K,
        "items": args.items,
        "codebook_sizes": SIZES,
        "columns": COLUMNS,
        "cover": COVER,
        "lm": config(Setting(256, 32, 1)).model_dump(),
        "repeats": args.repeats,
        "seed": args.seed,
    }
    print(write_results("filters", about, figures))


if __name__ == "__main__":
    main()
