"""Zipped files, attributes in flat keys, prices in cents: read as they are."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import pytest
from raw_shop import product, write_shop

from sidar.config import CatalogueConfig, Config
from sidar.data.products import read_catalogue
from sidar.types import Catalogue

COLUMNS = {
    "item_id": "id",
    "brand": "supplier",
    "text": "short_description",
    "created": "date_released",
    "attributes": "attr_*",
}


def read(path: Path, **options: object) -> Catalogue:
    settings = {"path": str(path), "columns": COLUMNS, "price_divisor": 100, **options}
    return read_catalogue(Config(catalogue=CatalogueConfig(**settings)))[0]


def test_products_of_several_archives_in_their_order(tmp_path: Path) -> None:
    write_shop(tmp_path)
    items = read(tmp_path / "products-*.json.zip")
    assert list(items.item_ids) == [str(1000 + number) for number in range(48)]
    first, second = items.item(0), items.item(1)
    assert first["price"] == 6.95
    assert second["price"] == 8.95
    assert (second["brand"], second["text"]) == ("Hestia", "carries sound and picture")
    assert first["text"] == ""
    # each attribute keeps the type that it has in the file
    assert json.loads(second["attributes"]) == {
        "attr_t_product_colour": "Silver",
        "attr_n_weight": 10.0,
        "attr_b_wireless": False,
    }


def test_an_item_without_a_matching_key_has_no_attributes(tmp_path: Path) -> None:
    lines = [product(1), {"id": "x", "title": "bare", "supplier": None, "attr_t_empty": None}]
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert read(path).item(1)["attributes"] is None


def test_csv_and_lines_inside_of_one_archive(tmp_path: Path) -> None:
    path = tmp_path / "items.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("b/items.jsonl", '{"id": "2", "title": "pan", "price": "39"}\n')
        archive.writestr("a/items.csv", "id,title,price\n1,lamp,29\n")
        archive.writestr("__MACOSX/a/._items.csv", "nothing of value")
        archive.writestr("readme.txt", "not read")
    columns = {"item_id": "id"}
    items = read(path, columns=columns, price_divisor=1)
    assert [(one["item_id"], one["price"]) for one in map(items.item, range(2))] == [
        ("1", 29.0),
        ("2", 39.0),
    ]


def test_a_folder_of_archives_alone(tmp_path: Path) -> None:
    write_shop(tmp_path)
    (tmp_path / "ratings.csv").unlink()
    assert len(read(tmp_path)) == 48


def test_what_is_refused_is_named_by_its_archive(tmp_path: Path) -> None:
    path = tmp_path / "items.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("items.jsonl", '{"id": "1", "title": "lamp"}\n{"id": "2"}\n')
    cfg = Config(catalogue=CatalogueConfig(path=str(path), columns={"item_id": "id"}, bad_rows=0.5))
    _, quarantine = read_catalogue(cfg)
    assert quarantine.rows.to_pylist()[0]["file"] == str(path / "items.jsonl")
    assert quarantine.rows.to_pylist()[0]["place"] == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("items.zip", b"no archive", "items.zip is no zip file"),
        ("items.csv", b"id,title\n1,lamp\n", "'attr_\\*' names many columns"),
        ("items.jsonl", b'{"id": "1", "title": "lamp"}', "no column 'attr_\\*'"),
        (
            "items.csv.gz",
            gzip.compress(b"id,title\n1,lamp\n", mtime=0),
            "'attr_\\*' names many columns",
        ),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read(tmp_path / name, columns={"item_id": "id", "attributes": "attr_*"})


def test_an_archive_without_a_table_says_so(tmp_path: Path) -> None:
    path = tmp_path / "items.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(ValueError, match=r"holds no member that ends in \.csv"):
        read(path)


def test_a_broken_member_is_named_by_its_archive(tmp_path: Path) -> None:
    path = tmp_path / "items.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("items.csv", "id,id\n1,2\n")
    with pytest.raises(ValueError, match=str(path / "items.csv")):
        read(path, columns={"item_id": "id"})
