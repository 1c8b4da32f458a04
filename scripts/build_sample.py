#!/usr/bin/env python3
"""Make the embedded sample from the ESCI files of the OpenSearch search-relevance samples.

    python scripts/build_sample.py FOLDER_WITH_ESCI_FILES [OUTPUT_FOLDER]

Reads ``esci_us_ecommerce_shrunk.ndjson.zip``, ``esci_us_judgments.json`` and
``extra_queries_*.csv``; writes ``catalogue.parquet``, ``queries.parquet``, ``qrels.parquet`` and
``extra_queries.parquet``. Two leaks are closed here (docs/evaluation.md): the product field
``query_id`` is never read, and extra queries that resemble a judged one are dropped. Products are
ordered by ``item_id`` because the source's order may follow the judged queries.
"""

from __future__ import annotations

import argparse
import csv
import html
import json
import re
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sidar.data.sample.overlap import Overlap
from sidar.types import CATALOGUE_SCHEMA

GRADES = {
    "100.000": 1.0,
    "10.000": 0.1,
    "1.000": 0.01,
    "0.000": 0.0,
}  # ESCI's exact, substitute, complement, irrelevant
TEXT_CHARS = 900  # keeps the package under 3 MB; longer texts end at a sentence or a word
_TAG = re.compile(r"<[^<>]{0,200}>")


def clean(text: str | None, limit: int | None = None) -> str:
    """One line of plain text, cut at the last sentence (or word) that fits ``limit`` characters."""
    plain = " ".join(_TAG.sub(" ", html.unescape(text or "")).split())
    if limit is None or len(plain) <= limit:
        return plain
    cut = plain[: limit + 1]
    sentence = max(cut.rfind(". "), cut.rfind("! "), cut.rfind("? "))
    return cut[: sentence + 1] if sentence > limit * 0.6 else cut[: cut.rfind(" ")]


def product(raw: dict[str, Any]) -> dict[str, Any]:
    """One catalogue row. ``query_id`` is not looked at."""
    body = " ".join(
        part for part in (clean(raw["bullet_points"]), clean(raw["description"])) if part
    )
    attributes = {
        key: raw[key]
        for key in ("color", "rating", "rating_count")
        if raw.get(key) not in (None, "")
    }
    return {
        "item_id": raw["asin"],
        "title": clean(raw["title"]),
        "text": clean(body, TEXT_CHARS),
        "category": [clean(part) for part in raw["category"]],
        "brand": clean(raw["brand"]) or None,
        "price": raw["price"],
        "image_url": raw["image"],
        "in_stock": True,
        "created": None,
        "attributes": json.dumps(attributes, ensure_ascii=False, sort_keys=True),
        "alive": True,
    }


def read_products(folder: Path) -> pa.Table:
    """All products as a catalogue table, ordered by id."""
    rows = []
    with zipfile.ZipFile(folder / "esci_us_ecommerce_shrunk.ndjson.zip") as archive:
        for name in archive.namelist():
            with archive.open(name) as lines:
                parsed = (json.loads(line) for line in lines if line.strip())
                # the other lines are bulk-index commands
                rows += [product(raw) for raw in parsed if "asin" in raw]
    return pa.Table.from_pylist(
        sorted(rows, key=lambda row: row["item_id"]), schema=CATALOGUE_SCHEMA
    )


def read_judgments(folder: Path) -> tuple[pa.Table, pa.Table]:
    """Queries with their half (the first third by sha256 of the text is dev) and
    graded judgments.
    """
    judged = json.loads((folder / "esci_us_judgments.json").read_text(encoding="utf-8"))[
        "judgmentRatings"
    ]
    judged = [{**entry, "query": " ".join(entry["query"].split())} for entry in judged]
    judged.sort(key=lambda entry: sha256(entry["query"].encode()).hexdigest())
    queries, qrels = [], []
    for rank, entry in enumerate(judged):
        query_id = "esci-" + sha256(entry["query"].encode()).hexdigest()[:8]
        half = "dev" if rank < len(judged) // 3 else "test"
        queries.append({"query_id": query_id, "query": entry["query"], "half": half})
        for rating in sorted(entry["ratings"], key=lambda rating: rating["docId"]):
            qrels.append(
                {
                    "query_id": query_id,
                    "item_id": rating["docId"],
                    "grade": GRADES[rating["rating"]],
                }
            )
    return pa.Table.from_pylist(queries), pa.Table.from_pylist(qrels)


def read_extra_queries(folder: Path, judged: list[str]) -> pa.Table:
    """Unlabelled queries, each once, none that resembles a judged one."""
    overlap = Overlap(judged)
    texts: dict[str, None] = {}
    for path in sorted(folder.glob("extra_queries_*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            texts |= dict.fromkeys(
                " ".join(row["query_string"].split()) for row in csv.DictReader(file)
            )
    kept = [text for text in texts if text and not overlap.is_near(text)]
    print(
        f"extra queries: {len(texts)} distinct, {len(texts) - len(kept)} empty or too near to a "
        "judged one, dropped"
    )
    return pa.table({"query": kept})


def main() -> None:
    """Read the source folder, write the four files, print their sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    default = Path(__file__).resolve().parents[1] / "src" / "sidar" / "data" / "sample"
    parser.add_argument("out", type=Path, nargs="?", default=default)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    products = read_products(args.source)
    queries, qrels = read_judgments(args.source)
    unknown = set(qrels.column("item_id").to_pylist()) - set(products.column("item_id").to_pylist())
    if unknown:
        raise SystemExit(
            f"{len(unknown)} judged products are not in the product file, e.g. {sorted(unknown)[0]}"
        )
    extra = read_extra_queries(args.source, queries.column("query").to_pylist())
    tables = {"catalogue": products, "queries": queries, "qrels": qrels, "extra_queries": extra}
    for name, table in tables.items():
        path = args.out / f"{name}.parquet"
        pq.write_table(table, path, compression="zstd", compression_level=19)
        print(f"{path.name}: {table.num_rows} rows, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
