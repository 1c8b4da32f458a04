"""Prices and numbers as other locales write them."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data_field_categories import read

from sidar.data import clean

POINT = {
    "9.50": 9.5,
    "$1,299.00": 1299.0, "1,299": 1299.0, "US$ 5": 5.0, "EUR 9.5": 9.5, "9.5 EUR": 9.5, "12.50 euros": 12.5,
    "Rs. 1,29,999.00": 129999.0,
    "₹499": 499.0, "1 299 kr": 1299.0, "1\u00a0299.5\u00a0zł": 1299.5, "CHF 1'299.50": 1299.5,
    "R$5": 5.0, ".5": 0.5, "9.-": 9.0, "5 руб.": 5.0, "¥1200": 1200.0, "1e3": 1000.0, "-3.5": -3.5, "7 元": 7.0,
    "9,50": None, "1.299,00": None, "5 pieces": None, "from 5": None, "1,29": None, "nan": None, "12 34": None,
}  # fmt: skip
COMMA = {
    "9,50": 9.5, "1.299,00 €": 1299.0, "1.299": 1299.0, "EUR 9,5": 9.5, "1 299,50 kr": 1299.5, "9,–": 9.0, "9": 9.0,
    "1\u202f299,5": 1299.5, "-3,5": -3.5, "1.5e0": 1.5, "R$ 1.234.567,89": 1234567.89, "9.50": None, "1,299.00": None,
}  # fmt: skip


@pytest.mark.parametrize(("decimal", "text"), [(".", text) for text in POINT] + [(",", text) for text in COMMA])
def test_a_number_is_read_by_its_decimal_mark(decimal: str, text: str) -> None:
    sql = clean.number("t", "VARCHAR", decimal)
    row = duckdb.execute(f"SELECT {sql} FROM (SELECT $1 AS t)", [text]).fetchone()
    assert row == ((POINT if decimal == "." else COMMA)[text],)


def test_what_a_program_wrote_as_a_number_keeps_its_point(tmp_path: Path) -> None:
    records = [{"item_id": "P1", "title": "a", "price": 1.299}, {"item_id": "P2", "title": "b", "price": "1.299,5"}]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert [item["price"] for item in read(tmp_path / "c.jsonl", decimal=",")[0]] == [1.299, 1299.5]
    folder = tmp_path / "parts"
    folder.mkdir()
    pq.write_table(pa.table({"item_id": ["P1"], "title": ["a"], "price": [1.299]}), folder / "a.parquet")
    (folder / "b.csv").write_text("item_id;title;price\nP2;b;1.299,5\n")
    assert [item["price"] for item in read(folder, decimal=",")[0]] == [1.299, 1299.5]


@pytest.mark.parametrize("price", ["9,50", "1.299,00 €", "EUR 5,5"])
def test_a_comma_before_the_cents_is_told_with_the_option(tmp_path: Path, price: str) -> None:
    (tmp_path / "c.csv").write_text(f"item_id;title;price\nP1;a;{price}\n")
    items, (said,) = read(tmp_path / "c.csv")
    assert items[0]["price"] is None
    assert "no number of 0 or more" in said
    assert said.endswith("set catalogue.decimal: ','")
    assert read(tmp_path / "c.csv", decimal=",")[0][0]["price"] in (9.5, 1299.0, 5.5)
