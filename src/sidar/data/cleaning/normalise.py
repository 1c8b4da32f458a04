"""The normal form of a query: two texts with equal forms are the same query, for counts, splits and
clusters.

NFKC, full case folding, format characters (zero-width joiners, soft hyphens, directional marks)
removed; then the runs of letters, marks and digits in their order, joined by single spaces.  A Han
character is a word of its own.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache
from html.entities import html5

#: Stands in every file that holds normalised queries; raise it with any change of
#: :func:`normalise_query`.
VERSION = 1

_ASCII_WORD = re.compile(r"[a-z0-9]+")
_HAN = re.compile(
    "[⺀-⿟々〇〡-〩〸-〻㐀-䶿一-鿿豈-﫿\U00016fe2\U00016fe3\U00016ff0\U00016ff1\U00020000-\U0003fffd]"
)


_ASCII_GAPS = re.compile(r"[\x00-\x20\x7f]+")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def fold_text(text: str) -> str:
    """Return ``text`` as catalogue and log keep it: format characters removed, white space and
    controls one space.

    The twin in SQL is :func:`sidar.data.cleaning.clean.folded`; words, case and marks stay as they
    are.
    """
    if text.isascii():
        return _ASCII_GAPS.sub(" ", text).strip()
    kept = (_folded_character(character) for character in text)
    return " ".join("".join(kept).split())


def unescape(text: str) -> str:
    """Return ``text`` with its HTML entities decoded, also those that were escaped twice."""
    for _ in range(3):
        decoded = _ENTITY.sub(_character, text)
        if decoded == text:
            break
        text = decoded
    return text


def _character(entity: re.Match[str]) -> str:
    """Return what an entity stands for; a name that HTML does not have stays as it is."""
    if entity[0][1] == "#":
        return html.unescape(entity[0])
    return html5.get(entity[0][1:], entity[0])


@lru_cache(maxsize=1 << 16)
def _folded_character(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    return " " if category in ("Cc", "Co", "Cs") or category[0] == "Z" else character


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
    """Return the text that makes two queries the same: the normal form, or the case-folded text
    where it is empty.
    """
    return normalise_query(text) or " ".join(text.casefold().split())
