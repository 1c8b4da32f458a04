"""One cell: train what it asks for, score it on the requests of a day, and leave figures and
per-query values.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import experiments.alignment.rewards  # noqa: F401  (registers the rewards of a simulation)
from experiments.alignment.answer import Channels, answers
from experiments.raddpo.cell import INVALID_TOLERANCE, keep_cell, train_model
from experiments.raddpo.cell import Context as EvidenceContext
from experiments.raddpo.plan import Cell
from experiments.raddpo.registration import registration
from experiments.raddpo.scoring import Columns, Judge, means, spread, write_values
from experiments.raddpo.sets import Pool, pools
from sidar.data import open_dataset
from sidar.evaluate.slices import subset_by_hash
from sidar.index import PrefixIndex
from sidar.types import Hits, Prompt

#: Items of a ranking that are scored: recall@100 looks no further.
DEPTH = 100


@dataclass
class Context(EvidenceContext):
    """Where a process works. ``fresh``: models that this run makes anew in a folder of its own,
    as a second run of a cell must; all others are those of the bed.
    """

    fresh: dict[str, Path] = field(default_factory=dict)

    def index(self, sizes: str) -> PrefixIndex:
        """The index as a run has it, whose counts share an SID's probability among its items."""
        priors = open_dataset(self.bed.data()).priors()
        return PrefixIndex.build(self.sids(sizes), priors.prior, priors.clicks)

    def model(self, name: str) -> Path:
        return self.fresh.get(name) or super().model(name)


def run_cell(cell: Cell, context: Context) -> dict[str, Any]:
    """Run ``cell`` and write ``<name>.json`` and ``<name>.parquet`` into the context's results;
    return the JSON's content.
    """
    seconds: dict[str, float] = {}
    with _Timer(seconds, "train"):
        report = train_model(cell, context)
    pool = pools(context.bed, cell.pools)[0]
    with _Timer(seconds, "score"):
        columns, facts = _score(cell, context, pool)
    context.results.mkdir(parents=True, exist_ok=True)
    write_values(context.results / f"{cell.name}.parquet", [pool], {pool.name: columns})
    return keep_cell(
        cell,
        context,
        threads=1,
        seconds=seconds,
        figures=means({pool.name: columns}),
        mechanism={},
        train=_train_facts(context.model(cell.name), report),
        **facts,
    )


class _Timer:
    """CPU seconds of a block, as an entry of a dictionary."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._start = time.process_time()

    def __exit__(self, *error: object) -> None:
        self._seconds[self._name] = round(time.process_time() - self._start, 1)


# ---------------------------------------------------------------------- scoring


def _score(cell: Cell, context: Context, pool: Pool) -> tuple[Columns, dict[str, Any]]:
    """Return the per-query columns of a pool, and what else a cell says of its model."""
    from sidar.decode import Beams, to_hits
    from sidar.lm import SidLM
    from sidar.serve.retriever import Retriever

    model = SidLM.from_pretrained(context.scored(cell), device=context.device)
    index = context.index(cell.sizes)
    sids, precision = context.sids(cell.sizes), context.config(cell).align.precision
    retriever = Retriever(model, index, sids, context.catalogue, precision=precision)
    beam = registration()["bed"]["beam"]
    judge = Judge(context.catalogue, index, beam)

    def items(beams: Beams, k: int) -> Hits:
        return to_hits(beams, index, k, shares=retriever.shares, allowed=retriever.allowed)

    beams = retriever.beams(pool.prompts, beam)
    columns = judge.score(pool, items(beams, DEPTH).rows, beams.sids)
    if pool.name != "day8":
        return columns, {}
    if cell.kind == "sft":
        prior = open_dataset(context.bed.data()).priors().prior
        best = judge.by_utility(pool, prior, beams.sids)
        columns |= {f"reachable.{name}": values for name, values in best.items()}
    columns |= _invalid(retriever, index, pool)
    channels = Channels.of(context.bed, pool)

    def ask(prompts: Iterable[Prompt]) -> Hits:
        return items(retriever.beams(tuple(prompts), beam), 500)

    rows, fitted = answers(
        context.bed, channels, pool, ask(channels.log.asked.prompts), items(beams, 500), DEPTH
    )
    served = judge.of_items(pool, rows, ["ndcg@10"])
    columns |= {f"answer.{name}": values for name, values in served.items()}
    return columns, {"answer": fitted}


def _invalid(retriever: Any, index: PrefixIndex, pool: Pool) -> Columns:
    """Return the exact invalid mass of some requests with a click, in fp32."""
    from sidar.decode import Trie, invalid_mass
    from sidar.lm.scorer import LmScorer

    clicks = pool.targets["click"].at
    asked = [pool.query_ids[q] for q in clicks.tolist()]
    at = clicks[subset_by_hash(asked, registration()["bed"]["invalid"])]
    scorer = LmScorer(retriever.model, precision="fp32")
    prompts = [pool.prompts[q] for q in at.tolist()]
    tokens = retriever.model.prompts.encode_batch(prompts, retriever.sids)
    mass = invalid_mass(scorer, tokens, Trie(index, scorer.device), tolerance=INVALID_TOLERANCE)
    return {"invalid.mass": spread(mass, at, len(pool))}


def _train_facts(model: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a training's validations, and each scalar of its log as the mean of the first and of
    the last quarter of the records.
    """
    rows = [json.loads(line) for line in (model / "log.jsonl").read_text().splitlines()]
    train = [row for row in rows if row["kind"] == "train"]
    quarter = max(1, len(train) // 4)
    keep = ("loss", "gradient_ratio", "counts", "best", "final")
    return {
        **{name: report[name] for name in keep if name in report},
        "steps": max((row["step"] for row in rows), default=0),
        "valid": [_numbers(row) for row in rows if row["kind"] == "valid"],
        "log": {"first": _mean(train[:quarter]), "last": _mean(train[-quarter:])},
    }


#: Scalars of a log that a second run on another machine or hour does not repeat.
_CLOCK = ("seconds", "examples_per_s", "tokens_per_s")


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in row.items()
        if isinstance(value, int | float) and name not in _CLOCK
    }


def _mean(rows: list[dict[str, Any]]) -> dict[str, float]:
    names = sorted({name for row in rows for name in _numbers(row)})
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
