"""The embedded sample: 6,764 real products and 150 judged queries of the Shopping Queries Dataset
(ESCI, US).

Made by ``scripts/build_sample.py``; source, licence and citation in ``NOTICE.md`` beside this file.
The judged queries measure; they never train (docs/evaluation.md). The product field that gives the
judged sets away is not here.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from sidar.data.catalogue import found
from sidar.data.sample.overlap import TOO_SIMILAR, Overlap, jaccard, normal_tokens
from sidar.types import CATALOGUE_SCHEMA, Catalogue, EvalSet, Prompt, Qrels

__all__ = [
    "HALVES",
    "TOO_SIMILAR",
    "Overlap",
    "extra_queries",
    "jaccard",
    "judged",
    "judged_queries",
    "load_catalogue",
    "normal_tokens",
    "write_inputs",
]

Half = Literal["dev", "test"]

#: Judged queries per half; the split ranks them by the sha256 of their text.
HALVES: dict[str, int] = {"dev": 50, "test": 100}

_FOLDER = Path(__file__).parent


@cache
def load_catalogue() -> Catalogue:
    """The 6,764 products in :data:`~sidar.types.CATALOGUE_SCHEMA`, ordered by ``item_id``.

    252 products have no category (an empty path), 4,774 no price (null). ``attributes`` is JSON
    with ``color``, ``rating`` (1 to 5) and ``rating_count`` where the source has them. ``created``
    is null: the source has no dates.
    """
    table = pq.read_table(_FOLDER / "catalogue.parquet", schema=CATALOGUE_SCHEMA)
    return found(table)


@cache
def judged(half: Half) -> EvalSet:
    """50 ``dev`` or 100 ``test`` queries with human grades: exact 1, substitute .1, complement .01,
    irrelevant 0.

    Raises ``ValueError`` for another name.
    """
    if half not in HALVES:
        raise ValueError(f"half must be 'dev' or 'test', got {half!r}")
    queries = [
        row for row in pq.read_table(_FOLDER / "queries.parquet").to_pylist() if row["half"] == half
    ]
    ids = tuple(row["query_id"] for row in queries)
    qrels: Qrels = {query_id: {} for query_id in ids}
    for row in pq.read_table(_FOLDER / "qrels.parquet").to_pylist():
        if row["query_id"] in qrels:
            qrels[row["query_id"]][row["item_id"]] = row["grade"]
    return EvalSet(
        f"judged-{half}", ids, tuple(Prompt(row["query"]) for row in queries), qrels, origin="real"
    )


def judged_queries() -> list[str]:
    """The text of all 150 judged queries: what no training or generated query may resemble."""
    return pq.read_table(_FOLDER / "queries.parquet").column("query").to_pylist()


def extra_queries() -> list[str]:
    """Real shoppers' queries without labels, none within Jaccard .8 of a judged one.

    Most have no good product in the sample: unlabelled text and off-catalogue queries, not training
    labels.
    """
    return pq.read_table(_FOLDER / "extra_queries.parquet").column("query").to_pylist()


def write_inputs(folder: str | Path) -> None:
    """Write the sample as a user's files: ``catalogue.parquet``,
    ``judged_{dev,test}.{queries,qrels}.tsv``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table: pa.Table = load_catalogue().table
    pq.write_table(table, folder / "catalogue.parquet", compression="zstd")
    for half in ("dev", "test"):
        evalset = judged(half)
        queries = [
            f"{q}\t{p.query}" for q, p in zip(evalset.query_ids, evalset.prompts, strict=True)
        ]
        grades = [
            f"{q}\t{item}\t{grade:g}"
            for q in evalset.query_ids
            for item, grade in evalset.qrels[q].items()
        ]
        _write_tsv(folder / f"judged_{half}.queries.tsv", "query_id\tquery", queries)
        _write_tsv(folder / f"judged_{half}.qrels.tsv", "query_id\titem_id\tgrade", grades)


def _write_tsv(path: Path, header: str, lines: list[str]) -> None:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
