"""The catalogue: reading, checking, lineage and the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.artifacts import sha256_file
from sidar.config import Config
from sidar.data import read_catalogue, toy
from sidar.data.catalogue import extend, found, lineage_hash, open_catalogue, save_catalogue
from sidar.types import CATALOGUE_SCHEMA, Catalogue


def config(path: Path, **catalogue: object) -> Config:
    return Config.model_validate({"catalogue": {"path": str(path), **catalogue}, "threads": 1})


def of_ids(ids: list[str], title: str = "thing") -> pa.Table:
    rows = [
        {"item_id": i, "title": f"{title} {i}", "text": "", "category": ["a", i], "alive": True}
        for i in ids
    ]
    return pa.Table.from_pylist(rows, schema=CATALOGUE_SCHEMA)


def test_the_toy_shop_survives_a_round_trip_through_files(tmp_path: Path) -> None:
    catalogue, quarantine = read_catalogue(config(toy.write_inputs(tmp_path)["catalogue"]))
    assert quarantine.bad == 0
    assert catalogue.lineage == toy.catalogue().lineage
    assert catalogue.table.equals(toy.catalogue().table)
    save_catalogue(catalogue, tmp_path / "c.arrow")
    again = open_catalogue(tmp_path / "c.arrow")
    assert again.table.equals(catalogue.table)
    assert again.lineage == catalogue.lineage


def test_the_file_does_not_depend_on_what_lies_under_nulls(tmp_path: Path) -> None:
    valid = pa.py_buffer(b"\x02")  # of two prices the first is null
    hashes = set()
    for garbage in (1.0, 2.0):
        prices = pa.Array.from_buffers(
            pa.float64(), 2, [valid, pa.py_buffer(np.array([garbage, 5.0]))]
        )
        table = of_ids(["a", "b"]).set_column(5, "price", prices)
        save_catalogue(found(table), tmp_path / "c.arrow")
        assert open_catalogue(tmp_path / "c.arrow").column("price") == [None, 5.0]
        hashes.add(sha256_file(tmp_path / "c.arrow"))
    assert len(hashes) == 1


def test_ugly_text_is_folded_and_missing_words_are_missing(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(
        "sku,name,cat,cost,stock,made\n"
        '1,"  A\u00a0\u200b title\twith \x07 noise ","A > B >  ",$1,yes,2026-01-01\n'
        '2,Plain,"[""x"", ""y""]","1,299.50",no,1767225600\n'
        "3,Naan bread,,nan,,never\n"
        "4,Null device,null,-5,maybe,\n"
    )
    mapping = {"item_id": "sku", "title": "name", "category": "cat", "price": "cost"}
    mapping |= {"in_stock": "stock", "created": "made"}
    catalogue, quarantine = read_catalogue(config(tmp_path / "c.csv", columns=mapping))
    assert quarantine.bad == 0
    assert quarantine.unread == [
        (
            "1 of 3 values of 'cost' are no number of 0 or more and count as missing, e.g. '-5' "
            "(c.csv, record 5)"
        ),
        (
            "1 of 3 values of 'stock' are no yes or no and count as missing, e.g. 'maybe' (c.csv, "
            "record 5)"
        ),
        (
            "1 of 3 values of 'made' are no date from 1990 to 2100 and count as missing, e.g. "
            "'never' (c.csv, record 4)"
        ),
    ]
    assert catalogue.column("title") == ["A title with noise", "Plain", "Naan bread", "Null device"]
    assert catalogue.column("category") == [["A", "B"], ["x", "y"], [], []]
    assert catalogue.column("price") == [1.0, 1299.5, None, None]
    assert catalogue.column("in_stock") == [True, False, None, None]
    assert [c and c.isoformat() for c in catalogue.column("created")] == [
        "2026-01-01T00:00:00+00:00",
        "2026-01-01T00:00:00+00:00",
        None,
        None,
    ]
    assert catalogue.column("text") == ["", "", "", ""]


def test_bad_items_are_quarantined_with_place_and_reason(tmp_path: Path) -> None:
    good = b"".join(b"i%d,title %d\n" % (n, n) for n in range(500))
    bad = b"a,first\nb,caf\xe9\na,again\n,nameless\nq,NaN\nw\nx,  \nq,late but titled\n"
    (tmp_path / "c.csv").write_bytes(b"item_id,title\n" + bad + good)
    catalogue, quarantine = read_catalogue(config(tmp_path / "c.csv", bad_rows=0.02))
    assert len(catalogue) == 502
    assert catalogue.item_ids[:2].tolist() == ["a", "q"]
    # a row without a title does not take the id
    assert catalogue.item(1)["title"] == "late but titled"
    assert quarantine.total == 508
    found_at = {(r["place"], r["reason"]) for r in quarantine.rows.to_pylist()}
    assert found_at == {
        (3, "not UTF-8"),
        (4, "duplicate item_id"),
        (5, "missing item_id"),
        (6, "missing title"),
        (7, "missing columns"),
        (8, "missing title"),
    }
    assert {Path(r["file"]).name for r in quarantine.rows.to_pylist()} == {"c.csv"}


def test_too_many_bad_items_stop_with_counts_reasons_file_and_next_step(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(
        "item_id,title\n" + "\n".join(f"i{n % 50},t" for n in range(100)) + "\n"
    )
    with pytest.raises(
        ValueError,
        match=r"50 of 100 rows.*50\.0%.*duplicate item_id \(50\).*c\.csv.*catalogue\.bad_rows",
    ):
        read_catalogue(config(tmp_path / "c.csv"))


def test_empty_and_one_item_catalogues(tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("item_id,title\n")
    with pytest.raises(ValueError, match="no usable item"):
        read_catalogue(config(tmp_path / "none.csv"))
    (tmp_path / "nothing.csv").write_text("")
    with pytest.raises(ValueError, match="no header"):
        read_catalogue(config(tmp_path / "nothing.csv"))
    (tmp_path / "one.csv").write_text("item_id,title\nonly,The one thing\n")
    catalogue, _ = read_catalogue(config(tmp_path / "one.csv"))
    assert len(catalogue) == 1
    assert catalogue.row("only") == 0


def test_lineage_hash_depends_on_order_and_boundaries() -> None:
    names = {
        lineage_hash(pa.chunked_array([ids]))
        for ids in (["a", "bc"], ["ab", "c"], ["bc", "a"], ["a", "bc", ""])
    }
    assert len(names) == 4
    split = pa.chunked_array([["a"], ["bc"]])
    assert lineage_hash(split) == lineage_hash(pa.chunked_array([["a", "bc"]]))


ids = st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1)


@settings(deadline=None, max_examples=40)
@given(st.lists(ids, min_size=2, max_size=4))
def test_rows_are_append_only_within_a_lineage(days: list[list[str]]) -> None:
    catalogue = found(of_ids(days[0], "day 0"))
    for day, listed in enumerate(days[1:], start=1):
        before, catalogue = catalogue, extend(catalogue, of_ids(listed, f"day {day}"))
        assert catalogue.lineage == before.lineage
        assert catalogue.item_ids[: len(before)].tolist() == before.item_ids.tolist()
        assert set(catalogue.item_ids[catalogue.alive]) == set(listed)
        for row, item in enumerate(catalogue.table.to_pylist()):
            kept = item["item_id"] in listed
            fields = (
                of_ids([item["item_id"]], f"day {day}").to_pylist()[0]
                if kept
                else before.item(row) | {"alive": False}
            )
            assert item == fields  # news for items that stay, last words of those that left


def test_reading_with_a_previous_catalogue_continues_its_lineage(tmp_path: Path) -> None:
    pq.write_table(of_ids(["a", "b", "c"]).drop_columns(["alive"]), tmp_path / "monday.parquet")
    pq.write_table(
        of_ids(["c", "d", "a"], "new").drop_columns(["alive"]), tmp_path / "tuesday.parquet"
    )
    monday, _ = read_catalogue(config(tmp_path / "monday.parquet"))
    tuesday, _ = read_catalogue(config(tmp_path / "tuesday.parquet"), previous=monday)
    assert tuesday.item_ids.tolist() == ["a", "b", "c", "d"]
    assert tuesday.alive.tolist() == [True, False, True, True]
    assert tuesday.column("title") == ["new a", "thing b", "new c", "new d"]
    # the file still proves the lineage of its founders
    save_catalogue(tuesday, tmp_path / "c.arrow")
    assert open_catalogue(tmp_path / "c.arrow").lineage == monday.lineage


def test_a_file_that_is_not_its_lineage_is_refused(tmp_path: Path) -> None:
    catalogue = found(of_ids(["a", "b"]))
    swapped = catalogue.table.take([1, 0]).replace_schema_metadata(catalogue.table.schema.metadata)
    save_catalogue(Catalogue(swapped, catalogue.lineage), tmp_path / "c.arrow")
    with pytest.raises(ValueError, match="do not found lineage"):
        open_catalogue(tmp_path / "c.arrow")
    with pytest.raises(ValueError, match="does not exist"):
        open_catalogue(tmp_path / "no.arrow")
    with (
        pa.OSFile(str(tmp_path / "bare.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, CATALOGUE_SCHEMA) as writer,
    ):
        writer.write_table(of_ids(["a"]))
    with pytest.raises(ValueError, match="no lineage"):
        open_catalogue(tmp_path / "bare.arrow")
