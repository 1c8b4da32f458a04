"""Fitting a ranker: learners on one table, the better of them by what the validation day chose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sidar.config import RankerConfig
from sidar.ranker.columns import all_columns, columns_of, names_of
from sidar.ranker.features import FeatureMaker, Pairs, hide_query
from sidar.ranker.lambdamart import LambdaMart
from sidar.ranker.learner import Learner, Table, ideal_dcg, ndcg
from sidar.ranker.requests import labels_of
from sidar.ranker.store import Ranker, Use
from sidar.types import Hits, Json, Request


def table_of(
    maker: FeatureMaker,
    requests: Sequence[Request],
    query_vectors: np.ndarray,
    pairs: Pairs,
    generative: Hits | None,
    weight: np.ndarray,
) -> Table:
    """Return the features and labels of ``requests`` and their candidates.

    ``weight`` (R,) of the requests; choices that are no candidate count in the ideal alone.
    """
    prompts = [request.prompt for request in requests]
    features = maker.table(prompts, query_vectors, pairs, generative)
    alive = maker.known.items.alive
    ideal = [
        ideal_dcg([a for row, a in zip(one.rows, one.actions, strict=True) if alive[row]])
        for one in requests
    ]
    return Table(features, labels_of(pairs, requests), pairs.starts, weight, np.array(ideal))


def unseen_copies(table: Table, levels: int) -> Table:
    """Return ``table`` twice: as it is, and as if nobody had asked its queries before [ours].

    Most logged requests repeat a query, most queries of a shop are new. Trees that have only seen
    the first kind lean on counts, and have little to say where there are none.
    """
    hidden = hide_query(table.features, all_columns(levels))
    copy = Table(hidden, table.labels, table.starts, table.weight, table.ideal)
    return Table.joined([table, copy])


def fit_ranker(
    options: RankerConfig,
    use: Use,
    levels: int,
    train: Table,
    valid: Table,
    *,
    seed: int,
    threads: int = 1,
) -> Ranker:
    """Return the ranker of ``use`` over tables with all columns of SIDs of ``levels`` levels.

    ``ranker.learner: auto`` fits both learners and keeps the one of the higher mean nDCG@10 on
    ``valid``; a tie, and a log without validation requests, go to LambdaMART.
    """
    names = names_of(columns_of(use, levels))
    everything = names_of(all_columns(levels))
    at = [everything.index(name) for name in names]
    train, valid = train.pick(at), valid.pick(at)
    wanted = ["lambdamart", "dcn"] if options.learner == "auto" else [options.learner]
    found: list[Learner] = []
    for name in wanted:
        if name == "lambdamart":
            found.append(LambdaMart.fit(options, names, train, valid, seed=seed, threads=threads))
        else:
            from sidar.ranker.dcn import Dcn  # torch, which trees do not need

            found.append(Dcn.fit(options.dcn, train, valid, seed=seed))
    worth = {one.name: _worth(one, valid) for one in found}
    best = max(found, key=lambda one: np.nan_to_num(worth[one.name], nan=-1.0))
    facts: Json = {
        "depth": options.depth,
        "valid_requests": len(valid),
        "valid_ndcg@10": {name: None if np.isnan(v) else v for name, v in worth.items()},
        **_gains(best, names),
    }
    return Ranker(use, levels, best, facts)


def _worth(learner: Learner, valid: Table) -> float:
    """The mean nDCG@10 on ``valid``; NaN without a request."""
    return float(ndcg(valid, learner.scores(valid.features)).mean()) if len(valid) else np.nan


def _gains(learner: Learner, names: Sequence[str]) -> dict[str, Any]:
    """What each feature brought to the trees, largest first; nothing for another learner."""
    if not isinstance(learner, LambdaMart):
        return {}
    gains = learner.gains()
    order = np.argsort(-gains, kind="stable")
    brought = {names[i]: round(float(gains[i]), 4) for i in order if gains[i] > 0}
    return {"rounds": learner.rounds, "gain": brought}
