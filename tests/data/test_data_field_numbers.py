"""Prices and numbers as other locales write them."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from field_shop import catalogue as shop_catalogue
from field_shop import log, run
from test_data_field_categories import read

from sidar.config import Config
from sidar.data import read_catalogue
from sidar.data.cleaning import clean
from sidar.data.duck import Duck
from sidar.data.log import validate_log

POINT = {
    "9.50": 9.5,
    "$1,299.00": 1299.0, "1,299": 1299.0, "US$ 5": 5.0, "EUR 9.5": 9.5, "9.5 EUR": 9.5,
    "12.50 euros": 12.5,
    "Rs. 1,29,999.00": 129999.0,
    "₹499": 499.0, "1 299 kr": 1299.0, "1\u00a0299.5\u00a0zł": 1299.5, "CHF 1'299.50": 1299.5,
    "R$5": 5.0, ".5": 0.5, "9.-": 9.0, "5 руб.": 5.0, "¥1200": 1200.0, "1e3": 1000.0, "-3.5": -3.5,
    "7 元": 7.0,
    "9,50": None, "1.299,00": None, "5 pieces": None, "from 5": None, "1,29": None, "nan": None,
    "12 34": None,
}  # fmt: skip
COMMA = {
    "9,50": 9.5, "1.299,00 €": 1299.0, "1.299": 1299.0, "EUR 9,5": 9.5, "1 299,50 kr": 1299.5,
    "9,–": 9.0, "9": 9.0,
    "1\u202f299,5": 1299.5, "-3,5": -3.5, "1.5e0": 1.5, ("R$ "
                                                         "1.234.567,89"): 1234567.89, "9.50": None,
                                                         "1,299.00": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("decimal", "text"), [(".", text) for text in POINT] + [(",", text) for text in COMMA]
)
def test_a_number_is_read_by_its_decimal_mark(decimal: str, text: str) -> None:
    sql = clean.number("t", "VARCHAR", decimal)
    row = duckdb.execute(f"SELECT {sql} FROM (SELECT $1 AS t)", [text]).fetchone()
    assert row == ((POINT if decimal == "." else COMMA)[text],)


def test_what_a_program_wrote_as_a_number_keeps_its_point(tmp_path: Path) -> None:
    records = [
        {"item_id": "P1", "title": "a", "price": 1.299},
        {"item_id": "P2", "title": "b", "price": "1.299,5"},
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert [item["price"] for item in read(tmp_path / "c.jsonl", decimal=",")[0]] == [1.299, 1299.5]
    folder = tmp_path / "parts"
    folder.mkdir()
    pq.write_table(
        pa.table({"item_id": ["P1"], "title": ["a"], "price": [1.299]}), folder / "a.parquet"
    )
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


EVENT_VALUES = {  # column, value, decimal: what is said of it, or the number that is read
    "cents after a comma": (
        "value",
        "9,50",
        ".",
        "are no number and count as missing, e.g. '9,50' (events.csv",
    ),
    "a unit": (
        "dwell_s",
        "3 min",
        ".",
        "are no number of seconds and count as missing, e.g. '3 min' (events.csv",
    ),
    "a clock": ("dwell_s", "00:03:00", ".", "are no number of seconds"),
    "infinite": ("value", "inf", ".", "are no number"),
    "a point where commas are": ("value", "9.50", ",", "are no number"),
    "read with a comma": ("value", "9,50", ",", 9.5),
    "absent": ("dwell_s", "NaN", ".", None),
    "blank": ("value", "", ".", None),
}


def read_log(folder: Path, path: Path, **section: object) -> tuple[list[str], pa.Table]:
    """Return the warnings about a log and its usable rows."""
    cfg = Config.model_validate({"threads": 1, "events": {"path": str(path), **section}})
    cfg.catalogue.path = str(shop_catalogue(folder))
    catalogue = read_catalogue(cfg)[0]
    with Duck(folder / "work", "256MB", 1) as duck:
        facts, _ = validate_log(duck, cfg, catalogue, folder / "log.parquet")
    return facts.warnings, pq.read_table(folder / "log.parquet")


@pytest.mark.parametrize("case", EVENT_VALUES)
def test_quantities_of_events_that_cannot_be_read_are_told(tmp_path: Path, case: str) -> None:
    column, value, decimal, expected = EVENT_VALUES[case]
    lines = [
        f"ts;item_id;action;{column}",
        *(f"{n};P{n};click;{value}" for n in (1, 2)),
        "3;P3;cart;",
    ]
    (tmp_path / "events.csv").write_text("\n".join(lines) + "\n")
    said, table = read_log(tmp_path, tmp_path / "events.csv", decimal=decimal, ts_unit="s")
    values = table.column(column).to_pylist()
    if isinstance(expected, str):
        assert said[0].startswith(f"2 of 2 values of '{column}' {expected}")
        assert "record 2)" in said[0]  # the header is record 1
        assert ("set events.decimal: ','" in said[0]) == (value == "9,50")
        assert values == [None, None, None]
    else:
        assert (said, values) == ([], [expected, expected, None])


def test_validate_prints_what_is_unread_of_events(tmp_path: Path) -> None:
    rows = [{**row, "value": '"9,50"' if row["action"] == "click" else ""} for row in log()]
    assert "WARNING: 16 of 16 values of 'value' are no number and count as missing" in run(
        tmp_path, rows
    )


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_unread_quantities_are_told_under_the_names_of_the_source(
    tmp_path: Path, suffix: str
) -> None:
    rows = [{**row, "basket": "1.299,50" if n == 7 else "12.5"} for n, row in enumerate(log())]
    path = tmp_path / f"e.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    (said,), _ = read_log(tmp_path, path, columns={"value": "basket"})
    assert said.startswith(
        "1 of 64 values of 'basket' are no number and count as missing, e.g. '1.299,50' "
    )
    assert said.endswith(
        f"(e.{suffix}, record 8); where a comma stands before the cents, set events.decimal: ','"
    )


def test_the_record_of_an_unread_value_counts_refused_records_before_it(tmp_path: Path) -> None:
    lines = ["item_id,title,price", "P1,a,1", "P2,b,1,2,3", "P3,c,1", "P4,d,4,5", "P5,e,cheap"]
    (tmp_path / "c.csv").write_text("\n".join(lines) + "\n")
    _, (said,) = read(tmp_path / "c.csv", bad_rows=0.5)
    assert said.endswith("e.g. 'cheap' (c.csv, record 6)")
    people = "user_id,age\nu0,3\nu1,4,5\n,6\n"
    told = run(tmp_path, log(), people=people, users={"bad_rows": 0.5})
    assert "have no user id and are not used, e.g. users.csv, record 4" in told
