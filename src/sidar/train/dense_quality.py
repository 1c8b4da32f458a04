"""Quality of a dense encoder: nDCG@10 while it is tuned, and how far two towers lie apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sidar.config import DenseConfig
from sidar.embed import Embedder, query_side
from sidar.evaluate.metrics import objective
from sidar.evaluate.slices import subset_by_hash
from sidar.evaluate.views import linear_cka, modality_gap, self_ranks
from sidar.types import Catalogue, EvalSet, Hits

#: Results per validation query: nDCG@10 looks no further.
DEPTH = 10

Validation = Callable[[Embedder], dict[str, float]]


def validation(
    sets: Sequence[EvalSet],
    catalogue: Catalogue,
    texts: Sequence[str],
    dense: DenseConfig,
    batch_size: int = 32,
) -> Validation | None:
    """``embedder -> {set: nDCG@10}`` on at most ``valid_queries`` per set; None where the sets hold
    no query.

    Ranked are all live items that these queries judge and then, up to ``valid_items``, evenly
    spaced others: on a large catalogue the figure is kinder than a search of all items, and good
    for choosing a step.
    """
    chosen = []
    for each in sets:
        said = [q for q, prompt in enumerate(each.prompts) if prompt.query.strip()]
        keep = [
            said[i] for i in subset_by_hash([each.query_ids[q] for q in said], dense.valid_queries)
        ]
        if keep:
            ids, prompts = zip(*((each.query_ids[q], each.prompts[q]) for q in keep), strict=True)
            chosen.append(EvalSet(each.name, ids, prompts, each.qrels, each.origin))
    if not chosen:
        return None
    judged = {
        item for each in chosen for query in each.query_ids for item in each.qrels.get(query, {})
    }
    wanted = np.zeros(len(catalogue), bool)
    wanted[[row for row in catalogue.rows(sorted(judged)) if row >= 0]] = True
    others = np.flatnonzero(catalogue.alive & ~wanted)
    room = min(max(dense.valid_items - int((wanted & catalogue.alive).sum()), 0), len(others))
    wanted[others[np.linspace(0, len(others) - 1, room).astype(int)]] = True
    rows = np.flatnonzero(wanted & catalogue.alive)
    ranked = [texts[int(row)] for row in rows]
    goals = [(each, objective(each, catalogue, f"ndcg@{DEPTH}")) for each in chosen]

    def validate(embedder: Embedder) -> dict[str, float]:
        items = embedder.encode(ranked, batch_size)
        found = {}
        for each, goal in goals:
            queries = query_side(embedder).encode(
                [prompt.query for prompt in each.prompts], batch_size
            )
            best = np.argsort(-(queries @ items.T), axis=1, kind="stable")[:, :DEPTH]
            found[each.name] = goal(
                Hits(rows[best].astype(np.int32), np.zeros(best.shape, np.float32))
            )
        return found

    return validate


def apart(items: np.ndarray, seen: np.ndarray, most: int = 4096) -> dict[str, float]:
    """How far f_i(I) and f_q(I) lie apart, on ``most`` evenly spaced rows: what the swap is meant
    to bring together.
    """
    if not len(items):
        return {}
    rows = np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).astype(int))
    one, other = np.asarray(items[rows]), np.asarray(seen[rows])
    first = float((self_ranks(other, one) <= 1).mean())
    return {
        "gap": modality_gap(one, other),
        "cka": linear_cka(one, other),
        "find_themselves": first,
    }
