"""Preference lists with their truth: what was passed over by mistake, which only a simulator knows.

Truth is said of rows, scores of SIDs.  An SID is a cluster, so a label belongs to a candidate only
after :func:`sidar.lm.candidates.to_candidates` has merged the rows of a list: the labels here
follow the merged candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.data.judgments.heldout import normalised
from sidar.lm.candidates import Candidate
from sidar.lm.prompts import PromptBuilder
from sidar.simulate.intents import EXACT, GRADES
from sidar.train.examples import Example, LogStream
from sidar.train.inputs import Inputs
from sidar.types import SemanticIds

#: SIDs drawn per list that nobody showed: what the model thinks of them tells squeezing from
#: forgetting.
UNRELATED = 2

Codes = tuple[int, ...]


@dataclass(frozen=True)
class LabelledList:
    """A preference list of C candidates, positives first, with truth. Tuples of one entry per
    candidate.

    ``pseudo``: a negative that is truly relevant (any of the rows behind its SID is exact); False
    for positives. ``grade``: true graded relevance, the largest of the rows of its side behind the
    SID.  ``cluster``: the normalised query text, the bootstrap's unit.  ``rows``: the first row
    behind the SID; ``positions``: where that row was shown, 0 = unknown (positives).
    ``unrelated``: SIDs of other items, not among the candidates.  ``negatives_shown``: rows of
    negatives before merging; ``example.counts`` says how many of them were dropped.  ``repeated``:
    rows of negatives whose SID another negative of the list had.
    """

    example: Example
    pseudo: tuple[bool, ...]
    grade: tuple[float, ...]
    cluster: str
    rows: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    unrelated: tuple[Candidate, ...] = ()
    negatives_shown: int = 0
    repeated: int = 0

    @property
    def dropped(self) -> int:
        """Rows of negatives that were left out because a positive has their SID."""
        return self.example.counts.get("negatives_sharing_a_positive_sid", 0)


def labelled_lists(
    data_folder: str | Path,
    sid_folder: str | Path,
    truth_parquet: str | Path,
    builder: PromptBuilder,
    *,
    split: str = "valid",
    limit: int = 384,
    max_positives: int = 8,
    max_negatives: int = 16,
    seed: int = 0,
) -> list[LabelledList]:
    """At most ``limit`` lists of ``split``, evenly spread over it, that have a positive with an SID
    and negatives.

    Raises ``ValueError`` where a list holds an item that ``truth_parquet`` does not know in that
    request (sampled or beam negatives have no truth).
    """
    inputs = Inputs.open(Path(data_folder), Path(sid_folder))
    table = inputs.data.lists(split)
    known = inputs.sids.lengths > 0
    wanted = [
        number
        for number, (right, wrong) in enumerate(
            zip(
                table.column("positives").to_pylist(),
                table.column("negatives").to_pylist(),
                strict=True,
            )
        )
        if known[right].any() and len(wrong)
    ]
    if wanted:
        places = np.unique(np.linspace(0, len(wanted) - 1, min(limit, len(wanted))).astype(int))
        wanted = [wanted[p] for p in places]
    table = table.take(pa.array(wanted, pa.int64()))
    truth = read_truth(
        truth_parquet, table.column("request_id").to_pylist(), inputs.data.catalogue.item_ids
    )
    alive = np.flatnonzero(known & inputs.data.catalogue.alive)
    return label(
        table,
        truth,
        inputs.sids,
        builder,
        max_positives=max_positives,
        max_negatives=max_negatives,
        alive=alive,
        seed=seed,
    )


def read_truth(
    path: str | Path, requests: Sequence[str], item_ids: np.ndarray
) -> dict[tuple[str, int], float]:
    """{(request id, row): true grade} of what these requests showed."""
    found = pq.read_table(
        path,
        columns=["request_id", "item_id", "relevance"],
        filters=[("request_id", "in", list(requests))],
    )
    row_of = {item: row for row, item in enumerate(item_ids)}
    columns = (found.column(name).to_pylist() for name in found.column_names)
    return {
        (request, row_of[item]): grade
        for request, item, grade in zip(*columns, strict=True)
        if item in row_of
    }


def label(
    table: pa.Table,
    truth: dict[tuple[str, int], float],
    sids: SemanticIds,
    builder: PromptBuilder,
    *,
    max_positives: int = 8,
    max_negatives: int = 16,
    alive: np.ndarray | None = None,
    seed: int = 0,
) -> list[LabelledList]:
    """The lists of ``table`` (columns of lists.parquet, each with a positive that has an SID) as
    :class:`LabelledList`.

    ``alive`` (A,) rows that unrelated SIDs are drawn from, evenly; None = every row that has an
    SID. A negative is a pseudo-negative where its relevance is *exact*: the simulator's
    ``pseudo_negative`` for items that were not clicked, and also true of clicked ones that somebody
    hid among the negatives (noise injection). Weights that lists carry (``*_weights``) are left
    out: every model is asked the same.
    """
    table = table.select([name for name in table.column_names if not name.endswith("_weights")])
    stream = LogStream(
        table, sids, builder, max_positives=max_positives, max_negatives=max_negatives, is_list=True
    )
    if len(stream) != table.num_rows:
        raise ValueError(
            f"{stream.dropped} of {table.num_rows} lists have no positive with an SID; leave them "
            "out"
        )
    alive = np.flatnonzero(sids.lengths > 0) if alive is None else alive
    clusters = normalise(table.column("query").to_pylist())
    made = []
    examples = stream.rows(range(len(stream))) if len(stream) else []
    for number, (record, example, cluster) in enumerate(
        zip(table.to_pylist(), examples, clusters, strict=True)
    ):
        right = _behind(record["positives"], sids)
        wrong = {
            codes: rows
            for codes, rows in _behind(record["negatives"], sids).items()
            if codes not in right
        }
        shown_at = dict(
            zip(record["negatives"], record.get("negative_positions") or [], strict=False)
        )
        behind = [(right if c.is_positive else wrong)[c.codes] for c in example.candidates]
        grades = [max(_grade(truth, record["request_id"], row) for row in rows) for rows in behind]
        rng = np.random.default_rng([seed, 7, number])
        drawn = rng.permutation(alive)[: 4 * UNRELATED + len(right) + len(wrong)].tolist()
        others = dict.fromkeys(sids.tuple_of(row) for row in drawn)
        made.append(
            LabelledList(
                example=example,
                pseudo=tuple(
                    not c.is_positive and g >= GRADES[EXACT]
                    for c, g in zip(example.candidates, grades, strict=True)
                ),
                grade=tuple(grades),
                cluster=cluster,
                rows=tuple(rows[0] for rows in behind),
                positions=tuple(
                    0 if c.is_positive else shown_at.get(rows[0], 0)
                    for c, rows in zip(example.candidates, behind, strict=True)
                ),
                unrelated=tuple(Candidate(c) for c in others if c not in right and c not in wrong)[
                    :UNRELATED
                ],
                negatives_shown=len(record["negatives"]),
                repeated=sum(len(rows) - 1 for rows in wrong.values()),
            )
        )
    return made


def normalise(queries: Sequence[str]) -> list[str]:
    """The normalised text of each query, as the data stage compares them; equal strings are the
    same query.
    """
    asked = pa.table(
        {"place": np.arange(len(queries)), "query": pa.array(list(queries), pa.string())}
    )
    with duckdb.connect() as connection:
        connection.register("asked", asked)
        said = connection.execute(
            f"SELECT {normalised('query')} FROM asked ORDER BY place"
        ).fetchall()
    return [text for (text,) in said]


def _behind(rows: Sequence[int], sids: SemanticIds) -> dict[Codes, list[int]]:
    """The rows behind each SID, in the list's order."""
    found: dict[Codes, list[int]] = {}
    for row in rows:
        if codes := sids.tuple_of(row):
            found.setdefault(codes, []).append(row)
    return found


def _grade(truth: dict[tuple[str, int], float], request: str, row: int) -> float:
    if (request, row) not in truth:
        raise ValueError(
            f"request {request} did not show row {row}, so nothing is known of its relevance; "
            "label lists whose negatives were shown (preference.negatives: shown), with the truth "
            "of the same simulation"
        )
    return truth[request, row]
