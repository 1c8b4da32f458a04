"""From rankings to per-query values: the columns of a cell's Parquet file.

Items come from the same beam as SIDs: SIDs in beam order, inside an SID by the prior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.raddpo.sets import Pool, Target
from sidar.evaluate.measures.expected import GroupRanking, expected_scores
from sidar.evaluate.measures.metrics import score_ranking
from sidar.evaluate.measures.oracle import expand, oracle_sids, reachable_oracle
from sidar.evaluate.measures.truth import Truth
from sidar.evaluate.scorer import sid_numbers
from sidar.evaluate.slices import first_occurrences
from sidar.index import PrefixIndex
from sidar.types import Catalogue, EvalSet, Hits

SID = ("mrr", "recall@8", "recall@64", "recall@128")
ITEM = ("ndcg@10", "recall@10", "recall@100", "mrr")
GRADED = ("ndcg@10",)
#: Held-out sets know their whole relevant set, so R-precision is defined there.
HELD_OUT_ITEM = ("ndcg@10", "rprec", "recall@10", "recall@100", "mrr")

Columns = dict[str, np.ndarray]


class Judge:
    """Scores rankings of a pool over one catalogue and SID table."""

    def __init__(self, catalogue: Catalogue, index: PrefixIndex, beam: int) -> None:
        self.catalogue, self.beam = catalogue, beam
        self.sid_of_row = sid_numbers(index, len(catalogue))

    def score(self, pool: Pool, rows: np.ndarray, sids: np.ndarray | None = None) -> Columns:
        """Every column of ``pool`` for ``rows`` (Q, k) items and ``sids`` (Q, W) SID numbers, best
        first, −1 = none.

        Without ``sids`` (baselines) the SID ranking is the one that the items imply, cut at the
        same width.
        """
        if sids is None:
            sids = first_occurrences(np.where(rows >= 0, self.sid_of_row[rows], -1), self.beam)
        columns: Columns = {}
        for name in pool.targets:
            columns |= self.score_target(pool, name, rows, sids)
        return columns

    def score_target(self, pool: Pool, name: str, rows: np.ndarray, sids: np.ndarray) -> Columns:
        """The columns of one target of ``pool`` (see :meth:`score`)."""
        target = pool.targets[name]
        truth = self._truth(pool, target)
        some_rows, some_sids = rows[target.at], sids[target.at, : self.beam]
        item = GRADED if target.graded else (HELD_OUT_ITEM if name == "" else ITEM)
        found = {f"item.{m}": v for m, v in score_ranking(truth, some_rows, item).items()}
        projected = truth.project(self.sid_of_row)
        measures = GRADED if target.graded else SID
        found |= {f"sid.{m}": v for m, v in score_ranking(projected, some_sids, measures).items()}
        if not target.graded:
            groups = GroupRanking.of_sids(truth, some_sids, self.sid_of_row)
            found["expected.ndcg@10"] = expected_scores(truth, groups, ["ndcg@10"], self.beam)[
                "ndcg@10"
            ]
        before = f"{name}." if name else ""
        return {
            f"{before}{measure}": spread(values, target.at, len(pool))
            for measure, values in found.items()
        }

    def of_items(self, pool: Pool, rows: np.ndarray, measures: Sequence[str]) -> Columns:
        """``<target>.item.<measure>`` of ``rows`` (Q, k) items alone, on the targets of a day."""
        columns: Columns = {}
        for name, target in pool.targets.items():
            found = score_ranking(self._truth(pool, target), rows[target.at], measures)
            columns |= {
                f"{name}.item.{m}": spread(values, target.at, len(pool))
                for m, values in found.items()
            }
        return columns

    def oracle(
        self, pool: Pool, name: str, prior: np.ndarray, ranked: np.ndarray | None = None
    ) -> Columns:
        """Target ``name`` under the order of its own truth: over all SIDs, or over those that
        ``ranked`` reached.
        """
        target = pool.targets[name]
        some = self._eval_set(pool, target)
        if ranked is None:
            best = oracle_sids(some, self.catalogue, self.sid_of_row, prior, self.beam)
        else:
            best = reachable_oracle(
                ranked[target.at, : self.beam], some, self.catalogue, self.sid_of_row, prior
            )
        return self.score_target(pool, name, *self._spread_ranking(pool, target, best, prior))

    def topic(self, pool: Pool) -> Columns:
        """A held-out pool's judged items in random order, in expectation: what knowing the topic
        alone is worth.
        """
        truth = self._truth(pool, pool.targets[""])
        items = expected_scores(truth, GroupRanking.of_pool(truth), HELD_OUT_ITEM)
        projected = truth.project(self.sid_of_row)
        sids = expected_scores(projected, GroupRanking.of_pool(projected), SID, self.beam)
        found = {f"item.{m}": v for m, v in items.items()} | {
            f"sid.{m}": v for m, v in sids.items()
        }
        return {name: values.astype(np.float32) for name, values in found.items()}

    def by_utility(
        self, pool: Pool, prior: np.ndarray, ranked: np.ndarray | None = None
    ) -> Columns:
        """The click target with SIDs in the order of the *true utility*, which no log shows: not
        hindsight.
        """
        target = pool.targets["utility"]
        some = self._eval_set(pool, target)
        if ranked is None:
            best = oracle_sids(some, self.catalogue, self.sid_of_row, prior, self.beam)
        else:
            best = reachable_oracle(
                ranked[target.at, : self.beam], some, self.catalogue, self.sid_of_row, prior
            )
        rows, sids = self._spread_ranking(pool, target, best, prior)
        known = np.zeros(len(pool), bool)
        known[target.at] = True
        clicked = pool.targets["click"].at
        part = replace(pool.targets["click"], at=clicked[known[clicked]])
        return self.score_target(replace(pool, targets={"click": part}), "click", rows, sids)

    def _spread_ranking(
        self, pool: Pool, target: Target, best: np.ndarray, prior: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        hits = expand(best, self.sid_of_row, prior, 2 * self.beam)
        rows = np.full((len(pool), hits.rows.shape[1]), -1, np.int64)
        sids = np.full((len(pool), best.shape[1]), -1, np.int64)
        rows[target.at], sids[target.at] = hits.rows, best
        return rows, sids

    def _eval_set(self, pool: Pool, target: Target) -> EvalSet:
        at = target.at.tolist()
        ids = tuple(pool.query_ids[q] for q in at)
        return EvalSet(pool.name, ids, tuple(pool.prompts[q] for q in at), target.qrels)

    def fused(self, pool: Pool, hits: Hits) -> Columns:
        """The columns of a fusion with the lexical and dense channels, on a held-out pool."""
        target = pool.targets[""]
        scores = score_ranking(
            self._truth(pool, target), hits.rows[target.at], ("ndcg@10", "recall@100")
        )
        return {f"fused.item.{m}": spread(v, target.at, len(pool)) for m, v in scores.items()}

    def objective(self, pool: Pool, hits: Hits, measure: str = "ndcg@10") -> float:
        """Mean of an item measure on a validation pool (clicks, where it is a day): what is tuned
        by it.
        """
        target = pool.targets["" if "" in pool.targets else "click"]
        return float(
            score_ranking(self._truth(pool, target), hits.rows[target.at], [measure])[
                measure
            ].mean()
        )

    def _truth(self, pool: Pool, target: Target) -> Truth:
        ids = [pool.query_ids[q] for q in target.at.tolist()]
        return Truth.of_catalogue(target.qrels, ids, self.catalogue, target.relevant)


def spread(values: np.ndarray, at: np.ndarray, size: int) -> np.ndarray:
    """(size,) float32 with ``values`` at ``at``, NaN elsewhere."""
    out = np.full(size, np.nan, dtype=np.float32)
    out[at] = values
    return out


def write_values(path: Path, pools: Sequence[Pool], columns: Mapping[str, Columns]) -> None:
    """One Parquet file per cell: ``set``, ``query_id`` and the union of all columns, NaN where
    undefined.
    """
    names = list(dict.fromkeys(name for each in columns.values() for name in each))
    parts = []
    for pool in pools:
        nothing = np.full(len(pool), np.nan, dtype=np.float32)
        values = {
            name: np.asarray(columns[pool.name].get(name, nothing), dtype=np.float32)
            for name in names
        }
        parts.append(
            pa.table({"set": [pool.name] * len(pool), "query_id": list(pool.query_ids), **values})
        )
    tmp = path.with_name(f".{path.name}.tmp")
    pq.write_table(
        pa.concat_tables(parts), tmp, compression="zstd", compression_level=9, use_dictionary=True
    )
    tmp.replace(path)


def means(columns: Mapping[str, Columns]) -> dict[str, float]:
    """``<set>.<column>`` → mean over the queries that have it."""
    return {
        f"{name}.{column}": float(np.nanmean(values.astype(np.float64)))
        for name, each in columns.items()
        for column, values in each.items()
        if np.isfinite(values).any()
    }
