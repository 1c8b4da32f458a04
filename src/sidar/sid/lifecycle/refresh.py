"""A newer catalogue under frozen codebooks: items keep their SIDs, new ones get theirs, changed
ones if it pays.

An SID is a name that the language model has learnt. Encoding everything again would give most items
the same codes, but not all: a corrected title moves one SID in six or so, and a balanced or split
table deals its last codes anew (docs/lifecycle.md). So an item whose vector did not change keeps
its SID, and one whose vector did keeps it while

    |x − x̂_old|² ≤ (1 + margin) · |x − x̂_new|²                                              [ours]

where x̂ is what the codes keep of the vector under the frozen codebooks. With margin 0 it moves
whenever new codes are nearer. Where the first code is the category's, an item whose category
changed moves in any case.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from sidar.sid.categories import given_first
from sidar.sid.lifecycle.ledger import Ledger, squared_errors
from sidar.sid.quality import row_hashes
from sidar.sid.tokenizer import Tokenizer
from sidar.types import Json, SemanticIds, SidInputs


@dataclass(frozen=True)
class Refreshed:
    """SIDs of today's items (n,), and why each has its own
    (:data:`~sidar.sid.lifecycle.ledger.CAUSES`)."""

    sids: SemanticIds
    cause: np.ndarray
    fitted: np.ndarray  # (n,) bool: the codebooks were fitted to this very vector

    @property
    def counts(self) -> dict[str, int]:
        """Items by cause."""
        values, count = np.unique(self.cause.astype(str), return_counts=True)
        return {str(value): int(n) for value, n in zip(values, count, strict=True)}


def refresh(
    tokenizer: Tokenizer,
    previous: SemanticIds,
    ledger: Ledger | None,
    inputs: SidInputs,
    *,
    margin: float,
) -> Refreshed:
    """SIDs for ``inputs`` (n items with ``item_ids``); ``previous``: yesterday's, in the same
    order, length 0 = none.

    Without a ``ledger`` every old item counts as one whose vector may have changed. A tokenizer
    with a rule of its own (:meth:`~sidar.sid.tokenizer.Tokenizer.refresh`) is asked instead, with
    ``stays`` (n,) bool: the items that keep their SID by the rule above; causes then say
    ``tokenizer`` where such an item moved. Raises ``ValueError`` when ``previous`` was made with
    other codebooks.
    """
    n = len(inputs.vectors)
    if inputs.item_ids is None or len(previous) != n:
        raise ValueError(
            f"{len(previous)} earlier SIDs do not fit {n} items; both must be in the order of "
            "item_ids"
        )
    sizes = tuple(len(book) for book in tokenizer.codebooks_)
    if sizes != tuple(previous.codebook_sizes):
        raise ValueError(
            f"the tokenizer has codebooks {sizes}, the earlier SID table "
            f"{tuple(previous.codebook_sizes)}; they do not "
            "belong together: start without --from"
        )
    had = previous.lengths > 0
    same, fitted = had & False, np.zeros(n, bool)
    if ledger is not None:
        place = ledger.places(inputs.item_ids)
        same = (place >= 0) & (ledger.vector[place] == row_hashes(inputs.vectors)) & had
        fitted = same & ledger.fitted[place]
    refiled = had & refiled_items(tokenizer, inputs, previous.codes)
    same &= ~refiled
    cause = np.where(had, "kept", "new").astype(object)
    ask, move = np.flatnonzero(~same), np.zeros(0, bool)
    codes, lengths = previous.codes.copy(), previous.lengths.copy()
    if len(ask):
        new = tokenizer.encode(take(inputs, ask))
        old = had[ask]
        before = np.where(old, squared_errors(tokenizer, inputs.vectors[ask], codes[ask]), np.inf)
        after = squared_errors(tokenizer, inputs.vectors[ask], new.codes)
        move = ~old | refiled[ask] | (before > (1 + margin) * after)
        differs = (new.codes != codes[ask]).any(axis=1)
        cause[ask[old & move & differs]] = "text"
        cause[ask[old & ~move & differs]] = "held"
        cause[refiled] = "category"
        codes[ask[move]], lengths[ask[move]] = new.codes[move], new.lengths[move]
    stays = same.copy()
    stays[ask] = ~move
    found = tokenizer.refresh(inputs, previous, stays)
    if found is not None:
        moved = had & (found.codes != previous.codes).any(axis=1)
        cause[moved & stays] = "tokenizer"
        cause[moved & ~stays] = "text"
        cause[moved & refiled] = "category"
        return Refreshed(found, cause, fitted)
    return Refreshed(
        SemanticIds(codes, lengths, previous.codebook_sizes, method=previous.method), cause, fitted
    )


def refiled_items(tokenizer: Tokenizer, inputs: SidInputs, codes: np.ndarray) -> np.ndarray:
    """(n,) bool: items whose category has another first code than ``codes`` (n, L); they move
    whatever their text.

    Where the first level is guided by categories, a known category always carries its code
    (docs/methods/cqsid.md).
    """
    given = given_first(tokenizer, inputs)
    return np.zeros(len(codes), bool) if given is None else (given >= 0) & (given != codes[:, 0])


def take(inputs: SidInputs, rows: np.ndarray) -> SidInputs:
    """``inputs`` of some rows; pairs of query and item keep those of these rows, renumbered."""
    changed: Json = {"vectors": inputs.vectors[rows]}
    for field in fields(SidInputs):
        value = getattr(inputs, field.name)
        if field.name in ("categories", "item_ids") and value is not None:
            changed[field.name] = [value[row] for row in rows]
        elif field.name == "counts" and value is not None:
            changed[field.name] = value[rows]
        elif field.name == "query_item_pairs" and value is not None:
            place = np.full(len(inputs.vectors), -1, np.int64)
            place[rows] = np.arange(len(rows))
            kept = place[value[:, 1]] >= 0
            changed[field.name] = np.stack([value[kept, 0], place[value[kept, 1]]], axis=1)
    return replace(inputs, **changed)
