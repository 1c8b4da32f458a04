"""A shop as a search team's files hold it: zipped JSON lists of products with flat typed attributes
and prices in cents, rated queries in a CSV file, and no log.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

BRANDS = ("Norva", "Hestia", "Lumo", "Kelp")
KINDS = {
    "hdmi cable": "carries sound and picture",
    "laser printer": "prints in black",
    "wireless mouse": "pointing device without a wire",
    "laptop bag": "carries a notebook",
    "usb hub": "shares one port",
    "memory card": "keeps pictures",
}


def product(number: int) -> dict[str, object]:
    """Return one of 48 products: a kind, a brand, a size, and a price from 6.95 to 100.95."""
    kind = list(KINDS)[number // 8 % len(KINDS)]
    brand = BRANDS[number % len(BRANDS)]
    found: dict[str, object] = {
        "id": str(1000 + number),
        "name": f"{brand[:2].upper()}{number}",
        "title": f"{brand} {kind} model {number}",
        "ean": [f"00{number}"],
        "img_500x500": f"http://example.org/{number}.jpg",
        "date_released": "2020-01-01T00:00:00Z",
        "supplier": brand,
        "price": 695 + 200 * number,
        "attr_t_product_colour": ("Black", "Silver")[number % 2],
        "attr_n_weight": 10.0 * number,
        "attr_b_wireless": kind.startswith("wireless"),
    }
    if number % 3:
        found["short_description"] = KINDS[kind]
    return found


def write_shop(folder: Path, products: int = 48) -> Path:
    """Write two archives of products and ``ratings.csv`` into ``folder`` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    every = [product(number) for number in range(products)]
    half = products // 2
    for number, part in enumerate((every[:half], every[half:]), start=1):
        with zipfile.ZipFile(folder / f"products-{number}.json.zip", "w") as archive:
            archive.writestr(f"{number}.json", json.dumps(part))
    rows = ["query,docid,rating"]
    for query in (*KINDS, *(f"{brand} {kind}" for kind in KINDS for brand in BRANDS[:2])):
        for one in every:
            title = str(one["title"]).lower()
            hits = sum(word in title for word in query.lower().split())
            if hits:
                rating = 3 if hits == len(query.split()) else 0
                rows.append(f"{query},{one['id']},{rating}")
    (folder / "ratings.csv").write_text("\n".join(rows) + "\n")
    return folder
