"""The normal form of a query: two texts with equal forms are the same query, for counts, splits and clusters.

NFKC, full case folding, format characters (zero-width joiners, soft hyphens, directional marks) removed; then the
runs of letters, marks and digits in their order, joined by single spaces.  A Han character is a word of its own.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

#: Stands in every file that holds normalised queries; raise it with any change of :func:`normalise_query`.
VERSION = 1

_ASCII_WORD = re.compile(r"[a-z0-9]+")
_HAN = re.compile("[⺀-⿟々〇〡-〩〸-〻㐀-䶿一-鿿豈-﫿\U00016fe2\U00016fe3\U00016ff0\U00016ff1\U00020000-\U0003fffd]")


@lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str:
    """``word``, ``format`` (vanishes) or ``gap`` (separates words)."""
    category = unicodedata.category(character)
    if category[0] in "LMN":
        return "word"
    return "format" if category == "Cf" else "gap"


def normalise_query(text: str) -> str:
    """Return the normal form of ``text``; empty where it holds no letter, mark or digit."""
    if text.isascii():
        return " ".join(_ASCII_WORD.findall(text.lower()))
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = []
    for character in folded:
        kind = _kind(character)
        if kind == "word":
            kept.append(f" {character} " if _HAN.match(character) else character)
        elif kind == "gap":
            kept.append(" ")
    return " ".join("".join(kept).split())


def query_key(text: str) -> str:
    """Return the text that makes two queries the same: the normal form, or the case-folded text where it is empty."""
    return normalise_query(text) or " ".join(text.casefold().split())
