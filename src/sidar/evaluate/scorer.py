"""One system on one set: every measure of the table, put into the per-query values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sidar.baselines import SidSystem, System
from sidar.config import Config
from sidar.evaluate.measures.expected import GroupRanking, expected_scores
from sidar.evaluate.measures.metrics import score_ranking
from sidar.evaluate.measures.plugin_metrics import score_metrics
from sidar.evaluate.measures.truth import Truth
from sidar.evaluate.perquery import PerQuery
from sidar.evaluate.slices import CLASSES, SLICED, first_occurrences, order_by_hash, query_cluster
from sidar.types import Catalogue, EvalSet, Hits, Json

#: Cutoffs of the recall curves, of items and of SIDs.
CURVE = (1, 2, 5, 10, 20, 50, 100, 200, 500)
SID_CURVE = (1, 2, 4, 8, 16, 32, 64, 128)
ITEM = ("ndcg@10", "rprec", "mrr", "hit@10", "hit@100", "hit@500", *(f"recall@{k}" for k in CURVE))
EXPECTED = ("ndcg@10", "recall@10", "recall@100", "recall@500", "mrr")
SID = ("mrr", "hit@8", "hit@64", "hit@128", *(f"recall@{k}" for k in SID_CURVE))
COVERAGE = (10, 100)
#: Names that systems give their invalid rates, and how the files call them.
INVALID = {
    "invalid_mass": "mass",
    "free_invalid@10": "free@10",
    "free_invalid@128": "free@128",
    "free_not_code@10": "not_code@10",
}
TOPIC_ORACLE = "topic oracle"
#: Labels of a log set's queries: a positive of the same query before the set's window, or none.
SEEN = ("seen", "unseen")


class Priors(Protocol):
    """Training-day counts by catalogue row (``data``'s priors.parquet)."""

    @property
    def clicks(self) -> np.ndarray: ...

    def popularity(self) -> np.ndarray:
        """(N,) labels, each of ``slices.CLASSES``."""


class Index(Protocol):
    """What scoring needs of a :class:`sidar.index.PrefixIndex`."""

    @property
    def n_sids(self) -> int: ...

    @property
    def codebook_sizes(self) -> tuple[int, ...]: ...

    @property
    def density(self) -> float: ...

    @property
    def codes(self) -> Sequence[np.ndarray]: ...

    @property
    def rows_start(self) -> np.ndarray: ...

    @property
    def rows(self) -> np.ndarray: ...

    @property
    def table(self) -> np.ndarray:
        """(n_sids, L) codes of each SID number."""


def relevance_threshold(eval_set: EvalSet) -> float:
    """Grade from which an item counts for binary measures: 1 ("Exact") on real judged sets, else
    any positive one.
    """
    top = max(
        (grade for judged in eval_set.qrels.values() for grade in judged.values()), default=0.0
    )
    return 1.0 if eval_set.origin == "real" and top >= 1 else 0.0


def sid_numbers(index: Index, n_rows: int) -> np.ndarray:
    """(N,) SID number of each row, −1 for a row without a live SID."""
    numbers = np.full(n_rows, -1, dtype=np.int64)
    numbers[index.rows] = np.repeat(np.arange(index.n_sids), np.diff(index.rows_start))
    return numbers


@dataclass
class Job:
    """One set, opened: its truth at both levels and what is known of its queries."""

    eval_set: EvalSet
    truth: Truth
    sid_truth: Truth | None
    slices: dict[str, Truth]
    queries: list[Json]
    facts: Json


class Scorer:
    """Puts the measures of one system on one set into the per-query values."""

    def __init__(
        self, catalogue: Catalogue, priors: Priors, index: Index | None, cfg: Config
    ) -> None:
        self.catalogue, self.index, self.cfg = catalogue, index, cfg
        self.sid_of_row = None if index is None else sid_numbers(index, len(catalogue))
        self.classes = np.asarray(priors.popularity())

    def open(self, eval_set: EvalSet) -> Job:
        threshold = relevance_threshold(eval_set)
        truth = Truth.of_catalogue(eval_set.qrels, eval_set.query_ids, self.catalogue, threshold)
        queries = [
            {
                "set": eval_set.name,
                "query_id": query_id,
                "query": prompt.query,
                # no text: every request is its own cluster
                "cluster": query_cluster(prompt.query) or query_id,
                "labels": json.dumps(
                    {name: str(labels[q]) for name, labels in eval_set.slices.items()}
                ),
            }
            for q, (query_id, prompt) in enumerate(
                zip(eval_set.query_ids, eval_set.prompts, strict=True)
            )
        ]
        facts = {
            "origin": eval_set.origin,
            "queries": len(eval_set),
            "clusters": len({row["cluster"] for row in queries}),
            "relevant_from": threshold,
            "relevant_per_query": float(truth.n_relevant.mean()) if len(eval_set) else 0.0,
            "without_relevant": int((truth.n_relevant == 0).sum()),
            "items_without_sid": None if self.sid_of_row is None else self._unreachable(truth),
            "coverage": {},
            "invalid_sampled": {},
        }
        return Job(
            eval_set,
            truth,
            None if self.sid_of_row is None else truth.project(self.sid_of_row),
            {name: truth.restrict(self.classes == name) for name in CLASSES},
            queries,
            facts,
        )

    def _unreachable(self, truth: Truth) -> int:
        """Relevant judgments of items that have no SID (or are not in the catalogue at all)."""
        assert self.sid_of_row is not None
        number = np.full(truth.size, -1)
        number[: len(self.sid_of_row)] = self.sid_of_row
        return int((truth.is_relevant(truth.grades) & (number[truth.things] < 0)).sum())

    def score(
        self, values: PerQuery, job: Job, name: str, hits: Hits, system: System | None
    ) -> None:
        """All measures of ``hits``; ``system`` is None for a fusion, which has no
        beam of its own.
        """
        rows = hits.rows[:, : self.cfg.evaluate.depth]
        self._score_items(values, job, name, rows)
        if self.sid_of_row is None or job.sid_truth is None:
            return
        if isinstance(system, SidSystem):
            self._score_ranked_sids(values, job, name, system, depth=rows.shape[1])
        else:
            implied = first_occurrences(
                np.where(rows >= 0, self.sid_of_row[rows], -1), self.cfg.evaluate.depth
            )
            set_name, ids = job.eval_set.name, job.eval_set.query_ids
            values.add(set_name, name, "sid", self._sid_scores(job, implied), ids)

    def _score_items(self, values: PerQuery, job: Job, name: str, rows: np.ndarray) -> None:
        """Add the measures of ranked items (Q, k), and how many of each popularity class."""
        set_name, ids = job.eval_set.name, job.eval_set.query_ids
        values.add(set_name, name, "item", score_ranking(job.truth, rows, ITEM), ids)
        of_plugins = score_metrics(self.cfg.evaluate, job.truth, rows)
        values.add(set_name, name, "item", of_plugins, ids)
        values.add(set_name, name, "items", {"returned": (rows >= 0).sum(axis=1)}, ids)
        kinds = np.where(rows >= 0, self.classes[rows], "")
        by_class = {f"returned[{label}]": (kinds == label).sum(axis=1) for label in CLASSES}
        values.add(set_name, name, "items", by_class, ids)
        for label, truth in job.slices.items():
            some = np.flatnonzero(truth.n_relevant > 0)
            scores = {
                f"{measure}[{label}]": of_all[some]
                for measure, of_all in score_ranking(truth, rows, SLICED).items()
            }
            values.add(set_name, name, "item", scores, [ids[q] for q in some])
        alive = max(int(self.catalogue.alive.sum()), 1)
        job.facts["coverage"][name] = {
            f"@{k}": len(np.setdiff1d(rows[:, :k], [-1])) / alive for k in COVERAGE
        }

    def _score_ranked_sids(
        self, values: PerQuery, job: Job, name: str, system: SidSystem, depth: int
    ) -> None:
        """Add the measures of the SIDs that ``system`` ranks, and of what it writes wrongly."""
        assert self.sid_of_row is not None
        set_name, ids = job.eval_set.name, job.eval_set.query_ids
        ranked, logp = system.sid_ranking(job.eval_set.prompts, self.cfg.decode.beam)
        values.add(set_name, name, "sid", self._sid_scores(job, ranked), ids)
        order = self._by_equal_shares(ranked, logp)
        groups = GroupRanking.of_sids(job.truth, order, self.sid_of_row)
        scores = expected_scores(job.truth, groups, EXPECTED, depth)
        values.add(set_name, name, "expected", scores, ids)
        asked = order_by_hash(ids)[: self.cfg.evaluate.invalid_queries]
        rates = system.invalid(
            [job.eval_set.prompts[q] for q in asked], self.cfg.evaluate.invalid_seconds
        )
        if not rates:
            return
        named = {
            INVALID.get(key, key): np.asarray(rate, dtype=np.float64) for key, rate in rates.items()
        }
        # the first ones, where its time was up
        at = asked[: len(next(iter(named.values())))]
        values.add(set_name, name, "invalid", named, [ids[q] for q in at])
        job.facts["invalid_sampled"][name] = {"asked": len(asked), "measured": len(at)}

    def _by_equal_shares(self, ranked: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """(Q, W) SIDs in the order of log π(SID) − log(its items): where the items of an SID share
        it equally.
        """
        assert self.index is not None
        size = np.diff(self.index.rows_start)[np.maximum(ranked, 0)]
        value = np.where(ranked >= 0, scores - np.log(np.maximum(size, 1)), -np.inf)
        return np.take_along_axis(ranked, np.argsort(-value, axis=1, kind="stable"), axis=1)

    def _sid_scores(self, job: Job, ranked: np.ndarray) -> dict[str, np.ndarray]:
        """SID measures of rankings cut at the beam of SID columns, the same for every system."""
        assert job.sid_truth is not None
        return score_ranking(job.sid_truth, ranked[:, : self.cfg.decode.beam], SID)

    def split_by_seen(self, values: PerQuery, job: Job) -> list[Job]:
        """Add the sets ``<set>/seen`` and ``<set>/unseen`` to ``values``; empty where either has no
        query.
        """
        name, labels = job.eval_set.name, job.eval_set.slices.get("query")
        if labels is None or not all((labels == label).any() for label in SEEN):
            return []
        parts = []
        for label in SEEN:
            at = np.flatnonzero(labels == label)
            inside = {job.eval_set.query_ids[q] for q in at}
            values.copy(name, f"{name}/{label}", inside)
            ids = tuple(job.eval_set.query_ids[q] for q in at)
            prompts = tuple(job.eval_set.prompts[q] for q in at)
            small = EvalSet(
                f"{name}/{label}", ids, prompts, job.eval_set.qrels, job.eval_set.origin
            )
            queries = [
                {**row, "set": small.name} for row in job.queries if row["query_id"] in inside
            ]
            facts = {
                **job.facts,
                "queries": len(at),
                "clusters": len({row["cluster"] for row in queries}),
                "relevant_per_query": float(job.truth.n_relevant[at].mean()),
                "without_relevant": int((job.truth.n_relevant[at] == 0).sum()),
                "coverage": {},
                "invalid_sampled": {},
                "part_of": name,
            }
            parts.append(Job(small, job.truth, None, {}, queries, facts))
        return parts

    def score_oracle(self, values: PerQuery, job: Job) -> None:
        """The topic oracle: expected values of the judged pool in random order, exact
        (docs/evaluation.md).
        """
        set_name, ids, depth = job.eval_set.name, job.eval_set.query_ids, self.cfg.evaluate.depth
        pool = GroupRanking.of_pool(job.truth)
        values.add(
            set_name, TOPIC_ORACLE, "item", expected_scores(job.truth, pool, ITEM, depth), ids
        )
        values.add(set_name, TOPIC_ORACLE, "items", {"returned": pool.sizes[:, 0]}, ids)
        if job.sid_truth is not None:
            sids = GroupRanking.of_pool(job.sid_truth)
            scores = expected_scores(job.sid_truth, sids, SID, self.cfg.decode.beam)
            values.add(set_name, TOPIC_ORACLE, "sid", scores, ids)
