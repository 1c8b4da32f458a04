"""CSV as spreadsheets, databases and other tools write it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data_field_types import catalogue, events, users

from sidar.config import Config
from sidar.data import read_catalogue
from sidar.data.duck import Duck
from sidar.data.users import write_users


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz"])
def test_the_delimiter_is_the_one_that_cuts_every_record(
    tmp_path: Path, delimiter: str, suffix: str
) -> None:
    header = ["item_id", '"title, long; with | all\tof them"', "price, net"]
    if delimiter == ",":
        header[2] = '"price, net"'
    rows = [[f"P{i}", '"a, b; c"', "9.5"] for i in range(3)]
    text = "".join(delimiter.join(row) + "\n" for row in [header, *rows])
    path = tmp_path / f"c.{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    columns = {"title": "title, long; with | all\tof them", "price": "price, net"}
    items = catalogue(path, columns=columns)
    assert [(i["item_id"], i["title"], i["price"]) for i in items] == [
        (f"P{n}", "a, b; c", 9.5) for n in range(3)
    ]


def test_commas_of_decimals_and_of_names_are_no_delimiters(tmp_path: Path) -> None:
    (tmp_path / "u.csv").write_text(
        "user_id;city, country;size, cm, about\nu1;Paris, FR;1,75\nu2;Rome;1,80\n"
    )
    assert users(tmp_path / "u.csv")[0] == {
        "user_id": "u1", "city, country": "Paris, FR", "size, cm, about": "1,75",
    }  # fmt: skip
    (tmp_path / "e.csv").write_text("sep=;\nts;item_id;value\n1;P1;9\n2;P2;8\n")
    rows = events(tmp_path / "e.csv")
    assert [(row["item_id"], row["value"], row["place"]) for row in rows] == [
        ("P1", "9", 3),
        ("P2", "8", 4),
    ]


def test_a_column_of_row_numbers_without_a_name_shifts_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(",item_id,title,\n0,P1,lamp,\n1,P2,mug,\n")
    assert [(i["item_id"], i["title"]) for i in catalogue(tmp_path / "c.csv")] == [
        ("P1", "lamp"),
        ("P2", "mug"),
    ]
    assert catalogue(tmp_path / "c.csv", columns={"brand": "column 1"})[1]["brand"] == "1"
    (tmp_path / "u.csv").write_text("\ufeff;user_id;age\n0;u1;30\n")
    assert users(tmp_path / "u.csv")[0]["age"] == "30"


def test_row_numbers_without_a_name_are_no_part_of_a_profile(tmp_path: Path) -> None:
    (tmp_path / "u.csv").write_text(",user_id,age,\n0,u1,30,\n1,u2,31,\n")
    cfg = Config.model_validate(
        {"users": {"path": str(tmp_path / "u.csv")}, "privacy": {"hash_users": False}}
    )
    with Duck(tmp_path / "work", "256MB", 1) as duck:
        write_users(duck, cfg, tmp_path / "users.parquet")
        assert duck.rows("SELECT * FROM users ORDER BY 1") == [("u1", "age: 30"), ("u2", "age: 31")]


@pytest.mark.parametrize(("header", "end"), [("", ";"), (";", ";"), (";", "")])
def test_a_delimiter_at_the_end_of_lines_is_no_column(
    tmp_path: Path, header: str, end: str
) -> None:
    (tmp_path / "c.csv").write_text(f"item_id;title{header}\nP1;lamp{end}\nP2;mug{end}\n")
    assert [(i["item_id"], i["title"]) for i in catalogue(tmp_path / "c.csv")] == [
        ("P1", "lamp"),
        ("P2", "mug"),
    ]


def test_records_with_one_field_more_than_the_header_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("item_id,title\n1,P1,lamp\n2,P2,mug\n")
    with pytest.raises(
        ValueError, match=r"c\.csv: its header has 2 columns and its records have 3.*would shift"
    ):
        catalogue(tmp_path / "c.csv")
    (tmp_path / "c.csv").write_text("item_id,title,title\nP1,lamp,mug\n")
    with pytest.raises(ValueError, match="no header of distinct column names"):
        catalogue(tmp_path / "c.csv")


def test_a_comma_in_some_values_is_a_fault_of_these_records(tmp_path: Path) -> None:
    """Two of five records have a field too many: fewer than half do not make the header wrong."""
    lines = ["P1,lamp", "P2,lamp, blue", "P3,mug", "P4,mug, red", "P5,towel"]
    (tmp_path / "c.csv").write_text("item_id,title\n" + "\n".join(lines) + "\n")
    with pytest.raises(
        ValueError, match=r"2 of 5 rows are malformed .*record 3, too many columns: 'P2,lamp, blue'"
    ):
        catalogue(tmp_path / "c.csv")


@pytest.mark.parametrize("late", [0, 40_000])
def test_quotes_after_a_backslash_are_read(tmp_path: Path, late: int) -> None:
    lines = ["item_id;title", *(f'Q{i};"lamp {i}"' for i in range(late))]
    lines += ['P1;"12\\" lamp; red"', 'P2;"ends in \\""', 'P3;"a \\"b\\" c \\\\ d"', "P4;plain"]
    (tmp_path / "c.csv").write_text("\n".join(lines) + "\n")
    items = catalogue(tmp_path / "c.csv")[-4:]
    assert [i["title"] for i in items] == ['12" lamp; red', 'ends in "', 'a "b" c \\ d', "plain"]


def test_a_backslash_before_a_closing_quote_stays_where_quotes_are_doubled(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text('item_id,title\nP1,"C:\\dir\\"\nP2,"say ""hi"""\nP3,"a, b\\"\n')
    assert [i["title"] for i in catalogue(tmp_path / "c.csv")] == [
        "C:\\dir\\",
        'say "hi"',
        "a, b\\",
    ]


def test_marks_that_some_tools_take_for_line_ends_stay_in_the_field(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(
        'item_id,title\u2028x,price\nP1,a\x0bb\u0085c,1\nP2,"two\nlines",2\n', newline=""
    )
    cfg = Config.model_validate(
        {"catalogue": {"path": str(tmp_path / "c.csv"), "columns": {"title": "title\u2028x"}}}
    )
    found, quarantine = read_catalogue(cfg)
    assert found.table.column("title").to_pylist() == ["a b c", "two lines"]
    assert not quarantine.bad


def test_a_header_that_differs_in_blanks_or_case_alone_is_suggested(tmp_path: Path) -> None:
    for header, wanted in (("item_id , title", "'item_id '"), ("Item_ID,title", "'Item_ID'")):
        (tmp_path / "c.csv").write_text(f"{header}\nP1,lamp\n")
        with pytest.raises(
            ValueError, match=rf"no column 'item_id'.* Map it as item_id: {wanted}$"
        ):
            catalogue(tmp_path / "c.csv")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_files_that_are_no_utf8_text_are_refused_by_name(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "c.tsv").write_bytes("item_id\ttitle\nP1\tlöwe\n".encode(encoding))
    with pytest.raises(ValueError, match=r"c\.tsv is .*UTF-16.*save it as UTF-8"):
        catalogue(tmp_path / "c.tsv")
    pq.write_table(pa.table({"item_id": ["P1"], "title": ["a"]}), tmp_path / "d.csv")
    with pytest.raises(ValueError, match=r"d\.csv is a Parquet file; name it \.parquet"):
        catalogue(tmp_path / "d.csv")
