"""Who searches: profiles, interests, and tastes that make a user's history (and profile) tell of
the next click.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sidar.simulate.config import SimulatorConfig
from sidar.simulate.facts import Facts
from sidar.simulate.lexicon import Lexicon

GENDERS = ("female", "male", "not given")  # the last is null in users.parquet
AGE_BANDS = ("18-24", "25-34", "35-44", "45-54", "55+")
REGIONS = ("north", "south", "east", "west")

_GENDER_SHARES = (0.47, 0.45, 0.08)
_AGE_SHARES = (0.16, 0.28, 0.24, 0.17, 0.15)
#: Invented: how a profile multiplies the weight of a department. Departments that a catalogue lacks
#: have no effect.
_TILT: Mapping[str, Mapping[str, float]] = {
    "female": {
        "Beauty & Personal Care": 2.0,
        "Arts, Crafts & Sewing": 1.6,
        "Tools & Home Improvement": 0.6,
    },
    "male": {"Tools & Home Improvement": 1.7, "Electronics": 1.4, "Beauty & Personal Care": 0.5},
    "18-24": {"Clothing, Shoes & Jewelry": 1.4, "Baby Products": 0.4, "Video Games": 2.0},
    "25-34": {"Baby Products": 2.5, "Toys & Games": 1.4, "Home & Kitchen": 1.2},
    "35-44": {"Baby Products": 1.6, "Toys & Games": 1.8, "Sports & Outdoors": 1.2},
    "45-54": {"Tools & Home Improvement": 1.3, "Patio, Lawn & Garden": 1.4},
    "55+": {
        "Health & Household": 1.8,
        "Patio, Lawn & Garden": 1.7,
        "Books": 1.5,
        "Toys & Games": 0.6,
    },
}
#: Invented: what an age band likes to pay, in units of price level.
_AGE_PRICE = (-0.8, -0.3, 0.2, 0.5, 0.4)


@dataclass(frozen=True)
class Shoppers:
    """U users.

    Columns of the taste arrays are latent brand dimensions and the lexicon's colours.
    """

    ids: np.ndarray  # (U,) object
    gender: np.ndarray  # (U,) int64 into GENDERS
    age: np.ndarray  # (U,) int64 into AGE_BANDS
    region: np.ndarray  # (U,) int64 into REGIONS
    activity: np.ndarray  # (U,) float64, sums to 1
    interest: np.ndarray  # (U, departments) float64, rows sum to 1
    brand: np.ndarray  # (U, dims) float64
    colour: np.ndarray  # (U, colours) float64
    price: np.ndarray  # (U,) float64

    def table(self) -> pa.Table:
        """``users.parquet``: what a shop would know. Tastes stay hidden."""
        columns = {
            "user_id": self.ids,
            "gender": np.asarray([*GENDERS[:-1], None], dtype=object)[self.gender],
            "age_band": np.asarray(AGE_BANDS, dtype=object)[self.age],
            "region": np.asarray(REGIONS, dtype=object)[self.region],
        }
        return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def draw_shoppers(
    cfg: SimulatorConfig,
    departments: tuple[str, ...],
    demand: np.ndarray,
    n_colours: int,
    rng: np.random.Generator,
) -> Shoppers:
    """Draw users.

    ``demand`` (departments,) is the share of searches that each department gets overall.
    """
    n, dims = cfg.users, cfg.taste.dims
    gender = rng.choice(len(GENDERS), size=n, p=_GENDER_SHARES)
    age = rng.choice(len(AGE_BANDS), size=n, p=_AGE_SHARES)
    region = rng.integers(len(REGIONS), size=n)
    tilt = np.ones((n, len(departments)))
    for values, names in ((gender, GENDERS), (age, AGE_BANDS)):
        table = np.asarray(
            [[_TILT.get(name, {}).get(d, 1.0) for d in departments] for name in names]
        )
        tilt *= table[values]
    base = demand * tilt
    base /= base.sum(axis=1, keepdims=True)
    # rows of a Dirichlet, up to their sum
    interest = rng.gamma(np.maximum(cfg.interest * base, 1e-3)) + 1e-12
    explained = cfg.taste.profile
    of_age, of_region = (
        rng.normal(size=(len(AGE_BANDS), dims)),
        rng.normal(size=(len(REGIONS), dims)),
    )
    shared = (of_age[age] + of_region[region]) / np.sqrt(2)
    activity = rng.lognormal(sigma=cfg.activity, size=n)
    return Shoppers(
        ids=np.asarray([f"u{i:06d}" for i in range(n)], dtype=object),
        gender=gender,
        age=age,
        region=region,
        activity=activity / activity.sum(),
        interest=interest / interest.sum(axis=1, keepdims=True),
        brand=np.sqrt(explained) * shared + np.sqrt(1 - explained) * rng.normal(size=(n, dims)),
        colour=rng.normal(size=(n, n_colours)),
        price=np.asarray(_AGE_PRICE)[age] + 0.8 * rng.normal(size=n),
    )


@dataclass(frozen=True)
class Taste:
    """How much a user likes an item beyond its relevance, in logits: brand, colour
    and price level.
    """

    shoppers: Shoppers
    item_brand: np.ndarray  # (N, dims), zero where the brand is unknown
    item_colour: np.ndarray  # (N, colours), rows sum to 1 or 0
    item_price: np.ndarray  # (N,) price level, 0 = unknown
    weights: tuple[float, float, float]

    @classmethod
    def of(
        cls,
        shoppers: Shoppers,
        facts: Facts,
        lexicon: Lexicon,
        cfg: SimulatorConfig,
        rng: np.random.Generator,
    ) -> Taste:
        brands = {brand: i for i, brand in enumerate(sorted(set(facts.brand) - {""}))}
        latent = np.vstack(
            [rng.normal(size=(len(brands), cfg.taste.dims)), np.zeros((1, cfg.taste.dims))]
        )
        item_brand = latent[[brands.get(brand, len(brands)) for brand in facts.brand]] / np.sqrt(
            cfg.taste.dims
        )
        names = list(lexicon.colours)
        colour = np.asarray(
            [[("colour", name) in of_item for name in names] for of_item in facts.facts],
            dtype=float,
        )
        colour /= np.maximum(colour.sum(axis=1, keepdims=True), 1)
        taste = cfg.taste
        return cls(
            shoppers,
            item_brand,
            colour,
            facts.price_level,
            (taste.brand, taste.colour, taste.price),
        )

    def __call__(self, users: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(n,) taste of ``users`` (n,) for items ``rows`` (n,); about N(0, 1) over random pairs,
        cut at ±3.
        """
        w_brand, w_colour, w_price = self.weights
        who = self.shoppers
        brand = np.einsum("nd,nd->n", who.brand[users], self.item_brand[rows])
        colour = np.einsum("nc,nc->n", who.colour[users], self.item_colour[rows])
        level = self.item_price[rows]
        price = np.where(level == 0, 0.0, 0.5 - 0.5 * (level - who.price[users]) ** 2)
        return np.clip(
            w_brand * brand + w_colour * colour + w_price * np.maximum(price, -2.0), -3, 3
        )
