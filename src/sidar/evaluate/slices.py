"""Which items and queries a figure is about: popularity classes, first places of SIDs, stable
subsets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from sidar.data.cleaning.normalise import query_key
from sidar.evaluate.perquery import PerQuery
from sidar.types import Json

#: Popularity classes of items on training days (``data``'s ``Priors.popularity``).
CLASSES = ("head", "torso", "tail", "cold")
#: Item measures that are told per popularity class.
SLICED = ("recall@10", "recall@100")
#: Measures that are told per label of a query.
QUERY_SLICED = ("item/ndcg@10", "item/recall@10", "item/recall@100", "item/mrr")


def first_occurrences(numbers: np.ndarray, width: int) -> np.ndarray:
    """(Q, width) the distinct numbers of each row of ``numbers`` (Q, k) in order of first
    appearance, −1 = none.

    Turns a ranking of items (as SID numbers) into the ranking of SIDs that it implies.
    """
    order = np.argsort(numbers, axis=1, kind="stable")
    ordered = np.take_along_axis(numbers, order, axis=1)
    new = np.ones(ordered.shape, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    new &= ordered >= 0
    first = np.zeros(numbers.shape, dtype=bool)
    np.put_along_axis(first, order, new, axis=1)
    # kept ones to the front, in their order
    left = np.argsort(~first, axis=1, kind="stable")[:, :width]
    kept = np.take_along_axis(first, left, axis=1)
    out = np.full((len(numbers), width), -1, dtype=np.int64)
    out[:, : left.shape[1]] = np.where(kept, np.take_along_axis(numbers, left, axis=1), -1)
    return out


def subset_by_hash(query_ids: Sequence[str], n: int | None) -> np.ndarray:
    """Rising positions of the ``n`` query ids of lowest sha256: the same queries in every run,
    whatever their order.
    """
    if n is None or n >= len(query_ids):
        return np.arange(len(query_ids))
    return np.sort(order_by_hash(query_ids)[:n])


def order_by_hash(query_ids: Sequence[str]) -> np.ndarray:
    """(Q,) positions of the query ids by rising sha256: every beginning of it is a
    stable sample.
    """
    keys = [hashlib.sha256(query_id.encode()).digest() for query_id in query_ids]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def query_cluster(query: str) -> str:
    """Return the text that makes two requests the same query, for clustered statistics; empty
    without a query.
    """
    return query_key(query)


def slice_means(
    values: PerQuery,
    set_name: str,
    queries: Sequence[Json],
    more: Sequence[str] = (),
) -> Json:
    """Means per slice: items by popularity class, queries by the labels of their set; with the
    number of queries. ``more``: measures beside those of :data:`QUERY_SLICED`.
    """
    out: Json = {}
    for label in CLASSES:
        cells = {}
        for system in values.systems(set_name):
            found = {m: values.get(set_name, system, f"item/{m}[{label}]") for m in SLICED}
            if all(found.values()):
                cells[system] = {
                    f"item/{m}": float(v[1].mean()) for m, v in found.items() if v and len(v[1])
                }
                n = len(next(v[0] for v in found.values() if v))
                if shown := values.get(set_name, system, f"items/returned[{label}]"):
                    cells[system]["items/returned"] = float(shown[1].mean())
        if any(cells.values()):
            out.setdefault("items", {})[label] = {"n": n, "systems": cells}
    labels = {
        row["query_id"]: json.loads(row["labels"]) for row in queries if row["set"] == set_name
    }
    for name in sorted({name for each in labels.values() for name in each}):
        for label in sorted({each[name] for each in labels.values() if name in each}):
            inside = {query_id for query_id, each in labels.items() if each.get(name) == label}
            cells = {}
            for system in values.systems(set_name):
                for measure in (*QUERY_SLICED, *more):
                    if got := values.get(set_name, system, measure):
                        mask = np.array([query_id in inside for query_id in got[0]])
                        cells.setdefault(system, {})[measure] = float(got[1][mask].mean())
            out.setdefault(name, {})[label] = {"n": len(inside), "systems": cells}
    return out
