"""``reference.json``: what errors and codes looked like when the codebooks were fitted; the alarms
compare with it.

The items that the codebooks were fitted to are no yardstick for new ones: with 13 items per first
code, as on the sample, items that were left out lose a third more though nothing drifted
(docs/lifecycle.md). So the reference is the error of items that a second fit did not see, wherever
a fit is cheap, or of fitted items where so many share a code that it hardly flatters them;
elsewhere nothing rings by it (sid/lifecycle/alarms.py). [ours]
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from sidar.config import SidConfig
from sidar.sid.lifecycle.ledger import codebook_errors, squared_errors
from sidar.sid.lifecycle.refresh import take
from sidar.sid.tokenizer import Tokenizer, tokenizer_class
from sidar.types import Json, PathLike, SemanticIds, SidInputs

FILE = "reference.json"
#: Beyond this many items a second fit costs minutes.
MOST = 200_000
#: Items per code of the largest level: each level of a k-means flatters its items by about 2 K / N
#: of what they lose.
MANY = 100


def make_reference(
    config: SidConfig,
    tokenizer: Tokenizer,
    sids: SemanticIds,
    inputs: SidInputs,
    seed: int,
    device: str = "cpu",
) -> Json:
    """The reference of a fit: ``errors`` and ``shared`` of unseen items, ``first`` codes and
    ``bucket`` of all.

    ``sid.reference`` is the share of the items that are left out of a second fit; with 0, for a
    tokenizer whose fit is a training (not ``cheap_to_refit``) and beyond :data:`MOST` items, errors
    are those of the fitted items. ``how`` says which: ``held out``, ``many per code``
    (:data:`MANY`: as good as unseen) or ``in sample`` (flattered). Of SARQ all this is the base's
    (:func:`~sidar.sid.lifecycle.ledger.codebook_errors`).
    """
    n = len(inputs.vectors)
    base = tokenizer.base or tokenizer
    share = config.reference if base.cheap_to_refit and n <= MOST else 0.0
    out = np.sort(np.random.default_rng([seed, 1]).permutation(n)[: round(share * n)])
    also = None
    if 0 < len(out) < n:
        rest = np.setdiff1d(np.arange(n), out)
        books = tokenizer_class(base.method)(**base.params(), device=device).fit(take(inputs, rest))
        codes = books.encode(inputs).codes
        how, errors, also = (
            "held out",
            squared_errors(books, inputs.vectors[out], codes[out]),
            shared(codes, out),
        )
    else:
        how = (
            "many per code"
            if base.cheap_to_refit and n >= MANY * max(map(len, base.codebooks_))
            else "in sample"
        )
        errors = codebook_errors(tokenizer, inputs, sids)
    return {
        "how": how,
        "items": len(errors),
        "errors": {
            "mean": float(errors.mean()),
            "std": float(errors.std()),
            "quantiles": _quantiles(errors),
        },
        "shared": also,
        "first": np.bincount(sids.codes[:, 0], minlength=sids.codebook_sizes[0]).tolist(),
        "bucket": experienced(sids.codes),
        "sid_version": sids.version,
    }


def save_reference(folder: PathLike, reference: Json) -> None:
    """Write ``reference.json`` into ``folder``."""
    (Path(folder) / FILE).write_text(json.dumps(reference) + "\n")


def load_reference(folder: PathLike) -> Json | None:
    """What :func:`save_reference` wrote; None where there is none."""
    path = Path(folder) / FILE
    return json.loads(path.read_text()) if path.is_file() else None


def shared(codes: np.ndarray, rows: np.ndarray) -> float:
    """Share of ``rows`` whose SID some other item than ``rows`` has."""
    _, group = np.unique(codes, axis=0, return_inverse=True)
    group = group.reshape(-1)
    others = np.ones(len(codes), bool)
    others[rows] = False
    taken = np.bincount(group[others], minlength=int(group.max()) + 1) > 0
    return float(taken[group[rows]].mean()) if len(rows) else 0.0


def experienced(codes: np.ndarray) -> float:
    """Mean over items of how many items have the item's SID: Σ b² / N.

    It grows with large buckets, not with small.
    """
    if not len(codes):
        return 0.0
    buckets = np.unique(codes, axis=0, return_counts=True)[1].astype(np.float64)
    return float((buckets**2).sum() / buckets.sum())


def _quantiles(errors: np.ndarray) -> dict[str, float]:
    return {str(q): float(np.quantile(errors, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}
