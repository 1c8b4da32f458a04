"""Pseudo-queries: what somebody might type who wants this product, made of its own words.

SFT on clicks alone leaves never-clicked items unreachable (docs/methods/sft.md), and nobody types
whole titles: so each item is also asked for with a few random words of its title, words of its
category and its brand.  Queries are multi-label, pseudo-queries too: every item that has all the
words is a right answer [reconstruction].
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WORD = re.compile(r"\w[\w'’.-]*\w|\w", re.UNICODE)
_LENGTHS = (1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6)


@dataclass(frozen=True)
class ItemWords:
    """The words of one item that a shopper might type."""

    title: tuple[str, ...]
    category: tuple[str, ...]  # of the two deepest levels of its path
    brand: str


def item_words(title: str | None, category: Sequence[str] | None, brand: str | None) -> ItemWords:
    """Lower-cased words; any part may be missing."""
    deep = " ".join(part for part in list(category or ())[-2:] if part)
    names = tuple(dict.fromkeys(_WORD.findall(deep.lower())))
    return ItemWords(
        tuple(_WORD.findall((title or "").lower())), names, (brand or "").strip().lower()
    )


def pseudo_query(words: ItemWords, rng: np.random.Generator) -> str:
    """One query for an item, drawn with ``rng``; "" only for an item without any word.

    1–6 title words (two or three are likeliest) in their order or, one time in four, shuffled; with
    probability .4 a category word or two, with .25 the brand, each in front or behind.
    """
    chosen: list[str] = []
    if words.title:
        n = min(int(rng.choice(_LENGTHS)), len(words.title))
        places = rng.choice(len(words.title), size=n, replace=False)
        chosen = [words.title[i] for i in (places if rng.random() < 0.25 else np.sort(places))]
    if words.category and (rng.random() < 0.4 or not chosen):
        n = min(len(words.category), 1 + int(rng.integers(2)))
        extra = [
            words.category[i]
            for i in np.sort(rng.choice(len(words.category), size=n, replace=False))
        ]
        chosen = [*extra, *chosen] if rng.random() < 0.5 else [*chosen, *extra]
    if words.brand and (rng.random() < 0.25 or not chosen):
        chosen = [words.brand, *chosen] if rng.random() < 0.5 else [*chosen, words.brand]
    return " ".join(dict.fromkeys(chosen))


class Matches:
    """Which items have all the words of a pseudo-query: an inverted index over title, category and
    brand words.
    """

    def __init__(self, words: Sequence[ItemWords], rows: np.ndarray) -> None:
        """``words`` by catalogue row; only ``rows`` (sorted) can match."""
        self._number: dict[str, int] = {}
        number = self._number
        numbers, owners = [], []
        for row in rows.tolist():
            one = words[row]
            own = {*one.title, *one.category, *_WORD.findall(one.brand)}
            numbers += [number.setdefault(word, len(number)) for word in sorted(own)]
            owners += [row] * len(own)
        by_word = np.argsort(np.asarray(numbers, np.int64), kind="stable")
        self._rows = np.asarray(owners, np.int32)[by_word]
        self._start = np.concatenate(
            [[0], np.cumsum(np.bincount(numbers, minlength=len(number)))]
        ).astype(np.int64)

    def __call__(self, query: str) -> np.ndarray:
        """Sorted rows (m,) int32 that have every word of ``query``."""
        found = [self._number.get(word, -1) for word in set(_WORD.findall(query.lower()))]
        if not found or min(found) < 0:
            return np.zeros(0, np.int32)
        lists = sorted((self._rows[self._start[w] : self._start[w + 1]] for w in found), key=len)
        rows = lists[0]
        for other in lists[1:]:  # from the rarest word on
            rows = rows[other[np.searchsorted(other, rows).clip(max=len(other) - 1)] == rows]
        return rows
