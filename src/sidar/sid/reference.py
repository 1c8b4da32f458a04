"""``reference.json``: what errors and codes looked like when the codebooks were fitted; the alarms compare with it.

The items that the codebooks were fitted to are no yardstick for new ones: with 13 items per first code, as on the
sample, items that were left out lose a third more though nothing drifted (docs/lifecycle.md). So the reference is the
error of items that a second fit did not see, wherever a fit is cheap. [ours]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sidar.config import SidConfig
from sidar.sid.ledger import squared_errors
from sidar.sid.refresh import take
from sidar.sid.tokenizer import Tokenizer, tokenizer_class
from sidar.types import PathLike, SemanticIds, SidInputs

FILE = "reference.json"
#: Beyond this many items a second fit costs minutes, and codebooks fitted to so many items hardly flatter them.
MOST = 200_000


def make_reference(
    config: SidConfig, tokenizer: Tokenizer, sids: SemanticIds, inputs: SidInputs, seed: int, device: str = "cpu"
) -> dict[str, Any]:
    """The reference of a fit: ``errors`` and ``shared`` of unseen items, ``first`` codes and ``bucket`` of all.

    ``sid.reference`` is the share of the items that are left out of a second fit; with 0, for a tokenizer whose fit is
    a training (no ``refits``) and beyond :data:`MOST` items, errors are those of the fitted items, and ``how`` says so.
    """
    n = len(inputs.vectors)
    share = config.reference if getattr(tokenizer, "refits", False) and n <= MOST else 0.0
    out = np.sort(np.random.default_rng([seed, 1]).permutation(n)[: round(share * n)])
    how, books, table, judged = "in sample", tokenizer, sids, np.arange(n)
    if 0 < len(out) < n:
        rest = np.setdiff1d(np.arange(n), out)
        books = tokenizer_class(tokenizer.method)(**tokenizer.params(), device=device).fit(take(inputs, rest))
        how, table, judged = "held out", books.encode(inputs), out
    errors = squared_errors(books, inputs.vectors[judged], table.codes[judged])
    return {
        "how": how,
        "items": len(judged),
        "errors": {"mean": float(errors.mean()), "std": float(errors.std()), "quantiles": _quantiles(errors)},
        "shared": shared(table.codes, judged) if how == "held out" else None,
        "first": np.bincount(sids.codes[:, 0], minlength=sids.codebook_sizes[0]).tolist(),
        "bucket": experienced(sids.codes),
        "sid_version": sids.version,
    }


def save_reference(folder: PathLike, reference: dict[str, Any]) -> None:
    """Write ``reference.json`` into ``folder``."""
    (Path(folder) / FILE).write_text(json.dumps(reference) + "\n")


def load_reference(folder: PathLike) -> dict[str, Any] | None:
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
    """Mean over items of how many items have the item's SID: Σ b² / N. It grows with large buckets, not with small."""
    if not len(codes):
        return 0.0
    buckets = np.unique(codes, axis=0, return_counts=True)[1].astype(np.float64)
    return float((buckets**2).sum() / buckets.sum())


def _quantiles(errors: np.ndarray) -> dict[str, float]:
    return {str(q): float(np.quantile(errors, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}
