"""Tabular files: endings, folders, globs, mappings and what they say when something is missing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidar.data.duck import Duck
from sidar.data.readers.source import find_files
from sidar.data.readers.tabular import open_table

WANTED = ("item_id", "title", "category")
ROWS = b"".join(b"i%d,title %d\n" % (n, n) for n in range(300))


def read(
    work: Path, path: Path | str, columns: dict[str, str] | None = None
) -> tuple[list[tuple], list]:
    with Duck(work, "256MB", 1) as duck:
        source = open_table(
            duck, str(path), columns or {}, WANTED, ("item_id", "title"), "catalogue"
        )
        rows = duck.rows(
            f"SELECT item_id, title, category, place FROM ({source.sql}) ORDER BY file, place"
        )
        return rows, source.rejects


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_quotes_and_line_breaks_inside_quotes(tmp_path: Path, delimiter: str) -> None:
    body = 'item_id,title\n1,"a ""quoted"", title"\n2,"two\nlines"\n3,x\n'.replace(",", delimiter)
    # with the byte-order mark that spreadsheets write
    (tmp_path / "c.csv").write_text("\ufeff" + body)
    rows, rejects = read(tmp_path / "w", tmp_path / "c.csv")
    assert [r[:2] for r in rows] == [
        ("1", f'a "quoted"{delimiter} title'),
        ("2", "two\nlines"),
        ("3", "x"),
    ]
    assert [r[3] for r in rows] == [2, 3, 4]
    assert rejects == []


def test_jsonl_with_dotted_paths_lists_and_rejects(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"p": {"id": 7}, "t": "seven", "c": ["x", "y"]}',
        b"",
        b'{"p": {"id": "8"}, "t": "caf\xe9"}',
        b'{"p": {"id": "9"}, "t": "nine"',
        b'["not an object"]',
        b'{"p": {"id": "10"}, "t": null, "c": "x > y"}',
    ]
    (tmp_path / "c.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    mapping = {"item_id": "p.id", "title": "t", "category": "c"}
    rows, rejects = read(tmp_path / "w", tmp_path / "c.jsonl", mapping)
    assert [r[:3] for r in rows] == [("7", "seven", '["x","y"]'), ("10", None, "x > y")]
    assert [(r.place, r.reason) for r in rejects] == [
        (3, "not UTF-8"),
        (4, "not JSON"),
        (5, "not a JSON object"),
    ]
    assert json.loads(lines[4]) == json.loads(rejects[2].raw)


def test_lines_that_one_part_lost_do_not_move_the_places_of_another(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    good = b'{"item_id": "1", "title": "t"}\n'
    (tmp_path / "in" / "a.jsonl").write_bytes(b'{"item_id": "caf\xe9"}\n' + good)
    (tmp_path / "in" / "b.jsonl").write_bytes(good * 3 + b"no JSON\n")
    rows, rejects = read(tmp_path / "w", tmp_path / "in")
    assert len(rows) == 4
    assert [(Path(r.file).name, r.place) for r in rejects] == [("a.jsonl", 1), ("b.jsonl", 4)]


def test_folders_and_globs_join_formats_in_name_order(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    pq.write_table(
        pa.table({"item_id": [2], "title": ["two"], "place": ["a column of theirs"]}),
        folder / "b.parquet",
    )
    (folder / "a.csv").write_text("item_id,title,file\n1,one,theirs\n")
    with gzip.open(folder / "deep" / "c.jsonl.gz", "wt") as f:
        f.write('{"item_id": "3", "title": "three"}\n')
    (folder / "_SUCCESS.csv").write_text("marker\n")
    (folder / ".hidden.csv").write_text("marker\n")
    (folder / "readme.md").write_text("no data")
    rows, _ = read(tmp_path / "w", folder)
    assert sorted(r[:2] for r in rows) == [("1", "one"), ("2", "two"), ("3", "three")]
    rows, _ = read(tmp_path / "w", f"{folder}/*.parquet")
    assert [(r[0], r[3]) for r in rows] == [("2", 1)]  # ids are text, whatever stored them


def test_what_is_missing_is_named_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("sku,title\n1,one\n")
    with pytest.raises(
        ValueError,
        match=r"catalogue\.columns\.item_id: no column 'item_id'.*sku, title.*Map it as item_id",
    ):
        read(tmp_path / "w", tmp_path / "c.csv")
    with pytest.raises(ValueError, match=r"no column 'gtin'"):
        read(tmp_path / "w", tmp_path / "c.csv", {"item_id": "gtin"})
    with pytest.raises(ValueError, match="'colour' is not a contract column"):
        read(tmp_path / "w", tmp_path / "c.csv", {"colour": "title"})
    with pytest.raises(ValueError, match=r"catalogue\.path is empty"):
        read(tmp_path / "w", "")
    with pytest.raises(ValueError, match=r"catalogue\.path: .*no\*\.csv names no"):
        read(tmp_path / "w", tmp_path / "no*.csv")
    (tmp_path / "c.xlsx").write_text("x")
    with pytest.raises(ValueError, match="none of the known endings"):
        read(tmp_path / "w", tmp_path / "c.xlsx")
    (tmp_path / "c.parquet").write_text("not parquet")
    with pytest.raises(ValueError, match="no readable Parquet file"):
        read(tmp_path / "w", tmp_path / "c.parquet")
    (tmp_path / "twice.csv").write_text("item_id,title,title\n1,a,b\n")
    with pytest.raises(ValueError, match="no header of distinct column names"):
        read(tmp_path / "w", tmp_path / "twice.csv")


def test_find_files_takes_a_single_file_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "export.2026").write_text("x")
    assert find_files(str(tmp_path / "export.2026"), (".csv",), "log", "events.path") == [
        tmp_path / "export.2026"
    ]


NASTY = {
    "unix.csv": (b"item_id,title\n" + ROWS, 300, {}),
    "windows.csv": ((b"item_id,title\n" + ROWS).replace(b"\n", b"\r\n"), 300, {}),
    "old mac.csv": ((b"item_id,title\n" + ROWS).replace(b"\n", b"\r"), 300, {}),
    "both.csv": (b"item_id,title\n" + ROWS.replace(b"\n", b"\r\n") + b"z,last\n", 301, {}),
    "both.jsonl": (b'{"item_id": 1, "title": "a"}\r\n{"item_id": 2, "title": "b"}\n', 2, {}),
    "no last line end.csv": (b"item_id,title\n" + ROWS + b"z,last", 301, {}),
    "blank lines.csv": (b"item_id,title\n" + ROWS + b"\n\n", 300, {}),
    "nul.csv": (b"item_id,title\n" + ROWS + b"z\x00,t\n", 301, {}),
    "open quote.csv": (
        b"item_id,title\n" + ROWS + b'z,"never ends\n' + ROWS,
        300,
        {"open quote": 301},
    ),
    "text after quote.csv": (b"item_id,title\n" + ROWS + b'z,"a"b\n', 300, {"open quote": 1}),
    "endless.csv": (
        b"item_id,title\n" + ROWS + b"z," + b"x" * 5_000_000,
        300,
        {"line size over maximum": 1},
    ),
    "empty.jsonl": (b"", 0, {}),
}


@pytest.mark.parametrize("name", NASTY)
def test_nasty_files_cost_what_is_broken_in_them(tmp_path: Path, name: str) -> None:
    content, good, refused = NASTY[name]
    (tmp_path / name).write_bytes(content)
    with Duck(tmp_path / "w", "512MB", 1) as duck:
        source = open_table(
            duck, str(tmp_path / name), {}, WANTED, ("item_id", "title"), "catalogue"
        )
        assert duck.row(f"SELECT count(item_id) FROM ({source.sql})")[0] == good
    assert {reason: count for (_, reason), count in source.rejected.items()} == refused


def test_what_is_no_text_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "u.csv").write_bytes("item_id,title\n1,x\n".encode("utf-16"))
    with pytest.raises(ValueError, match="UTF-16; save it as UTF-8"):
        read(tmp_path / "w", tmp_path / "u.csv")
    (tmp_path / "z.csv.gz").write_bytes(b"\x1f\x8b\x08\x00broken")
    with pytest.raises(ValueError, match="no readable gzip file"):
        read(tmp_path / "w", tmp_path / "z.csv.gz")
    whole = gzip.compress(b'{"item_id": "1", "title": "t"}\n' * 5000)
    (tmp_path / "z.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"z\.jsonl\.gz cannot be cut into records"):
        read(tmp_path / "w", tmp_path / "z.jsonl.gz")


def test_empty_parts_of_a_folder_are_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.csv").write_text("item_id,title\n1,one\n")
    (folder / "b.csv").write_text("")
    (folder / "c.jsonl").write_text("\n")
    rows, rejects = read(tmp_path / "w", folder)
    assert [r[:2] for r in rows] == [("1", "one")]
    assert rejects == []
