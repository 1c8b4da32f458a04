"""Words: what the simulator reads facts with and phrases queries with (``lexicon.yaml``)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

_PACKAGED = Path(__file__).with_name("lexicon.yaml")
_IRREGULAR = {
    "bikinis": "bikini",
    "skis": "ski",
    "knives": "knife",
    "shelves": "shelf",
    "scarves": "scarf",
    "mice": "mouse",
    "feet": "foot",
}
_KEEP_IE = {
    "cookies",
    "movies",
    "hoodies",
    "ties",
    "brownies",
    "smoothies",
    "beanies",
    "booties",
    "onesies",
    "selfies",
}
_UNCHANGED = ("ss", "us", "is", "thermos", "clothes")


@dataclass(frozen=True)
class Lexicon:
    """The parsed file; every field is a top-level key of it. Nouns are held in the singular."""

    nouns: Mapping[tuple[str, ...], tuple[str, ...]]  # category (sub)path -> nouns
    vague: frozenset[str]
    pairs: frozenset[str]
    uncountable: frozenset[str]
    no_colour: frozenset[str]
    no_brand: frozenset[str]
    brand_stop: frozenset[str]
    audiences: Mapping[str, Mapping[str, list[str]]]
    colours: Mapping[str, Mapping[str, list[str]]]
    materials: Mapping[str, list[str]]
    features: Mapping[str, list[str]]
    uses: Mapping[str, list[str]]
    synonyms: Mapping[str, list[str]]
    keyboard: Mapping[str, str]

    def written(self, noun: str, plural: bool) -> str:
        """The noun as shoppers write it: pairs always in the plural, uncountable nouns never.

        >>> load_lexicon().written("slide sandal", plural=False)
        'slide sandals'
        """
        *first, last = noun.split()
        if last in self.pairs or (plural and not {last, noun} & self.uncountable):
            last = pluralise(last)
        return " ".join([*first, last])


def plain(text: str) -> str:
    """Lower case, accents off, apostrophes closed up, everything else that is no letter or digit to
    one space.
    """
    folded = unicodedata.normalize(
        "NFKD", text.lower().replace("t-shirt", "tshirt").replace("t shirt", "tshirt")
    )
    kept = (
        "".join(c for c in folded if not unicodedata.combining(c)).replace("'", "").replace("’", "")
    )
    return " ".join(re.findall(r"[a-z0-9]+", kept))


def singular(word: str) -> str:
    """The singular of an English noun by its ending.

    >>> [singular(w) for w in ("knives", "glasses", "batteries", "cases", "dress")]
    ['knife', 'glass', 'battery', 'case', 'dress']
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 3 or not word.endswith("s") or word.endswith(_UNCHANGED):
        return word
    if word.endswith("ies") and word not in _KEEP_IE:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes", "zzes")):
        return word[:-2]
    return word[:-1]


def pluralise(word: str) -> str:
    """The plural of an English noun; undone by :func:`singular`."""
    for many, one in _IRREGULAR.items():
        if word == one:
            return many
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    if word.endswith(("ss", "x", "ch", "sh")):
        return word + "es"
    return word if word.endswith("s") else word + "s"


def base(phrase: str) -> str:
    """A noun phrase with its last word in the singular: how nouns are compared.

    >>> base("slide sandals")
    'slide sandal'
    """
    *first, last = phrase.split()
    return " ".join([*first, singular(last)])


@cache
def load_lexicon(path: Path = _PACKAGED) -> Lexicon:
    """Parse and normalise a lexicon file; a missing or unknown key is a ``TypeError`` that names
    it.
    """
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    raw["nouns"] = {
        tuple(part.strip() for part in key.split(" > ")): tuple(base(noun) for noun in nouns)
        for key, nouns in raw["nouns"].items()
    }
    raw["synonyms"] = {base(noun): others for noun, others in raw["synonyms"].items()}
    for key in ("vague", "pairs", "uncountable", "no_colour", "no_brand", "brand_stop"):
        raw[key] = frozenset(raw[key])
    return Lexicon(**raw)
