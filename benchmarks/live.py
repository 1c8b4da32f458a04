"""A live catalogue: changes against a rebuild, how soon they are seen, and unknown items.

    python benchmarks/live.py --folder /tmp/live [--steps 120] [--save]

The demo is run with 200 products and their events left out and fewer steps than it has. Then, over
its bundle: 1,000 adds, updates, patches and retirements one by one, against a catalogue that is
made of the same rows at once; puts over HTTP, each followed by a search for the product's own
title; and the 200 products beside 200 that were trained on. Traffic is simulated.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common import print_table, single_thread, write_results

single_thread()

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from sidar import Retriever, pipeline
from sidar.baselines import Bm25, Dense
from sidar.config import load_config
from sidar.data.catalogue import open_catalogue
from sidar.index import PrefixIndex
from sidar.index.dual_view import Probed
from sidar.pipeline.demo import settings, write_inputs
from sidar.serve.fused import FusedAnswer, ranked_answer
from sidar.serve.live import ItemState, open_items
from sidar.serve.live.encode import ItemEncoder
from sidar.serve.live.searcher import FIELDS, LiveSearcher
from sidar.serve.parts import CatalogueParts
from sidar.serve.request import SearchRequest
from sidar.serve.results import SearchAnswer
from sidar.types import CATALOGUE_SCHEMA, Catalogue

HELD_OUT, CHANGES, PUTS, DEPTH = 200, 1000, 50, 100
#: How an item is looked for: what a request says of ``fuse``; None = a channel alone.
WAYS = {"answer": None, "model": "none"}


def make_run(folder: Path, steps: int) -> Path:
    """Run the demo without ``HELD_OUT`` products of its catalogue and return its run folder."""
    write_inputs(folder / "whole", everything=False, tiny=False)
    inputs = folder / "inputs"
    inputs.mkdir(exist_ok=True)
    for file in (folder / "whole").iterdir():
        if file.name not in ("catalogue.parquet", "events.parquet", "manifest.json"):
            (inputs / file.name).write_bytes(file.read_bytes())
    whole = pq.read_table(folder / "whole/catalogue.parquet")
    held = np.random.default_rng(0).choice(whole.num_rows, HELD_OUT, replace=False)
    ids = whole.column("item_id").take(pa.array(np.sort(held)))
    for name in ("catalogue", "events"):
        table = pq.read_table(folder / f"whole/{name}.parquet")
        kept = pc.invert(pc.is_in(table.column("item_id"), value_set=ids))
        pq.write_table(table.filter(kept), inputs / f"{name}.parquet")
    config = settings(everything=False, tiny=False)
    (folder / "sidar.yaml").write_text(yaml.safe_dump(config))
    fewer = [f"sft.steps={steps}", f"sft.validate_every={steps}", f"sft.checkpoint_every={steps}"]
    some = steps // 2
    fewer += [f"align.steps={some}", f"align.validate_every={some}"]
    cfg = load_config(folder / "sidar.yaml", [*fewer, f"align.checkpoint_every={some}"])
    pipeline.run(cfg, only="bundle")
    return Path(cfg.run_dir)


def rebuilt(
    base: Retriever, items: Sequence[Mapping[str, Any]], states: Mapping[str, ItemState]
) -> Retriever:
    """Return a retriever of ``base``'s weights over ``items``, every part made anew of all rows.

    ``states``: of the items that were put, SID and vector, which an embed stage would have in its
    cache; other rows are ``base``'s.
    """
    assert base.fused is not None
    assert base.vectors is not None
    table = pa.Table.from_pylist([dict(item) for item in items], schema=CATALOGUE_SCHEMA)
    catalogue = Catalogue(table, base.catalogue.lineage)
    codes = np.full((len(items), base.sids.n_levels), -1, np.int32)
    lengths = np.zeros(len(items), np.int32)
    vectors = np.zeros((len(items), base.vectors.items.shape[1]), base.vectors.items.dtype)
    for row, item in enumerate(items):
        state = states.get(item["item_id"])
        put = state is not None and state.encoded
        sid = state.codes if put else base.sids.tuple_of(row)
        vectors[row] = state.vector if put else base.vectors.items[row]
        if item["alive"]:
            codes[row, : len(sid)], lengths[row] = sid, len(sid)
    sids = replace(base.sids, codes=codes, lengths=lengths)
    counts = _longer(base.fused.model.counts, len(items))
    by_row = [
        None if values is None else _longer(values, len(items))
        for values in (base.index.prior, base.index.counts)
    ]
    index = PrefixIndex.build(sids, *by_row)
    lexical = Bm25(catalogue, base.fused.lexical.params)
    dense = base.fused.dense
    if isinstance(dense, Probed):
        dense = replace(dense, index=dense.index.with_items(vectors, alive=catalogue.alive))
    else:
        dense = Dense(vectors, dense.embedder, alive=catalogue.alive)
    model = base.fused.model.over(counts, catalogue.alive)
    ranked = base.fused.ranked
    if ranked is not None:
        ranked = ranked_answer(ranked.ranker, model, index, catalogue, lexical, vectors)
    fused = FusedAnswer(lexical, dense, model, base.fused.reranked, ranked, base.fused.default)
    of_items = replace(base.vectors, items=vectors)
    return base.over(CatalogueParts(index, sids, catalogue, of_items, fused))


def _longer(values: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate([values, np.zeros(n - len(values), values.dtype)])


def requests_of(
    model: Retriever, queries: Sequence[str], filters: Sequence[str], facets: tuple[str, ...]
) -> list[SearchRequest]:
    """Searches of every way to fuse, alone and under each filter, and filters without a query."""
    fuses = ["none"]
    if model.fused is not None:
        fuses += ["memory"] + ["ranker"] * (model.fused.ranked is not None)
    asked = [
        SearchRequest(query=query, k=50, fuse=fuse, filter=text, facets=facets)
        for query in queries
        for fuse in fuses
        for text in (None, *filters)
    ]
    return asked + [SearchRequest(query="", k=50, filter=f, facets=facets) for f in filters]


def share_equal(
    live: Retriever, whole: Retriever, asked: Sequence[SearchRequest]
) -> dict[str, float]:
    """Return the share of equal answers, by channel: all of an answer that depends on its items."""
    same: dict[str, list[bool]] = {}
    for request in asked:
        pair = [answered(model, request) for model in (live, whole)]
        name = request.fuse or "browse"
        same.setdefault(name, []).append(pair[0] == pair[1])
    queries = sorted({request.query for request in asked if request.query})
    for name in ("bm25", "dense"):
        hits = [channel_hits(model, name, queries) for model in (live, whole)]
        rows = np.array_equal(hits[0].rows, hits[1].rows)
        same[name] = [rows and np.array_equal(hits[0].scores, hits[1].scores)]
    return {name: float(np.mean(values)) for name, values in same.items()}


def answered(model: Retriever, request: SearchRequest) -> SearchAnswer | str:
    """The answer without what depends on the moment, or the words of the error."""
    try:
        answer = model.answer([request])[0]
    except ValueError as error:  # a filter that the catalogue does not have
        return str(error)
    return replace(answer, timing_ms={}, catalogue_version=0)


def channel_hits(model: Retriever, name: str, queries: Sequence[str]):
    """The hits of a text channel of the fused answer."""
    if name == "bm25":
        return model.fused.lexical.search(queries, DEPTH)
    return model.fused.dense.search_vectors(model.vectors.search(queries), DEPTH)


@dataclass
class Changing:
    """A live catalogue beside the plain list of its items, which ``step`` changes alike."""

    live: LiveSearcher
    want: dict[str, dict[str, Any]]  # by id, in the order of the rows
    pool: list[dict[str, Any]]  # what new items say
    rng: np.random.Generator
    seconds: list[float] = field(default_factory=list)

    def step(self) -> None:
        """Add, replace, patch or retire one item."""
        kind = self.rng.choice(["add", "replace", "patch", "retire"])
        alive = [item_id for item_id, item in self.want.items() if item["alive"]]
        chosen = str(self.rng.choice(alive))
        number = len(self.seconds)
        if kind in ("add", "replace"):
            item = self.pool[number % len(self.pool)]
            name = f"live-{number}" if kind == "add" else chosen
            item = {key: item[key] for key in FIELDS} | {"item_id": name, "price": float(number)}
            self._timed(lambda: self.live.put([item]))
            self.want[name] = item | {"alive": True}
        elif kind == "patch":
            fields = {"price": 100.0 + number, "in_stock": bool(number % 2)}
            self._timed(lambda: self.live.patch({chosen: fields}))
            self.want[chosen] = self.want[chosen] | fields
        else:
            self._timed(lambda: self.live.retire([chosen]))
            self.want[chosen] = self.want[chosen] | {"alive": False}

    def _timed(self, change) -> None:
        started = time.perf_counter()
        change()
        self.seconds.append(time.perf_counter() - started)


def changes(run: Path, held: list[dict[str, Any]], folder: Path) -> dict[str, float]:
    """Make ``CHANGES`` changes one by one and hold every channel against a rebuild."""
    base = Retriever.load(run / "bundle", precision="fp32")
    whole = open_catalogue(run / "data" / "catalogue.arrow")  # with the texts
    want = {item["item_id"]: item for item in whole.table.to_pylist()}
    items = open_items(folder / "changes.db")
    live = LiveSearcher(base, items, ItemEncoder.open(run / "bundle", base.vectors.embedder))
    changing = Changing(live, want, held, np.random.default_rng(1))
    queries = [*base.examples[:6], *(item["title"] for item in held[:6])]
    facets = ("brand", "in_stock")
    filters = ["price < 30", "in_stock = true AND price > 100", "NOT brand = nobody"]
    asked = requests_of(base, queries, filters, facets)
    for number in range(CHANGES):
        changing.step()
        if number % 50 == 0:  # so that columns are read and carried on
            live.answer([asked[-1], asked[1]])
    states, _ = items.read(base.hash)
    made = rebuilt(base, list(want.values()), {state.item_id: state for state in states})
    shares = share_equal(live.now, made, asked)
    items.close()
    figures = {f"equal_{name}": share for name, share in shares.items()}
    return figures | {
        "equal_to_rebuild": min(shares.values()),
        "changes": float(CHANGES),
        "seconds_per_change_median": statistics.median(changing.seconds),
        "seconds_per_change_p99": float(np.quantile(changing.seconds, 0.99)),
    }


def puts(run: Path, held: list[dict[str, Any]], folder: Path) -> dict[str, float]:
    """Put items over HTTP and search each for its title until it is among the first ten."""
    import hashlib

    from fastapi.testclient import TestClient

    from sidar.config.serve import KeyConfig, ServeConfig
    from sidar.serve import create_app
    from sidar.serve.engine.copies import load_copies

    items = open_items(folder / "puts.db")
    key = KeyConfig(name="w", sha256=hashlib.sha256(b"w").hexdigest(), role="write")
    app = create_app(load_copies(run / "bundle", items=items)[0], config=ServeConfig(keys=[key]))
    waits, took = [], []
    with TestClient(app, headers={"Authorization": "Bearer w"}) as client:
        for item in held[:PUTS]:
            sent = {name: item[name] for name in ("title", "text", "category", "brand", "price")}
            started = time.perf_counter()
            body = {"items": [sent | {"item_id": f"put-{item['item_id']}"}]}
            assert client.put("/v1/items", json=body).status_code == 200
            answered = time.perf_counter()
            took.append(answered - started)
            asked = {"query": item["title"][:512], "k": 10}
            while True:
                hits = client.post("/v1/search", json=asked).json()["hits"]
                if f"put-{item['item_id']}" in [hit["item_id"] for hit in hits]:
                    break
                if time.perf_counter() - answered > 10:
                    break
            waits.append(time.perf_counter() - answered)
    items.close()
    return {
        "visible_after_put_s_max": max(waits),
        "visible_after_put_s_median": statistics.median(waits),
        "put_s_median": statistics.median(took),
    }


def found(run: Path, held: list[dict[str, Any]], folder: Path) -> dict[str, float]:
    """Return the share of products that come within the first ``DEPTH`` for their own title."""
    base = Retriever.load(run / "bundle")
    items = open_items(folder / "found.db")
    live = LiveSearcher(base, items, ItemEncoder.open(run / "bundle", base.vectors.embedder))
    rows = np.flatnonzero(base.catalogue.alive)
    rows = np.random.default_rng(2).choice(rows, len(held), replace=False)
    trained = [base.catalogue.item(row) for row in rows]
    live.put(held)
    figures = {}
    for name, products in (("held_out", held), ("trained", trained)):
        titles = [item["title"] for item in products]
        ids = [item["item_id"] for item in products]
        for way, fuse in WAYS.items():
            asked = [SearchRequest(query=title, k=DEPTH, fuse=fuse) for title in titles]
            answers = [live.answer([request])[0] for request in asked]
            hit = [
                item_id in {result.item_id for result in answer.results}
                for item_id, answer in zip(ids, answers, strict=True)
            ]
            figures[f"{name}_found_{DEPTH}_{way}"] = float(np.mean(hit))
        own = live.now.catalogue.rows(ids)
        for way in ("bm25", "dense"):
            hits = channel_hits(live.now, way, titles)
            figures[f"{name}_found_{DEPTH}_{way}"] = float(
                (hits.rows == own[:, None]).any(1).mean()
            )
    items.close()
    return figures


def held_out(folder: Path) -> list[dict[str, Any]]:
    """The products that the run was made without."""
    trained = set(pq.read_table(folder / "inputs/catalogue.parquet")["item_id"].to_pylist())
    whole = pq.read_table(folder / "whole/catalogue.parquet").to_pylist()
    products = [item for item in whole if item["item_id"] not in trained]
    return [{"item_id": item["item_id"], **{n: item.get(n) for n in FIELDS}} for item in products]


def some_products(run: Path) -> list[dict[str, Any]]:
    """Products of a run's own catalogue, of which new ones are made."""
    table = open_catalogue(run / "data" / "catalogue.arrow").table
    chosen = np.random.default_rng(0).choice(table.num_rows, HELD_OUT, replace=False)
    return table.take(pa.array(chosen)).to_pylist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the run is, or is made")
    parser.add_argument("--run", type=Path, help="a whole demo instead: no unknown products")
    parser.add_argument("--steps", type=int, default=120, help="of SFT; half of them of alignment")
    parser.add_argument("--save", action="store_true", help="write results/live.json")
    options = parser.parse_args()
    if options.run is not None:
        run, held = options.run, some_products(options.run)
    else:
        run = options.folder / "runs" / "demo"
        if not (run / "bundle").is_dir():
            run = make_run(options.folder, options.steps)
        held = held_out(options.folder)
    with tempfile.TemporaryDirectory() as name:
        figures = changes(run, held, Path(name)) | puts(run, held, Path(name))
        if options.run is None:
            figures |= found(run, held, Path(name))
    print_table(("figure", "value"), [(n, f"{value:.4f}") for n, value in figures.items()])
    if options.save:
        config: dict[str, Any] = {"changes": CHANGES, "puts": PUTS}
        note = "the demo's run; simulated traffic"
        if options.run is None:
            config |= {"held_out": HELD_OUT, "sft_steps": options.steps}
            note = "the demo without 200 products, fewer steps than it has; simulated traffic"
        write_results("live", config, figures, note=note)


if __name__ == "__main__":
    main()
