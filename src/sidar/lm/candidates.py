"""What is scored: SIDs made from the rows of a training example, and their table form for packing.

Lists are kept as rows and meet the SID table only here, so a new table never rewrites training data.  An SID is a
cluster: a positive and a negative item may share one, and then nothing can rank one above the other (methods.md §1.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sidar.lm.vocab import SidVocab
from sidar.types import SemanticIds


@dataclass(frozen=True)
class Candidate:
    """One SID to score. ``tier``: 3 order, 2 cart, 1 click, 0 negative."""

    codes: tuple[int, ...]
    is_positive: bool = False
    tier: int = 0


@dataclass(frozen=True)
class Candidates:
    """What one example asks to be scored, positives first, and what was left out on the way there."""

    listed: list[Candidate]
    shared: int = 0  # negatives dropped because a positive has their SID
    repeated: int = 0  # rows whose SID the same side already had
    without_sid: int = 0  # rows that have no SID (retired, or newer than the table)


def to_candidates(
    positives: Sequence[int],
    tiers: Sequence[int],
    negatives: Sequence[int],
    sids: SemanticIds,
    *,
    max_positives: int = 8,
    max_negatives: int = 3,
) -> Candidates:
    """Rows to SIDs: both sides unique by SID, negatives with any positive's SID dropped, then both sides cut.

    The order of the rows is kept (top tier and best position first, as lists are stored); of several positives with one
    SID the best tier counts. Positives without ``tiers`` are clicks. A positive cut off by ``max_positives`` is still
    no negative.
    """
    tiers = tiers or [1] * len(positives)
    best: dict[tuple[int, ...], int] = {}
    for row, tier in zip(positives, tiers, strict=True):
        if key := sids.tuple_of(row):
            best[key] = max(tier, best.get(key, 0))
    wrong = [key for row in negatives if (key := sids.tuple_of(row))]
    apart = [key for key in wrong if key not in best]
    unique = list(dict.fromkeys(apart))
    listed = [Candidate(key, True, tier) for key, tier in list(best.items())[:max_positives]]
    listed += [Candidate(key) for key in unique[:max_negatives]]
    known = sum(1 for row in positives if sids.lengths[row])
    return Candidates(
        listed,
        shared=len(wrong) - len(apart),
        repeated=known - len(best) + len(apart) - len(unique),
        without_sid=len(positives) - known + len(negatives) - len(wrong),
    )


def flatten(
    prompts: Sequence[Sequence[int]], candidates: Sequence[Sequence[Candidate]], vocab: SidVocab
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All candidates as rows: codes (M, L) padded with −1, length (M,), prompt (M,), slot in its list (M,)."""
    L = vocab.n_levels
    if not prompts or len(candidates) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts, {len(candidates)} candidate lists: want equal numbers, at least one")
    counts = np.fromiter(map(len, candidates), np.int64, len(candidates))
    if not counts.all() or not all(map(len, prompts)):
        b = int(counts.argmin()) if not counts.all() else [len(p) for p in prompts].index(0)
        raise ValueError(f"prompt {b} has {len(prompts[b])} tokens and {counts[b]} candidates; both must be at least 1")
    owner = np.repeat(np.arange(len(prompts)), counts)
    slot = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    listed = [x.codes for one in candidates for x in one]
    length = np.fromiter(map(len, listed), np.int64, len(listed))
    shortest = 1 if vocab.variable_length else L
    wrong: np.ndarray = (length < shortest) | (length > L)
    if not wrong.any():
        codes = np.array([(*c, *(-1,) * (L - len(c))) for c in listed], np.int64)
        inside = np.arange(L) < length[:, None]
        wrong |= (inside & ((codes < 0) | (codes >= np.array(vocab.codebook_sizes)))).any(axis=1)
    if wrong.any():
        m = int(wrong.argmax())
        want = f"1 … {L}" if vocab.variable_length else str(L)
        raise ValueError(
            f"prompt {owner[m]}, candidate {slot[m]}: SID {listed[m]} is not {want} codes within codebooks "
            f"{vocab.codebook_sizes}; was it made with another SID table?"
        )
    return codes, length, owner, slot
