"""Pseudo-queries: what somebody might type who wants this product, made of its own words.

SFT on clicks alone leaves never-clicked items unreachable (methods.md §1.10), and nobody types whole titles: so
each item is also asked for with a few random words of its title, words of its category and its brand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WORD = re.compile(r"\w[\w'’.-]*\w|\w", re.UNICODE)


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
    return ItemWords(tuple(_WORD.findall((title or "").lower())), names, (brand or "").strip().lower())


def pseudo_query(words: ItemWords, rng: np.random.Generator) -> str:
    """One query for an item, drawn with ``rng``; "" only for an item without any word.

    1–5 title words (shorter is likelier) in their order or, one time in four, shuffled; with probability .4 a category
    word or two, with .25 the brand, each in front or behind.
    """
    chosen: list[str] = []
    if words.title:
        most = min(5, len(words.title))
        weights = 1.0 / np.arange(1, most + 1)
        n = 1 + int(rng.choice(most, p=weights / weights.sum()))
        places = rng.choice(len(words.title), size=n, replace=False)
        chosen = [words.title[i] for i in (places if rng.random() < 0.25 else np.sort(places))]
    if words.category and (rng.random() < 0.4 or not chosen):
        n = min(len(words.category), 1 + int(rng.integers(2)))
        extra = [words.category[i] for i in np.sort(rng.choice(len(words.category), size=n, replace=False))]
        chosen = [*extra, *chosen] if rng.random() < 0.5 else [*chosen, *extra]
    if words.brand and (rng.random() < 0.25 or not chosen):
        chosen = [words.brand, *chosen] if rng.random() < 0.5 else [*chosen, words.brand]
    return " ".join(dict.fromkeys(chosen))
