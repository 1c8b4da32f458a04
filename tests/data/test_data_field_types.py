"""Columns as writers store them: physical types, parts that differ, ids as doubles, keys that come
late.
"""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidar.config import Config
from sidar.data import read_catalogue
from sidar.data.duck import Duck
from sidar.data.readers import open_events
from sidar.data.readers.source import Source
from sidar.data.readers.tabular import open_files

MOMENT = datetime.datetime(2026, 11, 1, 12, tzinfo=datetime.UTC)


def catalogue(path: Path, **section: Any) -> list[dict]:
    """Return the items that ``sidar validate`` would keep."""
    cfg = Config.model_validate({"threads": 1, "catalogue": {"path": str(path), **section}})
    return read_catalogue(cfg)[0].table.to_pylist()


def events(path: Path, **section: Any) -> list[dict]:
    """Return the raw rows of a log."""
    cfg = Config.model_validate({"threads": 1, "events": {"path": str(path), **section}})
    with Duck(path.parent / "work", "256MB", 1) as duck:
        return duck.table(
            f"SELECT * FROM ({open_events(duck, cfg.events).sql}) ORDER BY file, place"
        ).to_pylist()


def users(path: Path, keys: list[str] | None = None) -> list[dict]:
    """Return the rows that a users file gives."""
    with Duck(path.parent / "work", "256MB", 1) as duck:
        open_files(duck, str(path), keys, "users", "raw_users", Source(""))
        return duck.table(
            "SELECT * EXCLUDE (sidar_file, sidar_place) FROM raw_users ORDER BY 1"
        ).to_pylist()


ID_TYPES = {
    "int8": (pa.array([1, 2], pa.int8()), ["1", "2"]),
    "uint64": (pa.array([2**63 + 5, 2], pa.uint64()), ["9223372036854775813", "2"]),
    "double": (pa.array([1.0, 2.0]), ["1", "2"]),
    "float": (pa.array([1.0, 2.0], pa.float32()), ["1", "2"]),
    "wide decimal": (
        pa.array([decimal.Decimal(10**30), decimal.Decimal(2)], pa.decimal128(38, 0)),
        [str(10**30), "2"],
    ),
    "scaled decimal": (pa.array([decimal.Decimal("7.00"), decimal.Decimal("8.00")]), ["7", "8"]),
    "binary": (pa.array(["é1".encode(), b"P2"]), ["é1", "P2"]),
    "fixed binary": (pa.array([b"P001", b"P002"], pa.binary(4)), ["P001", "P002"]),
    "dictionary": (pa.array(["007", "p2"]).dictionary_encode(), ["007", "p2"]),
    "large string": (pa.array(["007", "P2"], pa.large_string()), ["007", "P2"]),
    "text of doubles": (pa.array(["12.0", "13"]), ["12", "13"]),
    "padded text of doubles": (pa.array(["12.0 ", "\t13"]), ["12", "13"]),
    "binary of doubles": (pa.array([b"12.0", b"13"]), ["12", "13"]),
    "list of one": (pa.array([["P1"], ["P2"]]), ["P1", "P2"]),
    "bool": (pa.array([True, False]), ["true", "false"]),
}


@pytest.mark.parametrize("kind", ID_TYPES)
def test_ids_are_the_same_text_whatever_stored_them(tmp_path: Path, kind: str) -> None:
    ids, want = ID_TYPES[kind]
    pq.write_table(
        pa.table({"item_id": ids, "title": ["a", "b"], "unused": [{"x": 1}, None]}),
        tmp_path / "c.parquet",
    )
    assert [item["item_id"] for item in catalogue(tmp_path / "c.parquet")] == want
    pq.write_table(pa.table({"item_id": ids, "user_id": ids, "ts": [1, 2]}), tmp_path / "e.parquet")
    assert [(row["item_id"], row["user_id"]) for row in events(tmp_path / "e.parquet")] == [
        (i, i) for i in want
    ]
    pq.write_table(pa.table({"user_id": ids, "age": [30.0, 31.5]}), tmp_path / "u.parquet")
    rows = users(tmp_path / "u.parquet")
    assert sorted(row["user_id"] for row in rows) == sorted(want)
    assert {row["age"] for row in rows} == {"30", "31.5"}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json"])
def test_whole_doubles_in_text_files_are_ids_without_the_fraction(
    tmp_path: Path, suffix: str
) -> None:
    rows = [("12.0", "a", "17.0"), ("13.0", "b", "18.0")]
    if suffix == "csv":
        text = "item_id,title,category\n" + "".join(",".join(row) + "\n" for row in rows)
    else:
        records = [
            {"item_id": float(i), "title": title, "category": float(c)} for i, title, c in rows
        ]
        text = (
            json.dumps(records, indent=1)
            if suffix == "json"
            else "\n".join(map(json.dumps, records))
        )
    (tmp_path / f"c.{suffix}").write_text(text)
    items = catalogue(tmp_path / f"c.{suffix}")
    assert [item["item_id"] for item in items] == ["12", "13"]
    assert [item["category"] for item in items] == [["17"], ["18"]]


def test_ids_that_only_look_like_doubles_stay(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(
        "item_id,title\n1.0,one\n1.10,ten\nv2.0,two\n007,bond\nAb,x\naB,y\n"
    )
    assert [i["item_id"] for i in catalogue(tmp_path / "c.csv")] == [
        "1.0",
        "1.10",
        "v2.0",
        "007",
        "Ab",
        "aB",
    ]


@pytest.mark.parametrize(
    ("column", "shown"),
    [
        (pa.array([float(2**53), 1.0]), "whole doubles, e.g. 9007199254740992"),
        (pa.array([2.0**24, 1.0], pa.float32()), "whole floats, e.g. 16777216"),
        (pa.array([np.float16(2048), np.float16(1)], pa.float16()), "whole floats, e.g. 2048"),
        (pa.array([1e300, 1.0]), r"whole doubles, e.g. 1e\+300"),
        (pa.array(["9007199254740993.0", "1.0"]), "whole doubles up to 9007199254740992"),
        (pa.array(["1.23457E+12", "x"]), r"'1\.23457E\+12'"),
        (pa.array([b"\xff\xfe", b"x"]), r"binary, e.g. \\xFF\\xFE, which is no UTF-8"),
        (pa.array([{"sku": "P1"}, {"sku": "P2"}]), r"STRUCT\(sku VARCHAR\).*item_id\.<field>"),
        (pa.array([[["P1"]], [["P2"]]]), r"VARCHAR\[\]\[\], e.g. \[\[.P1.\]\]"),
    ],
)
def test_ids_that_cannot_be_told_apart_or_printed_are_refused(
    tmp_path: Path, column: pa.Array, shown: str
) -> None:
    pq.write_table(pa.table({"item_id": column, "title": ["a", "b"]}), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=rf"c\.parquet: column 'item_id' holds .*{shown}"):
        catalogue(tmp_path / "c.parquet")


def test_every_contract_column_of_a_catalogue_is_read_from_its_odd_types(tmp_path: Path) -> None:
    table = {
        "item_id": pa.array([1, 2], pa.int32()),
        "title": pa.array([b"Caf\xc3\xa9 lamp", b"b"]),
        "text": pa.array([["bright", "blue"], None]),
        "brand": pa.array(["Acme", None]).dictionary_encode(),
        "category": pa.array([[b"Home"], None]),
        "price": pa.array([decimal.Decimal("9.50"), None]),
        "in_stock": pa.array([1.0, 0.0]),
        "created": pa.array([MOMENT, None], pa.timestamp("ns", "Europe/Berlin")),
        "attributes": pa.array([[("size", b"L")], None], pa.map_(pa.string(), pa.binary())),
        "image_url": pa.nulls(2),
    }
    pq.write_table(pa.table(table), tmp_path / "c.parquet")
    first, second = catalogue(tmp_path / "c.parquet")
    assert (first["title"], first["text"], first["brand"], first["category"]) == (
        "Café lamp", "bright, blue", "Acme", ["Home"],
    )  # fmt: skip
    assert (first["price"], first["in_stock"], first["created"]) == (9.5, True, MOMENT)
    assert json.loads(first["attributes"]) == {"size": "L"}
    assert (second["brand"], second["category"], second["price"], second["in_stock"]) == (
        None,
        [],
        None,
        False,
    )


def test_parts_of_one_source_may_store_a_column_differently(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    parts = [
        {"item_id": [9007199254740993], "title": ["a"], "price": [9.5], "category": [["x", "y"]]},
        {"item_id": [2.0], "title": [b"b"], "price": ["$1,299.00"], "category": ["x > y"]},
        {"item_id": ["03"], "title": ["c"], "price": [None], "brand": ["Acme"]},
    ]
    for i, part in enumerate(parts):
        pq.write_table(pa.table(part), folder / f"{i}.parquet")
    (folder / "3.jsonl").write_text(
        '{"item_id": 4.0, "title": "d", "price": 3, "category": ["x", "y"]}\n'
    )
    items = catalogue(folder)
    assert [item["item_id"] for item in items] == ["9007199254740993", "2", "03", "4"]
    assert [item["price"] for item in items] == [9.5, 1299.0, None, 3.0]
    assert [item["category"] for item in items] == [["x", "y"], ["x", "y"], [], ["x", "y"]]


def test_folders_named_by_a_column_give_the_column_in_every_format(tmp_path: Path) -> None:
    for shop in ("007", "008"):
        folder = tmp_path / "log" / f"user_id={shop}"
        folder.mkdir(parents=True)
        (folder / "a.csv").write_text("ts,item_id\n1,P1\n")
        (folder / "b.jsonl").write_text('{"ts": 2, "item_id": "P1"}\n')
        pq.write_table(pa.table({"ts": [3], "item_id": ["P1"]}), folder / "c.parquet")
    assert [row["user_id"] for row in events(tmp_path / "log")] == ["007"] * 3 + ["008"] * 3


def test_a_dotted_column_is_a_field_of_a_struct_as_of_a_json_object(tmp_path: Path) -> None:
    record = {"product": {"id": "P1", "names": ["red", "lamp"]}}
    pq.write_table(pa.table({"product": [record["product"]]}), tmp_path / "c.parquet")
    (tmp_path / "c.jsonl").write_text(json.dumps(record))
    columns = {"item_id": "product.id", "title": "product.names"}
    for suffix in ("parquet", "jsonl"):
        (item,) = catalogue(tmp_path / f"c.{suffix}", columns=columns)
        assert (item["item_id"], item["title"]) == ("P1", "red, lamp")


@pytest.mark.parametrize("value", [{"en": "lamp"}, [["lamp"]], [{"en": "lamp"}]])
def test_json_objects_are_never_printed_as_a_title(tmp_path: Path, value: object) -> None:
    records = [{"item_id": "P1", "title": "a"}, {"item_id": "P2", "title": value}]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(
        ValueError, match=r"c\.jsonl: column title: record 2 holds .*lamp.*where text is wanted"
    ):
        catalogue(tmp_path / "c.jsonl")


@pytest.mark.parametrize("late", ["query", "session_id", "value", "bucket"])
def test_a_key_that_first_comes_late_is_read(tmp_path: Path, late: str) -> None:
    lines = [{"ts": i, "item_id": "P1"} for i in range(1500)]
    lines[1400][late] = "5"
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [row["place"] for row in events(tmp_path / "e.jsonl") if row[late] == "5"] == [1401]


def test_all_columns_are_the_keys_of_all_records(tmp_path: Path) -> None:
    lines: list[dict] = [{"user_id": i} for i in range(1500)]
    lines[1400]["age"] = 30.0
    (tmp_path / "u.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [row["user_id"] for row in users(tmp_path / "u.jsonl") if row["age"] == "30"] == ["1400"]
    assert list(users(tmp_path / "u.jsonl", ["user_id", "age"])[0]) == ["user_id", "age"]


def test_a_key_that_no_record_has_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"sku": "P1", "name": "lamp"}\n')
    with pytest.raises(ValueError, match=r"no column 'item_id'; the source has name, sku"):
        catalogue(tmp_path / "c.jsonl")


def test_a_refusal_names_the_file_that_holds_the_value(tmp_path: Path) -> None:
    for i, item in enumerate([1.0, 2.0**60, 3.0]):
        pq.write_table(
            pa.table({"item_id": [item], "title": ["a"]}), tmp_path / f"part-{i}.parquet"
        )
    with pytest.raises(ValueError, match=r"part-1\.parquet: column 'item_id' holds whole doubles"):
        catalogue(tmp_path / "part-*.parquet")


@pytest.mark.parametrize("number", ["1e22", "1.5e+300"])
def test_numbers_of_json_that_lost_digits_are_no_ids(tmp_path: Path, number: str) -> None:
    (tmp_path / "c.jsonl").write_text(f'{{"item_id": {number}, "title": "a", "price": {number}}}\n')
    with pytest.raises(
        ValueError, match=r"c\.jsonl: column item_id: record 1 holds the number 1.*write it as text"
    ):
        catalogue(tmp_path / "c.jsonl")
    # text, such as a hash
    (tmp_path / "c.jsonl").write_text(f'{{"item_id": "{number[:4]}", "title": "a"}}\n')
    assert catalogue(tmp_path / "c.jsonl")[0]["item_id"] == number[:4]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_columns_that_differ_only_in_case_are_refused_in_words(tmp_path: Path, suffix: str) -> None:
    record = {"item_id": "P1", "ts": 1, "query": "mug", "Query": "lamp"}
    path = tmp_path / f"e.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({key: [value] for key, value in record.items()}), path)
    elif suffix == "csv":
        path.write_text("item_id,ts,query,Query\nP1,1,mug,lamp\n")
    else:
        path.write_text(json.dumps(record))
    columns = {"bucket": "Query"} if suffix == "jsonl" else {}
    with pytest.raises(
        ValueError, match=rf"e\.{suffix}: columns 'query' and 'Query' differ only in case"
    ):
        events(path, columns=columns)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_mapped_column_may_differ_in_case_from_a_name_of_the_contract(
    tmp_path: Path, suffix: str
) -> None:
    record = {"item_id": "P1", "ts": 1, "Query": "5"}
    path = tmp_path / f"e.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({key: [value] for key, value in record.items()}), path)
    elif suffix == "csv":
        path.write_text("item_id,ts,Query\nP1,1,5\n")
    else:
        path.write_text(json.dumps(record))
    (row,) = events(path, columns={"position": "Query"})
    assert (row["position"], row["query"]) == ("5", None)


def test_a_column_may_be_called_as_an_engine_calls_its_own(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("ts,item_id,file_row_number\n1,P1,mug\n")
    assert events(tmp_path / "e.csv", columns={"query": "file_row_number"})[0]["query"] == "mug"
    pq.write_table(
        pa.table({"ts": [1], "item_id": ["P1"], "file_row_number": [7]}), tmp_path / "e.parquet"
    )
    with pytest.raises(
        ValueError, match=r"e\.parquet: the name of column 'file_row_number' is reserved"
    ):
        events(tmp_path / "e.parquet")


@pytest.mark.parametrize(
    "ids", [pa.array([17, 18], pa.int64()), pa.array([17.0, 18.0]), pa.array(["17.0", "18"])]
)
def test_categories_that_are_ids_are_paths_of_one_text(tmp_path: Path, ids: pa.Array) -> None:
    pq.write_table(
        pa.table({"item_id": ["a", "b"], "title": ["a", "b"], "category": ids}),
        tmp_path / "c.parquet",
    )
    assert [item["category"] for item in catalogue(tmp_path / "c.parquet")] == [["17"], ["18"]]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("column", ["dwell_s", "user_id"])
def test_durations_are_refused_since_their_unit_is_lost(
    tmp_path: Path, unit: str, column: str
) -> None:
    """Read as plain integers, three seconds would be 3000 in one file and 3000000 in another."""
    spans = pa.array([datetime.timedelta(seconds=3)], pa.duration(unit))
    pq.write_table(pa.table({"ts": [1], "item_id": ["P1"], column: spans}), tmp_path / "e.parquet")
    message = (
        rf"e\.parquet: column '{column}' holds durations \(duration\[{unit}\]\); write them "
        r"as numbers"
    )
    with pytest.raises(ValueError, match=message):
        events(tmp_path / "e.parquet")
