"""What is true of a product, read by rules from its structured fields and title: noun, audience,
brand, colour, …

These facts are the simulator's ground truth. No retrieval score and no embedding enters them
(docs/simulator.md).
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sidar.simulate.lexicon import Lexicon, base, plain, singular
from sidar.types import Catalogue

#: A fact: (facet, value), e.g. ("colour", "black"). Facets: audience, brand, colour, material,
#: size, feature, use.
Fact = tuple[str, str]
Path = tuple[str, ...]

_EVIDENCE = 0.5  # share of a category's titles that must hold a noun which the rule proposes
_PIECES = re.compile(r",\s*&\s*|\s*&\s*|,\s*|/|\band\b|:")
_UNITS = {
    "inch": r"inch(?:es)?|in\b|\"|”|''",
    "oz": r"(?:fl\.? ?)?oz\b|(?:fluid )?ounces?",
    "ft": r"ft\b|feet|foot",
    "lb": r"lbs?\b|pounds?",
    "gallon": r"gallons?|gal\b",
    "quart": r"quarts?|qt\b",
    "pack": r"packs?\b|pk\b",
    "piece": r"pieces?\b|pcs?\b",
    "count": r"counts?\b|ct\b",
    "ml": r"ml\b",
    "mg": r"mg\b",
    "mm": r"mm\b",
}
_MEASURE = re.compile(
    r"(?<![\d./])(\d+(?:\.\d+)?|\d+/\d+|\d+[ -]\d+/\d+)[ -]?(?:"
    + "|".join(f"({u})" for u in _UNITS.values())
    + ")"
)
_PACK_OF = re.compile(r"(?:pack|set) of (\d+)")
_LETTERS = {
    "xs": "xs",
    "x-small": "xs",
    "xl": "xl",
    "x-large": "xl",
    "xx-large": "xxl",
    "2xl": "xxl",
    "2x": "2x",
}
_LETTERS |= {
    "3x": "3x",
    "3xl": "3xl",
    "4x": "4x",
    "small": "small",
    "medium": "medium",
    "large": "large",
}
_LETTER = re.compile(
    r"(?<![\w-])(" + "|".join(sorted(_LETTERS, key=len, reverse=True)) + r")(?![\w-])"
)
_BED = re.compile(r"\b(twin xl|twin|full|queen|cal(?:ifornia)? king|king)(?: size|-size|\b)")


@dataclass(frozen=True)
class Facts:
    """Facts of N products.

    ``rows_of[noun]`` are the rows that answer to a noun; an item may answer to several.
    """

    nouns: tuple[tuple[str, ...], ...]  # (N) nouns of each item, () where the path gives none
    rows_of: Mapping[str, np.ndarray]
    facts: tuple[frozenset[Fact], ...]  # (N)
    family: Mapping[str, Path]  # noun -> the category that most of its items hang under
    department: tuple[str, ...]  # (N) first name of the path, "" where there is none
    # (N) plain brand, "" where unknown; here also brands that no query names
    brand: tuple[str, ...]
    ratings: np.ndarray  # (N,) float64: number of ratings, the source's own sign of popularity
    price: np.ndarray  # (N,) float64, imputed from the category where the source has none
    # (N,) float64: dear (+) or cheap (−) for its category, 0 where the price is unknown
    price_level: np.ndarray


def read_facts(catalogue: Catalogue, lexicon: Lexicon) -> Facts:
    """Read every product once. Order of work: nouns by category, then facets item by item."""
    titles = [plain(title) for title in catalogue.column("title")]
    raw_titles = [title.lower() for title in catalogue.column("title")]
    alive = catalogue.alive.tolist()  # a tombstone answers nothing
    categories = zip(catalogue.column("category"), alive, strict=True)
    paths: list[Path] = [tuple(path or ()) if live else () for path, live in categories]
    nouns = _nouns(paths, titles, lexicon)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, of_item in enumerate(nouns):
        for noun in of_item:
            rows_of[noun].append(row)
    phrases = {
        facet: _phrases(getattr(lexicon, facet)) for facet in ("materials", "features", "uses")
    }
    brands = [plain(brand or "") for brand in catalogue.column("brand")]
    attributes = [json.loads(raw) if raw else {} for raw in catalogue.column("attributes")]
    facts = []
    for row, path in enumerate(paths):
        found = {("audience", name) for name in _audiences(path, lexicon)}
        if path and path[0] not in lexicon.no_brand and _searchable(brands[row], lexicon):
            found.add(("brand", brands[row]))
        if path and path[0] not in lexicon.no_colour:
            found |= {
                ("colour", c)
                for c in _colours(
                    str(attributes[row].get("color") or attributes[row].get("colour") or ""),
                    lexicon,
                )
            }
        clothing = bool(path) and path[0].startswith("Clothing")
        found |= {("size", size) for size in _sizes(raw_titles[row], path, clothing)}
        for facet, table in phrases.items():
            values = _matches(titles[row], table)
            found |= {(facet[:-1], v) for v in values if not (clothing and v in {"small", "large"})}
        facts.append(frozenset(found))
    price, level = _prices(catalogue.column("price"), paths)
    family = {
        noun: Counter(paths[row][:-1] for row in rows).most_common(1)[0][0]
        for noun, rows in rows_of.items()
    }
    return Facts(
        nouns=tuple(nouns),
        rows_of={noun: np.asarray(rows, dtype=np.int64) for noun, rows in sorted(rows_of.items())},
        facts=tuple(facts),
        family=family,
        department=tuple(path[0] if path else "" for path in paths),
        brand=tuple(brands),
        ratings=np.asarray([float(of_item.get("rating_count") or 0) for of_item in attributes]),
        price=price,
        price_level=level,
    )


def _nouns(paths: Sequence[Path], titles: Sequence[str], lexicon: Lexicon) -> list[tuple[str, ...]]:
    """Nouns of each item: the lexicon's where it knows the category, else pieces of the category's
    last name.
    """
    words = [frozenset(singular(w) for w in title.split()) for title in titles]
    groups: dict[Path, list[int]] = defaultdict(list)
    for row, path in enumerate(paths):
        if path:
            groups[path].append(row)
    nouns: list[tuple[str, ...]] = [()] * len(paths)
    for path, rows in groups.items():
        known = _known_nouns(path, lexicon)
        if known is not None:
            for row in rows:
                nouns[row] = known
            continue
        pieces = [
            noun
            for piece in _PIECES.split(path[-1])
            if (noun := _proposed(piece, rows, words, lexicon))
        ]
        # a name like "Beds & Frames" does not say which of the two an item is: its title must
        for row in rows:
            sure = [
                noun
                for noun in pieces
                if len(pieces) == 1 or set(map(singular, noun.split())) <= words[row]
            ]
            nouns[row] = tuple(dict.fromkeys(sure))
    return nouns


def _known_nouns(path: Path, lexicon: Lexicon) -> tuple[str, ...] | None:
    """The entry whose match ends deepest in ``path``, then the longest; entries without a star
    match the whole end.
    """
    for end in range(len(path), 0, -1):
        for start in range(end):
            part = path[start:end]
            if end == len(path) and part in lexicon.nouns:
                return lexicon.nouns[part]
            if (*part, "*") in lexicon.nouns:
                return lexicon.nouns[(*part, "*")]
    return None


def _proposed(
    piece: str, rows: Sequence[int], words: Sequence[frozenset[str]], lexicon: Lexicon
) -> str:
    """The longest ending of a category name that enough titles hold; "" where there is none or it
    is vague.
    """
    parts = plain(piece).split()
    for start in range(len(parts)):
        ending = parts[start:]
        needed = {singular(word) for word in ending}
        if sum(needed <= words[row] for row in rows) >= _EVIDENCE * len(rows):
            noun = base(" ".join(ending))
            return "" if noun in lexicon.vague or len(noun) < 3 or noun[0].isdigit() else noun
    return ""


def _audiences(path: Path, lexicon: Lexicon) -> set[str]:
    names = set(path)
    return {
        audience for audience, entry in lexicon.audiences.items() if names & set(entry["names"])
    }


def _searchable(brand: str, lexicon: Lexicon) -> bool:
    return 2 <= len(brand) <= 24 and len(brand.split()) <= 3 and brand not in lexicon.brand_stop


def _colours(field: str, lexicon: Lexicon) -> set[str]:
    words = set(plain(field).split())
    found = {colour for colour, entry in lexicon.colours.items() if words & set(entry["words"])}
    return {"multicolor"} if "multicolor" in found or len(found) > 3 else found


def _sizes(title: str, path: Path, clothing: bool) -> set[str]:
    """Sizes that the title states: measures ("12 inch"), packs, letter sizes of clothes, sizes of
    beds.
    """
    found = set()
    for match in _MEASURE.finditer(title):
        unit = next(unit for unit, hit in zip(_UNITS, match.groups()[1:], strict=True) if hit)
        number = match.group(1).replace("-", " ")
        found.add(f"{number[:-2] if number.endswith('.0') else number} {unit}")
    found |= {f"{count} pack" for count in _PACK_OF.findall(title)}
    found -= {"1 pack", "1 piece", "1 count"}  # nobody asks for one
    if clothing:
        found |= {_LETTERS[letter] for letter in _LETTER.findall(title)}
    if {"Bedding", "Bedroom Furniture", "Futons"} & set(path):
        found |= {size.replace("california", "cal") for size in _BED.findall(title)}
    return found


def _phrases(table: Mapping[str, Iterable[str]]) -> dict[tuple[str, ...], str]:
    return {tuple(phrase.split()): value for value, stated in table.items() for phrase in stated}


def _matches(title: str, table: Mapping[tuple[str, ...], str]) -> set[str]:
    """Values whose phrases the title holds; longer phrases first, none used twice, none that the
    title denies.
    """
    words: list[str | None] = list(title.split())
    found = set()
    for length in (3, 2, 1):
        for start in range(len(words) - length + 1):
            # None stands where a word was used; no phrase of the table holds one, so such a key
            # finds nothing.
            key = tuple(words[start : start + length])
            value = table.get(key)  # type: ignore[arg-type]  # keys with None
            if value is None:
                continue
            before = words[start - 1] if start else None
            after = words[start + length] if start + length < len(words) else None
            if before not in {"without", "no", "non", "not"} and after != "free":
                found.add(value)
            words[start : start + length] = [None] * length
    return found


def _prices(prices: Sequence[float | None], paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) prices and (N,) levels.

    A missing price is the median of the deepest category that knows three.
    """
    known: dict[Path, list[float]] = defaultdict(list)
    for price, path in zip(prices, paths, strict=True):
        if price is not None and price > 0:
            for depth in range(len(path) + 1):
                known[path[:depth]].append(price)
    middle = {
        path: float(np.median(values))
        for path, values in known.items()
        if len(values) >= 3 or not path
    }
    out, level = np.empty(len(prices)), np.zeros(len(prices))
    for row, (price, path) in enumerate(zip(prices, paths, strict=True)):
        typical = next(
            (middle[path[:d]] for d in range(len(path), -1, -1) if path[:d] in middle), 20.0
        )
        out[row] = price if price is not None else typical
        if price is not None and price > 0:
            level[row] = np.clip(np.log(price / typical) / 0.6, -2.5, 2.5)
    return out, level
