"""In what a product comes: colours, sizes, packs, models …, read from the product, written into a
variant's title.

Each axis edits the words that :mod:`sidar.simulate.facts` reads, so the facts of a variant, and
with them the truth of every query, follow from its own title and colour field by the rules that
hold for any product.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from sidar.simulate.lexicon import Lexicon, plain

LETTER_SIZES = ("X-Small", "Small", "Medium", "Large", "X-Large", "XX-Large", "3X-Large")
SHOE_SIZES = ("5", "6", "7", "7.5", "8", "8.5", "9", "9.5", "10", "11", "12", "13")
BED_SIZES = ("Twin", "Twin XL", "Full", "Queen", "King", "California King")
DESIGNS = (
    "Striped",
    "Floral",
    "Plaid",
    "Polka Dot",
    "Camouflage",
    "Leopard Print",
    "Tie Dye",
    "Geometric",
    "Paisley",
)
STORAGE = ("16GB", "32GB", "64GB", "128GB", "256GB", "512GB", "1TB")
PACKS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 36, 48, 60, 100)
SCALES = (0.5, 0.75, 1.25, 1.5, 2.0, 3.0)
FLAVOURS = (
    "Vanilla",
    "Strawberry",
    "Salted Caramel",
    "Cinnamon",
    "Peppermint",
    "Blueberry",
    "Mango",
    "Hazelnut",
)
SCENTS = (
    "Lavender Scent",
    "Citrus Scent",
    "Vanilla Scent",
    "Eucalyptus Scent",
    "Rose Scent",
    "Sandalwood Scent",
)
FORMATS = (
    "Hardcover",
    "Paperback",
    "Large Print",
    "Audio CD",
    "Library Binding",
    "Illustrated Edition",
)
MODELS = tuple(f"Model {letter}{100 + 37 * n}" for n, letter in enumerate("KTVRXHJZQNEDGLPS"))

_BOOKS = {"Books", "Kindle Store", "Audible Books & Originals"}
_CONSUMED = {
    "Grocery & Gourmet Food",
    "Health & Household",
    "Beauty & Personal Care",
    "Pet Supplies",
    "Baby Products",
    "Office Products",
    "Industrial & Scientific",
}
_PATTERNED = {
    "Clothing, Shoes & Jewelry",
    "Home & Kitchen",
    "Pet Supplies",
    "Baby Products",
    "Office Products",
    "Cell Phones & Accessories",
}
_LETTERS = {
    "xs": "xs",
    "x-small": "xs",
    "small": "s",
    "medium": "m",
    "large": "l",
    "xl": "xl",
    "x-large": "xl",
}
_LETTERS |= {"xxl": "2x", "2xl": "2x", "2x": "2x", "xx-large": "2x", "2x-large": "2x"}
_LETTERS |= {"3xl": "3x", "3x": "3x", "3x-large": "3x"}
_LETTER = (
    r"(?<![\w-])(?:XX?-Large|X-Small|[2-4]X-Large|[2-4]XL?|XXL|XL|XS|Small|Medium|Large)(?![\w-])"
)
_SHOE = (
    r"(?<![\w.$])\d{1,2}(?:\.5)?(?= (?:[A-Z0-9]{1,3} ?(?:\([A-Z]\))? ?US\b|US\b|[A-E]{1,3} "
    r"?\([A-Z]\)))"
)
_BED = r"\b(?:Twin XL|Twin|Full|Queen|California King|Cal King|King)\b(?= size|-size|\b)"
_STORAGE = r"\b\d+ ?[GT]B\b"
_PACK = (
    r"(?<=pack of )\d+|(?<=set of )\d+|(?<![\d./])\d+(?=[ -]?(?:packs?|pk|pcs?|pieces?|count|ct)\b)"
)
_MEASURE = (
    r"(?<![\d./-])\d+(?:\.\d+)?(?=[ -]?(?:inch(?:es)?\b|in\b|\"|”|''|(?:fl\.? ?)?oz\b|(?:fluid "
    r")?ounces?\b|ft\b|feet\b"
    r"|foot\b|lbs?\b|pounds?\b|gallons?\b|quarts?\b|ml\b|mg\b|mm\b))"
)


@dataclass(frozen=True)
class Axis:
    """One way in which a product varies: other ``values`` than its own, likeliest first, each with
    a price ``factor``.

    ``cost``: how late a shop adds the next value, against the other axes. ``pattern`` finds the
    words in the title that a value replaces; where it finds none (or is None) the value is
    appended, written as ``added`` says.
    """

    name: str
    values: tuple[str, ...]
    factors: tuple[float, ...]
    cost: float
    pattern: re.Pattern[str] | None = None
    added: str = ", {}"

    def write(self, title: str, value: str) -> str:
        """``title`` with the value in the place of the parent's own."""
        written = title if self.pattern is None else self.pattern.sub(lambda match: value, title)
        return written if written != title else title + self.added.format(value)


def axes_of(
    title: str,
    path: Sequence[str],
    colour: str,
    brand: str,
    lexicon: Lexicon,
    rng: np.random.Generator,
) -> list[Axis]:
    """The axes of one product: at most three that its kind has in shops, and ``model``, which
    anything has.

    ``rng`` draws which shades and other values come first; the same generator gives the same axes.
    """
    department = path[0] if path else ""
    found: list[Axis] = []
    own_colours = None if department in lexicon.no_colour else _own_colours(colour, brand, lexicon)
    if own_colours is not None:
        shades = [shade for shade in _shades(lexicon) if shade.lower() not in plain(colour).split()]
        likely = np.asarray([8.0 if shade.lower() in lexicon.colours else 1.0 for shade in shades])
        chosen = tuple(
            shades[i] for i in np.argsort(rng.exponential(size=len(shades)) / likely)[:16]
        )
        found.append(Axis("colour", chosen, (1.0,) * len(chosen), 1.0, own_colours))
    found += _sizes(title, path, rng)
    if storage := re.search(_STORAGE, title):
        own = storage[0].replace(" ", "").upper()
        others = [size for size in STORAGE if size != own]
        steps = [
            STORAGE.index(size) - (STORAGE.index(own) if own in STORAGE else 2) for size in others
        ]
        found.append(
            _axis("storage", others, [1.25**step for step in steps], 1.0, _STORAGE, ", {}", rng)
        )
    if department in _BOOKS:
        found.append(
            _axis("format", FORMATS, (1.8, 1.0, 1.4, 1.3, 2.2, 1.6), 1.0, None, " ({})", rng)
        )
    elif department == "Grocery & Gourmet Food":
        found.append(_axis("flavour", FLAVOURS, [1.0] * len(FLAVOURS), 1.5, None, ", {}", rng))
    elif department in {"Health & Household", "Beauty & Personal Care"} and own_colours is None:
        found.append(_axis("scent", SCENTS, [1.0] * len(SCENTS), 1.5, None, ", {}", rng))
    packs = re.search(_PACK, title, re.IGNORECASE)
    if packs or department in _CONSUMED:
        own_pack = int(packs[0]) if packs else 1
        sizes = [n for n in PACKS if n != own_pack and n <= 12 * max(own_pack, 1)]
        near = sorted(sizes, key=lambda n: (abs(np.log(n / max(own_pack, 1))), n))[:6]
        prices = [(n / max(own_pack, 1)) ** 0.85 for n in near]
        found.append(_axis("pack", [str(n) for n in near], prices, 2.0, _PACK, ", Pack of {}", rng))
    if own_colours is not None and department in _PATTERNED:
        found.append(_axis("design", DESIGNS, [1.05] * len(DESIGNS), 2.5, None, ", {}", rng))
    model = _axis(
        "model", MODELS, [1.0 + 0.04 * (n % 6) for n in range(len(MODELS))], 6.0, None, ", {}", rng
    )
    return [*found[:3], model]


def _sizes(title: str, path: Sequence[str], rng: np.random.Generator) -> list[Axis]:
    """The size axis that fits the category, if any: shoes, clothes, beds, or a measure that the
    title states.
    """
    names = set(path)
    if path and path[0].startswith("Clothing"):
        if "Shoes" in names:
            own = re.search(_SHOE, title)
            others = [size for size in SHOE_SIZES if own is None or size != own[0]]
            return [_axis("size", others, [1.0] * len(others), 0.7, _SHOE, ", {} M US", rng)]
        letter = re.search(_LETTER, title)
        if letter or "Clothing" in path[1:]:
            own_letter = (
                None if letter is None else _LETTERS.get(letter[0].lower(), letter[0].lower())
            )
            others = [size for size in LETTER_SIZES if _LETTERS[size.lower()] != own_letter]
            return [_axis("size", others, [1.0] * len(others), 0.7, _LETTER, ", {}", rng)]
    if {"Bedding", "Bedroom Furniture", "Futons"} & names and (bed := re.search(_BED, title)):
        others = [size for size in BED_SIZES if size != bed[0]]
        prices = [0.8 + 0.12 * BED_SIZES.index(size) for size in others]
        return [_axis("size", others, prices, 0.7, _BED, ", {}", rng)]
    if measure := re.search(_MEASURE, title, re.IGNORECASE):
        number = float(measure[0])
        sizes = {_number(number * scale, measure[0]): scale for scale in SCALES if number > 0}
        sizes.pop(measure[0], None)
        own_number = (
            rf"(?<![\d./-]){re.escape(measure[0])}(?![\d.]){_MEASURE[_MEASURE.index('(?=') :]}"
        )
        return [
            _axis(
                "size", list(sizes), [s**0.7 for s in sizes.values()], 2.0, own_number, ", {}", rng
            )
        ]
    return []


def _axis(
    name: str,
    values: Sequence[str],
    factors: Sequence[float],
    cost: float,
    pattern: str | None,
    added: str,
    rng: np.random.Generator,
) -> Axis:
    """An axis whose values come in an order of this product's own."""
    order = rng.permutation(len(values))
    compiled = None if pattern is None else _compiled(pattern)
    return Axis(
        name,
        tuple(values[i] for i in order),
        tuple(factors[i] for i in order),
        cost,
        compiled,
        added,
    )


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _own_colours(field: str, brand: str, lexicon: Lexicon) -> re.Pattern[str] | None:
    """Finds the product's own colour in a title: colour words of its field, with the field's words
    beside them.
    """
    said = [
        word for word in plain(field).split() if len(word) > 2 and word not in plain(brand).split()
    ]
    known = {word for entry in lexicon.colours.values() for word in entry["words"]}
    colours = "|".join(sorted({re.escape(word) for word in said if word in known}))
    if not colours:
        return None
    beside = "|".join(sorted({re.escape(word) for word in said}))
    return re.compile(
        rf"\b(?:(?:{beside})[ /&-]+)*(?:{colours})(?:[ /&-]+(?:{beside}))*\b", re.IGNORECASE
    )


@cache
def _shade_list(
    colours: tuple[tuple[str, tuple[str, ...]], ...], stated: frozenset[str]
) -> tuple[str, ...]:
    return tuple(
        word.title()
        for base, words in colours
        if base not in {"multicolor", "clear"}
        for word in words
        if word not in stated or word == base
    )


def _shades(lexicon: Lexicon) -> tuple[str, ...]:
    """Words of plain colours that state nothing else: a "walnut" variant would be of wood."""
    facets = (lexicon.materials, lexicon.features, lexicon.uses)
    stated = frozenset(
        word
        for facet in facets
        for phrases in facet.values()
        for p in phrases
        for word in p.split()
    )
    return _shade_list(
        tuple((base, tuple(e["words"])) for base, e in lexicon.colours.items()), stated
    )


def _number(value: float, like: str) -> str:
    """A scaled measure, as whole as the parent's is."""
    return f"{value:.1f}".removesuffix(".0") if "." in like or value < 4 else str(round(value))
