"""Several SIDs in one answer: SID, separator, SID, …; every one from the index, none twice.

S2 of CQ-SID's progressive training teaches such answers (docs/progressive.md).  An answer has a
fixed number of SIDs, so the separator is no choice and adds nothing to its score:

    log π(y₁ … y_n | x) = Σ_j log π(y_j | x, y₁, sep, …, y_{j−1}, sep)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidar.decode.beam import beam_search
from sidar.decode.protocol import Scorer, fitted
from sidar.decode.trie import Trie
from sidar.index import PrefixIndex

#: (prompt, codes of an SID that has been answered) → the prompt of the next SID.
Continue = Callable[[Any, tuple[int, ...]], Any]


@dataclass(frozen=True)
class Answers:
    """Answers per query, best first, ties by their SID numbers. Padding: SID −1, score −inf."""

    sids: np.ndarray  # (Q, W, n) int64 SID numbers of the index, in the order of the answer
    scores: np.ndarray  # (Q, W) float64, log π(y₁ … y_n | x)


@dataclass(frozen=True)
class _Begun:
    """The first SIDs of an answer, what is read after them, and their score."""

    sids: tuple[int, ...]
    prompt: Any
    score: float


def several_search(
    scorer: Scorer,
    prompts: Sequence[Any],
    index: PrefixIndex | Trie,
    continued: Continue,
    count: int = 3,
    beam: int = 16,
) -> Answers:
    """The best ``beam`` answers of ``count`` different SIDs that a beam of that width finds.

    Equals exhaustive scoring where the beam covers all ordered choices of ``count`` − 1 SIDs, and
    all SIDs.  ``prompts`` are whatever ``scorer`` reads, ``continued`` makes the one that follows
    an SID (:meth:`sidar.lm.vocab.SidVocab.continued` for a language model).  Each begun answer is
    a prompt of its own and read from its start.  Raises ``ValueError`` where the index has fewer
    SIDs than an answer.
    """
    trie = fitted(scorer, index)
    if not 1 <= count <= trie.n_sids:
        raise ValueError(
            f"an answer of {count} different SIDs needs an index of as many, this one has "
            f"{trie.n_sids}; ask for 1 … {trie.n_sids}"
        )
    begun = [[_Begun((), prompt, 0.0)] for prompt in prompts]
    for place in range(count):
        begun = _next(scorer, begun, trie, continued, beam, more=place + 1 < count)
    return _padded(begun, count)


def _next(
    scorer: Scorer,
    begun: list[list[_Begun]],
    trie: Trie,
    continued: Continue,
    beam: int,
    more: bool,
) -> list[list[_Begun]]:
    """Return the best ``beam`` answers of each query with one SID more; with ``more`` their prompts
    are continued.
    """
    flat = [one for answers in begun for one in answers]
    place = len(flat[0].sids) if flat else 0
    # `place` of the best may be repetitions, so the beam is wider by as many
    found = beam_search(scorer, [one.prompt for one in flat], trie, beam + place)
    table = trie.index.table
    extended, row = [], 0
    for answers in begun:
        choices = []
        for one in answers:
            for sid, score in zip(found.sids[row].tolist(), found.scores[row], strict=True):
                if sid >= 0 and sid not in one.sids:
                    choices.append((-(one.score + float(score)), (*one.sids, sid), one.prompt))
            row += 1
        choices.sort(key=lambda choice: choice[:2])
        kept = []
        for cost, sids, prompt in choices[:beam]:
            codes = tuple(int(code) for code in table[sids[-1]] if code >= 0)
            kept.append(_Begun(sids, continued(prompt, codes) if more else None, -cost))
        extended.append(kept)
    return extended


def _padded(begun: list[list[_Begun]], count: int) -> Answers:
    width = max((len(answers) for answers in begun), default=0)
    sids = np.full((len(begun), width, count), -1, np.int64)
    scores = np.full((len(begun), width), -np.inf)
    for query, answers in enumerate(begun):
        for place, one in enumerate(answers):
            sids[query, place], scores[query, place] = one.sids, one.score
    return Answers(sids, scores)
