"""When does a query resemble a judged one? One definition, used to close leaks here and in
``sidar.simulate``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

#: A query this similar to a judged one counts as judged (docs/evaluation.md).
TOO_SIMILAR = 0.8

_WORD = re.compile(r"[^\W_]+")


def normal_tokens(text: str) -> frozenset[str]:
    """The set of a text's words: NFKC, lower case, accents off, punctuation out, a plural's final
    *s* dropped.
    """
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).lower())
    words = _WORD.findall(
        "".join(c for c in folded if not unicodedata.combining(c)).replace("'", "")
    )
    return frozenset(
        w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in words
    )


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """|a ∩ b| / |a ∪ b|; two empty sets have nothing in common."""
    union = len(a | b)
    return len(a & b) / union if union else 0.0


class Overlap:
    """Answers ``is_near(query)`` against a fixed set of queries, through an inverted index of their
    words.

    >>> Overlap(["red dog bowl"]).is_near("Bowls, red (dog)")
    True
    >>> Overlap(["red dog bowl"]).is_near("blue dog bowl")
    False
    """

    def __init__(self, queries: Iterable[str], threshold: float = TOO_SIMILAR) -> None:
        self.threshold = threshold
        self.sets: Sequence[frozenset[str]] = [normal_tokens(q) for q in queries]
        self._by_word: dict[str, list[int]] = {}
        for number, words in enumerate(self.sets):
            for word in words:
                self._by_word.setdefault(word, []).append(number)

    def nearest(self, query: str) -> float:
        """The largest Jaccard of ``query`` to any member, 0 where no word is shared."""
        words = normal_tokens(query)
        candidates = {number for word in words for number in self._by_word.get(word, ())}
        return max((jaccard(words, self.sets[number]) for number in candidates), default=0.0)

    def is_near(self, query: str) -> bool:
        return self.nearest(query) >= self.threshold
