"""How good an SID table is, in numbers: what collides, what is used, what prefixes mean, what is
lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sidar.sid.codebooks.lengths import code_bits
from sidar.sid.tokenizer import Tokenizer
from sidar.types import Json, SemanticIds

#: RAD-DPO's log [seed]: share of (positive, negative) pairs whose SIDs begin with the same one and
#: two codes.
PAPER_SHARED = (0.346, 0.019)
_BUCKETS = ((1, 1), (2, 2), (3, 3), (4, 5), (6, 10), (11, 20), (21, 50), (51, 100), (101, None))


def report(
    sids: SemanticIds,
    *,
    vectors: np.ndarray | None = None,
    tokenizer: Tokenizer | None = None,
    categories: Sequence[Sequence[str] | None] | None = None,
    pairs: np.ndarray | None = None,
    classes: np.ndarray | None = None,
    counts: np.ndarray | None = None,
    seed: int = 0,
) -> Json:
    """JSON-able numbers on an SID table; rows without an SID do not count.

    ``vectors`` (N, D) and ``tokenizer`` add the reconstruction error, ``categories`` (paths by row)
    the purity, ``pairs`` (P, 2) rows of a positive and a negative shown for one request the shared
    prefixes, ``classes`` (N,) labels (head, torso, tail, cold) the same numbers per class,
    ``counts`` (N,) training clicks the length that traffic sees. An SID that has ended counts as a
    prefix of its own at every later depth.
    """
    rows = np.flatnonzero(sids.lengths > 0)
    codes = sids.codes[rows]
    groups = [_group(codes[:, : depth + 1]) for depth in range(sids.n_levels)]
    sizes = np.bincount(groups[-1]) if len(rows) else np.zeros(0, int)  # items per SID
    result: Json = {
        "items": len(rows),
        "sids": len(sizes),
        "items_per_sid": len(rows) / max(len(sizes), 1),
        # items that share their SID
        "collision_rate": float(sizes[sizes > 1].sum() / max(len(rows), 1)),
        "largest_sid": int(sizes.max(initial=0)),
        "gini": gini(sizes),
        "buckets": _histogram(sizes),
        "lengths": {
            str(n): int((sids.lengths[rows] == n).sum()) for n in range(1, sids.n_levels + 1)
        },
        "code_bits": _code_bits(sids.lengths[rows], sids.codebook_sizes),
        "levels": [_level(codes[:, d], size) for d, size in enumerate(sids.codebook_sizes)],
        "prefixes": [
            len(np.unique(group[codes[:, depth] >= 0])) for depth, group in enumerate(groups)
        ],
    }
    if vectors is not None and len(rows):
        distinct = count_distinct(vectors[rows])
        result["distinct_vectors"] = distinct
        result["items_per_sid_of_distinct_vectors"] = distinct / len(sizes)
        if tokenizer is not None:
            result["reconstruction"] = reconstruction(
                np.asarray(vectors[rows], np.float32), codes, tokenizer
            )
    if categories is not None and len(rows):
        result["purity"] = purity(groups, [categories[int(row)] for row in rows], seed)
    if pairs is not None:
        result["pairs"] = shared_prefixes(sids, pairs)
    if classes is not None and len(rows):
        own = None if categories is None else [categories[int(row)] for row in rows]
        alike = None if own is None else neighbours_alike(groups[min(1, len(groups) - 1)], own)
        result["classes"] = by_class(sids.lengths[rows], sizes[groups[-1]], classes[rows], alike)
    if counts is not None and counts[rows].sum() > 0:
        result["traffic_length"] = float(np.average(sids.lengths[rows], weights=counts[rows]))
    return result


def by_class(
    lengths: np.ndarray, bucket: np.ndarray, classes: np.ndarray, alike: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """Per label: items, their mean length, the share that shares its SID, and the mean size of its
    SID.

    ``lengths``, ``bucket`` (items in the item's SID) and ``classes`` are (n,). Means are over
    items, so a bucket of b items counts b times: it is what an item finds around itself. ``alike``
    adds ``purity``, its mean over the items that have one.
    """
    order = [name for name in ("head", "torso", "tail", "cold") if (classes == name).any()]
    order += sorted(set(classes.tolist()) - set(order))
    return {
        name: {
            "items": int(own.sum()),
            "mean_length": float(lengths[own].mean()),
            "collision_rate": float((bucket[own] > 1).mean()),
            "mean_bucket": float(bucket[own].mean()),
            **(
                {}
                if alike is None or np.isnan(alike[own]).all()
                else {"purity": float(np.nanmean(alike[own]))}
            ),
        }
        for name in order
        for own in [classes == name]
    }


def gini(sizes: np.ndarray) -> float:
    """Inequality of the buckets of *non-empty* SIDs: 0 = all alike, towards 1 = one holds all.

    G = (n + 1)/n − 2 Σ_k (n + 1 − k) x_(k) / (n Σx), x ascending [source: FORGE's code].
    """
    x = np.sort(sizes[sizes > 0]).astype(np.float64)
    n = len(x)
    if n == 0:
        return 0.0
    return float((n + 1) / n - 2 * ((n - np.arange(n)) * x).sum() / (n * x.sum()))


def reconstruction(vectors: np.ndarray, codes: np.ndarray, tokenizer: Tokenizer) -> Json:
    """Mean squared error after 0, 1, … L levels (0: against the mean vector), and the cosine after
    the last.

    What the codes keep is what ``tokenizer`` makes of them: a decoder is asked for the first levels
    alone as well.
    """
    error = [float(np.square(vectors - vectors.mean(axis=0)).sum(axis=1).mean())]
    depth = np.arange(codes.shape[1])
    kept = vectors
    for level in depth:
        kept = tokenizer.reconstruct(np.where(depth <= level, codes, -1))
        error.append(float(np.square(vectors - kept).sum(axis=1).mean()))
    length = np.linalg.norm(vectors, axis=1) * np.linalg.norm(kept, axis=1)
    cosine = (vectors * kept).sum(axis=1) / np.where(length > 0, length, 1)
    return {
        "error": error,
        "share_of_variance_lost": error[-1] / max(error[0], 1e-12),
        "cosine": float(cosine.mean()),
    }


def purity(
    groups: Sequence[np.ndarray], categories: Sequence[Sequence[str] | None], seed: int = 0
) -> list[dict[str, float]]:
    """Per prefix depth and category depth: share of items whose category is the commonest under
    their prefix.

    Only items with a path of that depth count, and only prefixes with two of them or more (a lone
    item is pure). ``chance`` is the same share when categories are shuffled over the items: without
    it, small prefixes look pure.
    """
    rng = np.random.default_rng(seed)
    results = []
    deepest = min(3, max((len(path) for path in categories if path), default=0))
    for category_depth in range(1, deepest + 1):
        known = np.array([len(path or ()) >= category_depth for path in categories])
        paths = [
            tuple(path[:category_depth])
            for path in categories
            if path and len(path) >= category_depth
        ]
        number = {path: i for i, path in enumerate(sorted(set(paths)))}
        labels = np.array([number[path] for path in paths], np.int64)
        for depth, group in enumerate(groups, start=1):
            under = group[known]
            kept = np.bincount(under)[under] > 1
            if not kept.any():
                continue
            results.append(
                {
                    "prefix_depth": depth,
                    "category_depth": category_depth,
                    "purity": _majority(under[kept], labels[kept]),
                    "chance": _majority(under[kept], rng.permutation(labels[kept])),
                    "items": int(kept.sum()),
                }
            )
    return results


def shared_prefixes(sids: SemanticIds, pairs: np.ndarray) -> Json:
    """How many codes positive and negative have in common, beside the paper's shares.

    Pairs of one and the same SID are counted apart: packing drops them, since no model can tell
    them apart.
    """
    pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
    pairs = pairs[(sids.lengths[pairs] > 0).all(axis=1)]
    a, b = sids.codes[pairs[:, 0]], sids.codes[pairs[:, 1]]
    same = (a == b).all(axis=1)
    lcp = np.cumprod((a == b) & (a >= 0), axis=1).sum(axis=1)[~same]
    return {
        "pairs": len(pairs),
        "same_sid": float(same.mean()) if len(pairs) else 0.0,
        "shared": [
            float((lcp >= depth).mean()) if len(lcp) else 0.0 for depth in range(1, sids.n_levels)
        ],
        "paper_shared": list(PAPER_SHARED),
    }


def neighbours_alike(group: np.ndarray, categories: Sequence[Sequence[str] | None]) -> np.ndarray:
    """(n,) float64: of the *other* items of an item's group, the share that has its leaf category;
    NaN = none to ask.

    P(same leaf category | same prefix), as in acrq.md: unlike a majority's share it does not grow
    as groups get small. The leaf is the path's first three names; items without a path are not
    asked and not counted.
    """
    out = np.full(len(group), np.nan)
    has = np.array([bool(path) for path in categories], bool)
    paths = [tuple(path[:3]) for path in categories if path]
    number = {path: i for i, path in enumerate(sorted(set(paths)))}
    label = np.array([number[path] for path in paths], np.int64)
    under = group[has]
    others = np.bincount(under)[under] - 1 if len(under) else under
    _, pair, same = np.unique(
        np.stack([under, label]), axis=1, return_inverse=True, return_counts=True
    )
    same = same[pair.reshape(-1)] - 1
    out[has] = np.where(others > 0, same / np.maximum(others, 1), np.nan)
    return out


def _code_bits(lengths: np.ndarray, codebook_sizes: Sequence[int]) -> dict[str, float]:
    """The code budget Σ_i Σ_{l ≤ L_i} log₂ K_l (docs/methods/sarq.md): two tables are compared at
    equal bits.
    """
    total = code_bits(lengths, codebook_sizes)
    return {"total": total, "per_item": total / max(len(lengths), 1)}


def _level(codes: np.ndarray, size: int) -> dict[str, float]:
    """Use of one level's codes.

    ``top_1_percent``: share of items on the busiest 1 % of the codes (hourglass check).
    """
    count = np.bincount(codes[codes >= 0], minlength=size)
    total = max(int(count.sum()), 1)
    share = count[count > 0] / total
    perplexity = float(np.exp(-(share * np.log(share)).sum()))
    busiest = np.sort(count)[::-1][: max(1, round(size / 100))]
    return {
        "codes": size,
        "used": int((count > 0).sum()),
        "utilisation": float((count > 0).mean()),
        "perplexity": perplexity,
        "evenness": float(np.log(perplexity) / np.log(size)) if size > 1 else 1.0,
        "gini": gini(count),
        "top_1_percent": float(busiest.sum() / total),
    }


def _histogram(sizes: np.ndarray) -> list[Json]:
    """SIDs and items by bucket size."""
    bars = []
    for low, high in _BUCKETS:
        inside = (sizes >= low) & (sizes <= (high or sizes.max(initial=0)))
        label = f"{low}" if low == high else f"{low}–{high}" if high else f"> {low - 1}"
        bars.append({"size": label, "sids": int(inside.sum()), "items": int(sizes[inside].sum())})
    return bars


def _group(codes: np.ndarray) -> np.ndarray:
    """(n,) number of the distinct row that each row is."""
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)


def count_distinct(vectors: np.ndarray) -> int:
    """How many different rows (n, D) float32 there are, by a 64-bit hash of each."""
    return len(np.unique(row_hashes(vectors)))


def row_hashes(vectors: np.ndarray) -> np.ndarray:
    """(n,) uint64 hash of the bits of each row (n, D) float32."""
    weights = np.random.default_rng(0).integers(0, 2**63, vectors.shape[1], dtype=np.uint64) * 2 + 1
    hashes = [
        (np.ascontiguousarray(vectors[i : i + 8192], np.float32).view(np.uint32) * weights).sum(
            axis=1
        )
        for i in range(0, len(vectors), 8192)
    ]
    return np.concatenate(hashes) if hashes else np.empty(0, np.uint64)


def _majority(group: np.ndarray, label: np.ndarray) -> float:
    """Share of items whose label is the commonest of their group."""
    pair, count = np.unique(np.stack([group, label], axis=1), axis=0, return_counts=True)
    best = np.zeros(int(group.max()) + 1, np.int64)
    np.maximum.at(best, pair[:, 0], count)
    return float(best.sum() / len(group))
