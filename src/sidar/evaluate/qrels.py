"""Judgments in and out: Parquet, TSV or TREC qrels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sidar.evaluate.runs import file_lines, finite, id_of_trec, trec_id
from sidar.types import PathLike, Qrels

_TREC_SUFFIXES = (".trec", ".qrels", ".txt")


def write_qrels(path: PathLike, qrels: Qrels, *, scale: float = 1.0) -> None:
    """Write judgments as Parquet, TSV (with header) or TREC (``.trec .qrels .txt``), by the suffix.

    TREC grades are whole numbers: graded labels such as .1 and .01 need ``scale=100`` (nDCG does
    not change by it).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    triples = [
        (q, item, grade * scale) for q, judged in qrels.items() for item, grade in judged.items()
    ]
    if path.suffix == ".parquet":
        columns = {"query_id": [t[0] for t in triples], "item_id": [t[1] for t in triples]}
        table = pa.table({**columns, "grade": pa.array([t[2] for t in triples], pa.float64())})
        pq.write_table(table, path)
        return
    trec = path.suffix in _TREC_SUFFIXES
    if not trec and path.suffix != ".tsv":
        raise ValueError(
            f"{path}: judgments are written as .parquet, .tsv or {', '.join(_TREC_SUFFIXES)}"
        )
    lines = [] if trec else ["query_id\titem_id\tgrade"]
    for query_id, item_id, grade in triples:
        if trec:
            whole = round(grade)
            if abs(whole - grade) > 1e-9:
                raise ValueError(
                    f"{path}: query {query_id!r}, item {item_id!r}, grade {grade}: TREC files hold "
                    "whole grades; pass scale=100, or write .tsv or .parquet"
                )
            lines.append(f"{trec_id(query_id)} 0 {trec_id(item_id)} {whole}")
        else:
            if any(mark in part for part in (query_id, item_id) for mark in "\t\r\n"):
                raise ValueError(
                    f"{path}: query {query_id!r}, item {item_id!r}: a TSV id cannot hold tabs or "
                    "newlines"
                )
            lines.append(f"{query_id}\t{item_id}\t{grade!r}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_qrels(path: PathLike) -> Qrels:
    """Read judgments: Parquet or TSV with columns query_id, item_id, grade, or TREC (``query 0 item
    grade``).

    Raises ``ValueError`` naming file and line (row for Parquet): columns,
    a grade that is no number, a pair judged twice.
    """
    path = Path(path)
    qrels: Qrels = {}
    for number, query_id, item_id, text in _judgments(path):
        grade = finite(str(text), path, number, "grade")
        judged = qrels.setdefault(query_id, {})
        if item_id in judged:
            raise ValueError(
                f"{path}:{number}: item {item_id!r} is judged twice for query {query_id!r}"
            )
        judged[item_id] = grade
    return qrels


def _judgments(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """(line, query_id, item_id, grade text) of each judgment in a file."""
    wanted = ("query_id", "item_id", "grade")
    if path.suffix == ".parquet":
        names = pq.read_schema(path).names
        if missing := [name for name in wanted if name not in names]:
            raise ValueError(
                f"{path}: no column {', '.join(missing)}; judgments have {', '.join(wanted)}"
            )
        columns = [pq.read_table(path, columns=[name]).column(0).to_pylist() for name in wanted]
        for number, (query_id, item_id, grade) in enumerate(zip(*columns, strict=True), 1):
            yield number, str(query_id), str(item_id), str(grade)
        return
    trec = path.suffix in _TREC_SUFFIXES
    order: list[int] | None = [0, 2, 3] if trec else None
    width = 4 if trec else 3
    for number, line in file_lines(path):
        parts = line.split() if trec else line.split("\t")
        if order is None:
            if missing := [name for name in wanted if name not in parts]:
                raise ValueError(
                    f"{path}:{number}: the header lacks {', '.join(missing)}; it names "
                    f"{', '.join(wanted)}"
                )
            order, width = [parts.index(name) for name in wanted], len(parts)
            continue
        if len(parts) != width:
            raise ValueError(f"{path}:{number}: {len(parts)} columns where {width} were expected")
        query_id, item_id, grade = (parts[at] for at in order)
        yield (
            (number, id_of_trec(query_id), id_of_trec(item_id), grade)
            if trec
            else (number, query_id, item_id, grade)
        )
