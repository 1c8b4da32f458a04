"""The toy shop: 64 items in 8 shelves and an eight-day log, the smallest world in which every stage has work to do.

Tests, documentation and demos share it.  Everything is a pure function of its arguments; nothing is read from disk.
The log is simulated: examination falls with the position, clicks follow relevance and the shopper's own brand.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.data.catalogue import found
from sidar.types import ACTIONS, CATALOGUE_SCHEMA, INTERACTIONS_SCHEMA, Catalogue, EvalSet, PathLike, Prompt

DAY_US = 86_400_000_000
#: Midnight (UTC) of the toy log's first day, in µs: 2026-01-05, a Monday.
FIRST_DAY = 1_767_571_200_000_000
DAYS = 8
N_USERS = 24

# Category path, noun that shoppers type, and eight products as (title, brand, price, colour, material).
# None stands for what real feeds lack.  The last product of a shelf is launched on day 5.
_Product = tuple[str, str | None, float | None, str | None, str | None]
_SHELVES: list[tuple[tuple[str, ...], str, list[_Product]]] = [
    (
        ("Home & Kitchen", "Cookware", "Frying Pans"),
        "frying pan",
        [
            ("Nonstick Frying Pan 10 inch Black", "Hearthway", 24.99, "black", "aluminium"),
            ("Cast Iron Skillet 12 inch Preseasoned", "Ironmill", 39.9, "black", "cast iron"),
            ("Stainless Steel Frying Pan with Lid", "Hearthway", 44.5, "silver", "stainless steel"),
            ("Ceramic Frying Pan 8 inch Green", "Verdello", 21.0, "green", "ceramic"),
            ("Copper Frying Pan 11 inch", "Ironmill", None, "copper", "copper"),
            ("Carbon Steel Wok Pan 13 inch", "Ironmill", 34.0, "black", "carbon steel"),
            ("Egg Pan Nonstick 4 Cups", "Verdello", 17.49, "red", "aluminium"),
            ("Induction Frying Pan Set of 3", "Hearthway", 69.0, "black", "aluminium"),
        ],
    ),
    (
        ("Home & Kitchen", "Bath", "Towels"),
        "bath towel",
        [
            ("Cotton Bath Towel Set of 4 White", "Softdale", 32.0, "white", "cotton"),
            ("Bamboo Bath Towel Grey", "Verdello", 18.95, "grey", "bamboo"),
            ("Quick Dry Microfiber Towel Blue", "Trailnest", 12.5, "blue", "microfiber"),
            ("Turkish Beach Towel Striped", "Softdale", None, "blue", "cotton"),
            ("Hand Towels Set of 6 Beige", "Softdale", 22.0, "beige", "cotton"),
            ("Kitchen Towels Waffle Weave 8 Pack", "Hearthway", 15.99, "grey", "cotton"),
            ("Hooded Baby Towel Yellow Duck", None, 19.0, "yellow", "cotton"),
            ("Organic Bath Sheet Extra Large Green", "Verdello", 41.0, "green", "cotton"),
        ],
    ),
    (
        ("Sports & Outdoors", "Camping", "Tents"),
        "tent",
        [
            ("Two Person Backpacking Tent Green", "Trailnest", 129.0, "green", "nylon"),
            ("Family Camping Tent 6 Person", "Northfold", 219.0, "orange", "polyester"),
            ("Pop Up Beach Tent Blue", "Trailnest", 49.99, "blue", "polyester"),
            ("Four Season Mountain Tent Red", "Northfold", 389.0, "red", "nylon"),
            ("Kids Play Tent Castle", None, 27.5, "pink", "cotton"),
            ("Canvas Bell Tent 5 Metre", "Northfold", None, "beige", "canvas"),
            ("Rooftop Car Tent 3 Person", "Northfold", 949.0, "black", "canvas"),
            ("Ultralight One Person Tent Grey", "Trailnest", 179.0, "grey", "nylon"),
        ],
    ),
    (
        ("Sports & Outdoors", "Running", "Shoes"),
        "running shoes",
        [
            ("Mens Running Shoes Cushioned Black", "Stridewell", 89.0, "black", "mesh"),
            ("Womens Running Shoes Lightweight Pink", "Stridewell", 84.0, "pink", "mesh"),
            ("Trail Running Shoes Waterproof Green", "Trailnest", 119.0, "green", "synthetic"),
            ("Marathon Racing Shoes Carbon Plate", "Fleetora", 199.0, "white", "synthetic"),
            ("Kids Running Shoes Blue", "Stridewell", 39.5, "blue", "mesh"),
            ("Barefoot Running Shoes Wide Toe", "Fleetora", None, "grey", "leather"),
            ("Stability Running Shoes Mens Grey", "Fleetora", 109.0, "grey", "mesh"),
            ("Womens Trail Shoes Purple", "Fleetora", 99.0, "purple", "synthetic"),
        ],
    ),
    (
        ("Electronics", "Audio", "Headphones"),
        "headphones",
        [
            ("Wireless Noise Cancelling Headphones Black", "Auralite", 159.0, "black", "plastic"),
            ("Bluetooth Earbuds with Charging Case White", "Auralite", 59.0, "white", "plastic"),
            ("Kids Headphones Volume Limited Blue", "Pipkin", 22.0, "blue", "plastic"),
            ("Studio Monitor Headphones Wired", "Tonewerk", 129.0, "black", "metal"),
            ("Gaming Headset with Microphone Red", "Tonewerk", 74.5, "red", "plastic"),
            ("Sports Earbuds Sweatproof Green", "Auralite", 45.0, "green", "silicone"),
            ("Sleep Headphones Headband Grey", None, None, "grey", "cotton"),
            ("Open Back Headphones Walnut", "Tonewerk", 249.0, "brown", "wood"),
        ],
    ),
    (
        ("Electronics", "Computers", "Keyboards"),
        "keyboard",
        [
            ("Mechanical Keyboard Brown Switches", "Tonewerk", 99.0, "black", "aluminium"),
            ("Wireless Keyboard Compact White", "Keymoor", 39.0, "white", "plastic"),
            ("Ergonomic Split Keyboard Black", "Keymoor", 119.0, "black", "plastic"),
            ("Gaming Keyboard RGB Backlit", "Tonewerk", 79.99, "black", "plastic"),
            ("Foldable Travel Keyboard Bluetooth Grey", "Keymoor", None, "grey", "plastic"),
            ("Kids Keyboard Large Print Yellow", "Pipkin", 25.0, "yellow", "plastic"),
            ("Numeric Keypad USB", "Keymoor", 17.0, "black", "plastic"),
            ("Low Profile Mechanical Keyboard Silver", "Keymoor", 89.0, "silver", "aluminium"),
        ],
    ),
    (
        ("Toys & Games", "Puzzles"),
        "jigsaw puzzle",
        [
            ("Jigsaw Puzzle 1000 Pieces Mountain Lake", "Pipkin", 16.0, "multicolour", "cardboard"),
            ("Wooden Puzzle for Toddlers Farm Animals", "Oakling", 14.5, "multicolour", "wood"),
            ("3D Puzzle Eiffel Tower", "Pipkin", 24.0, "silver", "metal"),
            ("Jigsaw Puzzle 500 Pieces Cats", "Pipkin", 12.0, "multicolour", "cardboard"),
            ("Floor Puzzle Dinosaurs 48 Pieces", "Oakling", None, "green", "cardboard"),
            ("Magnetic Puzzle Cube 3x3", None, 9.99, "multicolour", "plastic"),
            ("World Map Puzzle for Kids", "Oakling", 18.0, "blue", "wood"),
            ("Puzzle Mat Roll Up Black", "Pipkin", 21.0, "black", "felt"),
        ],
    ),
    (
        ("Garden", "Watering", "Hoses"),
        "garden hose",
        [
            ("Expandable Garden Hose 50 ft Green", "Fernbrook", 29.0, "green", "latex"),
            ("Rubber Garden Hose 100 ft Black", "Fernbrook", 54.0, "black", "rubber"),
            ("Soaker Hose 25 ft", "Fernbrook", 15.0, "black", "rubber"),
            ("Coiled Patio Hose Blue", "Dewline", 24.0, "blue", "polyurethane"),
            ("Hose Reel Wall Mounted", "Dewline", None, "grey", "steel"),
            ("Stainless Steel Garden Hose 50 ft", "Dewline", 47.0, "silver", "stainless steel"),
            ("Hose Nozzle Spray Gun 8 Patterns", "Dewline", 13.49, "green", "metal"),
            ("Drinking Water Safe Hose White", "Fernbrook", 33.0, "white", "pvc"),
        ],
    ),
]
_JUDGED = {  # query -> shelf; never typed in the log
    "valid": {"skillet cast iron": 0, "grey towel bamboo": 1, "mechanical keys brown": 5, "hose that expands green": 7},
    "test": {
        "ceramic egg pan": 0,
        "white cotton towels for bath": 1,
        "family tent six people": 2,
        "womens pink shoes running": 3,
        "noise cancelling wireless black": 4,
        "split ergonomic keyboard": 5,
        "thousand pieces mountain jigsaw": 6,
        "soaker hose 25": 7,
    },
}


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """The 64 products; row = 8 · shelf + place. Eight prices and four brands are missing, as in real feeds."""
    columns: dict[str, list[object]] = {name: [] for name in CATALOGUE_SCHEMA.names}
    for shelf, (path, noun, products) in enumerate(_SHELVES):
        for place, (title, brand, price, colour, material) in enumerate(products):
            launched = place == len(products) - 1
            facts = {"colour": colour, "material": material}
            values: dict[str, object] = {
                "item_id": f"T{shelf}{place:02d}",
                "title": title,
                "text": f"{title}. A {colour} {noun} made of {material}.",
                "category": list(path),
                "brand": brand,
                "price": price,
                "image_url": None,
                "in_stock": (shelf + place) % 11 != 0,
                "created": FIRST_DAY + (4 * DAY_US if launched else -30 * DAY_US),
                "attributes": json.dumps(facts),
                "alive": True,
            }
            for name, value in values.items():
                columns[name].append(value)
    return found(pa.table(columns, schema=CATALOGUE_SCHEMA))


def log_queries() -> dict[str, int]:
    """``{query: shelf}`` of all queries that shoppers type in the log, most frequent first within a shelf."""
    queries: dict[str, int] = {}
    for shelf, (_, noun, products) in enumerate(_SHELVES):
        colours = dict.fromkeys(c for _, _, _, c, _ in products if c and c != "multicolour")
        brands = dict.fromkeys(b for _, b, _, _, _ in products if b)
        for query in (noun, *(f"{c} {noun}" for c in colours), *(f"{b.lower()} {noun}" for b in brands)):
            queries[query] = shelf
    return queries


def grade(query: str, row: int, shelf: int) -> float:
    """Graded relevance of ``row``: 0 off the shelf, .1 on it, up to 1 with the share of query words it answers."""
    item = catalogue().item(row)
    if row // 8 != shelf:
        return 0.0
    words = set(query.split())
    said = set(f"{item['title']} {item['brand']} {item['text']}".lower().replace(".", "").split())
    return round(0.1 + 0.9 * len(words & said) / len(words), 3)


@lru_cache(maxsize=4)
def events(requests_per_day: int = 48, seed: int = 0) -> pa.Table:
    """The raw log as a shop would export it: contract columns with ``item_id`` and the action's name.

    Every request shows eight items: seven of the query's shelf ordered by noisy relevance and one stray item; one
    request in ten is in random order (``bucket`` "random").
    """
    rng = np.random.default_rng(seed)
    items, queries = catalogue(), log_queries()
    texts = list(queries)
    share = 1.0 / (1.0 + np.arange(len(texts)) % 7)
    share /= share.sum()
    brands, ids = items.column("brand"), items.item_ids
    favourite = [str(b) for b in rng.choice(sorted({b for b in brands if b}), N_USERS)]
    names = ("ts", "user_id", "session_id", "request_id", "query", "item_id", "position", "action", "value", "dwell_s")
    columns: dict[str, list[object]] = {name: [] for name in (*names, "bucket")}

    def write(*values: object) -> None:
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)

    for day in range(1, DAYS + 1):
        moments = np.sort(rng.integers(6 * 3600, 23 * 3600, requests_per_day))
        for number, second in enumerate(moments):
            ts = FIRST_DAY + (day - 1) * DAY_US + int(second) * 1_000_000
            user, query = int(rng.integers(N_USERS)), texts[int(rng.choice(len(texts), p=share))]
            shelf = queries[query]
            pool = np.arange(8 * shelf, 8 * shelf + (8 if day >= 5 else 7))
            utility = np.array([grade(query, int(r), shelf) for r in pool])
            utility += 0.3 * np.array([brands[r] == favourite[user] for r in pool])
            shown = pool[np.argsort(-(utility + rng.normal(0, 0.15, len(pool))), kind="stable")][:7]
            stray = int(rng.integers(64))  # from another shelf, and never one of its late launches
            stray = stray if stray // 8 != shelf and stray % 8 != 7 else (8 * shelf + 8) % 64
            shown = np.insert(shown, int(rng.integers(3, 8)), stray)
            bucket = "random" if number % 10 == 9 else ""
            if bucket:
                rng.shuffle(shown)
            request, session = f"d{day}r{number:03d}", f"d{day}u{user:02d}"
            for position, row in enumerate(map(int, shown), start=1):
                key = (f"user{user:02d}", session, request, query, ids[row], position)
                write(ts, *key, "impression", None, None, bucket)
                liking = grade(query, row, shelf) + 0.3 * (brands[row] == favourite[user])
                if rng.random() < liking * 0.6 / position**0.5:
                    write(ts + position * 4_000_000, *key, "click", None, float(5 + rng.integers(90)), bucket)
                    if rng.random() < 0.35:
                        write(ts + position * 4_000_000 + 60_000_000, *key, "cart", None, None, bucket)
                        if rng.random() < 0.5:
                            price = items.item(row)["price"]
                            write(ts + position * 4_000_000 + 240_000_000, *key, "order", price, None, bucket)
    return pa.table(columns).sort_by("ts")


def interactions() -> pa.Table:
    """The same log validated: :data:`~sidar.types.INTERACTIONS_SCHEMA`, item rows and action codes, sorted by ts."""
    raw = events()
    return (
        pa.table(
            {
                **{n: raw.column(n) for n in raw.column_names if n not in ("item_id", "action")},
                "row": pa.array(catalogue().rows(raw.column("item_id").to_pylist())),
                "action": pa.array([ACTIONS.index(a) for a in raw.column("action").to_pylist()], pa.int8()),
            }
        )
        .select(INTERACTIONS_SCHEMA.names)
        .cast(INTERACTIONS_SCHEMA)
    )


def users() -> pa.Table:
    """One profile per shopper: ``user_id, age_group, home``; two shoppers have none."""
    known = range(N_USERS - 2)
    ages, homes = ("18-29", "30-44", "45-64"), ("flat", "house", None)
    return pa.table(
        {
            "user_id": [f"user{u:02d}" for u in known],
            "age_group": [ages[u % 3] for u in known],
            "home": pa.array([homes[u % 3 - u % 2] for u in known], pa.string()),
        }
    )


def judged(role: str = "test") -> EvalSet:
    """Queries nobody typed with graded truth: 8 of role ``test``, 4 of role ``valid``."""
    queries = _JUDGED[role]
    ids = tuple(f"{role}{i}" for i in range(len(queries)))
    items = catalogue().item_ids
    qrels = {
        i: {str(items[row]): grade(query, row, shelf) for row in range(8 * shelf, 8 * shelf + 8)}
        for i, (query, shelf) in zip(ids, queries.items(), strict=True)
    }
    return EvalSet(f"toy-{role}", ids, tuple(Prompt(query) for query in queries), qrels, origin="simulated")


def write_inputs(folder: PathLike) -> dict[str, Path]:
    """Write the shop's files into ``folder``: catalogue, events, users (Parquet) and the judged sets (TSV).

    Returns ``{name: path}`` with the keys ``catalogue, events, users`` and ``{valid,test}.{queries,qrels}``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.parquet" for name in ("catalogue", "events", "users")}
    pq.write_table(catalogue().table.drop_columns(["alive"]), paths["catalogue"])
    pq.write_table(events(), paths["events"])
    pq.write_table(users(), paths["users"])
    for role in _JUDGED:
        judgments = judged(role)
        pairs = zip(judgments.query_ids, judgments.prompts, strict=True)
        lines = [f"{i}\t{item}\t{g}" for i, graded in judgments.qrels.items() for item, g in graded.items()]
        for kind, head, body in (
            ("queries", "query_id\tquery", [f"{i}\t{p.query}" for i, p in pairs]),
            ("qrels", "query_id\titem_id\tgrade", lines),
        ):
            paths[f"{role}.{kind}"] = folder / f"judged_{role}.{kind}.tsv"
            paths[f"{role}.{kind}"].write_text("\n".join([head, *body]) + "\n")
    return paths
