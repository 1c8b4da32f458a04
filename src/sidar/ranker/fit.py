"""Fitting a ranker: learners on one table, the better of them by what the validation day chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sidar.answer.smoothed import Posterior
from sidar.config import RankerConfig
from sidar.data.cleaning.normalise import normalise_query
from sidar.ranker.columns import all_columns, columns_of, names_of
from sidar.ranker.features import FeatureMaker, Pairs, hide_query
from sidar.ranker.lambdamart import LambdaMart
from sidar.ranker.learner import Learner, Prior, Table, ideal_dcg, ndcg
from sidar.ranker.requests import labels_of
from sidar.ranker.residual import Shrinkage
from sidar.ranker.shrinking import as_unseen, shrink
from sidar.ranker.store import Ranker, Use
from sidar.types import Hits, Json, Prompt, Request


def table_of(
    maker: FeatureMaker,
    requests: Sequence[Request],
    query_vectors: np.ndarray,
    pairs: Pairs,
    generative: Hits | None,
    weight: np.ndarray,
    prior: Prior | None = None,
) -> Table:
    """Return the features and labels of ``requests`` and their candidates.

    ``weight`` (R,) of the requests; choices that are no candidate count in the ideal alone;
    ``prior`` is what the smoothed answer says of the candidates, None = it is not built upon.
    """
    prompts = [request.prompt for request in requests]
    features = maker.table(prompts, query_vectors, pairs, generative)
    alive = maker.known.items.alive
    ideal = [
        ideal_dcg([a for row, a in zip(one.rows, one.actions, strict=True) if alive[row]])
        for one in requests
    ]
    labels = labels_of(pairs, requests)
    return Table(features, labels, pairs.starts, weight, np.array(ideal), prior)


def prior_of(posterior: Posterior, prompts: Sequence[Prompt], pairs: Pairs) -> Prior:
    """Return what the smoothed answer says of the candidates of ``prompts``."""
    parts = [(q, pairs.rows[pairs.of_request(q)]) for q in range(len(prompts))]
    logs = [np.log(posterior.parts(q, rows)[0]) for q, rows in parts]
    unseen = [np.log(posterior.parts(q, rows, counted=False)[0]) for q, rows in parts]
    seen = np.array([posterior.seen(q) > 0 for q in range(len(prompts))], bool)
    queries = np.array([normalise_query(prompt.query) for prompt in prompts], str)
    return Prior(np.concatenate([*logs, []]), np.concatenate([*unseen, []]), seen, queries)


def unseen_copies(table: Table, levels: int) -> Table:
    """Return ``table`` twice: as it is, and as if nobody had asked its queries before [ours].

    Most logged requests repeat a query, most queries of a shop are new. Trees that have only seen
    the first kind lean on counts, and have little to say where there are none.
    """
    hidden = hide_query(table.features, all_columns(levels))
    return Table.joined([table, as_unseen(table, hidden)])


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
    ``valid``; a tie, and a log without validation requests, go to LambdaMART.  Where the tables
    have a prior, an answer's learner starts from it, and is judged with the λ that ``valid``
    chooses for it; a reward says what an item is worth by itself and never has one.
    """
    names = names_of(columns_of(use, levels))
    everything = names_of(all_columns(levels))
    at = [everything.index(name) for name in names]
    unseen = hide_query(valid.features, all_columns(levels))[:, at]
    train, valid = train.pick(at), valid.pick(at)
    if use == "reward":
        train, valid = replace(train, prior=None), replace(valid, prior=None)
    wanted = ["lambdamart", "dcn"] if options.learner == "auto" else [options.learner]
    found: list[Learner] = []
    for name in wanted:
        if name == "lambdamart":
            found.append(LambdaMart.fit(options, names, train, valid, seed=seed, threads=threads))
        else:
            from sidar.ranker.dcn import Dcn  # torch, which trees do not need

            found.append(Dcn.fit(options.dcn, train, valid, seed=seed))
    judged = {one.name: _judged(one, valid, unseen) for one in found}
    worth = {name: value for name, (value, _) in judged.items()}
    best = max(found, key=lambda one: np.nan_to_num(worth[one.name], nan=-1.0))
    facts: Json = {
        "depth": options.depth,
        "valid_requests": len(valid),
        "valid_ndcg@10": {name: None if np.isnan(v) else v for name, v in worth.items()},
        **_gains(best, names),
    }
    shrinkage = judged[best.name][1]
    if shrinkage is not None:
        facts["shrinkage"] = shrinkage.to_json()
    return Ranker(use, levels, best, facts)


def _judged(learner: Learner, valid: Table, unseen: np.ndarray) -> tuple[float, Shrinkage | None]:
    """The mean nDCG@10 on ``valid``, NaN without a request, and the shrinkage that it was reached
    with; ``unseen`` (P, F) are the features as if nobody had asked before.
    """
    gains = learner.scores(valid.features)
    if valid.prior is None:
        return (float(ndcg(valid, gains).mean()) if len(valid) else np.nan), None
    if not len(valid):
        return np.nan, Shrinkage(0.0, 0.0, {})
    found = shrink(valid, gains, learner.scores(unseen))
    scores = valid.prior.logs + np.repeat(found.of(valid.prior.seen), valid.sizes) * gains
    return float(ndcg(valid, scores).mean()), found


def _gains(learner: Learner, names: Sequence[str]) -> dict[str, Any]:
    """What each feature brought to the trees, largest first; nothing for another learner."""
    if not isinstance(learner, LambdaMart):
        return {}
    gains = learner.gains()
    order = np.argsort(-gains, kind="stable")
    brought = {names[i]: round(float(gains[i]), 4) for i in order if gains[i] > 0}
    return {"rounds": learner.rounds, "gain": brought}
