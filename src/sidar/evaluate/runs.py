"""Runs: what every system hands in, as arrays, as ``{query_id: [(item_id, score)]}``, and as TREC
files.

A run's scores are strictly decreasing inside a query, also after rounding to float32: TREC tools
sort by score in that precision and break ties by document id, which would silently reorder equal
scores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from sidar.types import Catalogue, Hits, PathLike, Run


def trec_id(text: str) -> str:
    """``text`` as one word of a TREC file: white space and % percent-encoded.

    Raises ``ValueError`` for an empty id.
    """
    if not text:
        raise ValueError("an id is empty; a TREC file cannot hold it")
    return re.sub(r"[\s%]", lambda match: quote(match[0]), text)


def id_of_trec(word: str) -> str:
    """Undo :func:`trec_id`; codes of anything else than white space and % are left as they stand in
    the file.
    """

    def decoded(match: re.Match[str]) -> str:
        plain = unquote(match[0])
        return plain if all(c == "%" or c.isspace() for c in plain) else match[0]

    return re.sub(r"(?:%[0-9A-Fa-f]{2})+", decoded, word) if "%" in word else word


def _encoded(ids: np.ndarray) -> list[str]:
    """:func:`trec_id` of many ids, each distinct one once."""
    known = {text: trec_id(text) for text in set(ids.tolist())}
    return [known[text] for text in ids.tolist()]


def strict_scores(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """(Q, k) float32 strictly decreasing scores: as given where they are, rank-based (k − rank)
    where a query has ties.

    ``present`` (Q, k) marks the results, which stand first in each row. Raises ``ValueError``
    naming the first query (by its position) whose scores rise or are not finite.
    """
    values = scores.astype(np.float32)
    both = present[:, 1:] & present[:, :-1]
    bad = ((values[:, 1:] > values[:, :-1]) & both).any(axis=1) | (
        ~np.isfinite(values) & present
    ).any(axis=1)
    gaps = (present[:, 1:] & ~present[:, :-1]).any(axis=1)
    if bad.any() or gaps.any():
        at = int((bad | gaps).argmax())
        fault = "scores that rise or are not finite" if bad[at] else "a gap (−1) before a result"
        raise ValueError(
            f"query number {at} of the run has {fault}; rank results best first, −1 only at the end"
        )
    tied = ((values[:, 1:] >= values[:, :-1]) & both).any(axis=1)
    ranks = np.arange(values.shape[1], 0, -1, dtype=np.float32)
    return np.where(tied[:, None], ranks, values)


def check_hits(hits: Hits, n_queries: int, n_rows: int) -> None:
    """Raise ``ValueError`` naming the query where ``hits`` has the wrong shape, an unknown row or a
    row twice.
    """
    rows = hits.rows
    if rows.ndim != 2 or rows.shape != hits.scores.shape or len(rows) != n_queries:
        raise ValueError(
            f"hits have rows {rows.shape} and scores {hits.scores.shape}; want ({n_queries}, k) "
            "both"
        )
    if rows.size and (int(rows.max()) >= n_rows or int(rows.min()) < -1):
        at = int(((rows >= n_rows) | (rows < -1)).any(axis=1).argmax())
        raise ValueError(
            f"query number {at} names a row outside the catalogue of {n_rows} items; rebuild the "
            "index"
        )
    ordered = np.sort(rows, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        at = int(twice.any(axis=1).argmax())
        raise ValueError(f"query number {at} lists row {int(ordered[at, 1:][twice[at]][0])} twice")


def run_from_hits(hits: Hits, query_ids: Sequence[str], catalogue: Catalogue) -> Run:
    """Rows to ids at the edge: ``{query_id: [(item_id, score), …]}``, strictly decreasing.

    Raises ``ValueError`` for shapes that do not fit, unknown or repeated rows, rising scores.
    """
    check_hits(hits, len(query_ids), len(catalogue))
    present = hits.rows >= 0
    scores = strict_scores(hits.scores, present)
    ids = catalogue.item_ids
    return {
        query_id: list(zip(ids[rows[mask]].tolist(), values[mask].tolist(), strict=True))
        for query_id, rows, values, mask in zip(query_ids, hits.rows, scores, present, strict=True)
    }


def hits_from_run(run: Run, query_ids: Sequence[str], catalogue: Catalogue) -> Hits:
    """A run (of another system, say) as Hits: items that the catalogue lacks are left out."""
    kept: list[list[tuple[int, float]]] = []
    for query_id in query_ids:
        results = run.get(query_id, [])
        rows = catalogue.rows(item_id for item_id, _ in results)
        kept.append(
            [
                (row, score)
                for row, (_, score) in zip(rows.tolist(), results, strict=True)
                if row >= 0
            ]
        )
    depth = max(map(len, kept), default=0)
    rows_out = np.full((len(kept), depth), -1, dtype=np.int32)
    scores_out = np.zeros((len(kept), depth), dtype=np.float32)
    for q, found in enumerate(kept):
        rows_out[q, : len(found)] = [row for row, _ in found]
        scores_out[q, : len(found)] = [score for _, score in found]
    return Hits(rows_out, scores_out)


def write_trec_hits(
    path: PathLike, hits: Hits, query_ids: Sequence[str], catalogue: Catalogue, tag: str
) -> None:
    """Write hits as a TREC run (``query Q0 item rank score tag``) without a Python loop over
    results.
    """
    check_hits(hits, len(query_ids), len(catalogue))
    present = hits.rows >= 0
    q, rank = np.nonzero(present)
    queries, items = np.asarray(query_ids, dtype=object)[q], catalogue.item_ids[hits.rows[q, rank]]
    _write_trec(path, queries, items, rank + 1, strict_scores(hits.scores, present)[q, rank], tag)


def write_trec(path: PathLike, run: Run, tag: str = "sidar") -> None:
    """Write a run in TREC format; scores are made strictly decreasing (see :func:`strict_scores`).

    White space in ids is percent-encoded (:func:`trec_id`), and read back by :func:`read_trec`.
    """
    depth = max(map(len, run.values()), default=0)
    scores = np.zeros((len(run), depth))
    present = np.zeros((len(run), depth), dtype=bool)
    for at, results in enumerate(run.values()):
        scores[at, : len(results)] = [score for _, score in results]
        present[at, : len(results)] = True
    q, rank = np.nonzero(present)
    items = np.asarray(
        [item_id for results in run.values() for item_id, _ in results], dtype=object
    )
    names = np.asarray(list(run), dtype=object)
    _write_trec(path, names[q], items, rank + 1, strict_scores(scores, present)[q, rank], tag)


def _write_trec(
    path: PathLike,
    query_ids: np.ndarray,
    item_ids: np.ndarray,
    ranks: np.ndarray,
    scores: np.ndarray,
    tag: str,
) -> None:
    table = pa.table(
        {
            "query": pa.array(_encoded(query_ids), pa.string()),
            "q0": pa.repeat("Q0", len(query_ids)),
            "item": pa.array(_encoded(item_ids), pa.string()),
            "rank": pa.array(ranks, pa.int32()),
            "score": pa.array(scores, pa.float32()),
            "tag": pa.repeat(trec_id(tag), len(query_ids)),
        }
    )
    options = pa_csv.WriteOptions(include_header=False, delimiter=" ", quoting_style="none")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pa_csv.write_csv(table, str(path), options)


def file_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(1-based number, text) of each line of a UTF-8 file that is not blank."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\n")


def read_trec(path: PathLike) -> Run:
    """Read a TREC run, best first. The rank column is ignored, as TREC tools do; ties keep the
    file's order.

    Raises ``ValueError`` naming file and line: wrong columns, a score that is no number, an item
    twice.
    """
    path = Path(path)
    run: Run = {}
    seen: set[tuple[str, str]] = set()
    for number, line in file_lines(path):
        parts = line.split()
        if len(parts) != 6:
            raise ValueError(
                f"{path}:{number}: {len(parts)} columns, a TREC run has 6: query Q0 item rank "
                "score tag"
            )
        query_id, item_id, text = id_of_trec(parts[0]), id_of_trec(parts[2]), parts[4]
        score = finite(text, path, number, "score")
        if (query_id, item_id) in seen:
            raise ValueError(
                f"{path}:{number}: item {item_id!r} is listed twice for query {query_id!r}"
            )
        seen.add((query_id, item_id))
        run.setdefault(query_id, []).append((item_id, score))
    for results in run.values():
        results.sort(key=lambda pair: -pair[1])
    return run


def finite(text: str, path: Path, line: int, what: str) -> float:
    """``text`` as a finite number; ``ValueError`` names file and line otherwise."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ValueError(f"{path}:{line}: {what} {text!r} is not a finite number")
    return value
