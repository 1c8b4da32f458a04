"""What is scored: SIDs made from the rows of a training example, and their table form for packing.

Lists are kept as rows and meet the SID table only here, so a new table never rewrites training
data.  An SID is a cluster: a positive and a negative item may share one, and then nothing can rank
one above the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sidar.lm.vocab import SidVocab
from sidar.types import SemanticIds


@dataclass(frozen=True)
class Candidate:
    """One SID to score. ``tier``: 3 order, 2 cart, 1 click, 0 negative.

    ``weight`` > 0: how much a positive counts in multi-label SFT, and with it its list's contrast
    where it is y_w*; a negative's is a factor of its w_j (docs/methods/raddpo.md, "Controls and
    cheap denoisers").  ``at``: how many tokens of the prompt it follows, None = all: the SIDs of
    one answer are scored in one prompt, each after those before it.
    """

    codes: tuple[int, ...]
    is_positive: bool = False
    tier: int = 0
    weight: float = 1.0
    at: int | None = None


@dataclass(frozen=True)
class Candidates:
    """What one example asks to be scored, positives first, and what was left out on
    the way there.
    """

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
    positive_weights: Sequence[float] | None = None,
    negative_weights: Sequence[float] | None = None,
) -> Candidates:
    """Rows to SIDs: both sides unique by SID, negatives with any positive's SID dropped, then both
    sides cut.

    The order of the rows is kept (top tier and best position first, as lists are stored); of
    several positives with one SID the best tier counts. Positives without ``tiers`` are clicks. A
    positive cut off by ``max_positives`` is still no negative.  The weights belong to the rows
    (None = all 1); of several rows of one side with one SID the first listed row's weight counts.
    Raises ``ValueError`` where tiers or weights do not fit their rows.
    """
    tiers = tiers or [1] * len(positives)
    best: dict[tuple[int, ...], int] = {}
    weight: dict[tuple[int, ...], float] = {}  # both sides: no SID is on two
    for row, tier, v in zip(
        positives, tiers, _weights("positive", positives, positive_weights), strict=True
    ):
        if key := sids.tuple_of(row):
            best[key] = max(tier, best.get(key, 0))
            weight.setdefault(key, v)
    wrong = []
    for row, w in zip(negatives, _weights("negative", negatives, negative_weights), strict=True):
        if key := sids.tuple_of(row):
            wrong.append(key)
            weight.setdefault(key, w)
    apart = [key for key in wrong if key not in best]
    unique = list(dict.fromkeys(apart))
    listed = [
        Candidate(key, True, tier, weight[key]) for key, tier in list(best.items())[:max_positives]
    ]
    listed += [Candidate(key, weight=weight[key]) for key in unique[:max_negatives]]
    known = sum(1 for row in positives if sids.lengths[row])
    return Candidates(
        listed,
        shared=len(wrong) - len(apart),
        repeated=known - len(best) + len(apart) - len(unique),
        without_sid=len(positives) - known + len(negatives) - len(wrong),
    )


def _weights(side: str, rows: Sequence[int], weights: Sequence[float] | None) -> Sequence[float]:
    if weights is None:
        return [1.0] * len(rows)
    if len(weights) != len(rows):
        raise ValueError(
            f"{side}_weights has {len(weights)} entries for {len(rows)} {side}s; give one per row"
        )
    return weights


def flatten(
    prompts: Sequence[Sequence[int]], candidates: Sequence[Sequence[Candidate]], vocab: SidVocab
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All candidates as rows: codes (M, L) padded with −1, length (M,), prompt (M,), slot in its
    list (M,).
    """
    L = vocab.n_levels
    if not prompts or len(candidates) != len(prompts):
        raise ValueError(
            f"{len(prompts)} prompts, {len(candidates)} candidate lists: want equal numbers, at "
            "least one"
        )
    counts = np.fromiter(map(len, candidates), np.int64, len(candidates))
    if not counts.all() or not all(map(len, prompts)):
        b = int(counts.argmin()) if not counts.all() else [len(p) for p in prompts].index(0)
        raise ValueError(
            f"prompt {b} has {len(prompts[b])} tokens and {counts[b]} candidates; both must be at "
            "least 1"
        )
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
            f"prompt {owner[m]}, candidate {slot[m]}: SID {listed[m]} is not {want} codes within "
            f"codebooks {vocab.codebook_sizes}; was it made with another SID table?"
        )
    return codes, length, owner, slot


def in_one_answer(
    prompt: Sequence[int], answer: Sequence[tuple[int, ...]], vocab: SidVocab
) -> tuple[list[int], list[Candidate]]:
    """Return one row in which an answer of several SIDs is scored: its tokens and candidates.

    The tokens are the prompt, then each SID but the last with the separator behind it; each SID is
    a positive that follows what stands before it.
    """
    if len(answer) == 1:
        return prompt if isinstance(prompt, list) else list(prompt), [Candidate(answer[0], True, 1)]
    tokens, listed = list(prompt), []
    for codes in answer[:-1]:
        listed.append(Candidate(codes, True, 1, at=len(tokens)))
        tokens = vocab.continued(tokens, codes)
    return tokens, [*listed, Candidate(answer[-1], True, 1)]


def places_of(
    prompts: Sequence[Sequence[int]], candidates: Sequence[Sequence[Candidate]]
) -> np.ndarray:
    """(M,) int64 tokens of its prompt that each candidate follows; ``ValueError`` names the
    candidate that follows none, or more than there are.
    """
    after = []
    for b, (prompt, listed) in enumerate(zip(prompts, candidates, strict=True)):
        for slot, one in enumerate(listed):
            after.append(len(prompt) if one.at is None else one.at)
            if not 1 <= after[-1] <= len(prompt):
                raise ValueError(
                    f"prompt {b}, candidate {slot}: it follows {one.at} tokens of a prompt of "
                    f"{len(prompt)}; want 1 … {len(prompt)}, or None for all"
                )
    return np.array(after, np.int64)


def weights_of(listed: Sequence[Candidate], owner: np.ndarray, slot: np.ndarray) -> np.ndarray:
    """(M,) float32 weights; ``ValueError`` names the candidate whose weight is not positive."""
    weight = np.array([one.weight for one in listed], np.float32)
    good = np.isfinite(weight) & (weight > 0)
    if not good.all():
        wrong = int(good.argmin())
        raise ValueError(
            f"prompt {owner[wrong]}, candidate {slot[wrong]}: weight {weight[wrong]} is not above "
            "0 and finite; leave a candidate out instead of weighing it 0"
        )
    return weight
